"""What happens to the numbers themselves: another curve, saturation, few steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.draws import Range, chance, choose, log_uniform, uniform

__all__ = ["GreyLevelParameters", "GreyLevelRecipe", "curved", "draw_grey_levels", "stored"]

_FULL_SCALE = 1.6
"""What the highest step stands for, over the 99th percentile of the signal."""


@dataclass(frozen=True)
class GreyLevelRecipe:
    """How often numbers are changed."""

    gamma_probability: float = 0.2
    gamma: Range = (0.6, 1.6)
    """Exponent of the signal, log-uniform."""
    clip_probability: float = 0.1
    clip: Range = (0.75, 1.2)
    """Where numbers saturate, over the 99th percentile of the signal."""
    steps_probability: float = 0.2
    steps: tuple[int, ...] = (127, 255, 1023, 4095)
    """How many steps the scale has."""


@dataclass(frozen=True)
class GreyLevelParameters:
    """A curve before the noise; saturation and steps after it."""

    gamma: float = 1.0
    clip: float = 0.0
    """Over the 99th percentile of the signal; 0: nowhere."""
    steps: int = 0
    """0: none."""


def draw_grey_levels(
    generator: torch.Generator, recipe: GreyLevelRecipe
) -> GreyLevelParameters | None:
    """What happens to the numbers, or None."""
    curve = chance(generator, recipe.gamma_probability)
    saturates = chance(generator, recipe.clip_probability)
    rounds = chance(generator, recipe.steps_probability)
    if not (curve or saturates or rounds):
        return None
    return GreyLevelParameters(
        log_uniform(generator, recipe.gamma) if curve else 1.0,
        uniform(generator, recipe.clip) if saturates else 0.0,
        choose(generator, recipe.steps) if rounds else 0,
    )


def curved(signal: Tensor, level: Tensor, parameters: GreyLevelParameters) -> Tensor:
    """`signal` to a power, its `level` kept."""
    if parameters.gamma == 1:
        return signal
    level = level.clamp_min(1e-6)
    return (signal / level).clamp_min_(0).pow_(parameters.gamma).mul_(level)


def stored(image: Tensor, level: Tensor, parameters: GreyLevelParameters) -> Tensor:
    """`image` saturated and in steps."""
    if parameters.clip > 0:
        image = torch.minimum(image, parameters.clip * level)
    if parameters.steps > 0:
        step = (_FULL_SCALE / parameters.steps) * level.clamp_min(1e-6)
        image = torch.round(image / step).mul_(step)
    return image
