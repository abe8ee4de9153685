"""A denoiser that speaks in units of the noise."""

from __future__ import annotations

import torch

from radloom.models.denoising.network import NoiseResidual


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
