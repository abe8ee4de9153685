"""Thick slices along one axis: a profile, gaps, and slices of uneven brightness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.artefacts.axes import linear_resampling, nearest_resampling
from radloom.transforms.synthesis.draws import Range, chance, choose, seed, uniform

__all__ = [
    "SliceParameters",
    "SliceRecipe",
    "draw_slices",
    "slice_gains",
    "slices_from_voxels",
    "voxels_from_slices",
]

_PARTS = 8
"""Points in a voxel at which the profile is taken."""


@dataclass(frozen=True)
class SliceRecipe:
    """How often slices are thick, and how thick."""

    probability: float = 0.3
    thickness_mm: Range = (1.5, 7.0)
    step: Range = (0.9, 1.3)
    """Distance of neighbouring slices over their thickness."""
    softness: Range = (0.03, 0.45)
    """Width of the profile's flanks over the thickness: 0.03 a box, 0.45 a bell."""
    linear_probability: float = 0.7
    """How often slices are interpolated linearly onto the grid; else the nearest one is shown."""
    uneven_probability: float = 0.25
    unevenness: Range = (0.003, 0.03)
    """Deviation of the gain of single slices, and of every other one (cross-talk)."""


@dataclass(frozen=True)
class SliceParameters:
    """One stack of slices."""

    axis: int
    """0, 1, 2: sagittal, coronal, axial where the grid is RAS+."""
    thickness_mm: float
    step_mm: float
    """From one slice to the next."""
    offset: float = 0.5
    """Where the first slice lies, in steps from the edge of the grid, 0 to 1."""
    softness: float = 0.1
    interpolation: str = "linear"
    """linear or nearest."""
    unevenness: float = 0.0
    seed: int = 0


def draw_slices(
    generator: torch.Generator, recipe: SliceRecipe, axis: int | None = None
) -> SliceParameters | None:
    """A stack of thick slices along `axis`, or any axis, or None: no thick slices."""
    if not chance(generator, recipe.probability):
        return None
    if axis is None:
        axis = choose(generator, range(3))
    thickness = uniform(generator, recipe.thickness_mm)
    step = thickness * uniform(generator, recipe.step)
    offset, softness = uniform(generator, (0.0, 1.0)), uniform(generator, recipe.softness)
    linear = chance(generator, recipe.linear_probability)
    uneven = chance(generator, recipe.uneven_probability)
    return SliceParameters(
        axis,
        thickness,
        step,
        offset,
        softness,
        "linear" if linear else "nearest",
        uniform(generator, recipe.unevenness) if uneven else 0.0,
        seed(generator),
    )


def _centres(n: int, spacing_mm: float, parameters: SliceParameters) -> Tensor:
    """(m,) centres of the slices in voxels."""
    step = parameters.step_mm / spacing_mm
    first = parameters.offset * step - 0.5
    m = max(1, math.floor((n - 0.5 - first) / step) + 1)
    return first + step * torch.arange(m, dtype=torch.float64)


def slices_from_voxels(n: int, spacing_mm: float, parameters: SliceParameters) -> Tensor:
    """(m, n) the slices: each weighs the voxels by its profile, a box with soft flanks."""
    centres = _centres(n, spacing_mm, parameters)
    part = (torch.arange(n * _PARTS, dtype=torch.float64) + 0.5) / _PARTS - 0.5
    reach = (part - centres[:, None]) * (spacing_mm / parameters.thickness_mm)
    soft = max(parameters.softness, 1e-3)
    profile = torch.erf((reach + 0.5) / soft) - torch.erf((reach - 0.5) / soft)
    weights = profile.reshape(len(centres), n, _PARTS).sum(-1)
    return weights / weights.sum(1, keepdim=True).clamp_min(1e-9)


def voxels_from_slices(n: int, spacing_mm: float, parameters: SliceParameters) -> Tensor:
    """(n, m) the slices on the voxels of the grid."""
    centres = _centres(n, spacing_mm, parameters)
    step = parameters.step_mm / spacing_mm
    positions = (torch.arange(n, dtype=torch.float64) - centres[0]) / step
    resampling = linear_resampling if parameters.interpolation == "linear" else nearest_resampling
    return resampling(positions, len(centres))


def slice_gains(m: int, parameters: SliceParameters) -> Tensor:
    """(m,) brightness of each slice."""
    generator = torch.Generator().manual_seed(parameters.seed)
    single = torch.randn(m, generator=generator, dtype=torch.float64)
    every_other = torch.randn(2, generator=generator, dtype=torch.float64)[torch.arange(m) % 2]
    return 1 + parameters.unevenness * (0.6 * single + 0.8 * every_other).clamp(-3, 3)
