"""Unevenness within tissues: noise at a fine and a coarse scale, and grain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from radloom.transforms.synthesis.draws import Range, chance, log_uniform, seed, uniform
from radloom.transforms.synthesis.fields import smooth_noise, white_noise

__all__ = [
    "TextureParameters",
    "TextureRecipe",
    "draw_texture",
    "texture_field",
]


@dataclass(frozen=True)
class TextureRecipe:
    """What the scales and their weights are drawn from."""

    fine_mm: Range = (2.0, 4.0)
    """Distance of the knots of the fine part."""
    patch_mm: Range = (6.0, 20.0)
    """Distance of the knots of the coarse part."""
    patch_share: Range = (0.2, 0.8)
    """Share of the variance that is coarse."""
    grain_probability: float = 0.5
    grain_share: Range = (0.0, 0.3)
    """Share of the variance that differs from voxel to voxel, where there is grain."""


@dataclass(frozen=True)
class TextureParameters:
    """One drawn texture of variance 1."""

    seed: int
    fine_mm: float
    patch_mm: float
    patch_share: float
    grain_share: float


def draw_texture(generator: torch.Generator, recipe: TextureRecipe) -> TextureParameters:
    """A texture; the shares of the three parts add up to one."""
    grain = uniform(generator, recipe.grain_share)
    if not chance(generator, recipe.grain_probability):
        grain = 0.0
    return TextureParameters(
        seed(generator),
        log_uniform(generator, recipe.fine_mm),
        log_uniform(generator, recipe.patch_mm),
        (1 - grain) * uniform(generator, recipe.patch_share),
        grain,
    )


def texture_field(
    shape: tuple[int, int, int],
    parameters: TextureParameters,
    device: torch.device | str = "cpu",
    *,
    spacing_mm: float = 1.0,
) -> torch.Tensor:
    """(I, J, K) of mean 0 and variance about 1, on voxels of `spacing_mm`."""
    p = parameters
    fine_share = 1 - p.patch_share - p.grain_share
    field = smooth_noise(shape, (p.patch_mm / spacing_mm,) * 3, p.seed, device)[0].mul_(
        math.sqrt(p.patch_share)
    )
    if fine_share > 0:
        fine = smooth_noise(shape, (p.fine_mm / spacing_mm,) * 3, p.seed + 1, device)[0]
        field.add_(fine, alpha=math.sqrt(fine_share))
    if p.grain_share > 0:
        field.add_(white_noise(shape, p.seed + 2, device), alpha=math.sqrt(p.grain_share))
    return field
