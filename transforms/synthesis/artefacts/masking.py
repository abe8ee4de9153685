"""What people take out of pictures before they pass them on: the skull, the face, the air."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.anatomy import RIGHT, code_of
from radloom.transforms.synthesis.artefacts.axes import along, gaussian_smoothing
from radloom.transforms.synthesis.draws import Range, chance, choose, seed, uniform
from radloom.transforms.synthesis.fields import Grid, smooth_noise
from radloom.transforms.synthesis.tissues import Code

__all__ = ["BRAIN", "MaskParameters", "MaskRecipe", "draw_mask", "kept_part"]

BRAIN = (
    *range(Code.CORTEX, Code.CEREBELLAR_WHITE + 1),
    Code.CHIASM,
    *range(Code.LESION, Code.TEMPORAL_CHOROID + 1),
)
"""Codes of the brain and what lies within it."""

_WOBBLE_MM = 14.0
"""Distance of the knots of the random errors of a border."""

_DEEPEST_MM = -1.5
"""Errors cut no deeper than this, but where the margin as drawn does."""


@dataclass(frozen=True)
class MaskRecipe:
    """How often something is taken out."""

    brain_probability: float = 0.12
    """Skull stripped: only the brain is left."""
    brain_margin_mm: Range = (-1.5, 8.0)
    face_probability: float = 0.08
    """Defaced: everything in front of an oblique plane is gone, but for the brain."""
    face_distance_mm: Range = (45.0, 75.0)
    face_tilt_degrees: Range = (25.0, 65.0)
    air_probability: float = 0.05
    """The air round the head is set to zero."""
    air_margin_mm: Range = (1.0, 12.0)
    wobble_mm: Range = (0.0, 2.5)
    """Deviation of the random errors of the border."""


@dataclass(frozen=True)
class MaskParameters:
    """What is left."""

    kind: str
    """brain, face or air: what the mask keeps, or takes away in front."""
    margin_mm: float
    """How far the mask reaches beyond the brain or the head."""
    wobble_mm: float
    seed: int
    distance_mm: float = 60.0
    """face: from the middle of the brain to the plane."""
    tilt_degrees: float = 45.0
    """face: the normal of the plane points forward and so far down."""


def draw_mask(generator: torch.Generator, recipe: MaskRecipe) -> MaskParameters | None:
    """What is taken out, or None: nothing."""
    kinds = [
        kind
        for kind, probability in (
            ("brain", recipe.brain_probability),
            ("face", recipe.face_probability),
            ("air", recipe.air_probability),
        )
        if chance(generator, probability)
    ]
    if not kinds:
        return None
    kind = choose(generator, kinds)
    margins = recipe.air_margin_mm if kind == "air" else recipe.brain_margin_mm
    return MaskParameters(
        kind,
        uniform(generator, margins),
        uniform(generator, recipe.wobble_mm),
        seed(generator),
        uniform(generator, recipe.face_distance_mm),
        uniform(generator, recipe.face_tilt_degrees),
    )


def kept_part(structures: Tensor, grid: Grid, parameters: MaskParameters) -> Tensor:
    """(I, J, K) bool: what the mask leaves of a head.

    Args:
        structures: (I, J, K) structure bytes.
        grid: where they lie.
        parameters: what is taken out.
    """
    if parameters.kind == "air":
        return _widened((structures > 0).float(), grid, parameters)
    brain = _is_brain(structures)
    if parameters.kind == "brain":
        return _widened(brain, grid, parameters)
    return _widened(brain, grid, parameters) | ~_before_the_plane(brain, grid, parameters)


def _is_brain(structures: Tensor) -> Tensor:
    table = torch.zeros(RIGHT)
    table[list(BRAIN)] = 1
    return table.to(structures.device)[code_of(structures).int()]


def _widened(mask: Tensor, grid: Grid, parameters: MaskParameters) -> Tensor:
    """Where a blurred mask says that its border is nearer than the margin, with errors."""
    sigma_mm = max(2.0, abs(parameters.margin_mm) / 1.3)
    for axis, step in enumerate(grid.spacing_mm):
        mask = along(mask, gaussian_smoothing(mask.shape[axis], sigma_mm / step), axis)
    reach = parameters.margin_mm / sigma_mm
    if parameters.wobble_mm <= 0:
        return mask > 0.5 * math.erfc(reach / math.sqrt(2))
    knots = tuple(_WOBBLE_MM / step for step in grid.spacing_mm)
    errors = smooth_noise(grid.shape, knots, parameters.seed, mask.device)[0]
    deepest = min(reach, _DEEPEST_MM / sigma_mm)
    errors.mul_(parameters.wobble_mm / sigma_mm).add_(reach).clamp_(deepest, 2.5)
    return mask > torch.special.ndtr(-errors)


def _before_the_plane(brain: Tensor, grid: Grid, parameters: MaskParameters) -> Tensor:
    tilt = math.radians(parameters.tilt_degrees)
    normal = (0.0, math.cos(tilt), -math.sin(tilt))
    total = brain.sum().clamp_min(1)
    distance = torch.zeros((), device=brain.device)
    for axis, (position, part) in enumerate(zip(grid.axes(brain.device), normal, strict=True)):
        others = [d for d in range(3) if d != axis]
        middle = (brain.sum(others) * position).sum() / total
        along_axis = part * (position - middle)
        distance = distance + along_axis.reshape([-1 if axis == d else 1 for d in range(3)])
    return distance > parameters.distance_mm
