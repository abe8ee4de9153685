"""What the numbers of a DICOM series mean, decided from its headers."""

from __future__ import annotations

from collections.abc import Sequence

from radloom.errors import ReasonCode, SeriesRefused
from radloom.pipelines.ingest.headers import SliceHeader

__all__ = ["units_of"]


def units_of(slices: Sequence[SliceHeader]) -> str:
    """HU for CT, Bq/mL for PET, arbitrary for MR, once the rescaling is known to be certain.

    CT must carry RescaleSlope and RescaleIntercept in every slice (DICOM PS3.3 C.8.2.1, type 1),
    and a RescaleType, where there is one, that says HU. PET must say BQML (C.8.9.1); counts and the
    like cannot be compared between patients. Slopes may differ from slice to slice; that some
    slices have one and others none may not.

    Raises:
        SeriesRefused: AMBIGUOUS_UNITS.
    """
    modality = slices[0].modality
    if any(h.has_modality_lut for h in slices):
        known = [True]
    else:
        known = [h.rescale is not None for h in slices]
    if any(known) and not all(known):
        raise _ambiguous(
            f"expected a rescaling in every slice or in none, got {sum(known)} of {len(known)}"
        )
    if modality == "CT":
        types = {h.rescale_type for h in slices} - {"", "HU", "HU_MOD"}
        if types or not all(known):
            got = f"RescaleType {min(types)}" if types else "none"
            raise _ambiguous(f"expected RescaleSlope and RescaleIntercept to HU, got {got}")
        return "HU"
    if modality == "PT":
        units = {h.units for h in slices}
        if units != {"BQML"} or not all(known):
            raise _ambiguous(f"Units (0054,1001): expected BQML, got {sorted(units) or 'none'}")
        return "Bq/mL"
    return "arbitrary"


def _ambiguous(detail: str) -> SeriesRefused:
    return SeriesRefused(ReasonCode.AMBIGUOUS_UNITS, detail)
