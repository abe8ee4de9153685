"""The displacement of a velocity: constant, back and forth, and at rest."""

from __future__ import annotations

import torch

from radloom.models.registration.network import RegistrationNetwork, integrate, warp


def smooth(amplitude: float) -> torch.Tensor:
    x = torch.linspace(-1, 1, 32)
    bump = torch.exp(-4 * (x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None] ** 2))
    return amplitude * torch.stack([bump, -bump, 0.5 * bump])[None]


def test_a_constant_velocity_moves_by_itself() -> None:
    velocity = torch.tensor([1.5, -2.0, 0.5]).reshape(1, 3, 1, 1, 1).expand(1, 3, 16, 16, 16)
    torch.testing.assert_close(integrate(velocity), velocity)


def test_back_is_the_inverse_of_forth() -> None:
    there, back = integrate(smooth(4.0)), integrate(-smooth(4.0))
    left = back + warp(there, back, padding_mode="border")
    assert float(left.norm(dim=1).max()) < 0.25
    assert float(there.norm(dim=1).max()) > 3


def test_the_composition_is_that_of_the_field_it_gives() -> None:
    """Half the velocity, twice, is the whole one: so the resolution is rightly accounted for."""
    half = integrate(smooth(2.0))
    twice = half + warp(half, half, padding_mode="border")
    torch.testing.assert_close(twice, integrate(smooth(4.0)), atol=0.1, rtol=0)


def test_both_directions_come_from_one_pass() -> None:
    from monai.networks.nets import VoxelMorphUNet

    torch.manual_seed(0)
    unet = VoxelMorphUNet(
        spatial_dims=3,
        in_channels=2,
        unet_out_channels=4,
        channels=(4, 4),
        final_conv_channels=(4,),
    )
    network = RegistrationNetwork(unet)
    pair = torch.rand(1, 2, 16, 16, 16)
    there, back = network.both(pair)
    assert torch.equal(there, network(pair))
    assert there.shape == back.shape == (1, 3, 16, 16, 16)
