"""Numbers of a volume as the integers that classic images hold, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["StoredForm", "stored_form"]

_HU_LIMITS = (-32768, 32767)
SIGNED_MAX, UNSIGNED_MAX = 32767, 65535


@dataclass(frozen=True)
class StoredForm:
    """How values become 16-bit integers: value = stored * slope."""

    slope: float
    """RescaleSlope (0028,1053); exactly the number that `slope_text` reads back to."""
    signed: bool
    """PixelRepresentation (0028,0103)."""

    @property
    def slope_text(self) -> str:
        """The slope as a DS: at most 16 characters."""
        return _decimal(self.slope)

    def stored(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The integers of `values`, rounded to the nearest, little-endian."""
        dtype = "<i2" if self.signed else "<u2"
        limits = np.iinfo(dtype)
        scaled = np.rint(np.asarray(values, dtype=np.float64) / self.slope)
        return np.clip(scaled, limits.min, limits.max).astype(dtype)

    def values(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The numbers that the integers stand for."""
        return np.asarray(stored, dtype=np.float64) * self.slope


def stored_form(values: npt.NDArray[Any], *, hounsfield: bool = False) -> StoredForm:
    """The form with the finest step that holds all of `values`.

    Whole numbers keep a step of 1 wherever they fit. HU always get a step of 1 and a sign, as
    planning systems expect of a CT, unless they do not fit. Other values without a sign spread over
    65535 steps, with one over 32767 on either side.

    >>> stored_form(np.array([0.0, 1.5]))
    StoredForm(slope=2.28886e-05, signed=False)
    >>> stored_form(np.array([-1024.0, 60.25]), hounsfield=True)
    StoredForm(slope=1.0, signed=True)
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    signed = hounsfield or low < 0
    largest = SIGNED_MAX if signed else UNSIGNED_MAX
    reach = max(abs(low), abs(high))
    whole = hounsfield or bool((values == np.rint(values)).all())
    if reach == 0 or (whole and reach <= largest):
        return StoredForm(1.0, signed)
    return StoredForm(_rounded_up(reach / largest), signed)


def _rounded_up(slope: float) -> float:
    """The next number with six digits, so that the largest value still fits."""
    digits = 5 - math.floor(math.log10(slope))
    shift = 10.0**digits
    return float(f"{math.ceil(slope * shift * (1 - 1e-12)) / shift:.6g}")


def _decimal(number: float) -> str:
    text = repr(number)
    return text if len(text) <= 16 else f"{number:.9g}"
