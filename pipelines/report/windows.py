"""From numbers to grey: which value is black, which is white, and how a picture says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.pipelines.report.canvas import N_GREYS

__all__ = ["BONE", "BRAIN", "SOFT", "Window", "residual_window", "robust_window"]


@dataclass(frozen=True)
class Window:
    """The values shown as black and as white."""

    low: float
    high: float
    text: str
    """What the picture says of it."""

    def grey(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Grey levels 0..N_GREYS-1 of values of any shape; black where there is no value (NaN)."""
        share = (np.asarray(values, dtype=np.float32) - self.low) / (self.high - self.low)
        levels = np.clip(np.nan_to_num(share, nan=0.0) * N_GREYS, 0, N_GREYS - 1)
        return np.asarray(levels, dtype=np.uint8)


BRAIN = Window(0.0, 80.0, "brain window, W 80 L 40 HU")
SOFT = Window(-160.0, 240.0, "soft tissue window, W 400 L 40 HU")
BONE = Window(-500.0, 1500.0, "bone window, W 2000 L 500 HU")


def robust_window(inside: npt.NDArray[Any], *, units: str = "arbitrary") -> Window:
    """The 1st to the 98th percentile of the values inside the head, widened for what lies beyond.

    Fat of the skull base may be three times as bright as the brain: it may saturate, the brain may
    not be dark.

    Args:
        inside: values of any shape.
        units: said in the picture unless arbitrary.
    """
    low, high = (float(v) for v in np.percentile(inside, (1.0, 98.0)))
    reserve = high - low if high > low else 1.0
    low, high = low - 0.05 * reserve, high + 0.15 * reserve
    unit = "" if units == "arbitrary" else f" {units}"
    return Window(low, high, f"window {_short(low)} to {_short(high)}{unit}")


def residual_window(inside: npt.NDArray[Any], reference: Window) -> Window:
    """Symmetric about zero, wide enough for 97% of the residual inside the head."""
    reach = float(np.percentile(np.abs(inside), 97.0)) if inside.size else 0.0
    width = reference.high - reference.low
    reach = reach if reach > 0 else width / 100
    gain = width / (2 * reach)
    return Window(
        -reach, reach, f"grey is 0, shown to \u00b1{_short(reach)} ({_short(gain)}x contrast)"
    )


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
