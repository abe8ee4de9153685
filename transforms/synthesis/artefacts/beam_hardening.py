"""A beam of many energies: cupping, dark bands between dense bones, streaks from metal.

The error of every ray is modelled from what it meets, then reconstructed by filtered
back-projection and added to the picture: a polynomial of the paths through soft tissue and bone
(Joseph and Spital 1978, doi:10.1097/00004728-197801000-00017), and for metal, which attenuates
more than the scale of HU holds, a measurement that saturates, with the noise of rays that hardly
get through: it blooms and throws streaks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.artefacts.projection import Projector
from radloom.transforms.synthesis.draws import Range, chance, log_uniform, seed, uniform
from radloom.transforms.synthesis.fields import Grid, white_noise

__all__ = [
    "BeamHardeningParameters",
    "BeamHardeningRecipe",
    "beam_hardening_error",
    "draw_beam_hardening",
]

_BONE_HU = 150.0
"""Above this, the excess counts as bone."""
_METAL_HU = 2400.0
"""Above this, the excess counts as metal."""
_FULL_METAL_HU = 3071.0
"""Where the scale of HU ends; metal attenuates far more."""
_METAL_PER_HU = 0.028
"""Attenuation of metal, relative to water, for each HU above where it starts."""
_CALIBRATED_MM = 150.0
"""The path through water at which the scanner's correction of soft tissue is right."""


@dataclass(frozen=True)
class BeamHardeningRecipe:
    """How often and how strongly rays are wrong."""

    probability: float = 0.4
    bone_per_mm: Range = (2e-4, 3e-3)
    """Share of the path through bone lost for each mm of bone, log-uniform."""
    cupping_per_mm: Range = (0.0, 8e-5)
    """The same for all tissue, beyond the path that the scanner corrects."""
    metal_mm: Range = (20.0, 70.0)
    """Path, in mm of water, at which rays through metal saturate."""
    starvation: Range = (0.0, 10.0)
    """Noise of the rays through metal, in mm of water at the path of saturation."""


@dataclass(frozen=True)
class BeamHardeningParameters:
    """The errors of one scan."""

    bone_per_mm: float
    cupping_per_mm: float = 0.0
    metal_mm: float = 50.0
    starvation: float = 0.0
    seed: int = 0


def draw_beam_hardening(
    generator: torch.Generator, recipe: BeamHardeningRecipe
) -> BeamHardeningParameters | None:
    """The errors of one scan, or None."""
    if not chance(generator, recipe.probability):
        return None
    return BeamHardeningParameters(
        log_uniform(generator, recipe.bone_per_mm),
        uniform(generator, recipe.cupping_per_mm),
        uniform(generator, recipe.metal_mm),
        uniform(generator, recipe.starvation),
        seed(generator),
    )


def beam_hardening_error(hu: Tensor, grid: Grid, parameters: BeamHardeningParameters) -> Tensor:
    """(1, I, J, K) HU to add to `hu` (1, I, J, K)."""
    projector = Projector(grid)
    metal = projector.coarse((hu - _METAL_HU).clamp_(0, _FULL_METAL_HU - _METAL_HU))
    metal = metal * _METAL_PER_HU
    bone = projector.coarse((hu - _BONE_HU).clamp_(0, _METAL_HU - _BONE_HU)) / 1000
    water = projector.coarse((hu + 1000).clamp_(0, 1000 + _BONE_HU)) / 1000
    in_water, in_bone, in_metal = projector.project(torch.cat([water, bone, metal])).chunk(3, 1)
    error = -parameters.bone_per_mm * in_bone.square()
    error -= parameters.cupping_per_mm * in_water * (in_water - _CALIBRATED_MM)
    error += _measured_metal(in_metal, parameters)
    return projector.fine(1000 * projector.reconstruct(error))


def _measured_metal(in_metal: Tensor, parameters: BeamHardeningParameters) -> Tensor:
    """What rays tell of the metal: all of it is missing from the picture, which ends at 3071 HU."""
    depth = in_metal / parameters.metal_mm
    measured = parameters.metal_mm * -torch.expm1(-depth)
    if parameters.starvation > 0:
        noise = white_noise(tuple(in_metal.shape), parameters.seed, in_metal.device)
        measured += parameters.starvation * noise * torch.expm1(depth.clamp_max(4) / 2)
    return measured
