"""Random fields from a seed, blurs and grids: what every part of the generator paints with.

Spaces. The *sample world* is in mm, RAS+, with its origin at the centre of the head; a `Grid` lays
voxels in it. Fields are tensors (I, J, K).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from radloom.errors import InputError
from radloom.geometry import Affine

__all__ = ["Grid", "blur", "smooth_noise", "white_noise"]

_KNOT_VARIANCE = 0.479
"""Mean sum of squared cubic B-spline weights along an axis."""


@dataclass(frozen=True)
class Grid:
    """The voxels of a sample: axis-aligned in the sample world, RAS+."""

    shape: tuple[int, int, int]
    """(I, J, K)."""
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where the middle of the grid lies in the sample world."""

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or min(self.spacing_mm) <= 0:
            raise InputError(
                f"expected a grid with voxels of positive size, got {self.shape} at "
                f"{self.spacing_mm} mm"
            )

    @property
    def affine(self) -> Affine:
        """(4, 4) voxel -> sample world."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[:3, 3] = [axis[0].item() for axis in self.axes()]
        return affine

    def axes(self, device: torch.device | str = "cpu") -> tuple[torch.Tensor, ...]:
        """Three (N,) tensors: the world coordinates of the voxel centres along each axis."""
        return tuple(
            centre + spacing * (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2)
            for n, spacing, centre in zip(self.shape, self.spacing_mm, self.centre_mm, strict=True)
        )


def smooth_noise(
    shape: tuple[int, ...],
    knot_vox: tuple[float, ...],
    seed: int,
    device: torch.device | str = "cpu",
    *,
    channels: int = 1,
) -> torch.Tensor:
    """(channels, I, J, K) smooth fields of mean 0 and variance about 1.

    A cubic B-spline through normal draws on a lattice whose knots lie `knot_vox` voxels apart along
    each axis. The few draws are made on the CPU, so that one seed gives one field everywhere.

    Example:
        >>> field = smooth_noise((32, 32, 32), (8, 8, 8), seed=0)
        >>> field.shape, bool(0.2 < field.std() < 3)
        (torch.Size([1, 32, 32, 32]), True)
    """
    generator = torch.Generator().manual_seed(seed)
    n_knots = [math.ceil((n - 1) / knot) + 4 for n, knot in zip(shape, knot_vox, strict=True)]
    field = torch.randn((channels, *n_knots), generator=generator).to(device)
    first, second, third = (
        _spline_weights(n, knot, n_knot, field.device)
        for n, knot, n_knot in zip(shape, knot_vox, n_knots, strict=True)
    )
    field = second @ (field @ third.T)
    return (first @ field.flatten(2)).view(channels, *shape)


def _spline_weights(n: int, knot: float, n_knots: int, device: torch.device) -> torch.Tensor:
    """(n, n_knots) uniform cubic B-spline basis, scaled to unit variance."""
    position = torch.arange(n, device=device, dtype=torch.float32)[:, None] / knot + 1
    distance = (position - torch.arange(n_knots, device=device)).abs()
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, inner, outer) / math.sqrt(_KNOT_VARIANCE)


def white_noise(
    shape: tuple[int, ...], seed: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Independent normal numbers, made on the device: one seed, one device, the same bytes."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device)


def blur(volume: torch.Tensor, sigma_vox: tuple[float, ...]) -> torch.Tensor:
    """`volume` (C, I, J, K) convolved with a Gaussian; the border is repeated.

    Args:
        volume: float.
        sigma_vox: standard deviation along each axis in voxels; 0 leaves the axis alone.
    """
    for axis, sigma in enumerate(sigma_vox, start=1):
        if sigma <= 0:
            continue
        radius = min(math.ceil(3 * sigma), volume.shape[axis] - 1)
        weights = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(-radius, radius + 1)]
        volume = _convolve(volume, [w / sum(weights) for w in weights], axis)
    return volume


def _convolve(volume: torch.Tensor, kernel: list[float], axis: int) -> torch.Tensor:
    """Along one axis by shifted sums: one pass a tap, in the same order on every device."""
    radius, n = len(kernel) // 2, volume.shape[axis]
    pads = [0, 0] * 3
    pads[2 * (3 - axis)] = pads[2 * (3 - axis) + 1] = radius
    padded = functional.pad(volume, pads, mode="replicate")
    result = kernel[0] * padded.narrow(axis, 0, n)
    for step, weight in enumerate(kernel[1:], start=1):
        result.add_(padded.narrow(axis, step, n), alpha=weight)
    return result
