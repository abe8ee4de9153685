"""Fields on a grid of voxels: what they move, and the flow along a velocity.

Fields are (3, I, J, K) in voxels along I, J, K, fields of several channels (C, I, J, K). Nothing
here is differentiated by autograd: on a GPU forward sampling gives the same bits twice, its
derivative does not.
"""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["compose", "exponential", "inside", "resized", "sampled"]

LONGEST_STEP_VOX = 0.5
"""The flow is halved until no step is longer than this."""


def places(ddf: torch.Tensor) -> torch.Tensor:
    """(1, I, J, K, 3) where each voxel goes, as ``grid_sample`` wants it: -1..1, K first."""
    shape = ddf.shape[1:]
    rows = []
    for axis, size in enumerate(shape):
        scale = 2.0 / max(size - 1, 1)
        still = torch.arange(size, device=ddf.device, dtype=ddf.dtype) * scale - 1
        rows.append(ddf[axis] * scale + still.reshape([-1 if a == axis else 1 for a in range(3)]))
    return torch.stack(rows[::-1], dim=-1)[None]


def sampled(values: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
    """`values` (C, I, J, K) seen at each voxel plus `ddf`; linear, the border goes on outside."""
    return functional.grid_sample(
        values[None], places(ddf), mode="bilinear", padding_mode="border", align_corners=True
    )[0]


def inside(ddf: torch.Tensor) -> torch.Tensor:
    """(I, J, K) bool: where a voxel plus `ddf` lies within the grid."""
    return (places(ddf)[0].abs() <= 1).all(dim=-1)


def compose(second: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """The displacement of `first`, then `second`."""
    return first + sampled(second, first)


def exponential(velocity: torch.Tensor, *, n_squarings: int | None = None) -> torch.Tensor:
    """The displacement after one unit of time along a stationary velocity, both in voxels.

    By scaling and squaring (Arsigny et al. 2006, doi:10.1007/11866565_113), from a midpoint step;
    as often as the fastest voxel asks for, so that ``exponential(-v)`` undoes it.

    >>> shift = torch.ones(3, 4, 4, 4)
    >>> bool(torch.allclose(exponential(shift), shift))
    True
    """
    if n_squarings is None:
        fastest = float(velocity.abs().max())
        n_squarings = 0
        while fastest > LONGEST_STEP_VOX * 2**n_squarings:
            n_squarings += 1
    step = velocity / 2**n_squarings
    step = sampled(step, step / 2)
    for _ in range(n_squarings):
        step = compose(step, step)
    return step


def resized(field: torch.Tensor, shape: tuple[int, int, int], factor: float) -> torch.Tensor:
    """A field on a grid of another shape, whose voxels are `factor` times smaller.

    Voxel 0 of both grids shares its outer corner, as blocks of voxels and their parts do.
    """
    for axis, size in enumerate(shape, start=1):
        field = _along(field, axis, size, factor)
    return field * factor


def _along(field: torch.Tensor, axis: int, size: int, factor: float) -> torch.Tensor:
    place = (torch.arange(size, device=field.device, dtype=field.dtype) + 0.5) / factor - 0.5
    place = place.clamp(0, field.shape[axis] - 1)
    low = place.floor().long().clamp_max(max(field.shape[axis] - 2, 0))
    share = (place - low).reshape([-1 if a == axis else 1 for a in range(field.ndim)])
    high = (low + 1).clamp_max(field.shape[axis] - 1)
    below, above = field.index_select(axis, low), field.index_select(axis, high)
    return below + (above - below) * share
