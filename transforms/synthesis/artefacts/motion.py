"""The head moves while k-space is read: some lines belong to another pose."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from radloom.transforms.synthesis.draws import Range, chance, choose, normal, uniform
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.rotations import rotation_matrix

__all__ = ["MotionRecipe", "Movement", "draw_motion", "line_owners", "moved"]


@dataclass(frozen=True)
class MotionRecipe:
    """How often and how far the head moves."""

    probability: float = 0.1
    n_movements: int = 2
    """At most so many."""
    start: Range = (0.06, 0.7)
    """How far from the centre of k-space (0) to its edge (1) a movement comes."""
    rotation_degrees: float = 1.5
    """Deviation about each axis."""
    translation_mm: float = 1.2
    """Deviation along each axis."""


@dataclass(frozen=True)
class Movement:
    """One other pose, held from a line of k-space to the edge."""

    start: float
    """From the centre (0) to the edge: 1 the last line, -1 the first one."""
    rotation_degrees: tuple[float, float, float]
    """About x, y, z through the middle of the grid, in this order."""
    translation_mm: tuple[float, float, float]


def draw_motion(generator: torch.Generator, recipe: MotionRecipe) -> tuple[Movement, ...]:
    """Some movements, often none; the middle of k-space always shows the head in its place."""
    if not chance(generator, recipe.probability):
        return ()
    n_movements = choose(generator, range(1, recipe.n_movements + 1))
    return tuple(_movement(generator, recipe) for _ in range(n_movements))


def _movement(generator: torch.Generator, recipe: MotionRecipe) -> Movement:
    start = uniform(generator, recipe.start) * choose(generator, (-1, 1))
    a, b, c = (normal(generator, recipe.rotation_degrees, 2.5) for _ in range(3))
    x, y, z = (normal(generator, recipe.translation_mm, 2.5) for _ in range(3))
    return Movement(start, (a, b, c), (x, y, z))


def line_owners(frequency: Tensor, movements: tuple[Movement, ...]) -> Tensor:
    """(m,) which pose each line shows: 0 the head in its place, n the n-th movement."""
    reach = frequency / (len(frequency) / 2)
    owners = torch.zeros(len(frequency), dtype=torch.int64)
    numbered = sorted(enumerate(movements, start=1), key=lambda item: abs(item[1].start))
    for number, movement in numbered:
        owners[reach * math.copysign(1, movement.start) >= abs(movement.start)] = number
    return owners


def moved(signal: Tensor, grid: Grid, movement: Movement) -> Tensor:
    """`signal` (1, I, J, K) after the movement; nothing comes from beyond the grid."""
    extent = torch.tensor(
        [max(n - 1, 1) * s / 2 for n, s in zip(grid.shape, grid.spacing_mm, strict=True)],
        dtype=torch.float64,
    )
    back = torch.from_numpy(rotation_matrix(movement.rotation_degrees).T.copy())
    shift = -back @ torch.tensor(movement.translation_mm, dtype=torch.float64)
    theta = torch.cat([back * extent / extent[:, None], (shift / extent)[:, None]], 1)
    order = [2, 1, 0]
    theta = theta[order][:, [*order, 3]].to(signal)[None]
    points = functional.affine_grid(theta, [1, 1, *signal.shape[1:]], align_corners=True)
    return functional.grid_sample(signal[None], points, align_corners=True)[0]
