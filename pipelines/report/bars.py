"""Checks as bars: the range as a band, and where the value, or those of all studies, lie."""

from __future__ import annotations

import math
from collections.abc import Iterable

from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.report.cohort import CheckSpread, scale_of

__all__ = ["bar_of", "bins_of", "dots_of"]

N_BINS = 60
N_NAMED = 12
"""Studies of a histogram that get a dot of their own."""


def bar_of(check: Check) -> dict[str, float]:
    """Percentages of a bar's width: the start and width of the range, the place of the value."""
    low, high = scale_of(check)
    start = _share(check.low, low, high, 0.0)
    end = _share(check.high, low, high, 100.0)
    return {"start": start, "width": end - start, "mark": _share(check.value, low, high, -1.0)}


def dots_of(
    check: Check,
    values: Iterable[tuple[str, float, bool]],
    *,
    scale: tuple[float, float] | None = None,
) -> dict[str, object]:
    """As `bar_of`, with a place for each (study, value, flagged); `scale` as by `scale_of`."""
    values = tuple(values)
    low, high = scale or scale_of(check, [value for _, value, _ in values])
    start = _share(check.low, low, high, 0.0)
    end = _share(check.high, low, high, 100.0)
    dots = [(key, value, flagged, _share(value, low, high, 0.0)) for key, value, flagged in values]
    return {"start": start, "width": end - start, "dots": dots, "path": ""}


def bins_of(spread: CheckSpread) -> dict[str, object]:
    """As `dots_of` where there are too many: a histogram, and dots for those farthest out.

    `path` is that of a shape in a box of `N_BINS` x 100, heights by the square root of the count,
    so that a single study still shows.
    """
    values = [value for _, value, _ in spread.values]
    low, high = scale_of(spread.check, values)
    counts = [0] * N_BINS
    for value in values:
        counts[min(N_BINS - 1, int(N_BINS * (value - low) / (high - low)))] += 1
    tallest = max(counts)
    steps = (f"V{100 - round(100 * (n / tallest) ** 0.5)}h1" for n in counts)
    return {
        **dots_of(spread.check, _farthest(spread), scale=(low, high)),
        "path": f"M0 100{''.join(steps)}V100z",
        "n_bins": N_BINS,
    }


def _farthest(spread: CheckSpread) -> list[tuple[str, float, bool]]:
    """The studies that deserve a look first: out of range, then far from the median."""
    middle = spread.check.value
    far = sorted(spread.values, key=lambda item: (not item[2], -abs(item[1] - middle), item[0]))
    return sorted(far[:N_NAMED])


def _share(value: float | None, low: float, high: float, otherwise: float) -> float:
    if value is None or not math.isfinite(value):
        return otherwise
    return round(100 * (value - low) / (high - low), 2)
