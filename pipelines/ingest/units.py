"""What the numbers of a DICOM series mean, decided from its headers."""

from __future__ import annotations

from collections.abc import Sequence

from radloom.errors import ReasonCode, SeriesRefused
from radloom.pipelines.ingest.headers import SliceHeader
from radloom.transforms.suv import PetScale, activity_scale, suv_scale

__all__ = ["pet_scale_of", "units_of"]

SCALED_TO_HU = ("", "HU", "HU_MOD")
"""RescaleType (0028,1054) of a CT in HU; absent means HU (C.8.2.1), HU_MOD is HU of dual energy."""


def units_of(slices: Sequence[SliceHeader], *, suv: bool = False) -> str:
    """HU for CT, Bq/mL or SUV for PET, arbitrary for MR, once the rescaling is known for certain.

    CT must carry RescaleSlope and RescaleIntercept in every slice (DICOM PS3.3 C.8.2.1, type 1),
    and a RescaleType, where there is one, that says HU. PET: see `pet_scale_of`. Slopes may differ
    from slice to slice; that some slices have one and others none may not.

    Args:
        slices: of one volume.
        suv: whether PET shall be given as SUV.

    Raises:
        SeriesRefused: AMBIGUOUS_UNITS; SUV_UNKNOWN where SUV is asked for.
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
        _require_hounsfield(slices, is_known=all(known))
        return "HU"
    if modality == "PT":
        if not all(known):
            raise _ambiguous(
                "RescaleSlope and RescaleIntercept (0028,1053), (0028,1052): expected both in "
                "every slice of a PET, got none"
            )
        return pet_scale_of(slices, suv=suv).units
    return "arbitrary"


def pet_scale_of(slices: Sequence[SliceHeader], *, suv: bool) -> PetScale:
    """The factor of each PET slice from its rescaled value to the units that result.

    Bq/mL, unless `suv` asks for SUV or the series can give nothing else (Units GML, or counts with
    Philips' SUV factor alone).

    Raises:
        SeriesRefused: AMBIGUOUS_UNITS: neither can be had; SUV_UNKNOWN: `suv`, and the headers lack
            what SUV takes.
    """
    images = [h.pet for h in slices if h.pet is not None]
    if len(images) < len(slices):
        raise _ambiguous("Units (0054,1001): expected BQML, got none")
    if suv:
        return suv_scale(images)
    if {i.units for i in images} == {"CNTS"} and not any(i.philips_activity for i in images):
        try:
            return suv_scale(images)
        except SeriesRefused:
            return activity_scale(images)
    return activity_scale(images)


def _require_hounsfield(slices: Sequence[SliceHeader], *, is_known: bool) -> None:
    types = {h.rescale_type for h in slices} - set(SCALED_TO_HU)
    if types or not is_known:
        got = f"RescaleType (0028,1054) {min(types)}" if types else "none"
        raise _ambiguous(f"expected RescaleSlope and RescaleIntercept to HU, got {got}")


def _ambiguous(detail: str) -> SeriesRefused:
    return SeriesRefused(ReasonCode.AMBIGUOUS_UNITS, detail)
