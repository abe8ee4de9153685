"""Lines of k-space that were not measured: folded copies, incoherent smear, partial Fourier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.draws import Range, chance, choose, seed, uniform

__all__ = ["UndersamplingParameters", "UndersamplingRecipe", "draw_undersampling", "line_weights"]


@dataclass(frozen=True)
class UndersamplingRecipe:
    """How often lines of the phase-encoding axis are left out."""

    regular_probability: float = 0.08
    factors: tuple[int, ...] = (2, 3, 4)
    regular_residue: Range = (0.03, 0.3)
    """Share of a missing line that parallel imaging does not give back."""
    random_probability: float = 0.05
    random_residue: Range = (0.05, 0.5)
    random_kept: Range = (0.3, 0.8)
    """Share of the lines outside the centre that are measured."""
    centre: Range = (0.04, 0.15)
    """Share of k-space round the centre that is measured fully."""
    partial_probability: float = 0.1
    partial: Range = (0.55, 0.9)
    """Share of k-space that partial Fourier measures; the rest is zero."""


@dataclass(frozen=True)
class UndersamplingParameters:
    """Which lines are missing, and by how much."""

    factor: int = 1
    """Every factor-th line outside the centre is measured; 1: all."""
    kept: float = 1.0
    """Share of those lines, drawn at random, that are measured."""
    residue: float = 0.0
    """What of a missing line stays missing, 0 to 1."""
    centre: float = 0.1
    partial: float = 1.0
    """Share of k-space measured from one end."""
    seed: int = 0


def draw_undersampling(
    generator: torch.Generator, recipe: UndersamplingRecipe
) -> UndersamplingParameters | None:
    """Which lines are left out, or None: none."""
    regular = chance(generator, recipe.regular_probability)
    scattered = chance(generator, recipe.random_probability) and not regular
    partial = chance(generator, recipe.partial_probability)
    if not (regular or scattered or partial):
        return None
    residues = {(True, False): recipe.regular_residue, (False, True): recipe.random_residue}
    residue = residues.get((regular, scattered))
    return UndersamplingParameters(
        choose(generator, recipe.factors) if regular else 1,
        uniform(generator, recipe.random_kept) if scattered else 1.0,
        0.0 if residue is None else uniform(generator, residue),
        uniform(generator, recipe.centre),
        uniform(generator, recipe.partial) if partial else 1.0,
        seed(generator),
    )


def line_weights(frequency: Tensor, parameters: UndersamplingParameters) -> Tensor:
    """(m,) weight of each line, 0 to 1.

    Args:
        frequency: (m,) whole cycles over the field of view, negative to positive.
        parameters: which lines are missing.
    """
    m = len(frequency)
    generator = torch.Generator().manual_seed(parameters.seed)
    measured = torch.rand(m, generator=generator, dtype=torch.float64) < parameters.kept
    measured &= frequency % parameters.factor == 0
    measured |= frequency.abs() <= parameters.centre * m / 2
    weights = 1 - parameters.residue * (~measured).double()
    return weights * (frequency >= m * (0.5 - parameters.partial))
