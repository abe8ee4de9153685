"""What a voxel holds beside the structure that it is labelled with; the same in MR and CT.

Label maps know one structure a voxel. In heads, muscle is marbled with fat, thick bone has marrow
within, mucosa has air between its folds, vessels run through the CSF, folia are cut by fissures.
`compose` gives each voxel a share of its structure's partner; both modalities then mix the two, so
that the paired images of a head agree in detail that no label shows. All numbers are set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from types import MappingProxyType

import torch
from torch.nn import functional

from radloom.transforms.synthesis.draws import Range, log_uniform, seed, uniform
from radloom.transforms.synthesis.fields import smooth_noise
from radloom.transforms.synthesis.tissues import CODES, Code

__all__ = [
    "PARTNERS",
    "Composition",
    "CompositionParameters",
    "CompositionRecipe",
    "compose",
    "draw_composition",
    "mixed",
    "partner_values",
    "spread",
    "thickness_of",
]

PARTNERS: Mapping[Code, Code] = MappingProxyType(
    {
        Code.SKIN: Code.FAT,
        Code.FAT: Code.MUSCLE,
        Code.MUSCLE: Code.FAT,
        Code.MUCOSA: Code.AIR,
        Code.BONE: Code.MARROW,
        Code.MARROW: Code.FAT,
        Code.CSF: Code.ARTERY,
        Code.CEREBELLAR_CORTEX: Code.CSF,
        Code.LESION: Code.WHITE,
        Code.THALAMUS: Code.WHITE,
        Code.BRAINSTEM: Code.CORTEX,
        Code.CHOROID: Code.CSF,
        Code.TEMPORAL_CHOROID: Code.CSF,
    }
)
"""What each structure is mixed with."""


@dataclass(frozen=True)
class CompositionRecipe:
    """What a composition is drawn from; zeros switch a part off."""

    fat_in_skin: Range = (0.3, 0.9)
    """Share in its deeper layer."""
    fibre_in_fat: Range = (0.0, 0.15)
    """Share of the volume."""
    fat_in_muscle: Range = (0.0, 0.2)
    """Share of the volume."""
    air_in_mucosa: Range = (0.0, 0.35)
    """Share of the volume."""
    marrow_in_bone: Range = (0.0, 0.9)
    """Share of the inner part of thick bone."""
    fat_in_marrow: Range = (0.1, 0.8)
    """Mean share."""
    vessels_in_csf: Range = (0.0, 0.9)
    """Share on the axis of a vessel."""
    vessel_mm: Range = (0.6, 1.6)
    """Radius of these vessels."""
    folia: Range = (0.0, 0.8)
    """Share of CSF in the middle of a fissure between the folia of the cerebellum."""
    blend: Range = (0.0, 0.3)
    """Mean share of the partner in lesions, thalamus, brainstem, choroid plexus."""
    knot_mm: Range = (4.5, 9.0)
    """Scale of the pattern."""


@dataclass(frozen=True)
class CompositionParameters:
    """One drawn composition; fields as in the recipe."""

    seed: int
    knot_mm: float
    fat_in_skin: float
    fibre_in_fat: float
    fat_in_muscle: float
    air_in_mucosa: float
    marrow_in_bone: float
    fat_in_marrow: float
    vessels_in_csf: float
    vessel_mm: float
    folia: float
    blend: float


@dataclass(frozen=True)
class Composition:
    """What `compose` found on the anatomy's grid."""

    share: torch.Tensor
    """(I, J, K) float32, 0 to 1: how much of the voxel is its structure's partner."""
    thickness: torch.Tensor
    """(I, J, K) float32, as `thickness_of`."""


def draw_composition(
    generator: torch.Generator, recipe: CompositionRecipe
) -> CompositionParameters:
    """One head's composition."""
    return CompositionParameters(
        seed=seed(generator),
        knot_mm=log_uniform(generator, recipe.knot_mm),
        fat_in_skin=uniform(generator, recipe.fat_in_skin),
        fibre_in_fat=uniform(generator, recipe.fibre_in_fat),
        fat_in_muscle=uniform(generator, recipe.fat_in_muscle),
        air_in_mucosa=uniform(generator, recipe.air_in_mucosa),
        marrow_in_bone=uniform(generator, recipe.marrow_in_bone),
        fat_in_marrow=uniform(generator, recipe.fat_in_marrow),
        vessels_in_csf=uniform(generator, recipe.vessels_in_csf),
        vessel_mm=uniform(generator, recipe.vessel_mm),
        folia=uniform(generator, recipe.folia),
        blend=uniform(generator, recipe.blend),
    )


def partner_values(values: Sequence[float]) -> list[float]:
    """For each `Code` the value of its partner, or its own."""
    return [values[PARTNERS.get(code, code)] for code in Code]


def spread(codes: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    """(I, J, K) float32: the value of each voxel's `Code`."""
    table = torch.tensor(values, device=codes.device)
    return table.index_select(0, codes.flatten().int()).view(codes.shape)


def mixed(
    codes: torch.Tensor,
    values: Sequence[float],
    gains: Sequence[float],
    composition: Composition | None,
) -> torch.Tensor:
    """(I, J, K) float32: the value of each voxel's structure, with its partner's share of gains."""
    result = spread(codes, values)
    if composition is not None:
        result.addcmul_(spread(codes, gains), composition.share)
    return result


def compose(
    codes: torch.Tensor, parameters: CompositionParameters, *, spacing_mm: float = 1.0
) -> Composition:
    """The shares of a head.

    Args:
        codes: (I, J, K) integers, `Code` of each voxel, without the side.
        parameters: what to mix in.
        spacing_mm: of the voxels. Depths (of skin, of bone) are counted in voxels, right at 1 mm.
    """
    p, device = parameters, codes.device
    p = replace(p, knot_mm=p.knot_mm / spacing_mm, vessel_mm=p.vessel_mm / spacing_mm)
    shape = (codes.shape[0], codes.shape[1], codes.shape[2])
    pattern = smooth_noise(shape, _along_the_body(p.knot_mm), p.seed, device)[0]
    slopes, offsets = _lines(p)
    share = spread(codes, slopes).mul_(pattern).add_(spread(codes, offsets)).clamp_(0, 0.9)
    thickness = thickness_of(codes)
    if p.fat_in_skin > 0:
        depth = _near(codes == Code.AIR).mul_(-1 / 0.3).add_(1)
        _mix(share, codes, Code.SKIN, depth.clamp_(0, p.fat_in_skin))
    if p.marrow_in_bone > 0:
        inner = (thickness - 0.7).mul_(4).clamp_(0, 1).mul_((pattern + 0.8).clamp_(0, 1))
        _mix(share, codes, Code.BONE, inner.mul_(p.marrow_in_bone))
    if p.vessels_in_csf > 0:
        _mix(share, codes, Code.CSF, _vessels(pattern, p).mul_(p.vessels_in_csf))
    if p.folia > 0:
        _cut_folia(share, codes, p, spacing_mm)
    return Composition(share, thickness)


def _along_the_body(knot_mm: float) -> tuple[float, float, float]:
    """Knots of a pattern that is longer from head to foot, as muscles and vessels run."""
    return 0.85 * knot_mm, knot_mm, 1.5 * knot_mm


def _mix(share: torch.Tensor, codes: torch.Tensor, code: Code, own: torch.Tensor) -> None:
    """`share` of one structure, which had none."""
    share.addcmul_((codes == code).to(share.dtype), own)


def _lines(p: CompositionParameters) -> tuple[list[float], list[float]]:
    """Slope and offset of the share over the pattern, by code."""
    slopes, offsets = [0.0] * CODES, [0.0] * CODES
    for code, part, slope in (
        (Code.FAT, p.fibre_in_fat, 1.2),
        (Code.MUSCLE, p.fat_in_muscle, 0.7),
        (Code.MUCOSA, p.air_in_mucosa, 2.5),
    ):
        if part > 0:
            slopes[code], offsets[code] = slope, -slope * NormalDist().inv_cdf(1 - part)
    if p.fat_in_marrow > 0:
        slopes[Code.MARROW], offsets[Code.MARROW] = 0.2, p.fat_in_marrow
    if p.blend > 0:
        for code, slope, part in (
            (Code.LESION, 0.5, 1.0),
            (Code.THALAMUS, 0.15, 0.6),
            (Code.BRAINSTEM, 0.1, 0.4),
            (Code.CHOROID, 0.4, 1.0),
            (Code.TEMPORAL_CHOROID, 0.4, 1.0),
        ):
            slopes[code], offsets[code] = slope * p.blend / 0.3, part * p.blend
    return slopes, offsets


def _vessels(pattern: torch.Tensor, p: CompositionParameters) -> torch.Tensor:
    """1 along the curves where two patterns are zero, 0 a radius away from them."""
    shape = (pattern.shape[0], pattern.shape[1], pattern.shape[2])
    knots = _along_the_body(1.3 * p.knot_mm)
    other = smooth_noise(shape, knots, p.seed + 1, pattern.device)[0]
    radius = 1.2 * p.vessel_mm / p.knot_mm
    squared = other.square_().addcmul_(pattern, pattern)
    return squared.mul_(-1 / radius**2).add_(1.2).clamp_(0, 1)


def _cut_folia(
    share: torch.Tensor, codes: torch.Tensor, p: CompositionParameters, spacing_mm: float
) -> None:
    """Thin sheets of CSF across the cerebellar cortex, which lies in the lower part of a head."""
    low = slice(0, round(codes.shape[2] * 0.65))
    part = codes[..., low]
    shape = (part.shape[0], part.shape[1], part.shape[2])
    knots = (16 / spacing_mm, 7 / spacing_mm, 3.2 / spacing_mm)
    sheets = smooth_noise(shape, knots, p.seed + 2, codes.device)[0]
    fissure = sheets.abs_().mul_(-1 / 0.35).add_(1).clamp_(0, 1).mul_(p.folia)
    _mix(share[..., low], part, Code.CEREBELLAR_CORTEX, fissure)


def thickness_of(codes: torch.Tensor) -> torch.Tensor:
    """(I, J, K) share of bone and marrow within about 3 mm: 1 within thick bone."""
    return _near((codes == Code.BONE) | (codes == Code.MARROW))


def _near(mask: torch.Tensor) -> torch.Tensor:
    """Means of a mask (I, J, K) over boxes of six voxels, interpolated from every second."""
    half = functional.avg_pool3d(mask[None, None].float(), 2, ceil_mode=True)[0]
    first, second, third = (_means(n, mask.device) for n in mask.shape)
    half = second @ (half @ third.T)
    return (first @ half.flatten(2)).view(mask.shape)


def _means(n: int, device: torch.device) -> torch.Tensor:
    """(n, n / 2 rounded up): the mean of three cells of two voxels, linear between the cells."""
    n_cells = (n + 1) // 2
    centre = (torch.arange(n, device=device, dtype=torch.float32)[:, None] - 0.5) / 2
    distance = (centre - torch.arange(n_cells, device=device)).abs()
    weights = ((2 - distance).clamp(0, 1)) / 3
    return weights / weights.sum(1, keepdim=True)
