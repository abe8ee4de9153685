"""A denoiser that predicts the noise, in units of the noise."""

from __future__ import annotations

import torch
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch.nn import functional

from radloom.transforms.denoising.shrinkage import shrunk

__all__ = ["FLOOR", "HU_UNIT", "ChannelNorm", "NoiseResidual", "channel_normed"]

FLOOR = 0.004
"""The least noise level that the network is told, in its own units, in training and after it."""

HU_UNIT = 1000.0
"""CT is given to the network in thousands of HU."""


DETAIL_LIMIT = 6.0
"""Differences beyond this many deviations of the noise are anatomy, and shown no larger."""


class ChannelNorm(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Each voxel's channels to mean 0 and variance 1, then a gain and a shift a channel.

    Statistics of one voxel alone: a window's result does not depend on what else the window shows,
    as with instance or group normalisation, nor on the batch (Ba et al. 2016, arXiv:1607.06450; in
    restoration Chen et al., NAFNet, 2022, doi:10.1007/978-3-031-20071-7_2).

    Args:
        channels: C of (B, C, I, J, K).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(channels))
        self.bias = torch.nn.Parameter(torch.zeros(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, I, J, K), normalised."""
        centred = features - features.mean(dim=1, keepdim=True)
        scale = (centred.square().mean(dim=1, keepdim=True) + 1e-4).rsqrt()
        weight, bias = (p.reshape(-1, 1, 1, 1) for p in (self.weight, self.bias))
        return centred * scale * weight + bias


def channel_normed(network: torch.nn.Module) -> torch.nn.Module:
    """The network, each of its BatchNorm3d replaced by a `ChannelNorm`.

    For MONAI's networks, whose factory of normalisations knows no such one.
    """
    for name, child in network.named_children():
        if isinstance(child, torch.nn.BatchNorm3d):
            setattr(network, name, ChannelNorm(child.num_features))
        else:
            channel_normed(child)
    return network


class NoiseResidual(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """``clean = first - sigma * backbone(first, 10 sigma, removed / sigma, detail / sigma)``.

    `first` is the image by `shrunk`, which needs no weights, and `removed` what that took away: the
    backbone learns what is wrong with it. `detail` is `first` without its local mean. In units of
    sigma both are kept apart from rounding where the backbone runs in half precision. With no noise
    (sigma 0) the image comes back as it was.

    With `fold` 2 the backbone works on half the grid: the eight voxels of a block of 2 x 2 x 2 are
    its channels (Shi et al. 2016, doi:10.1109/CVPR.2016.207; for denoising Zhang et al., FFDNet,
    2018, doi:10.1109/TIP.2018.2839891), an eighth of the work at the same width.

    Args:
        backbone: (B, 4 f, I/fold, J/fold, K/fold) -> (B, f, I/fold, J/fold, K/fold), f = fold**3;
            with strides, I, J and K must be multiples.
        fold: edge of the blocks in voxels; 1: none.
        strength: the noise counts as so much stronger for `shrunk`, which takes it for white.
    """

    def __init__(self, backbone: torch.nn.Module, fold: int = 1, strength: float = 1.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.fold = fold
        self.strength = strength

    def forward(self, image_and_sigma: torch.Tensor) -> torch.Tensor:
        """(B, 1, I, J, K) float32, the clean image.

        Args:
            image_and_sigma: (B, 2, I, J, K): the image, about 0 to 1 in the head, and the standard
                deviation of the noise in each voxel in the same units.
        """
        image, sigma = image_and_sigma.float().split(1, dim=1)
        with torch.no_grad():
            first = torch.where(sigma > 0, shrunk(image, self.strength * sigma), image)
            mean = functional.avg_pool3d(first, 3, stride=1, padding=1, count_include_pad=False)
            unit = sigma.clamp_min(1e-4)
            removed, detail = (
                (difference / unit).clamp(-DETAIL_LIMIT, DETAIL_LIMIT)
                for difference in (image - first, first - mean)
            )
            seen = pixelunshuffle(
                torch.cat([first, 10 * sigma, removed, detail], dim=1), 3, self.fold
            )
        noise = pixelshuffle(self.backbone(seen).float(), 3, self.fold)
        return first - sigma * noise
