r"""The reconstruction kernel of a CT: smooth, or sharp with overshooting edges.

In the plane of the slice a sum of two Gaussians, whose transfer at frequency :math:`f` is

.. math:: H(f) = (1 + e)\, e^{-2 (\pi \sigma_1 f)^2} - e\, e^{-2 (\pi \sigma_2 f)^2}
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.artefacts.axes import along, gaussian_smoothing
from radloom.transforms.synthesis.draws import Range, chance, uniform
from radloom.transforms.synthesis.fields import Grid

__all__ = ["KernelParameters", "KernelRecipe", "blurred", "draw_kernel", "transfer"]


@dataclass(frozen=True)
class KernelRecipe:
    """How soft or sharp kernels are."""

    soft_mm: Range = (0.45, 1.3)
    """Deviation of a smooth kernel."""
    sharp_probability: float = 0.35
    sharp_mm: Range = (0.3, 0.5)
    """Deviation of a sharp kernel."""
    edge: Range = (0.1, 0.8)
    """How much a sharp kernel overshoots."""
    edge_mm: Range = (1.0, 2.0)
    """Width of the overshoot."""


@dataclass(frozen=True)
class KernelParameters:
    """One kernel."""

    sigma_mm: float
    edge: float = 0.0
    edge_mm: float = 1.5


def draw_kernel(generator: torch.Generator, recipe: KernelRecipe) -> KernelParameters:
    """One kernel; a deviation of 0 blurs nothing."""
    if not chance(generator, recipe.sharp_probability):
        return KernelParameters(uniform(generator, recipe.soft_mm))
    return KernelParameters(
        uniform(generator, recipe.sharp_mm),
        uniform(generator, recipe.edge),
        uniform(generator, recipe.edge_mm),
    )


def blurred(hu: Tensor, grid: Grid, kernel: KernelParameters) -> Tensor:
    """`hu` (1, I, J, K) as the kernel shows it; beyond the grid there is air."""
    density = hu + 1000
    sharp = _gaussian(density, grid, kernel.sigma_mm)
    if kernel.edge > 0:
        sharp = torch.lerp(_gaussian(density, grid, kernel.edge_mm), sharp, 1 + kernel.edge)
    return sharp - 1000


def _gaussian(volume: Tensor, grid: Grid, sigma_mm: float) -> Tensor:
    for axis in (1, 0):
        n, step = grid.shape[axis], grid.spacing_mm[axis]
        volume = along(volume, gaussian_smoothing(n, sigma_mm / step), axis)
    return volume


def transfer(frequency: Tensor, kernel: KernelParameters) -> Tensor:
    """What is left of waves of this frequency, in cycles a mm."""

    def gaussian(sigma_mm: float) -> Tensor:
        return torch.exp(-2 * (math.pi * sigma_mm * frequency) ** 2)

    wide = gaussian(kernel.edge_mm)
    return wide + (1 + kernel.edge) * (gaussian(kernel.sigma_mm) - wide)
