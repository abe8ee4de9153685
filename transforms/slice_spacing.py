"""Whether slices follow each other at one distance; where they do not, which and where.

Positions are millimetres along the slices' normal, ascending, and stand so in every message.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from radloom.errors import ReasonCode, SeriesRefused

__all__ = ["even_spacing", "named"]

SPACING_TOLERANCE = 0.01
"""Largest relative deviation of a slice distance: the default of highdicom's volume geometry."""

SPACING_TOLERANCE_MM = 0.02
"""Floor of the tolerance above: positions written with two decimals differ by this much."""

GAP_TOLERANCE = 0.1
"""How near a gap must be to a whole number of slice distances for slices to be called missing."""

CROWDED = 0.5
"""Slices nearer than this share of the usual distance overlap: two runs of a scan that meet."""

MOST_NAMED = 5
"""How many positions a message names before it says that there are more."""


def even_spacing(depth: npt.NDArray[np.float64], *, may_be_uneven: bool) -> float | None:
    """The slice distance in mm; None where distances are uneven, and may be.

    Args:
        depth: (N,) positions, ascending, no two at one place.
        may_be_uneven: whether slices are going to be interpolated.

    Raises:
        SeriesRefused: they are not even, and may not be, or slices are missing.

    >>> even_spacing(np.array([5.0, 7.0, 9.0, 11.0]), may_be_uneven=False)
    2.0
    """
    if len(depth) == 1:
        return 1.0
    steps = np.diff(depth)
    typical = float(np.median(steps))
    tolerance = max(SPACING_TOLERANCE * typical, SPACING_TOLERANCE_MM)
    mean = float((depth[-1] - depth[0]) / (len(depth) - 1))
    drift = np.abs(depth - (depth[0] + mean * np.arange(len(depth)))).max()
    wrong = np.abs(steps - typical) > tolerance
    if not wrong.any() and drift <= tolerance:
        return mean
    if wrong.any():
        _require_none_missing(depth, steps)
    if may_be_uneven:
        return None
    raise SeriesRefused(
        ReasonCode.UNEVEN_SPACING,
        _unevenness(depth, wrong, typical)
        if wrong.any()
        else f"expected even slice distances, got slices up to {drift:.2f} mm off an even grid of "
        f"{mean:.3f} mm; the workflow may resample them (uneven_spacing: resample)",
    )


def _require_none_missing(depth: npt.NDArray[np.float64], steps: npt.NDArray[np.float64]) -> None:
    """Nothing, unless uneven steps are a few whole slices absent from an even grid.

    Raises:
        SeriesRefused: MISSING_SLICE.
    """
    base = float(steps.min())
    wide = steps / base
    whole = np.abs(wide - np.round(wide)) <= GAP_TOLERANCE
    absent = np.round(wide).astype(int) - 1
    if not whole.all() or not 0 < absent.sum() < len(depth) / 2:
        return
    places = [
        float(depth[i] + (n + 1) * steps[i] / (absent[i] + 1))
        for i in np.flatnonzero(absent)
        for n in range(absent[i])
    ]
    raise SeriesRefused(
        ReasonCode.MISSING_SLICE,
        f"expected a slice every {base:.3f} mm, got none at {named(places)} mm along the normal "
        f"({len(places)} missing of {len(depth) + len(places)}); find the files and run again",
    )


def _unevenness(
    depth: npt.NDArray[np.float64], wrong: npt.NDArray[np.bool_], typical: float
) -> str:
    """Which distances are not the usual one, and where; overlapping slices by that name."""
    steps = np.diff(depth)
    crowded = [
        f"{depth[i]:.2f} and {depth[i + 1]:.2f}"
        for i in np.flatnonzero(wrong)
        if steps[i] < CROWDED * typical
    ]
    wide = [
        f"{depth[i]:.2f} and {depth[i + 1]:.2f}"
        for i in np.flatnonzero(wrong)
        if steps[i] >= CROWDED * typical
    ]
    told = [f"slices overlap at {_listed(crowded)} mm"] if crowded else []
    told += [f"others lie between {_listed(wide)} mm"] if wide else []
    return (
        f"expected even slice distances, got {steps.min():.3f} to {steps.max():.3f} mm, "
        f"{typical:.3f} mm as a rule: {'; '.join(told)} along the normal; the workflow may "
        "resample them (uneven_spacing: resample)"
    )


def named(places: Sequence[float]) -> str:
    """Positions in mm, ascending, the first few.

    >>> named([4.0, 2.5])
    '2.50, 4.00'
    """
    return _listed([f"{place:.2f}" for place in sorted(places)])


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:MOST_NAMED]) + (", ..." * (len(words) > MOST_NAMED))
