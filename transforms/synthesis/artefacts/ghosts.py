"""What repeats while k-space is read (pulse, breath) gives copies along the phase encoding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.draws import Range, chance, log_uniform, uniform

__all__ = ["GhostParameters", "GhostRecipe", "draw_ghosts", "ghost_weights"]


@dataclass(frozen=True)
class GhostRecipe:
    """How often and how strongly copies appear."""

    probability: float = 0.1
    strength: Range = (0.02, 0.3)
    """Modulation of the signal, log-uniform; each copy has half of it."""
    shift: Range = (0.08, 0.5)
    """Distance of the copies as a share of the field of view."""
    displacement_probability: float = 0.5
    displacement_mm: Range = (0.1, 1.2)
    """How far the head swings along the phase encoding: its copies show edges."""


@dataclass(frozen=True)
class GhostParameters:
    """One periodic disturbance."""

    strength: float
    shift: float
    phase: float
    """Of the modulation, radians."""
    displacement_mm: float = 0.0


def draw_ghosts(generator: torch.Generator, recipe: GhostRecipe) -> GhostParameters | None:
    """One periodic disturbance, or None."""
    if not chance(generator, recipe.probability):
        return None
    strength = log_uniform(generator, recipe.strength)
    shift = uniform(generator, recipe.shift)
    phase = uniform(generator, (0.0, 2 * math.pi))
    swings = chance(generator, recipe.displacement_probability)
    return GhostParameters(
        strength, shift, phase, uniform(generator, recipe.displacement_mm) if swings else 0.0
    )


def ghost_weights(frequency: Tensor, extent_mm: float, parameters: GhostParameters) -> Tensor:
    """(m,) complex factor of each line.

    Args:
        frequency: (m,) whole cycles over the field of view.
        extent_mm: the field of view along the phase encoding.
        parameters: the disturbance.
    """
    swing = torch.cos(2 * math.pi * parameters.shift * frequency + parameters.phase)
    moved = 2 * math.pi * frequency / extent_mm * parameters.displacement_mm * swing
    return torch.polar(1 + parameters.strength * swing, -moved)
