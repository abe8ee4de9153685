r"""Thermal noise of a magnitude picture: Rician, and non-central chi of several coils.

With :math:`n` coils whose signals add up to :math:`s` in quadrature, and normal noise of deviation
:math:`\sigma` in both channels of each, the magnitude is

.. math:: m = \sqrt{(s + \sigma n_1)^2 + \sigma^2 \chi^2_{2n - 1}}

(Constantinides et al. 1997, doi:10.1002/mrm.1910380524; Rician for one coil: Gudbjartsson and Patz
1995, doi:10.1002/mrm.1910340618). The chi-square part of several coils is made from one normal
number (Wilson and Hilferty 1931, doi:10.1073/pnas.17.12.684): its mean and variance are right
within 0.3 %, and it is as correlated between voxels as that number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.draws import Range, chance, choose, log_uniform, seed, uniform
from radloom.transforms.synthesis.fields import smooth_noise

__all__ = [
    "NoiseParameters",
    "NoiseRecipe",
    "add_rician_noise",
    "draw_noise",
    "g_factor",
    "magnitude_with_noise",
]

_G_KNOTS = 3.5
"""Distances of knots over the picture, in which the g-factor varies."""


@dataclass(frozen=True)
class NoiseRecipe:
    """How much noise, from how many coils, how unevenly."""

    probability: float = 0.9
    level: Range = (0.003, 0.15)
    """Deviation in one channel over the 99th percentile of the signal, log-uniform."""
    weak: Range = (0.002, 0.02)
    """The same in nearly clean pictures."""
    coils_probability: float = 0.35
    """How often several coils are added up; else the noise is Rician."""
    n_coils: tuple[int, ...] = (2, 4, 8, 16, 32)
    floor: float = 0.3
    """The noise of air that several coils may add up to, over the 99th percentile."""
    g_probability: float = 0.25
    g_maximum: Range = (1.3, 4.0)
    """Largest over smallest noise, where parallel imaging makes it uneven."""


@dataclass(frozen=True)
class NoiseParameters:
    """The noise of one picture."""

    level: float
    """Deviation in one channel over the 99th percentile of the signal, mean over the picture."""
    seed: int
    n_coils: int = 1
    g_maximum: float = 1.0
    g_seed: int = 0


def draw_noise(
    generator: torch.Generator, recipe: NoiseRecipe, *, weak: bool = False
) -> NoiseParameters | None:
    """The noise of one picture, or None."""
    if not chance(generator, recipe.probability):
        return None
    level = log_uniform(generator, recipe.weak if weak else recipe.level)
    several = chance(generator, recipe.coils_probability)
    n_coils = choose(generator, recipe.n_coils) if several else 1
    if several:
        level = min(level, recipe.floor / math.sqrt(2 * n_coils))
    uneven = chance(generator, recipe.g_probability)
    return NoiseParameters(
        level,
        seed(generator),
        n_coils,
        uniform(generator, recipe.g_maximum) if uneven else 1.0,
        seed(generator),
    )


def g_factor(
    shape: tuple[int, int, int], parameters: NoiseParameters, device: torch.device | str
) -> Tensor:
    """(1, I, J, K) noise relative to its mean: highest in the middle, where coils differ least."""
    knots = tuple(max(n - 1, 1) / _G_KNOTS for n in shape)
    bump = smooth_noise(shape, knots, parameters.g_seed, device)
    for axis, n in enumerate(shape):
        reach = (torch.arange(n, device=device) - (n - 1) / 2) / n
        bump -= (12 * reach**2).reshape([-1 if axis == d else 1 for d in range(3)])
    gain = bump.add_(1).sigmoid_().mul_(parameters.g_maximum - 1).add_(1)
    # in double precision, so that the number of threads does not show in single
    return gain.div_(gain.mean(dtype=torch.float64))


def magnitude_with_noise(
    signal: Tensor, sigma: Tensor | float, first: Tensor, second: Tensor, n_coils: int = 1
) -> Tensor:
    """The magnitude of `signal` with noise.

    Args:
        signal: not negative.
        sigma: deviation of the noise in one channel; broadcasts to `signal`.
        first: normal numbers of unit variance, in phase with the signal; used up.
        second: normal numbers of unit variance, for everything else; used up.
        n_coils: how many coils were added up in quadrature.
    """
    in_phase = first.mul_(sigma).add_(signal)
    if n_coils == 1:
        return torch.hypot(in_phase, second.mul_(sigma))
    degrees = 2 * n_coils - 1
    spread = 2 / (9 * degrees)
    chi_square = second.mul_(math.sqrt(spread)).add_(1 - spread).clamp_min_(0).pow_(3)
    return in_phase.square_().add_(chi_square.mul_(degrees).mul_(sigma).mul_(sigma)).sqrt_()


def add_rician_noise(signal: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """`signal` as a magnitude with normal noise of this deviation in both channels."""
    if deviation <= 0:
        return signal
    first, second = (torch.randn(signal.shape, generator=generator) for _ in range(2))
    return magnitude_with_noise(signal, deviation, first, second)
