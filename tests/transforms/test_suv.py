"""SUV from headers, against numbers worked out by hand from the definition."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radloom.errors import ReasonCode, SeriesRefused
from radloom.transforms.suv import PetImage, activity_scale, scale_slices, suv_scale

F18_S = 6586.2
WEIGHT_KG, DOSE_BQ = 70.0, 350e6

FDG = PetImage(
    units="BQML",
    maker="SIEMENS",
    corrected=("DECY", "ATTN", "SCAT", "DTIM", "RAN", "NORM"),
    decay_correction="START",
    weight_kg=WEIGHT_KG,
    dose_bq=DOSE_BQ,
    half_life_s=F18_S,
    injection_datetime="20240510101500.000000",
    injection_time="101500.000000",
    series_date="20240510",
    series_time="111500.000000",
    acquisition_date="20240510",
    acquisition_time="111500.000000",
)
"""A patient injected an hour before the scan."""


def factor(decay_s: float, dose: float = DOSE_BQ, half_life: float = F18_S) -> float:
    """SUVbw for one Bq/mL: weight in g over what is left of the dose."""
    return WEIGHT_KG * 1000 / (dose * 0.5 ** (decay_s / half_life))


def beds(image: PetImage, *times: str, **changes) -> list[PetImage]:
    return [replace(image, acquisition_time=time, **changes) for time in times]


def refused(images, match, code=ReasonCode.SUV_UNKNOWN):
    with pytest.raises(SeriesRefused, match=match) as caught:
        suv_scale(images)
    assert caught.value.code is code
    # Values of the patient stay out of what is told.
    assert not any(str(number) in caught.value.detail for number in ("70.0", "350", "101500"))


def test_start_is_the_series_time_for_every_bed_position():
    scale = suv_scale(beds(FDG, "111500", "111800", "112100"))
    assert scale.factors == pytest.approx([factor(3600)] * 3)
    assert (scale.units, scale.decay_s) == ("SUV", 3600)
    assert scale.source == "SeriesTime (0008,0031)"


def test_uniform_phantom_reads_one():
    """A body of density 1 that holds the whole dose evenly has SUV 1 by definition."""
    left = DOSE_BQ * 0.5 ** (3600 / F18_S)
    activity = left / (WEIGHT_KG * 1000)
    assert activity * suv_scale([FDG]).factors[0] == pytest.approx(1.0)


def test_admin_stands_for_the_injection_and_needs_no_times():
    image = replace(
        FDG, decay_correction="ADMIN", injection_datetime="", injection_time="", half_life_s=None
    )
    scale = suv_scale([image])
    assert scale.factors == pytest.approx([factor(0)])
    assert scale.decay_s == 0


def test_siemens_clocks_that_differ_by_microseconds_are_one_scan():
    images = beds(FDG, "111459.999985", "111800")
    assert suv_scale(images).source == "SeriesTime (0008,0031)"


def test_a_series_made_later_is_computed_back_from_each_frame():
    """Reframed or processed anew: the series is an hour later than what it shows."""
    duration = 180.0
    rate = log(2) / F18_S
    average = log(rate * duration / (1 - exp(-rate * duration))) / rate
    assert 89 < average < 90
    images = [
        replace(
            FDG,
            series_time="131500",
            acquisition_time=time,
            frame_reference_ms=1000 * (start + average),
            frame_duration_ms=1000 * duration,
        )
        for start, time in ((0, "111500"), (200, "111820"), (400, "112140"))
    ]
    scale = suv_scale(images)
    assert scale.factors == pytest.approx([factor(3600)] * 3, rel=1e-6)
    assert scale.source == "FrameReferenceTime (0054,1300)"
    # Only the last bed position is there: the start of the scan is still found.
    assert suv_scale(images[2:]).factors == pytest.approx([factor(3600)], rel=1e-6)


def test_frames_that_disagree_on_the_start_are_refused():
    images = [
        replace(
            FDG,
            series_time="131500",
            acquisition_time=time,
            frame_reference_ms=90_000.0,
            frame_duration_ms=180_000.0,
        )
        for time in ("111500", "112140")
    ]
    refused(images, "expected one start of the scan.*400 s apart")


def test_a_start_after_the_first_image_is_refused():
    image = replace(FDG, series_time="131500", frame_reference_ms=1.0, frame_duration_ms=600_000.0)
    refused([image], "FrameReferenceTime .*298 s apart")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"frame_reference_ms": 0.0, "frame_duration_ms": 180_000.0},
        {"frame_reference_ms": 90_000.0, "frame_duration_ms": 0.0},
    ],
)
def test_a_later_series_without_frame_times_is_no_guess(changes):
    refused([replace(FDG, series_time="131500", **changes)], "FrameReferenceTime")


@pytest.mark.parametrize("maker", ["PHILIPS MEDICAL SYSTEMS", "GE MEDICAL SYSTEMS", ""])
def test_frame_times_of_other_makers_mean_other_things(maker):
    image = replace(
        FDG,
        maker=maker,
        series_time="131500",
        frame_reference_ms=89_700.0,
        frame_duration_ms=180_000.0,
    )
    assert suv_scale([replace(image, maker="CPS")]).decay_s == pytest.approx(3600, abs=1)
    refused([image], "expected GE's scan time .* or a Siemens scanner")


def test_ge_says_when_the_scan_was_in_a_private_element():
    images = beds(
        FDG, "111500", "111900", series_time="140000", ge_scan_datetime="20240510111500.00"
    )
    scale = suv_scale(images)
    assert scale.factors == pytest.approx([factor(3600)] * 2)
    assert scale.source == "GE scan time (0009,100D)"
    late = [replace(i, ge_scan_datetime="20240510113000.00") for i in images]
    refused(late, "900 s apart")


@pytest.mark.parametrize(
    ("injected", "series", "acquired", "hours"),
    [
        ("230000", ("20240511", "003000"), ("20240511", "003000"), 1.5),
        ("235959", ("20240511", "000000"), ("20240511", "000000"), 1 / 3600),
        ("003000", ("20240511", "013000"), ("20240511", "013000"), 1.0),
        # The scan itself runs over midnight: the series begins on the first day.
        ("225000", ("20240510", "235000"), ("20240511", "000200"), 1.0),
    ],
)
def test_an_injection_before_midnight_lies_on_the_day_before(injected, series, acquired, hours):
    image = replace(
        FDG,
        injection_datetime="",
        injection_time=injected,
        series_date=series[0],
        series_time=series[1],
        acquisition_date=acquired[0],
        acquisition_time=acquired[1],
    )
    scale = suv_scale([image])
    assert scale.decay_s == pytest.approx(hours * 3600)
    dated = replace(
        image,
        injection_datetime=("20240510" if injected > "1200" else series[0]) + injected,
    )
    assert suv_scale([dated]).decay_s == pytest.approx(hours * 3600)


def test_the_day_of_a_long_lived_nuclide_must_be_said():
    """Zirconium-89 is scanned days after its injection: a time of day is not enough."""
    image = replace(FDG, half_life_s=282_240.0, injection_datetime="")
    refused([image], "the day of injection of a nuclide")
    dated = replace(image, injection_datetime="20240506101500")
    days = 4 * 86400 + 3600
    assert suv_scale([dated]).factors == pytest.approx([factor(days, half_life=282_240.0)])


@pytest.mark.parametrize(
    ("injected", "offset"),
    [
        ("20240510101500+0200", "+0200"),
        ("20240510081500+0000", "+0200"),
        ("20240510041500.00-0400", "+0200"),
        ("20240510101500", "+0200"),
        ("20240510101500+0200", ""),
        ("20240510101500", ""),
    ],
)
def test_time_zones_are_counted_in(injected, offset):
    image = replace(FDG, injection_datetime=injected, utc_offset=offset)
    assert suv_scale([image]).decay_s == 3600


def test_a_zone_that_cannot_be_related_is_refused():
    """A time with a zone beside times without: one hour would be 46 % of fluorine-18's SUV."""
    image = replace(FDG, injection_datetime="20240510081500+0000", utc_offset="")
    refused([replace(image, injection_time="")], "TimezoneOffsetFromUTC")
    refused([image], "expected the time of day of Radiopharm.*another, 7200 s apart")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"weight_kg": None}, r"PatientWeight \(0010,1030\) in kg: .* got none"),
        ({"weight_kg": 0.0}, "PatientWeight"),
        ({"weight_kg": 70_000.0}, "PatientWeight"),
        ({"dose_bq": None}, r"RadionuclideTotalDose \(0018,1074\) in Bq: .* got none"),
        ({"dose_bq": 0.0}, "RadionuclideTotalDose"),
        ({"dose_bq": 370.0}, "RadionuclideTotalDose"),
        ({"n_doses": 2}, "RadiopharmaceuticalInformationSequence"),
        ({"n_doses": 0}, "RadiopharmaceuticalInformationSequence"),
        ({"half_life_s": None}, "RadionuclideHalfLife"),
        ({"half_life_s": 0.0}, "RadionuclideHalfLife"),
        ({"corrected": ("DECY",)}, "expected ATTN and DECY, got DECY"),
        ({"corrected": ()}, "CorrectedImage"),
        ({"decay_correction": "NONE"}, "expected START or ADMIN, got NONE"),
        ({"decay_correction": ""}, "expected START or ADMIN, got none"),
        ({"injection_datetime": "", "injection_time": ""}, "the time of injection, got none"),
        ({"injection_datetime": "2024"}, "StartDateTime .* a date, got something else"),
        ({"injection_datetime": "20240510121500", "injection_time": ""}, "-3600 s of a half-life"),
        ({"injection_datetime": "20230510101500"}, "at most 10 half-lives"),
        ({"series_date": ""}, r"SeriesDate .* expected a date, got none"),
        ({"series_date": "20240231"}, "a day that no calendar has"),
        ({"series_time": ""}, "expected a time of day, got none"),
        ({"series_time": "251500"}, "expected a time of day, got something else"),
        ({"acquisition_time": ""}, "AcquisitionTime"),
        ({"utc_offset": "Berlin"}, "a zone such as"),
        ({"units": "PROPCPS"}, "expected BQML, CNTS or GML, got PROPCPS"),
    ],
)
def test_what_is_missing_or_wrong_is_said_and_never_made_up(changes, match):
    refused([replace(FDG, **changes)], match)


WORDS = st.sampled_from(
    ["", "20240510", "00010101", "99991231", "111500", "235959.999999", "20240510101500",
     "99991231235959+1400", "00010101000000-1200", "+0100", "-1400", "x", "24:00"]
)  # fmt: skip
NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_header_gives_a_finite_factor_or_a_reason(data):
    changes = {}
    for name, kind in PetImage.__annotations__.items():
        if kind == "str" and name not in ("units", "maker", "suv_type", "decay_correction"):
            changes[name] = data.draw(st.just(getattr(FDG, name)) | WORDS)
        elif kind == "float | None":
            changes[name] = data.draw(st.just(getattr(FDG, name)) | NUMBERS)
    changes["units"] = data.draw(st.sampled_from(["BQML", "CNTS", "GML"]))
    image = replace(FDG, **changes)
    try:
        scale = suv_scale([image, replace(image, acquisition_time=data.draw(WORDS))])
    except SeriesRefused as refusal:
        assert refusal.code is ReasonCode.SUV_UNKNOWN  # noqa: PT017  # nothing else may be raised
        return
    assert np.isfinite(scale.factors).all()
    assert min(scale.factors) > 0


def test_values_that_change_within_a_series_are_refused():
    refused([FDG, replace(FDG, weight_kg=71.0)], "one value throughout the series, got 2")


def test_philips_counts_become_suv_by_either_private_factor():
    counts = replace(FDG, units="CNTS")
    direct = [replace(counts, philips_suv=s, philips_activity=2.0) for s in (0.001, 0.002)]
    scale = suv_scale(direct)
    assert scale.factors == (0.001, 0.002)
    assert "(7053,1000)" in scale.source
    activity = [replace(counts, philips_activity=a) for a in (1.5, 2.5)]
    assert suv_scale(activity).factors == pytest.approx([1.5 * factor(3600), 2.5 * factor(3600)])
    refused([counts], r"\(7053,1000\) or \(7053,1009\)")
    refused([activity[0], counts], "0 and 1 of 2")
    # A factor needs the corrections all the same, and the activity factor everything else.
    refused([replace(direct[0], corrected=("DECY",))], "ATTN and DECY")
    refused([replace(activity[0], dose_bq=None)], "RadionuclideTotalDose")


def test_suv_that_is_stored_must_be_by_body_weight():
    stored = replace(FDG, units="GML", weight_kg=None)
    assert suv_scale([stored]).factors == (1.0,)
    assert suv_scale([replace(stored, suv_type="BW")]).units == "SUV"
    refused([replace(stored, suv_type="LBM")], "expected BW, got LBM")


def test_activity_is_taken_as_stored_or_from_philips_counts():
    assert activity_scale([FDG, FDG]).factors == (1.0, 1.0)
    assert activity_scale([FDG]).units == "Bq/mL"
    counts = replace(FDG, units="CNTS", philips_activity=3.0, weight_kg=None)
    assert activity_scale([counts]).factors == (3.0,)
    assert activity_scale([replace(FDG, units="GML")]).units == "SUV"
    for image, match in (
        (replace(FDG, units="CNTS"), "got CNTS without Philips' activity factor"),
        (replace(FDG, units=""), "expected BQML, got none"),
        (replace(FDG, units="GML", suv_type="BSA"), "expected BW, got BSA"),
    ):
        with pytest.raises(SeriesRefused, match=match) as caught:
            activity_scale([image])
        assert caught.value.code is ReasonCode.AMBIGUOUS_UNITS


def test_slices_get_their_own_factor_in_time_too():
    array = np.ones((2, 3, 4, 3), np.float32)
    scale_slices(array, [1, 2, 3, 4, 5, 6])
    assert array[:, 0, 0, :].tolist() == [[1, 3, 5], [2, 4, 6]]
    flat = np.ones((2, 2, 3), np.float32)
    scale_slices(flat, [1, 2, 3])
    assert flat[0, 0].tolist() == [1, 2, 3]
    scale_slices(flat, [2.0] * 7)
    assert flat[0, 0].tolist() == [2, 4, 6]
    with pytest.raises(SeriesRefused, match="one factor for all of 2 images"):
        scale_slices(flat, [1, 2])
