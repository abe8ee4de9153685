"""A denoiser that speaks in units of the noise."""

from __future__ import annotations

import torch

from radloom.models.denoising.network import ChannelNorm, NoiseResidual, channel_normed


class First(torch.nn.Module):
    def forward(self, x):
        return x[:, 2:3]


def test_without_noise_the_image_comes_back() -> None:
    image = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    still = torch.cat([image, torch.zeros_like(image)], 1)
    assert torch.equal(NoiseResidual(First())(still), image)


def test_the_noise_is_taken_off_in_its_own_units() -> None:
    image = torch.full((1, 1, 9, 9, 9), 0.5)
    image[0, 0, 4, 4, 4] += 0.1
    sigma = torch.full_like(image, 0.05)
    found = NoiseResidual(First())(torch.cat([image, sigma], 1))
    assert abs(float(found[0, 0, 4, 4, 4]) - (0.5 + 0.1 / 27)) < 1e-6
    assert abs(float(found[0, 0, 0, 0, 0]) - 0.5) < 1e-6


class Details(torch.nn.Module):
    """Of eight voxels a channel: image, level, detail; gives the details back."""

    def forward(self, x):
        return x[:, 16:24]


def test_folding_keeps_each_voxel_in_its_place() -> None:
    image = torch.rand(2, 1, 8, 6, 4, generator=torch.Generator().manual_seed(0))
    pair = torch.cat([image, torch.full_like(image, 0.1)], 1)
    folded, plain = NoiseResidual(Details(), fold=2)(pair), NoiseResidual(First())(pair)
    assert torch.equal(folded, plain)


def test_a_voxel_is_normalised_by_its_own_channels() -> None:
    features = torch.randn(2, 16, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    norm = ChannelNorm(16)
    whole = norm(7 * features + 3)
    assert torch.allclose(whole.mean(1), torch.zeros(2, 5, 4, 3), atol=1e-5)
    assert torch.allclose(whole.var(1, unbiased=False), torch.ones(2, 5, 4, 3), atol=1e-3)
    alone = norm((7 * features + 3)[..., 1:2])
    assert torch.allclose(alone, whole[..., 1:2], atol=1e-6)


def test_batch_normalisation_is_replaced_at_every_depth() -> None:
    block = torch.nn.Sequential(torch.nn.Conv3d(2, 4, 3), torch.nn.BatchNorm3d(4))
    network = channel_normed(torch.nn.Sequential(block, torch.nn.BatchNorm3d(4)))
    kinds = [type(m).__name__ for m in network.modules()]
    assert kinds.count("ChannelNorm") == 2
    assert "BatchNorm3d" not in kinds
