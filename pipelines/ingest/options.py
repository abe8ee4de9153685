"""What a user may ask of ingestion beyond taking each series as it is, and what follows from it.

Without options nothing is resampled and PET stays in Bq/mL. What was done is written into the
record's reason and detail and into the sidecar, so that nobody takes a resampled volume for the
one that was scanned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from radloom.errors import ReasonCode, SeriesRefused
from radloom.pipelines.ingest.philips import philips_notes
from radloom.pipelines.ingest.units import pet_scale_of, units_of
from radloom.pipelines.ingest.verdicts import Part
from radloom.transforms.dicom import NO_REPAIRS, Repairs, SlicePlane, stack_geometry

__all__ = ["DEFAULT_OPTIONS", "IngestOptions", "finished", "notes_of", "repair_code"]

REPAIRABLE = (ReasonCode.GANTRY_TILT, ReasonCode.UNEVEN_SPACING)
"""Refusals that a repair may lift."""


@dataclass(frozen=True)
class IngestOptions:
    """Parameters of the ingest stage that change what discovery says of a series."""

    suv: bool = False
    """PET as SUV (body weight) instead of Bq/mL."""
    philips_floating_point: bool = False
    """Philips MR in floating-point instead of displayed values."""
    repairs: Repairs = NO_REPAIRS


DEFAULT_OPTIONS = IngestOptions()


def finished(part: Part, options: IngestOptions) -> Part:
    """The part as `options` want it: repaired where it was refused for that, or refused for SUV."""
    if part.code in REPAIRABLE and options.repairs != NO_REPAIRS:
        part = _repaired(part, options.repairs)
    if part.code is None and options.suv and part.slices[0].modality == "PT":
        try:
            units_of(part.slices, suv=True)
        except SeriesRefused as refusal:
            return replace(part, code=refusal.code, detail=refusal.detail)
    if part.code is None:
        try:
            philips_notes(part.slices, floating_point=options.philips_floating_point)
        except SeriesRefused as refusal:
            return replace(part, code=refusal.code, detail=refusal.detail)
    return part


def _repaired(part: Part, repairs: Repairs) -> Part:
    """The part on a straight grid, or refused anew for what a repair may not touch."""
    if any(h.has_modality_lut for h in part.slices):
        return part  # its values are looked up, and cannot be interpolated one by one
    planes = [h.plane for h in part.slices if isinstance(h.plane, SlicePlane)]
    try:
        geometry = stack_geometry(planes, repairs=repairs)
        units_of(part.slices)
    except SeriesRefused as refusal:
        if refusal.code is ReasonCode.DUPLICATE_SLICE:
            return part  # several volumes in time: only single ones are straightened
        return replace(part, code=refusal.code, detail=refusal.detail)
    plan = geometry.straightening
    if plan is None:
        return part
    done = [f"sheared back by {plan.tilt_degrees:.1f} degrees"] if plan.tilt_degrees else []
    if plan.is_uneven:
        low, high = plan.distances_mm
        done.append(
            f"slices {low:.2f} to {high:.2f} mm apart interpolated to {plan.step_mm:.3f} mm"
        )
    slices = tuple(part.slices[i] for i in geometry.order)
    detail = f"resampled as the workflow allows: {', '.join(done)}"
    return replace(part, slices=slices, geometry=geometry, code=None, detail=detail)


def repair_code(part: Part) -> ReasonCode | None:
    """What the record says of a part that was resampled; None for all others."""
    if part.code is not None or part.geometry is None or part.geometry.straightening is None:
        return None
    is_tilted = part.geometry.straightening.tilt_degrees > 0
    return ReasonCode.TILT_CORRECTED if is_tilted else ReasonCode.SPACING_RESAMPLED


def notes_of(part: Part, options: IngestOptions) -> Mapping[str, Any]:
    """What the sidecar says of a part's resampling and of how its PET values were scaled."""
    notes: dict[str, Any] = {}
    plan = part.geometry.straightening if part.geometry is not None else None
    if part.code is not None:
        return notes
    if plan is not None:
        notes["Resampled"] = True
        notes["GantryTiltCorrected"] = round(plan.tilt_degrees, 4)
        notes["SliceDistancesAcquired"] = [round(d, 4) for d in plan.distances_mm]
        notes["NumberOfSlicesAcquired"] = len(plan.depths_vox)
    notes.update(philips_notes(part.slices, floating_point=options.philips_floating_point))
    if part.slices[0].modality == "PT":
        scale = pet_scale_of(part.slices, suv=options.suv)
        notes["UnitsSource"] = scale.source
        if len(set(scale.factors)) == 1:
            notes["UnitsScale"] = scale.factors[0]
        if scale.decay_s is not None:
            notes["SecondsFromInjection"] = round(scale.decay_s, 3)
    return notes
