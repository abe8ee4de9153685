"""Uneven gain of the coils: what the receiver hears (B1-) and what the transmitter does (B1+)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.geometry import Affine, spacing_of
from radloom.transforms.synthesis.draws import Range, chance, log_uniform, normal, seed, uniform
from radloom.transforms.synthesis.fields import Grid, smooth_noise

__all__ = ["BiasParameters", "BiasRecipe", "bias_field", "bias_gain", "draw_bias"]

_REACH_MM = 100.0
"""Distance from the centre at which tilt and centre gain are given."""

_PLAIN_KNOT_MM = 110.0
"""Of the shading of the phantom."""


@dataclass(frozen=True)
class BiasRecipe:
    """How uneven the gain may be; logarithms throughout, 0.1 is about 10 %."""

    probability: float = 0.85
    strength: Range = (0.02, 0.3)
    """Deviation of the logarithm of the smooth random part, log-uniform."""
    knot_mm: Range = (50.0, 130.0)
    """Distance of the knots of the random part."""
    tilt: float = 0.12
    """Deviation of the change of the logarithm over 100 mm along each axis: coils at one side."""
    high_field_probability: float = 0.2
    """How often the transmitter brightens or darkens the middle, as at 3 T and 7 T."""
    centre: Range = (-0.25, 0.5)
    """Logarithm of the gain of the middle over that 100 mm away."""


@dataclass(frozen=True)
class BiasParameters:
    """One gain."""

    strength: float
    knot_mm: float
    seed: int
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0)
    centre: float = 0.0


def draw_bias(generator: torch.Generator, recipe: BiasRecipe) -> BiasParameters | None:
    """The parameters of one gain, or None."""
    if not chance(generator, recipe.probability):
        return None
    x, y, z = (normal(generator, recipe.tilt, 2.0) for _ in range(3))
    high_field = chance(generator, recipe.high_field_probability)
    return BiasParameters(
        log_uniform(generator, recipe.strength),
        uniform(generator, recipe.knot_mm),
        seed(generator),
        (x, y, z),
        uniform(generator, recipe.centre) if high_field else 0.0,
    )


def bias_gain(grid: Grid, parameters: BiasParameters, device: torch.device | str) -> Tensor:
    """(1, I, J, K) positive gain; its logarithm is smooth noise, a tilt and a paraboloid."""
    knots = tuple(parameters.knot_mm / step for step in grid.spacing_mm)
    log_gain = smooth_noise(grid.shape, knots, parameters.seed, device).mul_(parameters.strength)
    for axis, (position, tilt) in enumerate(zip(grid.axes(device), parameters.tilt, strict=True)):
        reach = position / _REACH_MM
        profile = tilt * reach - parameters.centre * reach**2
        log_gain += profile.reshape([-1 if axis == n else 1 for n in range(3)])
    return log_gain.exp_()


def bias_field(
    affine: Affine, shape: tuple[int, int, int], strength: float, generator: torch.Generator
) -> Tensor:
    """A smooth positive gain (I, J, K) round 1 whose logarithm has the deviation `strength`."""
    i, j, k = (float(step) for step in spacing_of(affine))
    parameters = BiasParameters(strength, _PLAIN_KNOT_MM, seed(generator))
    return bias_gain(Grid(shape, (i, j, k)), parameters, "cpu")[0]
