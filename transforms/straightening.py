"""A stack of slices that leans or is unevenly spaced, resampled onto a straight, even grid.

Two faults of CT heads, which `radloom.transforms.dicom` refuses unless it is told to repair them:

- **gantry tilt**: the table moves along the patient while the slices are cut at an angle, so that
  each slice lies a little beside the normal through the one before. Every slice is moved within
  its own plane to where it was, on a grid that is as much larger as the stack leans;
- **uneven distances**: slices are interpolated between their two neighbours, at a step no larger
  than the smallest distance, and at most twice as many as were acquired (the rule of dcm2niix's
  ``_Eq`` images, nii_saveNII3Deq).

Interpolation is linear in both, as dcm2niix's ``_Tilt_Eq`` is; slices are never turned, so that
their own rows and columns stay those of the grid. Where a slice has nothing to give (the corners
that shearing back leaves empty) stands the smallest value of the series.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Straightening", "plan_straightening", "straightened"]

MOST_SLICES = 2
"""The new grid has at most this many times the slices acquired: dcm2niix's limit."""

ON_THE_GRID = 1e-6
"""Voxels: a slice or pixel this near to a grid point is taken as it is, not interpolated."""


@dataclass(frozen=True)
class Straightening:
    """Where the slices acquired lie on the straight grid."""

    depths_vox: tuple[float, ...]
    """K of each slice, ascending from 0."""
    shifts_vox: tuple[tuple[float, float], ...]
    """(I, J) of each slice's first pixel, from 0 up."""
    shape: tuple[int, int, int]
    """(I, J, K) of the grid."""
    start_vox: tuple[int, int]
    """(I, J) of the grid's first voxel, counted from the first slice's first pixel."""
    step_mm: float
    """Between two slices of the grid."""
    tilt_degrees: float
    """How far the stack leans from its normal; 0 where it does not."""
    distances_mm: tuple[float, float]
    """Smallest and largest distance of the slices acquired, along their normal."""
    is_uneven: bool
    """Whether slices were interpolated between others."""


def plan_straightening(
    depths_mm: npt.ArrayLike,
    beside_mm: npt.ArrayLike,
    pixel_mm: tuple[float, float],
    size: tuple[int, int],
    *,
    even_step: float | None,
) -> Straightening:
    """The straight grid that holds every pixel of a stack, and where its slices lie on it.

    Args:
        depths_mm: (N,) slice positions along the normal, ascending.
        beside_mm: (N, 2) how far each slice's first pixel lies beside the normal through that of
            the first slice, along I and J; zero throughout an axis means no shift along it.
        pixel_mm: pixel size along I and J.
        size: pixels along I and J.
        even_step: the slice distance where it is even; None interpolates.

    >>> plan = plan_straightening([0, 1, 4], [[0, 0], [0, 1], [0, 4]], (1, 1), (5, 5),
    ...                           even_step=None)
    >>> plan.shape, plan.depths_vox, plan.tilt_degrees
    ((5, 9, 5), (0.0, 1.0, 4.0), 45.0)
    """
    depth = np.asarray(depths_mm, dtype=np.float64)
    beside = np.asarray(beside_mm, dtype=np.float64).reshape(len(depth), 2)
    along = float(depth[-1] - depth[0])
    distances = np.diff(depth)
    n_slices = len(depth)
    if even_step is None:
        n_slices = min(int(np.ceil(along / distances.min())) + 1, MOST_SLICES * len(depth))
    step = along / (n_slices - 1) if even_step is None else even_step
    depths = (depth - depth[0]) / step if even_step is None else np.arange(n_slices)
    shifts = beside / np.asarray(pixel_mm)
    start = np.floor(shifts.min(axis=0)).astype(int)
    more = np.ceil(shifts.max(axis=0)).astype(int) - start
    lean = float(np.linalg.norm(beside[-1] - beside[0]))
    return Straightening(
        depths_vox=tuple(float(d) for d in depths),
        shifts_vox=tuple((float(i), float(j)) for i, j in shifts - start),
        shape=(size[0] + int(more[0]), size[1] + int(more[1]), n_slices),
        start_vox=(int(start[0]), int(start[1])),
        step_mm=float(step),
        tilt_degrees=float(np.degrees(np.arctan2(lean, along))),
        distances_mm=(float(distances.min()), float(distances.max())),
        is_uneven=even_step is None,
    )


def straightened(
    slices: Iterable[npt.NDArray[np.floating]], plan: Straightening
) -> tuple[npt.NDArray[np.float32], float]:
    """(I, J, K) values on the straight grid, and the padding that stands where there are none.

    Args:
        slices: (I, J) each, finite, in the order of `plan`; two are held at a time.
        plan: from `plan_straightening`.
    """
    array = np.full(plan.shape, np.nan, dtype=np.float32)
    lowest = np.inf
    before: npt.NDArray[np.float32] | None = None
    for number, values in enumerate(slices):
        lowest = min(lowest, float(values.min()))
        after = _shifted(values, plan.shifts_vox[number], plan.shape[:2])
        if before is None:
            array[:, :, 0] = after
        else:
            _fill(array, before, after, plan.depths_vox[number - 1], plan.depths_vox[number])
        before = after
    padding = float(np.float32(lowest))
    np.copyto(array, np.float32(padding), where=np.isnan(array))
    return array, padding


def _fill(
    array: npt.NDArray[np.float32],
    before: npt.NDArray[np.float32],
    after: npt.NDArray[np.float32],
    low: float,
    high: float,
) -> None:
    """Every slice of the grid behind `low` up to `high`, interpolated between the two given."""
    first = int(np.floor(low + ON_THE_GRID)) + 1
    last = min(int(np.floor(high + ON_THE_GRID)), array.shape[2] - 1)
    for k in range(first, last + 1):
        weight = (k - low) / (high - low)
        if weight >= 1 - ON_THE_GRID:
            array[:, :, k] = after
        else:
            array[:, :, k] = _mixed(before, after, weight)


def _mixed(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], weight: float
) -> npt.NDArray[np.float32]:
    """`a` and `weight` of the way to `b`; where both are one number, that number exactly."""
    return np.asarray(a + (b - a) * np.float32(weight), dtype=np.float32)


def _shifted(
    values: npt.NDArray[np.floating], shift: tuple[float, float], shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """(I, J) `values` with their first pixel at `shift` of a larger plane; NaN around them."""
    moved = np.asarray(values, dtype=np.float32)
    for axis in (0, 1):
        moved = _shifted_along(moved, shift[axis], shape[axis], axis)
    return moved


def _shifted_along(
    values: npt.NDArray[np.float32], shift: float, n: int, axis: int
) -> npt.NDArray[np.float32]:
    """Grid points between two pixels get their mixture; those beyond the ends get NaN."""
    values = np.moveaxis(values, axis, 0)
    whole = int(np.floor(shift + ON_THE_GRID))
    part = shift - whole
    moved = np.full((n, *values.shape[1:]), np.nan, dtype=np.float32)
    if part <= ON_THE_GRID:
        moved[whole : whole + len(values)] = values
    else:
        moved[whole + 1 : whole + len(values)] = _mixed(values[1:], values[:-1], part)
    return np.moveaxis(moved, 0, axis)
