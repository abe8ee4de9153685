"""The velocity between two images, found from coarse to fine by Gauss-Newton steps.

What is compared at each level are MIND-SSC descriptors, which hold whatever the contrasts, and,
where a segmentation network has seen both heads, what it saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch.nn import functional

from radloom.models.registration.descriptors import mind_ssc, principal
from radloom.models.registration.flow import exponential, inside, resized, sampled
from radloom.models.registration.gauss_newton import Penalty, normal_equations, solve
from radloom.models.registration.structures import Structures

__all__ = [
    "FAST",
    "FULL",
    "TRUSTED_AGREEMENT",
    "Level",
    "Plan",
    "Velocity",
    "beside",
    "descriptors",
    "difference",
    "optimise",
    "pooled",
]


Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Of the fixed and of the moving image."""


@dataclass(frozen=True)
class Level:
    """One resolution of the search."""

    block: int
    """Voxels of the working grid along an edge of a voxel of the level."""
    knot: int
    """Voxels of the level between knots of the velocity."""
    n_steps: int
    """Gauss-Newton steps."""
    diffusion: float
    """Weight of the velocity's squared gradient, relative to the mean curvature of the data."""
    bending: float = 0.0
    """Of its squared Laplacian, likewise."""
    n_channels: int = 6
    """Of the descriptors, of twelve."""
    n_iterations: int = 12
    """Of conjugate gradients in a step."""
    structure_weight: float = 0.0
    """Of the squared difference of the shares of structures, beside that of the descriptors."""


@dataclass(frozen=True, eq=False)
class Velocity:
    """A stationary velocity on blocks of voxels of a working grid."""

    field: torch.Tensor
    """(3, I, J, K) in blocks a unit of time."""
    block: int
    """Voxels of the working grid along an edge of a block."""

    def on_blocks(self, block: int, shape: tuple[int, int, int]) -> Velocity:
        """The same on blocks of another size; `shape` is that of the working grid."""
        if block == self.block:
            return self
        i, j, k = (n // block for n in shape)
        return Velocity(resized(self.field, (i, j, k), self.block / block), block)


@dataclass(frozen=True)
class Plan:
    """The way from whole heads to details."""

    spacing_mm: float
    """Of the working grid."""
    search_block: int
    """Voxels of the working grid along an edge of those that the first search compares."""
    levels: tuple[Level, ...]
    """From coarse to fine."""
    guided: tuple[Level, ...]
    """The same, where a segmentation network has seen structures in both heads."""
    trusted: tuple[Level, ...] = ()
    """What follows the first of `guided` where it then sees them in the same places; empty: what
    follows there anyway."""

    def after_first(self, agreement: float | None) -> tuple[Level, ...]:
        """The levels after the first.

        Args:
            agreement: mean Dice of what the network sees in both heads, aligned by the first level;
                None: no network led.
        """
        if agreement is None:
            return self.levels[1:]
        trusted = self.trusted if agreement >= TRUSTED_AGREEMENT else ()
        return trusted or self.guided[1:]


TRUSTED_AGREEMENT = 0.7
"""On three pairs of training heads: two of contrasts that scanners make end the first level at 0.8,
and structures on fine voxels gain 0.02 to 0.03 of Dice; one of a contrast drawn at random ends it
at 0.63, and there they lose 0.06: what the network sees in it is not what is there."""

STRUCTURE_WEIGHT = 4.0
"""On voxels of 4 mm, beside descriptors."""

FULL = Plan(
    1.0,
    4,
    levels=(Level(4, 1, 6, 1.5), Level(2, 2, 8, 0.5)),
    guided=(Level(4, 1, 10, 0.6, structure_weight=STRUCTURE_WEIGHT), Level(2, 2, 8, 0.5)),
    trusted=(
        Level(2, 2, 6, 0.2, structure_weight=3.0),
        Level(2, 1, 4, 0.4, structure_weight=3.0),
    ),
)
"""Compares voxels of 4 mm, then of 2 mm; knots of the velocity 4 mm apart, and 2 mm at last where
structures are trusted.

A level of 8 mm before them drew the thin layers of skull, CSF and scalp apart that two contrasts
show with other neighbours; the search, over the same distances, does not. Structures lead where the
way is long; on voxels of 2 mm only where they agree: there they are brought to the image's edges.
"""
FAST = Plan(
    2.0,
    2,
    levels=(Level(2, 1, 6, 1.5),),
    guided=(Level(2, 1, 10, 0.6, structure_weight=STRUCTURE_WEIGHT),),
)
"""Compares voxels of 4 mm, knots as far apart."""

LONGEST_STEP = 1.0
"""A step of a velocity is cut to this many voxels of its own: beyond, the images are not linear."""


def optimise(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    weight: torch.Tensor,
    start: Velocity,
    levels: Sequence[Level],
    structures: Structures | None = None,
) -> Velocity:
    """The velocity whose flow takes voxels of `fixed` to where `moving` shows the same.

    Args:
        fixed: (I, J, K) on a working grid, on the device that is to compute.
        moving: the same, aligned by an affine map.
        weight: (I, J, K) float, 0 where nothing is to be compared.
        start: where to begin.
        levels: from coarse to fine.
        structures: of both heads; None: the descriptors alone.
    """
    i, j, k = fixed.shape
    for level in levels:
        velocity = start.on_blocks(level.block * level.knot, (i, j, k))
        channels, seen = _compared(fixed, moving, weight, level, structures)
        field = _refined(channels, seen, velocity.field.clone(), level)
        start = Velocity(field, velocity.block)
    return start


def difference(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    weight: torch.Tensor,
    velocities: Sequence[Velocity],
    level: Level,
    structures: Structures | None = None,
) -> list[float]:
    """How much of what a level compares differs at the end of each velocity, mean a voxel.

    Args:
        fixed: (I, J, K), as of `optimise`.
        moving: the same.
        weight: the same; what is carried out of the grid counts as the most different.
        velocities: of which one is to be chosen.
        level: what is compared.
        structures: of both heads, or None.
    """
    i, j, k = fixed.shape
    (still, other), seen = _compared(fixed, moving, weight, level, structures)
    found = []
    for velocity in velocities:
        field = velocity.on_blocks(level.block * level.knot, (i, j, k)).field
        ddf = _flow(field, seen.shape, level.knot)
        apart = (still - sampled(other, ddf)).square_().sum(dim=0)
        apart = torch.where(inside(ddf), apart, apart.max())
        total = (apart * seen).double().cpu().numpy().sum()
        found.append(float(total) / max(float(seen.double().cpu().numpy().sum()), 1e-6))
    return found


def _compared(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    weight: torch.Tensor,
    level: Level,
    structures: Structures | None,
) -> tuple[Pair, torch.Tensor]:
    """The channels of both images on the blocks of a level, and the weight there."""
    seen = pooled(weight, level.block)
    channels = descriptors(fixed, moving, seen, level.block, level.n_channels)
    if structures is not None and level.structure_weight > 0:
        shares = structures.on_blocks(level.block)
        channels = beside(channels, shares, level.structure_weight)
    return channels, seen


def descriptors(
    fixed: torch.Tensor, moving: torch.Tensor, weight: torch.Tensor, block: int, n_channels: int
) -> Pair:
    """What two images (I, J, K) have in common, on blocks of voxels: (n_channels, i, j, k) each.

    MIND-SSC of blocks of half the size, two of them apart, and then their means: at the full
    size, what lies beside a border blurs it.

    Args:
        fixed: on the working grid.
        moving: the same.
        weight: (i, j, k) on the blocks; above 0.5 where the channels are chosen.
        block: voxels along an edge, even.
        n_channels: to keep of the twelve.
    """
    one, other = (
        _halved(mind_ssc(pooled(image, block // 2), dilation=2)) for image in (fixed, moving)
    )
    return principal(one, other, n_channels, weight > 0.5)


def beside(channels: Pair, shares: Pair, weight: float) -> Pair:
    """The channels, and the shares of structures on the same blocks, as heavy as `weight`."""
    one, other = (
        torch.cat([part, more * weight**0.5]) for part, more in zip(channels, shares, strict=True)
    )
    return one, other


def pooled(image: torch.Tensor, block: int) -> torch.Tensor:
    """(I, J, K) -> the means of blocks of `block` voxels along each axis."""
    return functional.avg_pool3d(image[None], block)[0] if block > 1 else image


def _halved(channels: torch.Tensor) -> torch.Tensor:
    return torch.stack([pooled(channel, 2) for channel in channels])


def _refined(
    channels: Pair, weight: torch.Tensor, field: torch.Tensor, level: Level
) -> torch.Tensor:
    """The velocity after the steps of one level."""
    still, other = channels
    penalty = Penalty(level.diffusion, level.bending)
    scale = 0.0
    for _ in range(level.n_steps):
        ddf = _flow(field, weight.shape, level.knot)
        seen = sampled(other, ddf)
        here = weight * inside(ddf)
        hessian, force = normal_equations(still, seen, here[None], level.knot)
        scale = scale or _mean_curvature(hessian, weight, level.knot)
        hessian /= scale
        force /= scale
        step = solve(hessian, force - penalty(field), penalty, level.n_iterations)
        field += step * (LONGEST_STEP / step.norm(dim=0).clamp_min(LONGEST_STEP))
    return field


def _flow(field: torch.Tensor, shape: torch.Size, knot: int) -> torch.Tensor:
    ddf = exponential(field)
    i, j, k = shape
    return resized(ddf, (i, j, k), float(knot)) if knot > 1 else ddf


def _mean_curvature(hessian: torch.Tensor, weight: torch.Tensor, knot: int) -> float:
    """Mean diagonal element of the data's second derivative where the images are compared."""
    trace = hessian[:3].sum(dim=0)[pooled(weight, knot) > 0.5]
    return float(trace.double().cpu().numpy().mean()) / 3 if len(trace) else 1.0
