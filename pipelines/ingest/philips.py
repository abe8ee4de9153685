"""Philips' two scalings of MR: what the console displays, and floating point.

PV the stored value, RS and RI RescaleSlope and RescaleIntercept, SS the private ScaleSlope
(2005,100E). The displayed value DV = PV * RS + RI follows the standard, but is scaled anew for each
series; the floating-point value FP = DV / (RS * SS) can be compared between series and volumes.
Source: Chenevert et al., Errors in quantitative image analysis due to platform-dependent image
scaling, Translational Oncology 2014, doi:10.1593/tlo.13811.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from radloom.errors import ReasonCode, SeriesRefused
from radloom.pipelines.ingest.headers import SliceHeader

__all__ = ["FLOATING_POINT", "in_floating_point", "philips_notes"]

FLOATING_POINT = "UsePhilipsFloatNotDisplayScaling"
"""Key of the sidecar, as dcm2niix names it: 1 for floating point, 0 for displayed values."""


def philips_notes(slices: Sequence[SliceHeader], *, floating_point: bool) -> dict[str, Any]:
    """What the sidecar says of the scaling of a Philips MR; nothing for all others.

    Raises:
        SeriesRefused: AMBIGUOUS_UNITS: floating point is asked for, and ScaleSlope is not there.
    """
    first = slices[0]
    if first.modality != "MR" or "philips" not in str(first.facts.get("Manufacturer", "")).lower():
        return {}
    if floating_point:
        in_floating_point(slices)
    notes: dict[str, Any] = {FLOATING_POINT: int(floating_point)}
    scalings = {(h.rescale, h.scale_slope) for h in slices}
    if len(scalings) == 1 and first.rescale is not None:
        notes["PhilipsRescaleSlope"], notes["PhilipsRescaleIntercept"] = first.rescale
        if first.scale_slope is not None:
            notes["PhilipsScaleSlope"] = first.scale_slope
    return notes


def in_floating_point(slices: Sequence[SliceHeader]) -> tuple[SliceHeader, ...]:
    """The slices with a slope and an intercept that lead to floating-point values.

    Raises:
        SeriesRefused: AMBIGUOUS_UNITS: slope, intercept or ScaleSlope is not there.
    """
    scaled = []
    for header in slices:
        if header.scale_slope is None or header.rescale is None or not header.rescale[0]:
            raise SeriesRefused(
                ReasonCode.AMBIGUOUS_UNITS,
                "Philips' floating-point values: expected ScaleSlope (2005,100E), RescaleSlope and "
                "RescaleIntercept in every slice, got one without; ask for displayed values",
            )
        slope, intercept = header.rescale
        rescale = (1.0 / header.scale_slope, intercept / (slope * header.scale_slope))
        scaled.append(replace(header, rescale=rescale))
    return tuple(scaled)
