"""Heads of a pair as an affine registration leaves them: near each other, from the crown down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from radloom.transforms.synthesis.deformation import sample_volume
from radloom.transforms.synthesis.draws import Range, uniform

__all__ = ["AffineError", "alignment", "cut", "displacement_seen", "moved", "window_of"]

LEAST_VOXELS = 24
"""Of a structure in both heads, for its centre to count."""
LEAST_STRUCTURES = 8
"""Fewer say nothing of an affine map."""
CROWN_VOXELS = 20
"""As many voxels of head in a plane are its crown."""


@dataclass(frozen=True)
class AffineError:
    """What an affine registration leaves, drawn uniformly; along and about each axis."""

    rotation: Range = (-0.04, 0.04)
    """In radians."""
    scaling: Range = (-0.035, 0.035)
    """Share by which it is off."""
    shear: Range = (-0.02, 0.02)
    shift: Range = (-1.2, 1.2)
    """In voxels."""

    def draw(self, generator: torch.Generator, pivot: Sequence[float]) -> torch.Tensor:
        """(4, 4) float64, an affine map near the identity about a point, in voxels."""
        linear = torch.eye(3, dtype=torch.float64)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            turn, shear = uniform(generator, self.rotation), uniform(generator, self.shear)
            linear[a, b] += shear + turn
            linear[b, a] += shear - turn
        for axis in range(3):
            linear[axis, axis] += uniform(generator, self.scaling)
        centre = torch.tensor(list(pivot), dtype=torch.float64)
        shift = [uniform(generator, self.shift) for _ in range(3)]
        result = torch.eye(4, dtype=torch.float64)
        result[:3, :3] = linear
        result[:3, 3] = centre - linear @ centre + torch.tensor(shift, dtype=torch.float64)
        return result


def alignment(fixed: torch.Tensor, moving: torch.Tensor, n_classes: int) -> torch.Tensor:
    """(4, 4) float64 voxel -> voxel: the affine map that lays centres of structures on each other.

    By least squares, each structure weighing as the root of its size; identity where too few are
    in both.

    Args:
        fixed: (1, I, J, K) uint8 classes.
        moving: the same, on a grid of its own.
        n_classes: with background, which does not count.
    """
    (one, n_one), (other, n_other) = (_centres(c, n_classes) for c in (fixed, moving))
    smaller = torch.minimum(n_one, n_other)
    smaller[0] = 0
    kept = smaller >= LEAST_VOXELS
    result = torch.eye(4, dtype=torch.float64)
    if int(kept.sum()) >= LEAST_STRUCTURES:
        weight = smaller[kept].sqrt().sqrt()[:, None]
        points = torch.cat([one[kept], torch.ones_like(weight)], dim=1)
        result[:3] = torch.linalg.lstsq(weight * points, weight * other[kept]).solution.T
    return result


def window_of(classes: torch.Tensor, shape: Sequence[int]) -> list[int]:
    """The first voxel of a window of `shape`: the crown at its top, the head in its middle.

    Args:
        classes: (1, I, J, K); the head is above 0.
        shape: (I, J, K).
    """
    head = classes[0] > 0
    starts = []
    for axis, size in enumerate(shape):
        others = [a for a in range(3) if a != axis]
        planes = (head.sum(others) >= CROWN_VOXELS).nonzero()
        low, high = (int(planes.min()), int(planes.max())) if len(planes) else (0, size - 1)
        starts.append(high + 2 - size if axis == 2 else (low + high + 1 - size) // 2)
    return starts


def cut(volume: torch.Tensor, start: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """(C, *shape) of (C, I, J, K), from a first voxel on; 0 beyond."""
    pads: list[int] = []
    for have, first, size in reversed(list(zip(volume.shape[1:], start, shape, strict=True))):
        pads += [-first, first + size - have]
    return functional.pad(volume, pads)


def moved(volume: torch.Tensor, there: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """(C, *shape): `volume` (C, I, J, K) seen at ``there(voxel)``; 0 outside.

    Args:
        volume: float, interpolated, or bytes of classes, the nearest of which is taken.
        there: (4, 4) voxel -> voxel of `volume`.
        shape: of the result.
    """
    own = torch.tensor(volume.shape[1:], dtype=torch.float64) - 1
    axes = [torch.arange(n, device=volume.device, dtype=torch.float32) for n in shape]
    rows = []
    for row, last in zip(there[:3], own, strict=True):
        a, b, c, d = (2 * row / last).tolist()
        i, j, k = axes
        rows.append((a * i + d - 1)[:, None, None] + (b * j)[:, None] + c * k)
    grid = torch.stack(rows[::-1], dim=-1)[None]
    return sample_volume(volume, grid, outside="zeros")


def displacement_seen(ddf: torch.Tensor, there: torch.Tensor, start: Sequence[int]) -> torch.Tensor:
    """(3, I, J, K) between two windows, of the displacement between two grids.

    Args:
        ddf: (3, I, J, K) in voxels, already cut to the window of the fixed grid.
        there: (4, 4) voxel -> voxel: where the moving window shows the moving grid, both counted
            from the first voxels of the grids.
        start: the first voxel of both windows.
    """
    home = torch.linalg.inv(there).to(ddf)
    axes = [
        torch.arange(first, first + n, device=ddf.device, dtype=ddf.dtype)
        for first, n in zip(start, ddf.shape[1:], strict=True)
    ]
    still = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    place = torch.tensordot(home[:3, :3], still + ddf, dims=1) + home[:3, 3].reshape(3, 1, 1, 1)
    return place - still


def _centres(classes: torch.Tensor, n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 3) mean index and (n,) number of voxels of each class, float64 on the CPU."""
    flat = classes.reshape(-1).long()
    shape = classes.shape[1:]
    counts = torch.bincount(flat, minlength=n_classes).double()
    table = torch.bincount
    sums = []
    for axis, size in enumerate(shape):
        index = torch.arange(size, device=classes.device).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
        pairs = flat * size + index.expand(shape).reshape(-1)
        joint = table(pairs, minlength=n_classes * size).reshape(n_classes, size).double()
        sums.append((joint * torch.arange(size, device=classes.device)).sum(1))
    centres = torch.stack(sums, dim=1) / counts.clamp_min(1)[:, None]
    return centres.cpu(), counts.cpu()
