"""Masks of structures: of codes, grown, near, enclosed. Boolean throughout, for speed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import functional

from radloom.transforms.synthesis.anatomy import RIGHT
from radloom.transforms.synthesis.fields import Grid

__all__ = ["enclosed", "grown", "is_any", "near"]


def is_any(structures: torch.Tensor, codes: Iterable[int]) -> torch.Tensor:
    """(I, J, K) bool: of one of the codes, on either side."""
    code = structures & (RIGHT - 1)
    result = torch.zeros_like(structures, dtype=torch.bool)
    for first, last in _runs(codes):
        result |= (code == first) if first == last else (code >= first) & (code <= last)
    return result


def grown(mask: torch.Tensor, *, cube: bool = False) -> torch.Tensor:
    """`mask` and the neighbours across faces; with `cube` also across edges and corners."""
    result = mask.clone()
    for axis, n in enumerate(mask.shape):
        before = result.clone() if cube else mask
        result.narrow(axis, 1, n - 1).logical_or_(before.narrow(axis, 0, n - 1))
        result.narrow(axis, 0, n - 1).logical_or_(before.narrow(axis, 1, n - 1))
    return result


def near(mask: torch.Tensor, distance_mm: float, grid: Grid) -> torch.Tensor:
    """Voxels within about this distance of the mask, found on cells of 4 voxels."""
    steps = max(round(distance_mm / (4 * grid.spacing_mm[0])), 1)
    coarse = functional.max_pool3d(mask[None, ::2, ::2, ::2].float(), 2, ceil_mode=True)
    wide = functional.max_pool3d(coarse, 2 * steps + 1, 1, steps)[0] > 0
    for axis, n in enumerate(mask.shape):
        wide = wide.repeat_interleave(4, axis).narrow(axis, 0, n)
    return wide


def enclosed(air: torch.Tensor) -> torch.Tensor:
    """Air between head on both sides along x and y, and with head above."""
    result = air
    for axis, n in enumerate(air.shape):
        place = torch.arange(n, device=air.device, dtype=torch.int16)
        place = place.reshape([-1 if a == axis else 1 for a in range(3)])
        solid = ~air
        last = (solid * place).amax(axis, keepdim=True)
        result = result & (place < last)
        if axis < 2:
            first = n - (solid * (n - place)).amax(axis, keepdim=True)
            result = result & (place > first)
    return result


def _runs(codes: Iterable[int]) -> list[tuple[int, int]]:
    """Codes as first and last of each run without a gap: comparing is faster than looking up."""
    runs: list[tuple[int, int]] = []
    for code in sorted(int(code) for code in codes):
        if runs and runs[-1][1] == code - 1:
            runs[-1] = (runs[-1][0], code)
        else:
            runs.append((code, code))
    return runs
