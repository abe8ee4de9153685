"""Linear attenuation of 511 keV photons from HU, for the attenuation correction of PET."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radloom.errors import ConfigError

__all__ = ["AIR_TO_WATER", "BONE_LINES", "BoneLine", "attenuation_511kev"]

AIR_TO_WATER = 9.6e-5
"""cm-1 for each HU above -1000, from air to the break; the same at every tube voltage."""


@dataclass(frozen=True)
class BoneLine:
    """The line above the break, where calcium absorbs more of a CT's photons than of PET's."""

    slope: float
    """cm-1 for each HU."""
    intercept: float
    """cm-1 at -1000 HU."""
    break_hu: float
    """Where it begins."""


BONE_LINES: Mapping[int, BoneLine] = {
    80: BoneLine(3.64e-5, 6.26e-2, 50),
    100: BoneLine(4.43e-5, 5.44e-2, 52),
    110: BoneLine(4.92e-5, 4.88e-2, 43),
    120: BoneLine(5.10e-5, 4.71e-2, 47),
    130: BoneLine(5.51e-5, 4.24e-2, 37),
    140: BoneLine(5.64e-5, 4.08e-2, 30),
}
"""Tube voltage in kVp -> line; Carney et al. 2006, doi:10.1118/1.2174132."""


def attenuation_511kev(hu: npt.ArrayLike, *, kvp: int = 120) -> npt.NDArray[np.float32]:
    r"""The linear attenuation coefficient at 511 keV in cm-1, of the same shape, float32.

    .. math:: \mu = 9.6 \cdot 10^{-5} (HU + 1000) \text{ below the break, }
              \mu = a (HU + 1000) + b \text{ above}

    and never below 0. Air is 0, water 0.096. Bilinear scaling after Carney, Townsend, Rappoport and
    Bendriem, Method for transforming CT images for attenuation correction in PET/CT imaging,
    Medical Physics 33, 2006, doi:10.1118/1.2174132.

    Args:
        hu: CT numbers.
        kvp: of the tube that the numbers belong to; Radloom's pseudo-CT is one at 120.

    Raises:
        ConfigError: a voltage that was not measured.

    Example:
        >>> [round(float(mu), 4) for mu in attenuation_511kev([-1000, 0, 1000])]
        [0.0, 0.096, 0.1491]
    """
    if kvp not in BONE_LINES:
        raise ConfigError(f"expected a tube voltage of {sorted(BONE_LINES)} kVp, got {kvp}")
    line = BONE_LINES[kvp]
    above_air = np.asarray(hu, dtype=np.float64) + 1000.0
    soft = AIR_TO_WATER * above_air
    bone = line.slope * above_air + line.intercept
    found = np.where(above_air > line.break_hu + 1000.0, bone, soft)
    return np.maximum(found, 0.0).astype(np.float32)
