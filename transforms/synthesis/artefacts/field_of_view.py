"""How much of each axis is acquired: cropped pictures, black borders, wrap-around."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.errors import InputError
from radloom.transforms.synthesis.draws import Range, chance, choose, uniform
from radloom.transforms.synthesis.fields import Grid

__all__ = [
    "FieldOfView",
    "FieldOfViewRecipe",
    "acquired_part",
    "draw_fields_of_view",
    "shown_part",
]


@dataclass(frozen=True)
class FieldOfViewRecipe:
    """How often and how far the field of view is cut."""

    crop_probability: float = 0.15
    n_cropped: int = 2
    """At most so many axes are cropped."""
    kept: Range = (0.6, 0.97)
    """Share of an axis that is acquired; the rest is black."""
    wrap_probability: float = 0.06
    wrapped: Range = (0.72, 0.95)
    """Share of the axis of phase encoding that fits; the rest folds over to the other side."""


@dataclass(frozen=True)
class FieldOfView:
    """The voxels start to stop (without stop) of an axis."""

    start: int
    stop: int
    wraps: bool = False
    """Whether what lies beyond folds into it."""


def draw_fields_of_view(
    generator: torch.Generator, recipe: FieldOfViewRecipe, grid: Grid, phase_axis: int
) -> tuple[FieldOfView | None, FieldOfView | None, FieldOfView | None]:
    """The part of each axis that is acquired; None: all of it."""
    views: list[FieldOfView | None] = [None, None, None]
    if chance(generator, recipe.crop_probability):
        for _ in range(choose(generator, range(1, recipe.n_cropped + 1))):
            axis = choose(generator, range(3))
            views[axis] = _part(generator, grid.shape[axis], recipe.kept, wraps=False)
    if chance(generator, recipe.wrap_probability):
        n = grid.shape[phase_axis]
        views[phase_axis] = _part(generator, n, recipe.wrapped, wraps=True)
    return views[0], views[1], views[2]


def _part(generator: torch.Generator, n: int, kept: Range, *, wraps: bool) -> FieldOfView:
    length = max(1, min(n, round(n * uniform(generator, kept))))
    start = round((n - length) * uniform(generator, (0.0, 1.0)))
    return FieldOfView(start, start + length, wraps)


def acquired_part(n: int, view: FieldOfView) -> Tensor:
    """(stop - start, n) what of an axis is acquired, folded where the view wraps.

    Raises:
        InputError: the view does not lie on the axis.
    """
    length = view.stop - view.start
    if not 0 <= view.start < view.stop <= n:
        raise InputError(f"expected a field of view on an axis of {n} voxels, got {view}")
    identity = torch.eye(length, dtype=torch.float64)
    if view.wraps:
        return identity[:, (torch.arange(n) - view.start) % length]
    part = torch.zeros((length, n), dtype=torch.float64)
    part[:, view.start : view.stop] = identity
    return part


def shown_part(n: int, view: FieldOfView) -> Tensor:
    """(n, stop - start) the acquired part back in its place, zero outside."""
    return acquired_part(n, FieldOfView(view.start, view.stop)).T
