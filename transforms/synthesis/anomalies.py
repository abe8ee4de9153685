"""Things that do not belong: lesions, tumours, blood, calcium, fat, metal, air, 2 to 20 mm.

A network that never saw them removes them. They are painted on the sample's grid, over MR and CT
alike, with soft edges; an anomaly carries the tissue that both modalities render.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import torch

from radloom.transforms.synthesis import draws
from radloom.transforms.synthesis.anatomy import code_of
from radloom.transforms.synthesis.anomaly_looks import KINDS, draw_look
from radloom.transforms.synthesis.draws import Range
from radloom.transforms.synthesis.fields import Grid, smooth_noise, white_noise
from radloom.transforms.synthesis.rotations import rotation_matrix
from radloom.transforms.synthesis.tissues import CODES, Code

__all__ = [
    "KINDS",
    "AnomalyParameters",
    "AnomalyRecipe",
    "anomaly_map",
    "anomaly_shares",
    "draw_anomalies",
    "paint_anomalies",
]

Box: TypeAlias = tuple[slice, slice, slice]
"""Voxels of a grid."""
Point: TypeAlias = tuple[float, float, float]

_WOBBLE_LIMIT = 2.5
"""Deviations of the noise that roughens a surface; cut there, so that boxes hold the shape."""


@dataclass(frozen=True)
class AnomalyRecipe:
    """From what the anomalies of a head are drawn."""

    probability: float = 0.6
    """Of a head with any."""
    most: int = 8
    """Groups in a head at most; 1 to it, few more likely than many."""
    weights: tuple[tuple[str, float], ...] = (
        ("oedema", 1.0), ("tumour", 1.5), ("cyst", 1.0), ("haemorrhage", 1.0),
        ("calcification", 1.0), ("lipoma", 0.5), ("metal", 0.3), ("air", 0.4), ("vessel", 1.0),
        ("cluster", 1.0), ("any", 2.0),
    )  # fmt: skip
    """How often each kind comes; "any" is of any look, "cluster" many small lesions."""
    radius_mm: Range = (1.0, 10.0)
    """Half the size, log-uniform; some kinds are larger or smaller than others."""
    edge_mm: Range = (0.3, 3.0)
    """Over what distance the surface fades."""
    elongation: Range = (0.6, 1.6)
    """Radii relative to `radius_mm`, drawn for each axis."""
    irregularity: Range = (0.0, 0.5)
    """Roughness of the surface relative to the radius."""
    cluster: tuple[int, int] = (3, 14)
    """Lesions in a cluster."""
    cluster_reach_mm: Range = (8.0, 35.0)
    """How far from its centre they lie."""
    centre_mm: Point = (0.0, 0.0, 20.0)
    """Middle of the ellipsoid in which they lie, in the sample world."""
    reach_mm: Point = (72.0, 92.0, 90.0)
    """Half axes of that ellipsoid."""
    confined_probability: float = 0.75
    """Of an anomaly that stays within brain, bone or other soft tissue, wherever its centre is."""


@dataclass(frozen=True)
class AnomalyParameters:
    """One drawn anomaly."""

    kind: str
    """One of `KINDS`."""
    shape: str
    """ellipsoid or tube."""
    centre_mm: Point
    """In the sample world."""
    radii_mm: Point
    """Half axes; of a tube half the length, then its radius twice."""
    t1_ms: float
    """At 3 T."""
    t2_ms: float
    density: float
    """Protons that give signal, relative to water."""
    hu: float
    """CT number."""
    texture: float = 0.0
    """Standard deviation of the signal within, relative to its mean."""
    rotation_degrees: Point = (0.0, 0.0, 0.0)
    """About x, then y, then z."""
    edge_mm: float = 1.0
    """Over what distance the surface fades; a voxel at least."""
    irregularity: float = 0.0
    """Standard deviation of the surface's noise, relative to the smallest radius."""
    bend: float = 0.0
    """Of a tube: how far its ends lie aside, relative to half its length."""
    opacity: float = 1.0
    """Its share in the middle."""
    confined: bool = False
    """Whether it stays within brain, bone or other soft tissue, wherever its centre is."""
    group: int = 0
    """Parts of one thing have one number."""
    seed: int = 0
    """Of the surface's noise."""


def draw_anomalies(
    generator: torch.Generator, recipe: AnomalyRecipe, grid: Grid
) -> tuple[AnomalyParameters, ...]:
    """The anomalies of one head, in the order of painting.

    Args:
        generator: on the CPU.
        recipe: what may come.
        grid: of the sample; the centres lie in it.

    Example:
        >>> recipe = AnomalyRecipe(probability=1.0)
        >>> drawn = draw_anomalies(torch.Generator().manual_seed(0), recipe, Grid((96, 96, 96)))
        >>> len(drawn) > 0
        True

    Raises:
        InputError: a kind that does not exist.
    """
    if not draws.chance(generator, recipe.probability) or recipe.most < 1:
        return ()
    n = min(int(draws.uniform(generator, (0.0, math.sqrt(recipe.most))) ** 2) + 1, recipe.most)
    result: list[AnomalyParameters] = []
    for group in range(n):
        kind = _choose_kind(generator, recipe.weights)
        parts = _GROUPS.get(kind, _draw_alone)(generator, recipe, grid, kind)
        result += [replace(part, group=group) for part in parts]
    return tuple(result)


def anomaly_shares(
    parameters: Sequence[AnomalyParameters],
    grid: Grid,
    device: torch.device | str,
    structures: torch.Tensor | None = None,
) -> list[tuple[Box, torch.Tensor]]:
    """How much of each voxel near an anomaly it takes.

    Args:
        parameters: of the anomalies.
        grid: of the sample.
        device: where to make them.
        structures: (I, J, K) uint8 structure bytes on `grid`, on the device. Confined anomalies
            stay within what their centre lies in; without it they are not confined.

    Returns:
        For each anomaly its box and (i, j, k) share from 0 to 1 in it; the box is empty where the
        anomaly lies outside the grid.
    """
    places = None if structures is None else _compartments(structures)
    result = []
    for one in parameters:
        box = _box(one, grid)
        share = _share(one, grid, box, device)
        if one.confined and places is not None and share.numel():
            there = places[box]
            share = share * ((there == places[_centre_voxel(one, grid)]) & (there > 0))
        result.append((box, share))
    return result


def paint_anomalies(
    volume: torch.Tensor,
    shares: Sequence[tuple[Box, torch.Tensor]],
    values: Sequence[Sequence[float]],
    deviations: Sequence[Sequence[float]] = (),
    seeds: Sequence[int] = (),
) -> torch.Tensor:
    """A copy of `volume` with the anomalies over it, one after the other.

    Args:
        volume: (C, I, J, K) float, on the sample's grid.
        shares: from `anomaly_shares`.
        values: for each anomaly its intensity in each channel.
        deviations: for each anomaly the deviation of its texture in each channel; none where empty.
        seeds: for each anomaly, of its texture; needed with `deviations`.
    """
    result = volume.clone()
    for number, (box, share) in enumerate(shares):
        if not share.numel():
            continue
        texture = None
        if deviations and max(deviations[number]) > 0:
            texture = _texture(share.shape, seeds[number], share.device)
        for channel, value in enumerate(values[number]):
            part = result[channel][box]
            gap = value - part
            if texture is not None:
                gap.add_(texture, alpha=deviations[number][channel])
            part.addcmul_(share, gap)
    return result


def anomaly_map(
    shares: Sequence[tuple[Box, torch.Tensor]], grid: Grid, device: torch.device | str
) -> torch.Tensor:
    """(I, J, K) uint8: from 1 the anomaly that takes more than half of the voxel, else 0."""
    result = torch.zeros(grid.shape, dtype=torch.uint8, device=device)
    for number, (box, share) in enumerate(shares, start=1):
        result[box].masked_fill_(share > 0.5, min(number, 255))
    return result


def _choose_kind(generator: torch.Generator, weights: tuple[tuple[str, float], ...]) -> str:
    place = draws.uniform(generator, (0.0, sum(weight for _, weight in weights)))
    for kind, weight in weights:
        if place < weight:
            return kind
        place -= weight
    return weights[-1][0]


def _draw_one(
    generator: torch.Generator, recipe: AnomalyRecipe, kind: str, centre_mm: Point, radius_mm: float
) -> AnomalyParameters:
    radii = [radius_mm * draws.uniform(generator, recipe.elongation) for _ in range(3)]
    turns = [draws.uniform(generator, (-180.0, 180.0)) for _ in range(3)]
    return AnomalyParameters(
        kind=kind,
        shape="ellipsoid",
        centre_mm=centre_mm,
        radii_mm=(radii[0], radii[1], radii[2]),
        rotation_degrees=(turns[0], turns[1], turns[2]),
        edge_mm=min(draws.log_uniform(generator, recipe.edge_mm), radius_mm),
        irregularity=draws.uniform(generator, recipe.irregularity),
        confined=draws.chance(generator, recipe.confined_probability),
        seed=draws.seed(generator),
        **draw_look(generator, kind),
    )


def _draw_centre(generator: torch.Generator, recipe: AnomalyRecipe, grid: Grid) -> Point:
    """Anywhere in the ellipsoid and in the grid; where they hardly meet, anywhere in the grid."""
    half = [s * (n - 1) / 2 for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    for _ in range(20):
        x, y, z = (
            c + draws.uniform(generator, (-h, h)) for c, h in zip(grid.centre_mm, half, strict=True)
        )
        off = [
            (p - c) / r
            for p, c, r in zip((x, y, z), recipe.centre_mm, recipe.reach_mm, strict=True)
        ]
        if sum(o * o for o in off) < 1:
            break
    return x, y, z


def _draw_radius(generator: torch.Generator, recipe: AnomalyRecipe, kind: str) -> float:
    radius = draws.log_uniform(generator, recipe.radius_mm) * _SCALE.get(kind, 1.0)
    return max(radius, recipe.radius_mm[0])


_SCALE = MappingProxyType(
    {
        "metal": 0.3,
        "calcification": 0.5,
        "air": 0.6,
        "oedema": 1.5,
        "vessel": 0.25,
        "tumour": 1.5,
        "cyst": 1.2,
        "lesion": 0.4,
    }
)
"""Of the radius, for kinds that are smaller or larger than others."""
_WHOLE = ("metal", "air")
"""Kinds that no tissue's border stops."""


def _draw_alone(
    generator: torch.Generator, recipe: AnomalyRecipe, grid: Grid, kind: str
) -> list[AnomalyParameters]:
    radius = _draw_radius(generator, recipe, kind)
    one = _draw_one(generator, recipe, kind, _draw_centre(generator, recipe, grid), radius)
    if kind in _WHOLE:
        one = replace(one, confined=False)
    if kind == "oedema":
        one = replace(one, opacity=draws.uniform(generator, (0.4, 1.0)), edge_mm=2 * one.edge_mm)
    return [one]


def _draw_tumour(
    generator: torch.Generator, recipe: AnomalyRecipe, grid: Grid, kind: str
) -> list[AnomalyParameters]:
    """Oedema around, solid or with a rim and a core; any of it may be missing."""
    centre = _draw_centre(generator, recipe, grid)
    whole = _draw_one(generator, recipe, kind, centre, _draw_radius(generator, recipe, kind))
    parts: list[AnomalyParameters] = []
    if draws.chance(generator, 0.5):
        around = _part(generator, whole, "oedema", draws.uniform(generator, (1.3, 1.9)))
        opacity = draws.uniform(generator, (0.4, 1.0))
        parts.append(replace(around, opacity=opacity, edge_mm=2 * whole.edge_mm))
    if draws.chance(generator, 0.4):
        return [*parts, whole]
    core = draws.uniform(generator, (0.5, 0.85))
    return [*parts, _part(generator, whole, "rim", 1.0), _part(generator, whole, "core", core)]


def _part(
    generator: torch.Generator, whole: AnomalyParameters, kind: str, factor: float
) -> AnomalyParameters:
    """Of the same form and place, another size and look."""
    x, y, z = (factor * radius for radius in whole.radii_mm)
    look = AnomalyParameters(
        kind, whole.shape, whole.centre_mm, (x, y, z), **draw_look(generator, kind)
    )
    kept = ("rotation_degrees", "edge_mm", "irregularity", "confined", "seed")
    return replace(look, **{name: getattr(whole, name) for name in kept})


def _draw_cluster(
    generator: torch.Generator, recipe: AnomalyRecipe, grid: Grid, _kind: str
) -> list[AnomalyParameters]:
    """Many small lesions of one look around one place."""
    centre = _draw_centre(generator, recipe, grid)
    low, high = recipe.cluster
    n = int(draws.uniform(generator, (low, high + 1)))
    reach = draws.uniform(generator, recipe.cluster_reach_mm)
    look = draw_look(generator, "lesion")
    result = []
    for _ in range(n):
        x, y, z = (c + draws.normal(generator, reach / 2) for c in centre)
        radius = _draw_radius(generator, recipe, "lesion")
        one = _draw_one(generator, recipe, "lesion", (x, y, z), radius)
        result.append(replace(one, **look))
    return result


def _draw_vessel(
    generator: torch.Generator, recipe: AnomalyRecipe, grid: Grid, kind: str
) -> list[AnomalyParameters]:
    (one,) = _draw_alone(generator, recipe, grid, kind)
    radius = min(one.radii_mm)
    return [
        replace(
            one,
            shape="tube",
            radii_mm=(radius * draws.uniform(generator, (4.0, 12.0)), radius, radius),
            bend=draws.uniform(generator, (0.0, 0.6)),
            irregularity=0.3 * one.irregularity,
        )
    ]


_GROUPS: MappingProxyType[
    str, Callable[[torch.Generator, AnomalyRecipe, Grid, str], list[AnomalyParameters]]
] = MappingProxyType({"tumour": _draw_tumour, "cluster": _draw_cluster, "vessel": _draw_vessel})
"""Kinds that are more than one ellipsoid."""


def _box(one: AnomalyParameters, grid: Grid) -> Box:
    """The voxels that the anomaly can reach."""
    turn = rotation_matrix(one.rotation_degrees)
    radii = np.array(one.radii_mm)
    if one.shape == "tube":
        radii[1] += one.bend * radii[0]
    swell = one.irregularity * _WOBBLE_LIMIT * min(one.radii_mm) + one.edge_mm
    reach = np.abs(turn) @ radii if one.shape == "tube" else np.sqrt(turn**2 @ radii**2)
    slices = []
    for axis in range(3):
        spacing, n = grid.spacing_mm[axis], grid.shape[axis]
        middle = (one.centre_mm[axis] - grid.centre_mm[axis]) / spacing + (n - 1) / 2
        span = (reach[axis] + swell) / spacing + 1
        start = min(max(math.floor(middle - span), 0), n)
        slices.append(slice(start, max(min(math.ceil(middle + span) + 1, n), start)))
    return slices[0], slices[1], slices[2]


def _share(
    one: AnomalyParameters, grid: Grid, box: Box, device: torch.device | str
) -> torch.Tensor:
    """(i, j, k) in the box."""
    axes = [
        axis[part] - centre
        for axis, part, centre in zip(grid.axes(device), box, one.centre_mm, strict=True)
    ]
    shape = (len(axes[0]), len(axes[1]), len(axes[2]))
    if 0 in shape:
        return torch.zeros(shape, device=device)
    turn = rotation_matrix(one.rotation_degrees)
    x, y, z = (
        _outer_sum([float(turn[axis, row]) * axes[axis] for axis in range(3)]) for row in range(3)
    )
    distance = _tube(one, x, y, z) if one.shape == "tube" else _ellipsoid(one, x, y, z)
    if one.irregularity > 0:
        distance = distance - _wobble(one, grid, shape, device)
    edge = max(one.edge_mm, sum(grid.spacing_mm) / 3)
    share = (0.5 - distance / edge).clamp(0, 1)
    return one.opacity * share * share * (3 - 2 * share)


def _outer_sum(lines: list[torch.Tensor]) -> torch.Tensor:
    return lines[0][:, None, None] + lines[1][:, None] + lines[2]


def _ellipsoid(
    one: AnomalyParameters, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor
) -> torch.Tensor:
    """About the distance in mm from the surface, negative inside."""
    a, b, c = one.radii_mm
    relative = ((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2).sqrt()
    slope = ((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2).sqrt()
    return relative * (relative - 1) / slope.clamp_min(1e-6)


def _tube(
    one: AnomalyParameters, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor
) -> torch.Tensor:
    """The same of a tube about a parabola along x that bends to y."""
    length, radius, _ = one.radii_mm
    along = (x / length).clamp(-1, 1)
    aside = y - one.bend * length * (along**2 - 0.5)
    beyond = x - along * length
    steep = torch.sqrt(1 + (2 * one.bend * along) ** 2)
    return (beyond**2 + (aside / steep) ** 2 + z**2).sqrt() - radius


def _wobble(
    one: AnomalyParameters, grid: Grid, shape: tuple[int, int, int], device: torch.device | str
) -> torch.Tensor:
    """(i, j, k) mm by which the surface lies further out."""
    radius = min(one.radii_mm)
    knots = tuple(max(0.8 * radius / spacing, 1.0) for spacing in grid.spacing_mm)
    noise = smooth_noise(shape, knots, one.seed, device)[0]
    return one.irregularity * radius * noise.clamp(-_WOBBLE_LIMIT, _WOBBLE_LIMIT)


def _compartments(structures: torch.Tensor) -> torch.Tensor:
    """(I, J, K) uint8: 0 air, 1 soft tissue outside the skull, 2 bone, 3 inside the skull."""
    table = torch.full((CODES,), 3, dtype=torch.uint8)
    table[[Code.AIR, Code.CAVITY]] = 0
    table[[c for c in Code if c in _OUTSIDE]] = 1
    table[[Code.BONE, Code.MARROW, Code.TOOTH]] = 2
    return table.to(structures.device)[code_of(structures).int()]


_OUTSIDE = (
    Code.SKIN, Code.FAT, Code.MUSCLE, Code.MUCOSA, Code.SCLERA, Code.VITREOUS, Code.LENS,
    Code.NERVE, Code.GLAND, Code.DISC, Code.EYE_MUSCLE, Code.OPTIC_NERVE,
)  # fmt: skip


def _centre_voxel(one: AnomalyParameters, grid: Grid) -> tuple[int, int, int]:
    """The voxel of the grid nearest to the centre."""
    i, j, k = (
        min(max(round((p - c) / s + (n - 1) / 2), 0), n - 1)
        for p, c, s, n in zip(
            one.centre_mm, grid.centre_mm, grid.spacing_mm, grid.shape, strict=True
        )
    )
    return i, j, k


def _texture(shape: torch.Size, seed: int, device: torch.device) -> torch.Tensor:
    """(i, j, k) of mean 0 and variance 1: half coarse, half grain."""
    i, j, k = shape
    coarse = smooth_noise((i, j, k), (3.0,) * 3, seed, device)[0]
    return (coarse + white_noise((i, j, k), seed, device)) / math.sqrt(2)
