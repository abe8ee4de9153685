"""What lies under a head in a CT: a curved holder with foam below."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.draws import Range, chance, uniform
from radloom.transforms.synthesis.fields import Grid

__all__ = ["TableParameters", "TableRecipe", "draw_table", "with_table"]

_FOAM_MM = 45.0


@dataclass(frozen=True)
class TableRecipe:
    """How often a holder is seen, and what it is like."""

    probability: float = 0.6
    radius_mm: Range = (130.0, 400.0)
    """Of its curve."""
    gap_mm: Range = (0.0, 12.0)
    """From the head down to it."""
    half_width_mm: Range = (60.0, 130.0)
    thickness_mm: Range = (2.0, 7.0)
    shell_hu: Range = (-300.0, 250.0)
    foam_hu: Range = (-985.0, -880.0)


@dataclass(frozen=True)
class TableParameters:
    """One holder."""

    radius_mm: float
    gap_mm: float
    half_width_mm: float
    thickness_mm: float
    shell_hu: float
    foam_hu: float


def draw_table(generator: torch.Generator, recipe: TableRecipe) -> TableParameters | None:
    """One holder, or None."""
    if not chance(generator, recipe.probability):
        return None
    spans = (
        recipe.radius_mm,
        recipe.gap_mm,
        recipe.half_width_mm,
        recipe.thickness_mm,
        recipe.shell_hu,
        recipe.foam_hu,
    )
    return TableParameters(*(uniform(generator, span) for span in spans))


def with_table(hu: Tensor, structures: Tensor, grid: Grid, table: TableParameters) -> Tensor:
    """`hu` (1, I, J, K) with the holder in the air behind the head (lowest y)."""
    x, y, _ = grid.axes(hu.device)
    head = structures > 0
    behind = torch.where(head.any(2).any(0), y, torch.inf).amin()
    depth = behind - table.gap_mm + x[:, None] ** 2 / (2 * table.radius_mm) - y
    below = (depth >= 0) & (x.abs() <= table.half_width_mm)[:, None]
    holder = torch.full_like(depth, -1000.0)
    holder.masked_fill_(below & (depth < table.thickness_mm + _FOAM_MM), table.foam_hu)
    holder.masked_fill_(below & (depth < table.thickness_mm), table.shell_hu)
    return torch.where(head, hu, torch.maximum(hu, holder[..., None]))
