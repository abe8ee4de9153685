"""CT of a head before any scanner: HU of each structure, drawn, and laid over its voxels.

Soft tissue keeps near its table value. Bone differs between heads, along the skull and with its
thickness: thin plates hold less of it than their voxels, thick compact bone more. Sources of the
ranges: brain, CSF, fat, muscle, blood as Schneider et al. 2000, doi:10.1088/0031-9155/45/2/314,
compose them; bone, teeth and metal are set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Protocol

import torch

from radloom.transforms.synthesis.composition import (
    Composition,
    mixed,
    partner_values,
    spread,
    thickness_of,
)
from radloom.transforms.synthesis.draws import Range, chance, log_uniform, normal, seed, uniform
from radloom.transforms.synthesis.fields import smooth_noise
from radloom.transforms.synthesis.relaxation import KIN
from radloom.transforms.synthesis.texture import (
    TextureParameters,
    TextureRecipe,
    draw_texture,
    texture_field,
)
from radloom.transforms.synthesis.tissues import STRUCTURES, Code

__all__ = [
    "HU_LIMITS",
    "BoneParameters",
    "CTParameters",
    "CTRecipe",
    "CTTissue",
    "DentalMetal",
    "draw_ct",
    "render_hu",
]

HU_LIMITS = (-1024.0, 3071.0)
"""What twelve bits hold."""


class CTTissue(Protocol):
    """What CT needs of an anomaly."""

    @property
    def hu(self) -> float:
        """Its CT number."""

    @property
    def texture(self) -> float:
        """Deviation within it, relative to its mean above air."""


@dataclass(frozen=True)
class CTRecipe:
    """What the CT of a head is drawn from; HU unless another unit is named."""

    soft_deviation: float = 3.0
    """Of each soft tissue round its table value."""
    blood: Range = (35.0, 65.0)
    """Blood, which follows the haematocrit."""
    compact: Range = (900.0, 1650.0)
    """Compact bone."""
    spongy: Range = (150.0, 700.0)
    """Marrow with its trabeculae."""
    tooth: Range = (1500.0, 2600.0)
    bone_deviation: Range = (60.0, 220.0)
    """Slow change of compact bone along the skull; half as much in marrow."""
    bone_mm: Range = (12.0, 40.0)
    """Distance of its knots."""
    thin_loss: Range = (0.0, 500.0)
    """What the thinnest plates have less."""
    dense_gain: Range = (0.0, 400.0)
    """What the thickest compact bone, as the petrous, has more."""
    cell_probability: float = 0.7
    """Of air cells in thick bone about the ears."""
    cells: Range = (0.02, 0.3)
    """Share of that bone that is cells."""
    agent_probability: float = 0.15
    """Of contrast agent in the blood."""
    agent: Range = (60.0, 350.0)
    """What it adds in arteries; in veins 0.3 to 1.1 times as much."""
    metal_probability: float = 0.08
    """Of dental metal."""
    metal_pieces: Range = (1.0, 5.0)
    metal_mm: Range = (1.5, 4.0)
    """Radius of a piece."""
    teeth_below_top_mm: Range = (140.0, 165.0)
    """Height of the teeth; heads whose map ends above it get no metal."""
    texture: TextureRecipe = field(default_factory=lambda: TextureRecipe(grain_probability=0.0))
    texture_gain: Range = (0.4, 1.2)
    """Of the texture's deviation in `tissues`; zeros: none."""


@dataclass(frozen=True)
class BoneParameters:
    """How density varies within compact bone and marrow; HU."""

    seed: int
    knot_mm: float
    compact_deviation: float
    spongy_deviation: float
    thin_loss: float
    """What the thinnest plates have less."""
    dense_gain: float
    """What the thickest bone has more."""
    cells: float
    """Share of thick bone that is air cells; 0: none."""


@dataclass(frozen=True)
class DentalMetal:
    """One filling or crown: a ball in the bone that lies farthest along a direction."""

    angle_degrees: float
    """From straight ahead towards the right."""
    below_top_mm: float
    """Height, down from the top of the head."""
    radius_mm: float
    hu: float


@dataclass(frozen=True)
class CTParameters:
    """One drawn CT; tuples over structures are indexed by `Code`."""

    means: tuple[float, ...]
    """HU of each structure."""
    deviations: tuple[float, ...]
    """Of the texture within each structure."""
    anomaly_means: tuple[float, ...]
    """In the order of the anomalies."""
    anomaly_deviations: tuple[float, ...]
    texture: TextureParameters
    bone: BoneParameters
    metal: tuple[DentalMetal, ...] = ()


_MINERAL = (Code.BONE, Code.MARROW, Code.TOOTH)
_CELL_HU = -700.0
"""Air cells with their walls."""
_AGENT_UPTAKE = {
    Code.MUCOSA: 0.15,
    Code.CHOROID: 0.2,
    Code.DURA: 0.15,
    Code.GLAND: 0.15,
    Code.EYE_MUSCLE: 0.12,
    Code.MUSCLE: 0.05,
    Code.CORTEX: 0.02,
    Code.WHITE: 0.01,
}
"""Relative to arterial blood; set."""


def draw_ct(
    generator: torch.Generator, recipe: CTRecipe, anomalies: Sequence[CTTissue] = ()
) -> CTParameters:
    """The CT of one head and its anomalies.

    Example:
        >>> ct = draw_ct(torch.Generator().manual_seed(0), CTRecipe())
        >>> hu = ct.means
        >>> hu[Code.BONE] > hu[Code.MARROW] > hu[Code.CORTEX] > hu[Code.FAT]
        True
    """
    gain = uniform(generator, recipe.texture_gain)
    return CTParameters(
        means=_draw_means(generator, recipe),
        deviations=tuple(gain * structure.tissue.texture_hu for structure in STRUCTURES),
        anomaly_means=tuple(anomaly.hu for anomaly in anomalies),
        anomaly_deviations=tuple(
            gain * anomaly.texture * (anomaly.hu + 1000) / 2 for anomaly in anomalies
        ),
        texture=draw_texture(generator, recipe.texture),
        bone=_draw_bone(generator, recipe),
        metal=_draw_metal(generator, recipe),
    )


def _draw_means(generator: torch.Generator, recipe: CTRecipe) -> tuple[float, ...]:
    offsets = [normal(generator, recipe.soft_deviation) for _ in Code]
    hu = [
        s.tissue.hu + offsets[KIN.get(code, code)] for code, s in zip(Code, STRUCTURES, strict=True)
    ]
    hu[Code.AIR] = hu[Code.CAVITY] = -1000.0
    hu[Code.BONE] = uniform(generator, recipe.compact)
    hu[Code.MARROW] = uniform(generator, recipe.spongy)
    hu[Code.TOOTH] = uniform(generator, recipe.tooth)
    blood, agent = uniform(generator, recipe.blood), uniform(generator, recipe.agent)
    venous = uniform(generator, (0.3, 1.1))
    if not chance(generator, recipe.agent_probability):
        agent = 0.0
    hu[Code.ARTERY] = hu[Code.VESSEL] = blood + agent
    hu[Code.SINUS] = blood + venous * agent
    for code, uptake in _AGENT_UPTAKE.items():
        hu[code] += uptake * agent
    return tuple(hu)


def _draw_bone(generator: torch.Generator, recipe: CTRecipe) -> BoneParameters:
    deviation = uniform(generator, recipe.bone_deviation)
    cells = uniform(generator, recipe.cells)
    return BoneParameters(
        seed(generator),
        log_uniform(generator, recipe.bone_mm),
        deviation,
        deviation / 2,
        uniform(generator, recipe.thin_loss),
        uniform(generator, recipe.dense_gain),
        cells if chance(generator, recipe.cell_probability) else 0.0,
    )


def _draw_metal(generator: torch.Generator, recipe: CTRecipe) -> tuple[DentalMetal, ...]:
    if not chance(generator, recipe.metal_probability):
        return ()
    height = uniform(generator, recipe.teeth_below_top_mm)
    return tuple(
        DentalMetal(
            uniform(generator, (-55.0, 55.0)),
            height + normal(generator, 4.0),
            uniform(generator, recipe.metal_mm),
            HU_LIMITS[1],
        )
        for _ in range(round(uniform(generator, recipe.metal_pieces)))
    )


def render_hu(
    codes: torch.Tensor,
    parameters: CTParameters,
    composition: Composition | None = None,
    *,
    spacing_mm: float = 1.0,
) -> torch.Tensor:
    """(I, J, K) float32 CT numbers within `HU_LIMITS`, before any scanner.

    Args:
        codes: (I, J, K) integers, `Code` of each voxel, without the side; RAS+.
        parameters: the CT.
        composition: of the same voxels; None: each voxel is its structure alone.
        spacing_mm: of the voxels.
    """
    shape = (codes.shape[0], codes.shape[1], codes.shape[2])
    hu = mixed(codes, parameters.means, _partner_gains(parameters.means), composition)
    if any(parameters.deviations):
        texture = texture_field(shape, parameters.texture, codes.device, spacing_mm=spacing_mm)
        hu.addcmul_(spread(codes, parameters.deviations), texture)
    thickness = thickness_of(codes) if composition is None else composition.thickness
    _vary_bone(hu, codes, thickness, parameters.bone, spacing_mm)
    for metal in parameters.metal:
        _fill_tooth(hu, codes, metal)
    return hu.clamp_(*HU_LIMITS)


def _partner_gains(means: Sequence[float]) -> list[float]:
    """What each structure gains where it is its partner; fatty marrow keeps its trabeculae."""
    partners = partner_values(means)
    partners[Code.MARROW] = 0.6 * means[Code.MARROW] + 0.4 * means[Code.FAT]
    return [partner - mean for partner, mean in zip(partners, means, strict=True)]


def _vary_bone(
    hu: torch.Tensor,
    codes: torch.Tensor,
    thickness: torch.Tensor,
    bone: BoneParameters,
    spacing_mm: float,
) -> None:
    """Density along the skull and with the thickness of bone."""
    shape = (codes.shape[0], codes.shape[1], codes.shape[2])
    compact = (codes == Code.BONE).to(hu.dtype)
    slow = smooth_noise(shape, (bone.knot_mm / spacing_mm,) * 3, bone.seed, hu.device)[0]
    hu.addcmul_((codes == Code.MARROW).to(hu.dtype), slow, value=bone.spongy_deviation)
    change = slow.mul_(bone.compact_deviation)
    change.add_((thickness - 0.6).clamp_(0, 0.4), alpha=bone.dense_gain / 0.4)
    change.add_((thickness - 0.4).clamp_(-0.4, 0), alpha=bone.thin_loss / 0.4)
    hu.addcmul_(compact, change)
    if bone.cells > 0:
        _pneumatise(hu, compact, thickness, bone, spacing_mm)


def _pneumatise(
    hu: torch.Tensor,
    compact: torch.Tensor,
    thickness: torch.Tensor,
    bone: BoneParameters,
    spacing_mm: float,
) -> None:
    """Air cells in thick bone about the ears: aside, half way to the front, in the lower half."""
    n_left, n_front, n_up = hu.shape
    near = (slice(None), slice(round(0.3 * n_front), round(0.65 * n_front)), slice(0, n_up // 2))
    hu, compact, thickness = hu[near], compact[near], thickness[near]
    noise = smooth_noise(tuple(hu.shape), (2.6 / spacing_mm,) * 3, bone.seed + 1, hu.device)[0]
    share = noise.sub_(NormalDist().inv_cdf(1 - bone.cells)).mul_(2).add_(0.5).clamp_(0, 1)
    share.mul_(compact).mul_((thickness - 0.6).mul_(5).clamp_(0, 1))
    aside = (torch.arange(n_left, device=hu.device) - (n_left - 1) / 2).abs() / n_left
    share.mul_(((aside - 0.15) * 10).clamp(0, 1)[:, None, None])
    hu.add_(share.mul_(_CELL_HU - hu))


def _fill_tooth(hu: torch.Tensor, codes: torch.Tensor, metal: DentalMetal) -> None:
    """A ball of metal in the foremost bone at its height, where the head reaches down so far."""
    height = codes.shape[2] - round(metal.below_top_mm)
    if height < 0:
        return
    slab = (slice(None), slice(None), slice(max(0, height - 3), height + 4))
    bone = (codes[slab] == Code.BONE) | (codes[slab] == Code.MARROW)
    x, y, z = (
        torch.arange(n, device=hu.device, dtype=hu.dtype).view(
            [-1 if axis == own else 1 for own in range(3)]
        )
        for axis, n in enumerate(codes.shape)
    )
    angle = math.radians(metal.angle_degrees)
    ahead = math.cos(angle) * y + math.sin(angle) * (x - codes.shape[0] / 2)
    place = torch.where(bone, ahead, -torch.inf).flatten().argmax()
    i = torch.div(place, bone.shape[1] * bone.shape[2], rounding_mode="floor")
    j = torch.div(place, bone.shape[2], rounding_mode="floor") % bone.shape[1]
    inside = metal.radius_mm + 1
    squared = (x - i + inside * math.sin(angle)) ** 2 + (y - j + inside * math.cos(angle)) ** 2
    distance = (squared + (z - height) ** 2).sqrt_()
    share = (metal.radius_mm + 0.5 - distance).clamp_(0, 1).mul_(bone.any())
    hu.add_(share.mul_(metal.hu - hu))
