"""What the stored values of an enhanced PET frame stand for: its Real World Value Mapping macro.

An enhanced PET image has no Units (0054,1001), and its RescaleSlope leads to values of no stated
kind (RescaleType US). Each frame must say instead how its stored values become real-world ones,
and which (DICOM PS3.3 C.7.6.16.2.11, with units of CID 84)::

    real-world value = stored value * RealWorldValueSlope + RealWorldValueIntercept

for stored values from RealWorldValueFirstValueMapped to RealWorldValueLastValueMapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

__all__ = ["RealWorldMapping", "real_world_mapping"]

UNITS = {"bq/ml": "BQML", "g/ml{suvbw}": "GML"}
"""UCUM code, in lower case, of the units that are used -> the same in Units (0054,1001). Uptake by
lean mass or body surface (``g/ml{SUVlbm}``, ``cm2/ml{SUVbsa}``) is not body-weight SUV."""


class RealWorldMapping(NamedTuple):
    """The mapping of one frame."""

    units: str
    """``BQML`` or ``GML`` as in Units (0054,1001); for others what the frame says, for people."""
    rescale: tuple[float, float] | None
    """Slope and intercept from stored values; None where the units are not used."""
    stored: tuple[float, float] | None
    """First and last stored value that it holds for."""


def real_world_mapping(items: Iterable[Any]) -> RealWorldMapping | None:
    """The one mapping of a frame that gives Bq/mL, or else body-weight SUV; None without items.

    Args:
        items: of RealWorldValueMappingSequence (0040,9096), of the frame or shared by all.
    """
    items = list(items)
    if not items:
        return None
    mappings = {_mapping(item) for item in items}
    for units in UNITS.values():
        found = [mapping for mapping in mappings if mapping.units == units]
        if len(found) == 1:
            return found[0]
        if found:
            return RealWorldMapping(f"{len(found)} mappings to {units}", None, None)
    return RealWorldMapping(" or ".join(sorted(m.units or "none" for m in mappings)), None, None)


def _mapping(item: Any) -> RealWorldMapping:
    units = _units(item)
    slope, intercept = (_number(item, f"RealWorldValue{k}") for k in ("Slope", "Intercept"))
    ends = [_number(item, f"RealWorldValue{k}ValueMapped") for k in ("First", "Last")]
    if units not in UNITS.values():
        return RealWorldMapping(units, None, None)
    if slope is None or intercept is None or not slope:
        return RealWorldMapping(f"{units} without RealWorldValueSlope (0040,9225)", None, None)
    if ends[0] is None or ends[1] is None:
        return RealWorldMapping(
            f"{units} without RealWorldValueFirstValueMapped (0040,9216)", None, None
        )
    return RealWorldMapping(
        units, (slope, intercept), (min(ends[0], ends[1]), max(ends[0], ends[1]))
    )


def _units(item: Any) -> str:
    codes = item.get("MeasurementUnitsCodeSequence") or ()
    for code in list(codes)[:1]:
        value = str(code.get("CodeValue") or "").strip()
        if str(code.get("CodingSchemeDesignator") or "").strip().upper() == "UCUM":
            return UNITS.get(value.lower(), value)
        return f"{value} of another scheme than UCUM"
    return ""


def _number(item: Any, keyword: str) -> float | None:
    value = item.get(keyword)
    values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    try:
        number = float(values[0])
    except (TypeError, ValueError, IndexError):
        return None
    return number if number - number == 0 else None
