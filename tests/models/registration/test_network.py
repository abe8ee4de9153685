"""The displacement of a velocity: constant, back and forth, and at rest."""

from __future__ import annotations

import pytest
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


@pytest.mark.parametrize("fold", [1, 2])
def test_both_directions_come_from_one_pass(fold) -> None:
    from monai.networks.nets import VoxelMorphUNet

    torch.manual_seed(0)
    unet = VoxelMorphUNet(
        spatial_dims=3,
        in_channels=2 * fold**3,
        unet_out_channels=4,
        channels=(4, 4),
        final_conv_channels=(4,),
    )
    network = RegistrationNetwork(unet, fold=fold)
    pair = torch.rand(1, 2, 16, 16, 16)
    there, back = network.both(pair)
    assert torch.equal(there, network(pair))
    assert there.shape == back.shape == (1, 3, 16, 16, 16)
    assert network.velocity(pair).shape == (1, 3, *[16 // fold] * 3)


def test_a_velocity_of_blocks_moves_their_voxels() -> None:
    """A block a unit of time along I is two voxels, wherever."""

    class Steady(torch.nn.Module):
        def forward(self, blocks: torch.Tensor) -> torch.Tensor:
            assert blocks.shape == (1, 16, 4, 5, 6)
            return torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 4, 5, 6)

    ddf = RegistrationNetwork(Steady(), fold=2)(torch.rand(1, 2, 8, 10, 12))
    torch.testing.assert_close(ddf[:, 0], torch.full((1, 8, 10, 12), 2.0))
    assert not ddf[:, 1:].any()
