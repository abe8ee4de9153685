"""Where each voxel of a fixed image would go in a moving one, seen through a small window.

The forces of demons (Thirion 1998, doi:10.1016/S1361-8415(98)80022-4) on descriptors that hold
whatever the contrasts: a guess, rough and short-sighted, that a network can learn to trust here and
not there, in far fewer steps than it takes to find out what images have in common.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from radloom.models.registration.descriptors import box_mean, mind_ssc

__all__ = ["forces", "forces_of_shares"]


def forces(pair: torch.Tensor, block: int, n_scales: int) -> torch.Tensor:
    """(B, 3 n_scales, I/block, J/block, K/block), each in blocks; not differentiated.

    Args:
        pair: (B, 2, I, J, K): fixed, moving; the shape divides by ``block * 2**(n_scales - 1)``.
        block: voxels along an edge of those that are compared.
        n_scales: each with voxels twice as large as the one before.
    """
    shape = [n // block for n in pair.shape[2:]]
    with torch.no_grad():
        return torch.stack([_of_one(images, block, n_scales, shape) for images in pair.float()])


def forces_of_shares(fixed: torch.Tensor, moving: torch.Tensor, n_scales: int) -> torch.Tensor:
    """(B, 3 n_scales, I, J, K) in voxels, from shares of structures; not differentiated.

    Args:
        fixed: (B, C, I, J, K) from 0 to 1; the shape divides by ``2**(n_scales - 1)``.
        moving: the same.
        n_scales: each with voxels twice as large as the one before.
    """
    with torch.no_grad():
        return torch.stack(
            [_of_scales(one, other, n_scales) for one, other in zip(fixed, moving, strict=True)]
        )


def _of_one(images: torch.Tensor, block: int, n_scales: int, shape: list[int]) -> torch.Tensor:
    found = []
    for factor in (2**n for n in range(n_scales)):
        size = block * factor
        coarse = functional.avg_pool3d(images, size) if size > 1 else images
        found.append(_guess(mind_ssc(coarse[0]), mind_ssc(coarse[1]), factor, shape))
    return torch.cat(found)


def _of_scales(fixed: torch.Tensor, moving: torch.Tensor, n_scales: int) -> torch.Tensor:
    found = []
    for factor in (2**n for n in range(n_scales)):
        one, other = (
            functional.avg_pool3d(part, factor) if factor > 1 else part for part in (fixed, moving)
        )
        found.append(_guess(one, other, factor, list(fixed.shape[1:])))
    return torch.cat(found)


def _guess(
    fixed: torch.Tensor, moving: torch.Tensor, factor: int, shape: list[int]
) -> torch.Tensor:
    """(3, *shape) The forces on voxels `factor` times as large, smoothed."""
    guess = factor * box_mean(_demons(fixed, moving), 1)
    if factor == 1:
        return guess
    return functional.interpolate(guess[None], size=shape, mode="trilinear")[0]


def _demons(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """(3, I, J, K) in voxels, at most about one, from channels (C, I, J, K)."""
    apart = fixed - moving
    slopes = torch.gradient((fixed + moving) / 2, dim=(1, 2, 3))
    force = torch.stack([(apart * slope).sum(dim=0) for slope in slopes])
    steepness = torch.stack([slope.square().sum(dim=0) for slope in slopes]).sum(dim=0)
    return 3 * force / (steepness + apart.square().sum(dim=0) + 1e-3)
