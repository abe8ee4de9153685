"""Standardised uptake values of PET (SUV, body weight) from header values, or the reason why not.

    SUVbw = activity [Bq/mL] * weight [g] / dose left when the activity is taken to be [Bq]

The steps are those of QIBA's vendor-neutral pseudo-code for SUV calculation (RSNA Quantitative
Imaging Biomarkers Alliance, FDG-PET/CT technical committee; version of 26 June 2018,
https://qibawiki.rsna.org/index.php/Standardized_Uptake_Value_(SUV)), in its robust form:

1. CorrectedImage (0028,0051) holds ATTN and DECY, and DecayCorrection (0054,1102) is START. Added
   here: ADMIN, whose activity stands for the moment of injection, so that nothing decays in between
   (DICOM PS3.3 C.8.9.1); NONE is refused.
2. Units (0054,1001) BQML: weight, dose, half-life and two moments make the factor.
   a. The moment that START stands for is SeriesDate and SeriesTime, unless it is later than the
      earliest AcquisitionDate and AcquisitionTime: a series made after the scan has a new time.
   b. Then it is the scan's date and time in GE's private (0009,100D), where that is;
   c. else, for Siemens, it is computed back from each image: AcquisitionTime, less
      FrameReferenceTime (0054,1300), plus the moment of the average count rate within the frame,
      which is ln(d / (1 - exp(-d))) / lambda after its start, where lambda = ln 2 / half-life and
      d = lambda * ActualFrameDuration (0018,1242). All images must give the same moment. Others'
      FrameReferenceTime means other things (Philips has AcquisitionTime of the frame beside it on
      some scanners and of the scan on others; GE writes zero), so that they are refused. The
      pseudo-code allows the earliest AcquisitionTime too, and says that it is wrong for some
      series; it is not taken here.
   d. Injection is RadiopharmaceuticalStartDateTime (0018,1078), else RadiopharmaceuticalStartTime
      (0018,1072) on the day of the scan, or on the day before where it would lie after the scan.
      The latter is certain only if nothing would be left after another day.
   e. The dose, RadionuclideTotalDose (0018,1074), halves with every RadionuclideHalfLife
      (0018,1075) from injection to that moment. What stayed in the syringe is not known.
   f. SUVbw = Bq/mL * PatientWeight (0010,1030) * 1000 / dose left.
3. Units CNTS: Philips' private SUV factor (7053,1000) makes SUVbw of the rescaled value; without
   it, Philips' activity factor (7053,1009) makes Bq/mL of it, and step 2 follows.
4. Units GML: stored as SUV; SUVType (0054,1006), where there is one, must be BW (C.8.9.1: absent
   means BW).
5. Not in the pseudo-code: an enhanced PET image (PS3.3 C.8.22) names the moment itself,
   DecayCorrectionDateTime (0018,9701), which takes the place of 2a to 2c. That decay and
   attenuation are corrected is said by DecayCorrected (0018,9758) and AttenuationCorrected
   (0018,9759), and its dose is in MBq: `PetImage` holds the words of 1 and Bq for both.

Anything missing, zero, contradictory or implausible raises; no default stands in for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from math import expm1, log, log2
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from radloom.errors import ReasonCode, SeriesRefused

__all__ = ["PetImage", "PetScale", "activity_scale", "scale_slices", "suv_scale"]

T = TypeVar("T", bound=Hashable)

DAY_S = 86400.0

SIEMENS = ("SIEMENS", "CPS", "CTI")
"""How Siemens and the companies that built its first PET scanners sign."""

CLOCK_TOLERANCE_S = 1.0
"""How much later than the acquisition a series may begin and still be its own scan: Siemens writes
both from clocks that differ by some microseconds, and times are often cut to whole seconds."""

DECAY_TOLERANCE = 0.005
"""Largest relative difference of SUV that two statements of one moment may make: half a percent is
47 s of fluorine-18, and far below the 10-15 % at which SUV repeats in a patient."""

MOST_HALF_LIVES = 10.0
"""Between injection and scan: 18 hours of fluorine-18 are longer than anybody waits, and a
thousandth of the dose is too little to see, so that beyond them one of the times is wrong."""

FRAME_S = (1e-3, DAY_S)
"""Shortest and longest frame: gated images of milliseconds to a day."""

DOSE_BQ = (1e5, 1e11)
"""Doses given to anything from a mouse to a patient of rubidium-82; below are values in MBq."""

DECAY_DATETIME = "DecayCorrectionDateTime (0018,9701)"

PHILIPS_FACTORS = (1e-9, 1e9)
"""Factors of (7053,1000) and (7053,1009): those seen lie between 1e-4 and 10."""

WEIGHT_KG = (0.01, 500.0)
"""From a mouse to the heaviest patients; above are values in grams."""


@dataclass(frozen=True)
class PetImage:
    """What one PET image's header says that SUV depends on, as written; empty or None if absent."""

    units: str = ""
    maker: str = ""
    """Manufacturer (0008,0070), in capitals."""
    suv_type: str = ""
    corrected: tuple[str, ...] = ()
    """CorrectedImage (0028,0051)."""
    decay_correction: str = ""
    weight_kg: float | None = None
    n_doses: int = 1
    """Items of RadiopharmaceuticalInformationSequence (0054,0016)."""
    dose_bq: float | None = None
    half_life_s: float | None = None
    injection_datetime: str = ""
    """RadiopharmaceuticalStartDateTime (0018,1078), DT."""
    injection_time: str = ""
    """RadiopharmaceuticalStartTime (0018,1072), TM."""
    series_date: str = ""
    series_time: str = ""
    acquisition_date: str = ""
    acquisition_time: str = ""
    ge_scan_datetime: str = ""
    """(0009,100D) of GEMS_PETD_01, DT."""
    utc_offset: str = ""
    """TimezoneOffsetFromUTC (0008,0201)."""
    frame_reference_ms: float | None = None
    frame_duration_ms: float | None = None
    philips_suv: float | None = None
    """(7053,1000) of Philips PET Private Group: SUVbw for one rescaled count."""
    philips_activity: float | None = None
    """(7053,1009) of Philips PET Private Group: Bq/mL for one rescaled count."""
    decay_datetime: str = ""
    """DecayCorrectionDateTime (0018,9701) of an enhanced image, DT."""


@dataclass(frozen=True)
class PetScale:
    """What turns rescaled values into the units asked for."""

    factors: tuple[float, ...]
    """One for each image."""
    units: str
    """SUV or Bq/mL."""
    source: str
    """Where the factor, or the moment that START stands for, comes from."""
    decay_s: float | None = None
    """Seconds from injection to the moment that the values stand for; None where none is used."""


def activity_scale(images: Sequence[PetImage]) -> PetScale:
    """Factors to what the scanner says: 1 and Bq/mL, 1 and SUV, or Philips' counts as Bq/mL.

    Raises:
        SeriesRefused: AMBIGUOUS_UNITS: other units, or counts without Philips' activity factor.
    """
    units = _same(images, lambda i: i.units, "Units (0054,1001)", ReasonCode.AMBIGUOUS_UNITS)
    if units == "BQML":
        return PetScale((1.0,) * len(images), "Bq/mL", "stored in Bq/mL")
    if units == "GML":
        _require_body_weight(images, ReasonCode.AMBIGUOUS_UNITS)
        return PetScale((1.0,) * len(images), "SUV", "stored as SUV")
    if units == "CNTS":
        factors = _usable(i.philips_activity for i in images)
        if len(factors) == len(images):
            return PetScale(factors, "Bq/mL", "Philips activity factor (7053,1009)")
        has_suv = all(i.philips_suv for i in images)
        raise SeriesRefused(
            ReasonCode.AMBIGUOUS_UNITS,
            "Units (0054,1001): expected BQML, got CNTS without Philips' activity factor "
            "(7053,1009)" + ("; its SUV factor (7053,1000) is there: ask for SUV" * has_suv),
        )
    raise SeriesRefused(
        ReasonCode.AMBIGUOUS_UNITS, f"Units (0054,1001): expected BQML, got {units or 'none'}"
    )


def suv_scale(images: Sequence[PetImage]) -> PetScale:
    """Factors to SUVbw for the images of one series; see the module for the steps.

    >>> image = PetImage("BQML", "", "", ("ATTN", "DECY"), "START", 70.0, 1, 370e6, 6586.2,
    ...                  "20200102080000", "080000", "20200102", "090000", "20200102", "090000")
    >>> scale = suv_scale([image])
    >>> round(scale.factors[0] * 1e6, 3), scale.decay_s
    (276.337, 3600.0)

    Raises:
        SeriesRefused: SUV_UNKNOWN, with what is missing or wrong.
    """
    units = _same(images, lambda i: i.units, "Units (0054,1001)")
    if units not in ("BQML", "CNTS", "GML"):
        raise _unknown("Units (0054,1001)", "BQML, CNTS or GML", units or "none")
    _require_corrections(images)
    if units == "GML":
        _require_body_weight(images, ReasonCode.SUV_UNKNOWN)
        return PetScale((1.0,) * len(images), "SUV", "stored as SUV")
    if units == "BQML":
        return _from_activity(images, (1.0,) * len(images))
    direct = _usable(i.philips_suv for i in images)
    if len(direct) == len(images):
        return PetScale(direct, "SUV", "Philips SUV factor (7053,1000)")
    activity = _usable(i.philips_activity for i in images)
    if len(activity) == len(images):
        return _from_activity(images, activity)
    raise _unknown(
        "Units (0054,1001) CNTS",
        "Philips' factor (7053,1000) or (7053,1009) in every image",
        f"{len(direct)} and {len(activity)} of {len(images)}",
    )


def scale_slices(array: npt.NDArray[np.float32], factors: Sequence[float]) -> None:
    """Multiplies (I, J, K) or (T, I, J, K) values in place, each slice by its own factor.

    Args:
        array: what the rescaled values are.
        factors: K, or K * T with T the faster; all alike where slices were interpolated.

    Raises:
        SeriesRefused: factors differ, and there are not as many as slices.
    """
    if len(set(factors)) == 1:
        array *= np.float32(factors[0])
        return
    n_volumes = array.shape[0] if array.ndim == 4 else 1
    if len(factors) != array.shape[-1] * n_volumes:
        raise SeriesRefused(
            ReasonCode.AMBIGUOUS_UNITS,
            f"expected one factor for all of {len(factors)} images, got several",
        )
    by_slice = np.asarray(factors, dtype=np.float32).reshape(array.shape[-1], n_volumes)
    array *= by_slice.T[:, None, None, :] if array.ndim == 4 else by_slice[:, 0]


def _from_activity(images: Sequence[PetImage], to_activity: tuple[float, ...]) -> PetScale:
    n_doses = _same(images, lambda i: i.n_doses, "RadiopharmaceuticalInformationSequence")
    if n_doses != 1:
        raise _unknown("RadiopharmaceuticalInformationSequence (0054,0016)", "one item", n_doses)
    weight = _number(images, lambda i: i.weight_kg, "PatientWeight (0010,1030) in kg", WEIGHT_KG)
    dose = _number(images, lambda i: i.dose_bq, "RadionuclideTotalDose (0018,1074) in Bq", DOSE_BQ)
    decay_s, source = 0.0, "decay corrected to injection"
    left = 1.0
    if images[0].decay_datetime or images[0].decay_correction == "START":
        half_life = _number(
            images,
            lambda i: i.half_life_s,
            "RadionuclideHalfLife (0018,1075) in s",
            (1.0, float("inf")),
        )
        moment, source = _scan_moment(images, half_life)
        decay_s = moment - _injection_moment(images, moment, half_life)
        if not 0 <= decay_s <= MOST_HALF_LIVES * half_life:
            raise _unknown(
                "the times of injection and scan",
                f"an injection before the scan, by at most {MOST_HALF_LIVES:g} half-lives",
                f"{decay_s:.0f} s of a half-life of {half_life:.0f} s",
            )
        left = 2.0 ** (-decay_s / half_life)
    factors = tuple(a * weight * 1000.0 / (dose * left) for a in to_activity)
    return PetScale(factors, "SUV", source, decay_s)


def _usable(factors: Iterable[float | None]) -> tuple[float, ...]:
    """Philips' factors that a scanner may have written."""
    low, high = PHILIPS_FACTORS
    return tuple(f for f in factors if f is not None and low <= f <= high)


def _require_corrections(images: Sequence[PetImage]) -> None:
    corrected = _same(images, lambda i: i.corrected, "CorrectedImage (0028,0051)")
    lacking = [word for word in ("ATTN", "DECY") if word not in corrected]
    if lacking:
        raise _unknown(
            "CorrectedImage (0028,0051)", "ATTN and DECY", "\\".join(corrected) or "none"
        )
    decay = _same(images, lambda i: i.decay_correction, "DecayCorrection (0054,1102)")
    if decay not in ("START", "ADMIN") and not all(i.decay_datetime for i in images):
        raise _unknown(
            f"DecayCorrection (0054,1102), or {DECAY_DATETIME} of an enhanced image",
            "START or ADMIN",
            decay or "none",
        )


def _require_body_weight(images: Sequence[PetImage], code: ReasonCode) -> None:
    kind = _same(images, lambda i: i.suv_type, "SUVType (0054,1006)", code)
    if kind not in ("", "BW"):
        raise SeriesRefused(code, f"SUVType (0054,1006): expected BW, got {kind}")


def _scan_moment(images: Sequence[PetImage], half_life: float) -> tuple[float, str]:
    """Seconds, UTC or local, at which the activity stands, and which statement said so."""
    offset = _same(images, lambda i: i.utc_offset, "TimezoneOffsetFromUTC (0008,0201)")
    said = _same(images, lambda i: i.decay_datetime, DECAY_DATETIME)
    if said:
        return _datetime(said, offset, DECAY_DATETIME), DECAY_DATETIME
    series = _moment(
        _same(images, lambda i: i.series_date, "SeriesDate (0008,0021)"),
        _same(images, lambda i: i.series_time, "SeriesTime (0008,0031)"),
        offset,
        "SeriesDate and SeriesTime (0008,0021), (0008,0031)",
    )
    acquired = [
        _moment(
            i.acquisition_date,
            i.acquisition_time,
            offset,
            "AcquisitionDate and AcquisitionTime (0008,0022), (0008,0032)",
        )
        for i in images
    ]
    if series <= min(acquired) + CLOCK_TOLERANCE_S:
        return series, "SeriesTime (0008,0031)"
    ge = _same(images, lambda i: i.ge_scan_datetime, "GE's scan time (0009,100D)")
    if ge:
        moment = _datetime(ge, offset, "GE's scan time (0009,100D)")
        _require_agreement(
            [moment, min(moment, *acquired)], half_life, "GE's scan time (0009,100D)"
        )
        return moment, "GE scan time (0009,100D)"
    if not any(name in images[0].maker for name in SIEMENS):
        raise _unknown(
            "SeriesTime (0008,0031) after AcquisitionTime (0008,0032)",
            "GE's scan time (0009,100D), or a Siemens scanner, whose frames say when it began",
            f"neither, from {images[0].maker or 'an unnamed maker'}",
        )
    moments = [
        start - reference + _average_s(duration, half_life)
        for start, (reference, duration) in zip(
            acquired, (_frame_times(i) for i in images), strict=True
        )
    ]
    _require_agreement(moments, half_life, "FrameReferenceTime (0054,1300)")
    _require_agreement(
        [min(moments), min(*moments, *acquired)], half_life, "FrameReferenceTime (0054,1300)"
    )
    return min(moments), "FrameReferenceTime (0054,1300)"


def _frame_times(image: PetImage) -> tuple[float, float]:
    """FrameReferenceTime and ActualFrameDuration in seconds."""
    reference, duration = image.frame_reference_ms, image.frame_duration_ms
    shortest, longest = (1000.0 * s for s in FRAME_S)
    if not reference or not duration or reference <= 0 or not shortest <= duration <= longest:
        raise _unknown(
            "SeriesTime (0008,0031) after AcquisitionTime (0008,0032)",
            "FrameReferenceTime (0054,1300) and ActualFrameDuration (0018,1242) above zero",
            f"{reference or 'none'} and {duration or 'none'}",
        )
    return reference / 1000.0, duration / 1000.0


def _average_s(duration: float, half_life: float) -> float:
    """Seconds from a frame's start to the moment of its average count rate.

    >>> round(_average_s(600.0, 6586.2), 1)  # a little before the middle
    298.4
    """
    rate = log(2.0) / half_life
    decayed = rate * duration
    return log(decayed / -expm1(-decayed)) / rate


def _require_agreement(moments: Sequence[float], half_life: float, where: str) -> None:
    """Nothing, if the moments change SUV by no more than `DECAY_TOLERANCE`."""
    apart = max(moments) - min(moments)
    if _changes_suv(apart, half_life):
        raise _unknown(
            where, "one start of the scan, not after its first image", f"two {apart:.0f} s apart"
        )


def _changes_suv(seconds: float, half_life: float) -> bool:
    """Whether a difference of this much makes more than `DECAY_TOLERANCE` of SUV."""
    return seconds > half_life * log2(1.0 + DECAY_TOLERANCE)


def _injection_moment(images: Sequence[PetImage], scan: float, half_life: float) -> float:
    offset = images[0].utc_offset
    full = _same(
        images, lambda i: i.injection_datetime, "RadiopharmaceuticalStartDateTime (0018,1078)"
    )
    time = _same(images, lambda i: i.injection_time, "RadiopharmaceuticalStartTime (0018,1072)")
    if full:
        return _dated_injection(full, time, offset, half_life)
    if not time:
        raise _unknown("RadiopharmaceuticalStartTime (0018,1072)", "the time of injection", "none")
    if MOST_HALF_LIVES * half_life > DAY_S:
        raise _unknown(
            "RadiopharmaceuticalStartDateTime (0018,1078)",
            f"the day of injection of a nuclide with a half-life of {half_life:.0f} s",
            "a time of day alone",
        )
    clock = _seconds_of_day(time, "RadiopharmaceuticalStartTime (0018,1072)")
    local_midnight = _moment(images[0].series_date, "000000", offset, "SeriesDate (0008,0021)")
    days = (scan - (local_midnight + clock)) // DAY_S
    return local_midnight + clock + days * DAY_S


def _dated_injection(full: str, time: str, offset: str, half_life: float) -> float:
    """RadiopharmaceuticalStartDateTime, checked against RadiopharmaceuticalStartTime."""
    where = "RadiopharmaceuticalStartDateTime (0018,1078)"
    text, zone = _without_zone(full)
    local = _moment(text[:8], text[8:], "", where)
    ahead = _zone_seconds(offset, where)
    if zone and offset:
        local += ahead - _zone_seconds(zone, where)
    if time:
        apart = (local - _seconds_of_day(time, "RadiopharmaceuticalStartTime (0018,1072)")) % DAY_S
        apart = min(apart, DAY_S - apart)
        if _changes_suv(apart, half_life):
            raise _unknown(
                where,
                "the time of day of RadiopharmaceuticalStartTime (0018,1072)",
                f"another, {apart:.0f} s apart",
            )
    elif zone and not offset:
        raise _unknown(where, "TimezoneOffsetFromUTC (0008,0201) beside a time with a zone", "none")
    # A zone without that offset, and the same clock as the local time: it is the zone of all times.
    return local - ahead


def _datetime(value: str, offset: str, where: str) -> float:
    """A DT value as `_moment` gives it; without a known offset all times are of one zone."""
    text, zone = _without_zone(value)
    return _moment(text[:8], text[8:], (zone or offset) if offset else "", where)


def _moment(day: str, time: str, offset: str, where: str) -> float:
    """Seconds since an arbitrary midnight; UTC where the offset is known, else local."""
    found = re.fullmatch(r"(\d{4})[.:-]?(\d\d)[.:-]?(\d\d)", day.strip())
    if not found:
        raise _unknown(where, "a date", "none" if not day.strip() else "something else")
    try:
        days = date(int(found[1]), int(found[2]), int(found[3])).toordinal()
    except ValueError:
        raise _unknown(where, "a date", "a day that no calendar has") from None
    return days * DAY_S + _seconds_of_day(time, where) - _zone_seconds(offset, where)


def _seconds_of_day(time: str, where: str) -> float:
    found = re.fullmatch(r"(\d\d):?(\d\d):?(\d\d(?:\.\d*)?)?", time.strip())
    if not found or int(found[1]) > 23 or int(found[2]) > 59:
        raise _unknown(where, "a time of day", "none" if not time.strip() else "something else")
    return int(found[1]) * 3600.0 + int(found[2]) * 60.0 + float(found[3] or 0)


def _without_zone(value: str) -> tuple[str, str]:
    """A DT value and its ``&ZZXX``.

    >>> _without_zone("20200102080000.5+0100"), _without_zone("20200102080000")
    (('20200102080000.5', '+0100'), ('20200102080000', ''))
    """
    found = re.fullmatch(r"([\d.]+)([+-]\d{4})?", value.strip())
    return (found[1], found[2] or "") if found else (value.strip(), "")


def _zone_seconds(zone: str, where: str) -> float:
    if not zone.strip():
        return 0.0
    found = re.fullmatch(r"([+-])(\d\d)(\d\d)", zone.strip())
    if not found:
        raise _unknown(where, "a zone such as +0100", "something else")
    return (int(found[2]) * 3600.0 + int(found[3]) * 60.0) * (1.0 if found[1] == "+" else -1.0)


def _number(
    images: Sequence[PetImage],
    get: Callable[[PetImage], float | None],
    where: str,
    bounds: tuple[float, float],
) -> float:
    value = _same(images, get, where)
    if value is None or not bounds[0] <= value <= bounds[1]:
        expected = f"a number from {bounds[0]:g} to {bounds[1]:g}"
        # The value itself is the patient's, and stays out of logs.
        raise _unknown(where, expected, "none" if value is None else "one outside of it")
    return value


def _same(
    images: Sequence[PetImage],
    get: Callable[[PetImage], T],
    where: str,
    code: ReasonCode = ReasonCode.SUV_UNKNOWN,
) -> T:
    values = {get(image) for image in images}
    if len(values) != 1:
        raise SeriesRefused(
            code, f"{where}: expected one value throughout the series, got {len(values)}"
        )
    return values.pop()


def _unknown(where: str, expected: str, got: object) -> SeriesRefused:
    return SeriesRefused(
        ReasonCode.SUV_UNKNOWN,
        f"{where}: expected {expected}, got {got}; without SUV the series can be had as stored",
    )
