"""Pixels larger than the grid's: k-space is cut, which blurs and rings (Gibbs)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.artefacts.axes import (
    fourier_resampling,
    linear_resampling,
    nearest_resampling,
    pixel_centres,
)
from radloom.transforms.synthesis.draws import Range, chance, choose, uniform

__all__ = [
    "ResolutionParameters",
    "ResolutionRecipe",
    "draw_resolution",
    "k_space_filter",
    "pixels_from_voxels",
    "voxels_from_pixels",
]

_INTERPOLATIONS = ("fourier", "linear", "nearest")


@dataclass(frozen=True)
class ResolutionRecipe:
    """How often and how far k-space is cut."""

    probability: float = 0.35
    coarseness: Range = (1.05, 2.2)
    """Size of the pixels in voxels of the grid."""
    isotropic_probability: float = 0.4
    """How often all axes get the same size; otherwise each its own."""
    apodisation: Range = (0.0, 1.0)
    """0 rings fully (Gibbs), 1 is a Hann window."""
    unfiltered_probability: float = 0.4
    """How often the apodisation is 0."""
    fourier_probability: float = 0.6
    """How often the scanner fills k-space with zeros; else its pixels are interpolated."""


@dataclass(frozen=True)
class ResolutionParameters:
    """The sampling of the axes that are encoded in k-space."""

    coarseness: tuple[float, float, float]
    """Size of the pixels in voxels of the grid; 1 keeps an axis."""
    apodisation: float = 0.0
    interpolation: str = "fourier"
    """How pixels become voxels: fourier, linear or nearest."""


def draw_resolution(
    generator: torch.Generator, recipe: ResolutionRecipe
) -> ResolutionParameters | None:
    """The size of the pixels along each axis, or None: the grid's own."""
    if not chance(generator, recipe.probability):
        return None
    i, j, k = (uniform(generator, recipe.coarseness) for _ in range(3))
    if chance(generator, recipe.isotropic_probability):
        j = k = i
    unfiltered = chance(generator, recipe.unfiltered_probability)
    apodisation = 0.0 if unfiltered else uniform(generator, recipe.apodisation)
    zero_filled = chance(generator, recipe.fourier_probability)
    interpolation = "fourier" if zero_filled else choose(generator, _INTERPOLATIONS[1:])
    return ResolutionParameters((i, j, k), apodisation, interpolation)


def k_space_filter(m: int, apodisation: float) -> Tensor:
    """((m + 1) // 2,) weights of the frequencies that `m` pixels hold, from 0 up.

    A raised cosine: 1 everywhere without apodisation, falling to 0 with an apodisation of 1.
    """
    n_frequencies = (m + 1) // 2
    reach = torch.arange(n_frequencies, dtype=torch.float64) / n_frequencies
    return 1 - apodisation * torch.sin(math.pi / 2 * reach) ** 2


def pixels_from_voxels(n: int, m: int, apodisation: float) -> Tensor:
    """(m, n) the pixels of a scanner whose k-space holds `m` lines over `n` voxels."""
    return fourier_resampling(pixel_centres(n, m), n, k_space_filter(m, apodisation))


def voxels_from_pixels(n: int, m: int, interpolation: str) -> Tensor:
    """(n, m) how the `m` pixels are shown on the `n` voxels of the grid."""
    positions = (torch.arange(n, dtype=torch.float64) + 0.5) * (m / n) - 0.5
    if interpolation == "fourier":
        return fourier_resampling(positions, m, k_space_filter(m, 0.0))
    return (linear_resampling if interpolation == "linear" else nearest_resampling)(positions, m)
