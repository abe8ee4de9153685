"""What a PET image's header says about its numbers, vendors' private elements included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from radloom.transforms.suv import PetImage

__all__ = ["pet_image"]

PHILIPS_GROUP = 0x7053
"""The group of ``Philips PET Private Group``, whose block is 10 in all that Philips writes."""

PHILIPS_SUV = (PHILIPS_GROUP, 0x1000)
PHILIPS_ACTIVITY = (PHILIPS_GROUP, 0x1009)

GE_SCAN_DATETIME = (0x0009, 0x100D)
"""Scan date and time of ``GEMS_PETD_01``."""

CREATORS = {PHILIPS_SUV: "PHILIPS", PHILIPS_ACTIVITY: "PHILIPS", GE_SCAN_DATETIME: "GEMS_PETD_01"}
"""Private element -> what its block's creator, (gggg,0010), must hold: without one, or under
another's name, the number could be anything."""


def pet_image(source: Any) -> PetImage:
    """The values of a PET image that its units and its SUV depend on.

    An enhanced image says YES or NO to each correction instead of naming those that were made
    (DICOM PS3.3 C.8.22.6), and names the moment of decay correction itself (C.8.22.3).

    Args:
        source: a pydicom ``Dataset``, or what answers like one to `get`, ``in`` and ``[tag]``.
    """
    found = _many(source.get("RadiopharmaceuticalInformationSequence"))
    doses = [item for item in found if hasattr(item, "get")]
    dose = doses[0] if doses else {}
    date, time = _text(source.get("AcquisitionDate")), _text(source.get("AcquisitionTime"))
    full = _text(source.get("AcquisitionDateTime"))
    if full and not (date and time):
        date, time = full[:8], full[8:].partition("+")[0].partition("-")[0]
    return PetImage(
        units=_text(source.get("Units")).upper(),
        maker=_text(source.get("Manufacturer")).upper(),
        suv_type=_text(source.get("SUVType")).upper(),
        corrected=_corrections(source),
        decay_correction=_text(source.get("DecayCorrection")).upper(),
        decay_datetime=_text(source.get("DecayCorrectionDateTime")),
        weight_kg=_number(source.get("PatientWeight")),
        n_doses=len(doses),
        dose_bq=_number(dose.get("RadionuclideTotalDose")),
        half_life_s=_number(dose.get("RadionuclideHalfLife")),
        injection_datetime=_text(dose.get("RadiopharmaceuticalStartDateTime")),
        injection_time=_text(dose.get("RadiopharmaceuticalStartTime")),
        series_date=_text(source.get("SeriesDate")),
        series_time=_text(source.get("SeriesTime")),
        acquisition_date=date,
        acquisition_time=time,
        ge_scan_datetime=_text(_private(source, GE_SCAN_DATETIME)),
        utc_offset=_text(source.get("TimezoneOffsetFromUTC")),
        frame_reference_ms=_number(source.get("FrameReferenceTime")),
        frame_duration_ms=_number(source.get("ActualFrameDuration")),
        philips_suv=_number(_private(source, PHILIPS_SUV)),
        philips_activity=_number(_private(source, PHILIPS_ACTIVITY)),
    )


def _corrections(source: Any) -> tuple[str, ...]:
    named = tuple(_text(v).upper() for v in _many(source.get("CorrectedImage")))
    said = {word: _text(source.get(keyword)).upper() for word, keyword in CORRECTIONS.items()}
    return named or tuple(word for word, answer in said.items() if answer == "YES")


CORRECTIONS = {"ATTN": "AttenuationCorrected", "DECY": "DecayCorrected"}
"""What CorrectedImage (0028,0051) names -> where an enhanced image answers."""


def _private(source: Any, tag: tuple[int, int]) -> Any:
    creator = (tag[0], 0x0010)
    if tag not in source or creator not in source:
        return None
    return source[tag].value if CREATORS[tag] in _text(source[creator].value).upper() else None


def _many(value: Any) -> Sequence[Any]:
    if value is None or value == "":
        return ()
    return (value,) if isinstance(value, (str, bytes)) else tuple(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return "" if value is None else str(value).replace("\x00", "").strip()


def _number(value: Any) -> float | None:
    try:
        number = float(_text(value))
    except ValueError:
        return None
    return number if number - number == 0 else None
