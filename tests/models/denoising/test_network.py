"""A denoiser that speaks in units of the noise."""

from __future__ import annotations

import torch

from radloom.models.denoising.network import ChannelNorm, NoiseResidual, channel_normed
from radloom.transforms.denoising.shrinkage import shrunk


class Removed(torch.nn.Module):
    """Of the channels first, level, removed, detail (f of each): what shrinkage removed."""

    def forward(self, x):
        n = x.shape[1] // 4
        return -x[:, 2 * n : 3 * n]


def noisy(shape=(1, 1, 8, 6, 4)):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return image, torch.full_like(image, 0.1)


def test_without_noise_the_image_comes_back() -> None:
    image, sigma = noisy()
    still = torch.cat([image, 0 * sigma], 1)
    assert torch.equal(NoiseResidual(Removed())(still), image)


def test_a_backbone_that_says_nothing_leaves_shrinkage() -> None:
    image, sigma = noisy()
    network = NoiseResidual(torch.nn.Conv3d(4, 1, 1))
    torch.nn.init.zeros_(network.backbone.weight)
    torch.nn.init.zeros_(network.backbone.bias)
    assert torch.equal(network(torch.cat([image, sigma], 1)), shrunk(image, sigma))


def test_the_backbone_speaks_in_units_of_the_noise() -> None:
    image, sigma = noisy()
    found = NoiseResidual(Removed())(torch.cat([image, sigma], 1))
    assert torch.allclose(found, image, atol=1e-6)  # what was removed came back


def test_folding_keeps_each_voxel_in_its_place() -> None:
    pair = torch.cat(noisy((2, 1, 8, 6, 4)), 1)
    folded, plain = NoiseResidual(Removed(), fold=2)(pair), NoiseResidual(Removed())(pair)
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
