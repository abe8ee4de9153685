"""Where each voxel of a fixed image would go in a moving one, seen through a small window.

The forces of demons (Thirion 1998, doi:10.1016/S1361-8415(98)80022-4) on descriptors that hold
whatever the contrasts: a guess, rough and short-sighted, that a network can learn to trust here and
not there, in far fewer steps than it takes to find out what images have in common.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from radloom.models.registration.descriptors import box_mean, mind_ssc

__all__ = ["forces"]


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


def _of_one(images: torch.Tensor, block: int, n_scales: int, shape: list[int]) -> torch.Tensor:
    found = []
    for factor in (2**n for n in range(n_scales)):
        size = block * factor
        coarse = functional.avg_pool3d(images, size) if size > 1 else images
        guess = _demons(mind_ssc(coarse[0]), mind_ssc(coarse[1]))
        guess = factor * box_mean(guess, 1)
        if factor > 1:
            guess = functional.interpolate(guess[None], size=shape, mode="trilinear")[0]
        found.append(guess)
    return torch.cat(found)


def _demons(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """(3, I, J, K) in voxels, at most about one, from channels (C, I, J, K)."""
    apart = fixed - moving
    slopes = torch.gradient((fixed + moving) / 2, dim=(1, 2, 3))
    force = torch.stack([(apart * slope).sum(dim=0) for slope in slopes])
    steepness = torch.stack([slope.square().sum(dim=0) for slope in slopes]).sum(dim=0)
    return 3 * force / (steepness + apart.square().sum(dim=0) + 1e-3)
