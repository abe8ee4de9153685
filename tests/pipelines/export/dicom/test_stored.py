import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radloom.pipelines.export.dicom.stored import stored_form


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
    st.booleans(),
)
def test_every_value_is_within_half_a_step(
    values: list[float], scale: float, hounsfield: bool
) -> None:
    array = np.array(values) * scale
    form = stored_form(array, hounsfield=hounsfield)
    stored = form.stored(array)
    assert np.abs(form.values(stored) - array).max() <= form.slope * (0.5 + 1e-6)
    assert float(form.slope_text) == form.slope
    assert len(form.slope_text) <= 16


@pytest.mark.parametrize(
    ("values", "hounsfield", "slope", "signed"),
    [
        ([0, 4095], False, 1.0, False),
        ([-3, 4095], False, 1.0, True),
        ([-1024.4, 3071.2], True, 1.0, True),
        ([0, 70000], False, 70000 / 65535, False),
        ([0, 0], False, 1.0, False),
    ],
)
def test_step_and_sign(values: list[float], hounsfield: bool, slope: float, signed: bool) -> None:
    form = stored_form(np.array(values, dtype=np.float64), hounsfield=hounsfield)
    assert form.slope == pytest.approx(slope, rel=1e-5)
    assert form.signed is signed
