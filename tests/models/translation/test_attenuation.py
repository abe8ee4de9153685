"""Attenuation at 511 keV: continuous, known materials, one line for each voltage."""

from __future__ import annotations

import numpy as np
import pytest

from radloom.errors import ConfigError
from radloom.models.translation.attenuation import AIR_TO_WATER, BONE_LINES, attenuation_511kev


def test_air_water_and_what_lies_below_air() -> None:
    found = attenuation_511kev(np.array([[-1024.0, -1000.0], [0.0, -500.0]], np.float32))
    np.testing.assert_allclose(found, [[0, 0], [0.096, 0.048]], atol=1e-7)
    assert found.dtype == np.float32


@pytest.mark.parametrize("kvp", sorted(BONE_LINES))
def test_the_two_lines_meet_at_the_break(kvp: int) -> None:
    line = BONE_LINES[kvp]
    below = AIR_TO_WATER * (line.break_hu + 1000)
    assert line.slope * (line.break_hu + 1000) + line.intercept == pytest.approx(below, abs=1e-4)
    hu = np.arange(-1024, 3072)
    found = attenuation_511kev(hu, kvp=kvp)
    steps = np.diff(found)
    assert (steps > -1e-4).all()
    assert steps.max() < 2e-4


def test_bone_of_one_density_is_the_same_at_every_voltage() -> None:
    # dense bone, 1.9 g/cm3, reads about 1230 HU at 140 kVp and 1700 HU at 80 kVp; 0.164 to 0.166
    low, high = (attenuation_511kev(hu, kvp=kvp) for hu, kvp in ((1700.0, 80), (1230.0, 140)))
    assert float(low) == pytest.approx(float(high), rel=0.05)
    # cortical bone of ICRU 44, 1.92 g/cm3, has 0.0894 cm2/g at 511 keV (NIST)
    assert float(low) == pytest.approx(0.0894 * 1.92, rel=0.1)


def test_an_unknown_voltage_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a tube voltage of \[80, 100, .*got 90"):
        attenuation_511kev(0.0, kvp=90)
