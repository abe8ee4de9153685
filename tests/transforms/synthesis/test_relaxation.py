from __future__ import annotations

import pytest

from radloom.errors import InputError
from radloom.transforms.synthesis.relaxation import TISSUES_MR, relaxation_of
from radloom.transforms.synthesis.tissues import CODES, Code


def test_t2_star_is_shorter_than_t2_and_longer_at_the_lower_field():
    assert len(TISSUES_MR) == CODES
    for code in Code:
        t2 = relaxation_of(code, 3.0, gradient_echo=False).t2_ms
        star = relaxation_of(code, 3.0, gradient_echo=True).t2_ms
        low = relaxation_of(code, 1.5, gradient_echo=True).t2_ms
        assert star < t2
        assert low > 0.98 * star


def test_t1_grows_with_the_field_but_for_water():
    for code in set(Code) - {Code.AIR, Code.CAVITY}:
        low, high = (relaxation_of(code, t, gradient_echo=False).t1_ms for t in (1.5, 3.0))
        assert low <= high


def test_grey_nuclei_lie_between_white_matter_and_cortex_at_both_fields():
    for field_t in (1.5, 3.0):
        white, grey = (
            relaxation_of(c, field_t, gradient_echo=False).t1_ms for c in (Code.WHITE, Code.CORTEX)
        )
        for code in (Code.PALLIDUM, Code.THALAMUS, Code.PUTAMEN, Code.CAUDATE):
            assert white < relaxation_of(code, field_t, gradient_echo=False).t1_ms < grey


def test_a_field_without_values_is_refused():
    with pytest.raises(InputError, match="field strength"):
        relaxation_of(Code.WHITE, 0.5, gradient_echo=False)
