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


class Remembering(torch.nn.Module):
    """Moves everything by half a voxel along I at each look, and keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[torch.Tensor] = []

    def forward(self, told: torch.Tensor) -> torch.Tensor:
        self.told.append(told)
        return torch.tensor([0.5, 0, 0]).reshape(1, 3, 1, 1, 1).expand(1, 3, *told.shape[2:])


def test_structures_are_told_as_shares_of_blocks() -> None:
    """One class in half of the fixed blocks; none where nobody has looked."""
    network = RegistrationNetwork(Remembering(), fold=2, n_forces=2, n_classes=4)
    pair = torch.zeros(1, 4, 16, 16, 16)
    pair[:, 2, :7] = 2
    pair[:, 3, :8] = 3
    network(pair)
    told = network.backbone.told[0]
    assert told.shape == (1, 16 + 2 * 3 + 2 * 6, 8, 8, 8)
    fixed, moving = told[0, 16:19], told[0, 19:22]
    assert fixed[1, :, 0, 0].tolist() == [1, 1, 1, 0.5, 0, 0, 0, 0]
    assert moving[2, :, 0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert not fixed[[0, 2]].any()
    network(torch.zeros(1, 4, 16, 16, 16))
    assert not network.backbone.told[1].any()


def test_a_second_look_is_at_the_head_as_it_is_warped_by_then() -> None:
    network = RegistrationNetwork(Remembering(), fold=2, n_classes=2, n_passes=3)
    pair = torch.zeros(1, 4, 16, 16, 16)
    ramp = torch.arange(16.0).reshape(-1, 1, 1)
    pair[:, :2] = ramp
    pair[:, 3] = (ramp >= 8).float()
    velocity = network.velocity(pair)
    assert velocity[:, 0].unique().tolist() == [1.5]
    first, second, third = network.backbone.told
    assert first.shape == (1, 16 + 2 + 3, 8, 8, 8)
    assert not first[:, 18:].any()
    for look, moved in ((second, 0.5), (third, 1.0)):
        assert look[0, 18].unique().tolist() == [moved]
        torch.testing.assert_close(look[:, :8], first[:, :8])
        shift = (look - first)[0, 8:16, 2:6]
        torch.testing.assert_close(shift, torch.full_like(shift, 2 * moved))
        torch.testing.assert_close(look[0, 17, 3], torch.full((8, 8), moved))


def test_every_look_teaches_the_weights() -> None:
    torch.manual_seed(0)
    backbone = torch.nn.Conv3d(2 + 2 + 3, 3, 1)
    network = RegistrationNetwork(backbone, n_classes=2, n_passes=2)
    pair = torch.rand(1, 4, 8, 8, 8)
    network(pair).square().mean().backward()
    assert backbone.weight.grad.abs().sum() > 0
