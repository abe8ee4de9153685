"""Changes of the structures themselves: sulci, skull, resections, cavities, fat.

What no deformation can do: tissue goes, comes or turns into another. Structure bytes in, structure
bytes out, on the anatomy's grid of 1 mm; a step is a voxel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import torch

from radloom.errors import InputError
from radloom.transforms.synthesis import draws
from radloom.transforms.synthesis.anatomy import RIGHT
from radloom.transforms.synthesis.draws import Range
from radloom.transforms.synthesis.fields import Grid, smooth_noise
from radloom.transforms.synthesis.masks import enclosed, grown, is_any, near
from radloom.transforms.synthesis.tissues import Code

__all__ = [
    "CavityParameters",
    "EditParameters",
    "EditRecipe",
    "FlapParameters",
    "PatchParameters",
    "ResectionParameters",
    "SkullParameters",
    "apply_edits",
    "draw_edits",
]

Point = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class EditRecipe:
    """From what edits are drawn; a probability of 0 switches a part off."""

    sulci_probability: float = 0.5
    """Of wider or narrower sulci."""
    sulci_widening: float = 0.75
    """Share of these that are wider."""
    sulci_share: Range = (0.2, 0.9)
    """Part of the cortex that changes."""
    skull_probability: float = 0.5
    """Of a thicker or thinner skull."""
    skull_steps: tuple[int, int] = (-1, 3)
    """Voxels on the outer and on the inner side; fewer where negative."""
    flap_probability: float = 0.06
    """Of a missing part of the skull."""
    flap_degrees: Range = (12.0, 40.0)
    """Half angle of the missing part, seen from the middle of the brain."""
    resection_probability: float = 0.06
    """Of brain that is missing."""
    resection_mm: Range = (8.0, 28.0)
    """Radius."""
    resection_air_probability: float = 0.15
    """Of air in its upper part, as after surgery."""
    cavity_probability: float = 0.3
    """Of swollen mucosa or fluid in sinuses, mastoid cells and other cavities."""
    cavity_share: Range = (0.1, 0.8)
    """Part of the cavities that is filled."""
    pneumatised_probability: float = 0.2
    """Of air in frontal bone or mastoid that is solid in the anatomy."""
    fat_probability: float = 0.4
    """Of more or less fat below the skin."""
    fat_steps: tuple[int, int] = (-2, 4)
    """Voxels; less fat where negative."""


@dataclass(frozen=True)
class PatchParameters:
    """A change in steps over part of a surface."""

    steps: int
    """Voxels; which way is said where it is used."""
    share: float = 1.0
    """Part of the surface that changes."""
    seed: int = 0
    """Of the patches."""


@dataclass(frozen=True)
class SkullParameters:
    """A thicker or thinner skull."""

    outer: int
    """Voxels more on the outer side."""
    inner: int
    """Voxels more on the inner side."""


@dataclass(frozen=True)
class FlapParameters:
    """A part of the skull that is missing, or came back."""

    direction: Point
    """Unit vector from the middle of the brain, RAS."""
    half_degrees: float
    """Half angle."""
    filling: int
    """`Code` of what lies there instead: muscle, fat, CSF or air."""
    returned: bool = False
    """Whether the bone is back in place, with a gap around it."""
    seed: int = 0
    """Of the border's noise."""


@dataclass(frozen=True)
class ResectionParameters:
    """Brain that is missing."""

    direction: Point
    """Unit vector from the middle of the brain, RAS."""
    distance_mm: float
    """How far out its centre lies."""
    radius_mm: float
    air: bool = False
    """Whether its upper part holds air."""
    seed: int = 0
    """Of the border's noise."""


@dataclass(frozen=True)
class CavityParameters:
    """Air-filled cavities that are filled."""

    swelling: int
    """Voxels of swollen mucosa on their walls."""
    share: float
    """Part that is filled altogether."""
    seed: int = 0
    """Of which part."""


@dataclass(frozen=True)
class EditParameters:
    """The drawn edits of one head; None changes nothing."""

    sulci: PatchParameters | None = None
    """Wider where `steps` is positive."""
    skull: SkullParameters | None = None
    flap: FlapParameters | None = None
    resection: ResectionParameters | None = None
    cavity: CavityParameters | None = None
    pneumatised: PatchParameters | None = None
    """Air in the frontal bone (steps 0) or in the mastoids (steps 1)."""
    fat: PatchParameters | None = None
    """More where `steps` is positive."""


def draw_edits(generator: torch.Generator, recipe: EditRecipe) -> EditParameters:
    """The edits of one head.

    >>> draw_edits(torch.Generator().manual_seed(0), EditRecipe(fat_probability=0.0)).fat is None
    True
    """
    return EditParameters(
        sulci=_draw_sulci(generator, recipe),
        skull=_draw_skull(generator, recipe),
        flap=_draw_flap(generator, recipe),
        resection=_draw_resection(generator, recipe),
        cavity=_draw_cavity(generator, recipe),
        pneumatised=_draw_pneumatised(generator, recipe),
        fat=_draw_fat(generator, recipe),
    )


def apply_edits(structures: torch.Tensor, parameters: EditParameters, grid: Grid) -> torch.Tensor:
    """The structures after the edits; the input stays as it is.

    Args:
        structures: (I, J, K) uint8 structure bytes, RAS+.
        parameters: what to do.
        grid: of `structures`.

    Raises:
        InputError: the grid is not that of `structures`, or its voxels are no cubes.
    """
    if tuple(structures.shape) != grid.shape or max(grid.spacing_mm) != min(grid.spacing_mm):
        raise InputError(
            f"expected structures of {grid.shape} voxels of equal sides, got "
            f"{tuple(structures.shape)} at {grid.spacing_mm} mm"
        )
    result = structures.clone()
    if parameters.sulci:
        _edit_sulci(result, parameters.sulci, grid)
    if parameters.fat:
        _edit_fat(result, parameters.fat, grid)
    if parameters.skull:
        _edit_skull(result, parameters.skull, grid)
    if parameters.pneumatised:
        _pneumatise(result, parameters.pneumatised, grid)
    if parameters.cavity:
        _fill_cavities(result, parameters.cavity, grid)
    if parameters.resection:
        _resect(result, parameters.resection, grid)
    if parameters.flap:
        _open_skull(result, parameters.flap, grid)
    return result


def _draw_sulci(generator: torch.Generator, recipe: EditRecipe) -> PatchParameters | None:
    if not draws.chance(generator, recipe.sulci_probability):
        return None
    wider = draws.chance(generator, recipe.sulci_widening)
    share = draws.uniform(generator, recipe.sulci_share)
    steps = draws.choose(generator, (1, 1, 1, 2)) if wider else -1
    return PatchParameters(steps, share, draws.seed(generator))


def _draw_skull(generator: torch.Generator, recipe: EditRecipe) -> SkullParameters | None:
    if not draws.chance(generator, recipe.skull_probability):
        return None
    low, high = recipe.skull_steps
    outer, inner = (draws.choose(generator, range(low, high + 1)) for _ in range(2))
    return SkullParameters(outer, inner)


def _draw_direction(generator: torch.Generator, lowest: float) -> Point:
    """A unit vector, evenly over the sphere above `lowest`."""
    up = draws.uniform(generator, (lowest, 1.0))
    turn = draws.uniform(generator, (0.0, 2 * math.pi))
    flat = math.sqrt(1 - up * up)
    return flat * math.cos(turn), flat * math.sin(turn), up


def _draw_flap(generator: torch.Generator, recipe: EditRecipe) -> FlapParameters | None:
    if not draws.chance(generator, recipe.flap_probability):
        return None
    filling = draws.choose(generator, (Code.MUSCLE, Code.FAT, Code.CSF, Code.MUSCLE))
    return FlapParameters(
        direction=_draw_direction(generator, -0.1),
        half_degrees=draws.uniform(generator, recipe.flap_degrees),
        filling=int(filling),
        returned=draws.chance(generator, 0.4),
        seed=draws.seed(generator),
    )


def _draw_resection(generator: torch.Generator, recipe: EditRecipe) -> ResectionParameters | None:
    if not draws.chance(generator, recipe.resection_probability):
        return None
    return ResectionParameters(
        direction=_draw_direction(generator, -0.6),
        distance_mm=draws.uniform(generator, (10.0, 65.0)),
        radius_mm=draws.uniform(generator, recipe.resection_mm),
        air=draws.chance(generator, recipe.resection_air_probability),
        seed=draws.seed(generator),
    )


def _draw_cavity(generator: torch.Generator, recipe: EditRecipe) -> CavityParameters | None:
    if not draws.chance(generator, recipe.cavity_probability):
        return None
    swelling = draws.choose(generator, (0, 1, 1, 2, 3))
    share = draws.uniform(generator, recipe.cavity_share)
    return CavityParameters(swelling, share, draws.seed(generator))


def _draw_pneumatised(generator: torch.Generator, recipe: EditRecipe) -> PatchParameters | None:
    if not draws.chance(generator, recipe.pneumatised_probability):
        return None
    place = draws.choose(generator, (0, 1))
    return PatchParameters(place, draws.uniform(generator, (0.3, 0.8)), draws.seed(generator))


def _draw_fat(generator: torch.Generator, recipe: EditRecipe) -> PatchParameters | None:
    if not draws.chance(generator, recipe.fat_probability):
        return None
    low, high = recipe.fat_steps
    steps = draws.choose(generator, [n for n in range(low, high + 1) if n])
    return PatchParameters(steps, draws.uniform(generator, (0.5, 1.0)), draws.seed(generator))


_BONE = (Code.BONE, Code.MARROW)
_FLUID = (Code.CSF, Code.DURA)
_SOFT = (Code.FAT, Code.MUSCLE, Code.GLAND)
_BRAIN = (
    Code.CSF, Code.CORTEX, Code.WHITE, Code.VENTRICLE, Code.TEMPORAL_HORN, Code.THIRD_VENTRICLE,
    Code.FOURTH_VENTRICLE, Code.THALAMUS, Code.CAUDATE, Code.PUTAMEN, Code.PALLIDUM,
    Code.HIPPOCAMPUS, Code.AMYGDALA, Code.ACCUMBENS, Code.VENTRAL_DC, Code.BRAINSTEM,
    Code.CEREBELLAR_CORTEX, Code.CEREBELLAR_WHITE, Code.LESION, Code.VESSEL, Code.FIFTH_VENTRICLE,
    Code.CHOROID, Code.TEMPORAL_CHOROID,
)  # fmt: skip
_GREY_AND_WHITE = (
    (Code.CORTEX, Code.WHITE),
    (Code.CEREBELLAR_CORTEX, Code.CEREBELLAR_WHITE),
)
_PATCH_KNOTS_MM = 18.0
_FAT_DEPTH_MM = 12.0
"""How deep below the skin fat comes and goes."""
_UP = (0.0, 0.0, 1.0)
_VAULT_MM = 14.0
"""How far from the cerebrum the vault's outer side lies at most."""
_VAULT_COSINE = -0.25
"""Of the angle from above under which the vault is seen from the middle of the brain."""
_CELLS_MM = 20.0
"""How far from the brain air cells lie at most."""
_FRONTAL = (0.0, 0.97, -0.24)
_MASTOIDS = ((0.85, -0.2, -0.5), (-0.85, -0.2, -0.5))


def _edit_sulci(structures: torch.Tensor, change: PatchParameters, grid: Grid) -> None:
    """Cortex next to CSF becomes CSF and the white matter below cortex; or the other way."""
    where = _patches(grid, change.share, change.seed, structures.device)
    for _ in range(abs(change.steps)):
        if change.steps > 0:
            _widen(structures, where)
        else:
            _narrow(structures, where)


def _widen(structures: torch.Tensor, where: torch.Tensor) -> None:
    fluid = grown(is_any(structures, _FLUID))
    code = structures & (RIGHT - 1)
    for grey, white in _GREY_AND_WHITE:
        cortex = code == grey
        goes = cortex & fluid & where
        bare = (code == white) & grown(goes, cube=True)
        structures.masked_fill_(goes, int(Code.CSF))
        structures.add_(bare, alpha=int(grey) - int(white))


def _narrow(structures: torch.Tensor, where: torch.Tensor) -> None:
    free = (structures == Code.CSF) & where
    for grey, _ in _GREY_AND_WHITE:
        for side in (0, RIGHT):
            near = grown(structures == int(grey) + side)
            structures.masked_fill_(free & near, int(grey) + side)


def _edit_fat(structures: torch.Tensor, change: PatchParameters, grid: Grid) -> None:
    """Fat below the skin grows into the muscle, or the other way; deep fat stays."""
    where = _patches(grid, change.share, change.seed, structures.device)
    where &= near(structures == Code.SKIN, _FAT_DEPTH_MM, grid)
    gains, loses = (Code.FAT, Code.MUSCLE) if change.steps > 0 else (Code.MUSCLE, Code.FAT)
    for step in range(abs(change.steps)):
        fresh = grown(structures == gains, cube=step % 2 == 1) & (structures == loses) & where
        structures.masked_fill_(fresh, int(gains))


def _edit_skull(structures: torch.Tensor, change: SkullParameters, grid: Grid) -> None:
    """The vault alone: face, base and neck keep their bone."""
    vault = near(is_any(structures, (Code.CORTEX, Code.WHITE)), _VAULT_MM, grid)
    vault &= _cosine(_from_brain(structures, grid), _UP) > _VAULT_COSINE
    for steps, beside, filling in (
        (change.outer, _SOFT, Code.MUSCLE),
        (change.inner, _FLUID, Code.CSF),
    ):
        if steps > 0:
            _thicken(structures, steps, beside, vault)
        for _ in range(-steps):
            _thin(structures, beside, filling, vault)


def _thicken(
    structures: torch.Tensor, steps: int, beside: Iterable[int], vault: torch.Tensor
) -> None:
    """Bone grows into what lies beside it, and the marrow within the bone."""
    bone = is_any(structures, _BONE)
    for step in range(steps):
        fresh = grown(bone, cube=step % 2 == 1) & is_any(structures, beside) & vault
        structures.masked_fill_(fresh, int(Code.BONE))
        bone |= fresh
    inside = ~grown(grown(~bone), cube=True) & vault
    for _ in range(steps):
        fresh = grown(structures == Code.MARROW) & (structures == Code.BONE) & inside
        structures.masked_fill_(fresh, int(Code.MARROW))


def _thin(
    structures: torch.Tensor, beside: Iterable[int], filling: Code, vault: torch.Tensor
) -> None:
    """The layer beside goes where more bone lies behind it; marrow laid bare becomes bone."""
    bone = is_any(structures, _BONE)
    layer = bone & grown(is_any(structures, beside)) & vault
    kept = grown(bone & ~grown(~bone))
    structures.masked_fill_(layer & kept, int(filling))
    left = is_any(structures, _BONE)
    structures.masked_fill_((structures == Code.MARROW) & grown(~left) & vault, int(Code.BONE))


def _pneumatise(structures: torch.Tensor, change: PatchParameters, grid: Grid) -> None:
    """Air cells within frontal bone or mastoids, with a wall of bone."""
    bone = is_any(structures, _BONE)
    inside = bone & ~grown(~bone, cube=True)
    cells = _patches(grid, change.share, change.seed, bone.device, knots_mm=6.0)
    offsets = _from_brain(structures, grid)
    directions, degrees = ((_FRONTAL,), 22.0) if change.steps == 0 else (_MASTOIDS, 20.0)
    place = torch.zeros_like(bone)
    for direction in directions:
        place |= _cosine(offsets, direction) > math.cos(math.radians(degrees))
    place &= near(is_any(structures, _BRAIN), _CELLS_MM, grid)
    structures.masked_fill_(inside & cells & place, int(Code.CAVITY))


def _fill_cavities(structures: torch.Tensor, change: CavityParameters, grid: Grid) -> None:
    """Air that has head on all sides but below."""
    air = enclosed(is_any(structures, (Code.AIR, Code.CAVITY)))
    filled = air & _patches(grid, change.share, change.seed, structures.device)
    wall = ~air
    for step in range(change.swelling):
        wall = grown(wall, cube=step % 2 == 1)
    structures.masked_fill_(filled | (air & wall), int(Code.MUCOSA))


def _resect(structures: torch.Tensor, change: ResectionParameters, grid: Grid) -> None:
    offsets = _from_brain(structures, grid)
    squares = [
        (line - change.distance_mm * along) ** 2
        for line, along in zip(offsets, change.direction, strict=True)
    ]
    noise = _noise(grid, 14.0, change.seed, structures.device)
    radius = change.radius_mm * (1 + 0.18 * noise)
    gone = (_outer_sum(squares) < radius**2) & is_any(structures, _BRAIN)
    structures.masked_fill_(gone, int(Code.CSF))
    if change.air:
        level = offsets[2] > change.distance_mm * change.direction[2]
        structures.masked_fill_(gone & level, int(Code.CAVITY))


def _open_skull(structures: torch.Tensor, change: FlapParameters, grid: Grid) -> None:
    offsets = _from_brain(structures, grid)
    noise = _noise(grid, 20.0, change.seed, structures.device)
    half = math.radians(change.half_degrees)
    off = torch.acos(_cosine(offsets, change.direction).clamp(-1, 1)) - half * (1 + 0.08 * noise)
    inside = (off.abs() < 0.025) if change.returned else (off < 0)
    structures.masked_fill_(inside & is_any(structures, _BONE), change.filling)


def _patches(
    grid: Grid, share: float, seed: int, device: torch.device, *, knots_mm: float = _PATCH_KNOTS_MM
) -> torch.Tensor:
    """(I, J, K) bool: smooth patches that take about `share` of the space."""
    if share <= 0 or share >= 1:
        return torch.full(grid.shape, share > 0, device=device)
    return _noise(grid, knots_mm, seed, device) < NormalDist().inv_cdf(share)


def _noise(grid: Grid, knots_mm: float, seed: int, device: torch.device) -> torch.Tensor:
    """(I, J, K) smooth noise of variance about 1."""
    knots = tuple(knots_mm / spacing for spacing in grid.spacing_mm)
    return smooth_noise(grid.shape, knots, seed, device)[0]


def _from_brain(structures: torch.Tensor, grid: Grid) -> list[torch.Tensor]:
    """Three tensors that broadcast to (I, J, K): mm from the middle of the brain."""
    brain = is_any(structures[::4, ::4, ::4], _BRAIN).float()
    total = brain.sum().clamp_min(1)
    lines = []
    for axis, positions in enumerate(grid.axes(structures.device)):
        others = [a for a in range(3) if a != axis]
        middle = (brain.sum(others) * positions[::4]).sum() / total
        lines.append((positions - middle).reshape([-1 if a == axis else 1 for a in range(3)]))
    return lines


def _outer_sum(lines: list[torch.Tensor]) -> torch.Tensor:
    return lines[0] + lines[1] + lines[2]


def _cosine(offsets: list[torch.Tensor], direction: Point) -> torch.Tensor:
    """(I, J, K) of the angle between the offsets and the direction."""
    along = _outer_sum([o * d for o, d in zip(offsets, direction, strict=True)])
    return along / _outer_sum([o * o for o in offsets]).sqrt().clamp_min(1e-3)
