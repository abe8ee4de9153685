"""Fields of displacement on a coarse lattice: trilinear interpolation, and flow along velocities.

The flow is by scaling and squaring (Arsigny et al. 2006, doi:10.1007/11866565_113).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from radloom.transforms.synthesis.fields import Grid

__all__ = ["Lattice", "exponential", "on_device"]

_HALVINGS = 5


@dataclass(frozen=True)
class Lattice:
    """Knots along the axes of the world, and trilinear interpolation between them."""

    origin_mm: tuple[float, float, float]
    """Where the first knot lies."""
    shape: tuple[int, int, int]
    """(I, J, K)."""
    spacing_mm: tuple[float, float, float]

    def points(self, device: torch.device | str) -> torch.Tensor:
        """(I, J, K, 3) mm."""
        axes = [
            start + spacing * torch.arange(n, device=device, dtype=torch.float32)
            for start, n, spacing in zip(self.origin_mm, self.shape, self.spacing_mm, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)

    def interpolate(self, values: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """`values` (3, I, J, K) at `points` (..., 3) mm -> (..., 3); the border goes on outside."""
        half = [s * (n - 1) / 2 for n, s in zip(self.shape, self.spacing_mm, strict=True)]
        size = on_device(points.device, half)
        centre = on_device(points.device, self.origin_mm) + size
        flat = ((points - centre) / size).reshape(1, 1, 1, -1, 3).flip(-1)
        sampled = functional.grid_sample(
            values[None], flat, mode="bilinear", padding_mode="border", align_corners=True
        )
        return sampled.reshape(3, -1).T.reshape(points.shape)

    def resample(self, values: torch.Tensor, grid: Grid) -> torch.Tensor:
        """The same on a grid, one axis after the other: (3, I, J, K) -> (3, I', J', K')."""
        positions = grid.axes(values.device)
        for axis in (2, 1, 0):
            place = (positions[axis] - self.origin_mm[axis]) / self.spacing_mm[axis]
            place = place.clamp(0, self.shape[axis] - 1)
            knots = torch.arange(self.shape[axis], device=values.device)
            weights = (1 - (place[:, None] - knots).abs()).clamp_min(0)
            values = torch.matmul(weights, values.movedim(axis + 1, -2)).movedim(-2, axis + 1)
        return values


def exponential(velocity: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """(3, I, J, K) displacement in mm of the flow along `velocity` from time 0 to 1.

    The first step is by the midpoint rule; displacements are kept in the units of `grid_sample`.
    """
    half = [s * (n - 1) / 2 for n, s in zip(lattice.shape, lattice.spacing_mm, strict=True)]
    half_mm = on_device(velocity.device, half).reshape(3, 1, 1, 1)
    knots = [torch.linspace(-1, 1, n, device=velocity.device) for n in lattice.shape]
    still = torch.stack(torch.meshgrid(*knots, indexing="ij"))
    step = velocity / half_mm / 2**_HALVINGS
    step = _looked_up(step, still + step / 2)
    for _ in range(_HALVINGS):
        step = step + _looked_up(step, still + step)
    return step * half_mm


def _looked_up(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(3, I, J, K) values at (3, I, J, K) normalised places, trilinear, border repeated."""
    where = places.flip(0).movedim(0, -1)[None]
    return functional.grid_sample(
        values[None], where, mode="bilinear", padding_mode="border", align_corners=True
    )[0]


def on_device(device: torch.device | str, values: npt.ArrayLike) -> torch.Tensor:
    """A few numbers on the device, without waiting for it."""
    return torch.from_numpy(np.asarray(values, np.float32)).to(device, non_blocking=True)
