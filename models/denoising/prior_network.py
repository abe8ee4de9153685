"""The network of the deep image prior: a U-Net whose finest level is half the image's grid."""

from __future__ import annotations

from itertools import pairwise

import torch
from monai.networks.utils import pixelshuffle
from torch import nn
from torch.nn import functional

__all__ = ["FOLD", "FoldedUNet"]

FOLD = 2
"""Edge in voxels of the blocks that are channels of the network's output."""


class FoldedUNet(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """(1, C, I/2, J/2, K/2) -> (1, 1, I, J, K), zero before the first step.

    It works on an eighth of the voxels: blocks of 2 x 2 x 2 are channels (Shi et al. 2016,
    doi:10.1109/CVPR.2016.207), so that the convolutions are few and wide, which is what processors
    are quick at: PyTorch hands a convolution of one image to its fast path only above a number of
    values.

    Args:
        n_channels: of the input.
        widths: channels of each level, the finest first; each level halves the grid.
    """

    def __init__(self, n_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        steps = pairwise((n_channels, *widths))
        self.down = nn.ModuleList(_Block(before, after) for before, after in steps)
        self.up = nn.ModuleList(_Block(fine + coarse, fine) for fine, coarse in pairwise(widths))
        self.last = nn.Conv3d(widths[0], FOLD**3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, source: torch.Tensor) -> torch.Tensor:
        """(1, 1, I, J, K); I/2, J/2 and K/2 must be multiples of 2 for each level but the first."""
        features = [self.down[0](source)]
        for block in self.down[1:]:
            features.append(block(functional.avg_pool3d(features[-1], 2)))
        coarse = features.pop()
        for block, fine in zip(reversed(self.up), reversed(features), strict=True):
            coarse = functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
            coarse = block(torch.cat([fine, coarse], dim=1))
        image: torch.Tensor = pixelshuffle(self.last(coarse), 3, FOLD)
        return image


class _Block(nn.Sequential):  # type: ignore[misc]  # torch is not typed here
    """Two convolutions, each normalised over the image."""

    def __init__(self, n_in: int, n_out: int) -> None:
        layers: list[nn.Module] = []
        for n in (n_in, n_out):
            layers += [nn.Conv3d(n, n_out, 3, padding=1), nn.InstanceNorm3d(n_out, affine=True)]
            layers.append(nn.LeakyReLU(0.1, inplace=True))
        super().__init__(*layers)
