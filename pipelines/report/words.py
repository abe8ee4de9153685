"""Numbers, ranges, durations and sizes as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from radloom.pipelines.receipts.receipt import Check

__all__ = [
    "bytes_text",
    "count_text",
    "number_text",
    "range_text",
    "seconds_text",
    "triple_text",
    "words_text",
]


def number_text(value: float | None) -> str:
    """Four significant digits at most.

    >>> number_text(0.123456), number_text(12345.6), number_text(2.0)
    ('0.1235', '12,346', '2')
    """
    if value is None:
        return ""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def range_text(check: Check) -> str:
    """The range in words.

    >>> range_text(Check("folded", 0.0, high=0.01)), range_text(Check("n", 1.0))
    ('at most 0.01', '')
    """
    if check.low is not None and check.high is not None:
        same = check.low == check.high
        return number_text(check.low) if same else (
            f"{number_text(check.low)} to {number_text(check.high)}"
        )  # fmt: skip
    if check.high is not None:
        return f"at most {number_text(check.high)}"
    return f"at least {number_text(check.low)}" if check.low is not None else ""


def seconds_text(seconds: float) -> str:
    """A duration for people.

    >>> seconds_text(3.21), seconds_text(200), seconds_text(4020)
    ('3.2 s', '3 min 20 s', '1 h 7 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def bytes_text(count: int) -> str:
    """A size in MiB or GiB; empty for none.

    >>> bytes_text(3 * 2**29)
    '1.5 GiB'
    """
    if not count:
        return ""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def triple_text(values: Iterable[float]) -> str:
    """Numbers joined by a multiplication sign.

    >>> triple_text((256, 256, 176))
    '256 × 256 × 176'
    """
    return " \u00d7 ".join(f"{value:.4g}" for value in values)


def words_text(name: str) -> str:
    """A name of underscored words as text.

    >>> words_text("missing_slice")
    'missing slice'
    """
    return name.replace("_", " ")


def count_text(count: int) -> str:
    """A whole number with its thousands apart.

    >>> count_text(12345)
    '12,345'
    """
    return f"{count:,}"
