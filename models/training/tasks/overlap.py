"""How well warped structures lie on others: soft Dice without an image for each structure."""

from __future__ import annotations

from itertools import product

import torch
from torch.nn import functional

from radloom.models.training.task import weighted_mean

__all__ = ["soft_dice_loss"]


def soft_dice_loss(
    fixed: torch.Tensor, moving: torch.Tensor, ddf: torch.Tensor, n_classes: int, stride: int = 1
) -> torch.Tensor:
    """One less the mean soft Dice over the classes that one of both has, background left out.

    What warping an image of 0 and 1 for each class would give, value and derivative, from eight
    looks at the map of classes: a class weighs, at a voxel, what those corners weigh that show it.

    Args:
        fixed: (B, 1, I, J, K) uint8 classes; 0 is background.
        moving: the same; background outside.
        ddf: (B, 3, I, J, K) in voxels.
        n_classes: with background.
        stride: only every so many voxels along each axis are looked at.
    """
    seen = (..., *[slice(None, None, stride)] * 3)
    place = _indices(ddf)[seen] + ddf[seen]
    low = place.detach().floor()
    share = place - low
    there = fixed[seen][:, 0].reshape(-1).long()
    size_of_warped = ddf.new_zeros(n_classes)
    own = torch.zeros_like(share[:, 0]).reshape(-1)
    for corner in product((0, 1), repeat=3):
        weight = _corner_weight(share, corner).reshape(-1)
        classes = _classes_at(moving, low + low.new_tensor(corner).reshape(1, 3, 1, 1, 1))
        own = own + weight * (classes == there)
        size_of_warped = size_of_warped.index_add(0, classes, weight)
    common = ddf.new_zeros(n_classes).index_add(0, there, own)
    sizes = torch.bincount(there, minlength=n_classes) + size_of_warped
    dice = (2 * common / sizes.clamp_min(1))[1:]
    return 1 - weighted_mean(dice, (sizes[1:] > 0).to(dice.dtype))


def _indices(ddf: torch.Tensor) -> torch.Tensor:
    """(1, 3, I, J, K) of each voxel."""
    axes = [torch.arange(n, device=ddf.device, dtype=ddf.dtype) for n in ddf.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _corner_weight(share: torch.Tensor, corner: tuple[int, ...]) -> torch.Tensor:
    """(B, i, j, k) of one of the eight voxels round a place."""
    one, two, three = (
        share[:, axis] if side else 1 - share[:, axis] for axis, side in enumerate(corner)
    )
    return one * two * three


def _classes_at(moving: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(N,) int64 classes at whole voxels (B, 3, i, j, k); outside 0."""
    padded = functional.pad(moving[:, 0], [1] * 6)
    i, j, k = (
        (index[:, axis] + 1).nan_to_num(0).clamp(0, size - 1).long()
        for axis, size in enumerate(padded.shape[1:])
    )
    _, _, n_j, n_k = padded.shape
    flat = ((i * n_j + j) * n_k + k).flatten(1)
    return padded.flatten(1).gather(1, flat).reshape(-1).long()
