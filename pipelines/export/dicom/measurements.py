"""Volumes of structures and checks of stages as a Structured Report, TID 1500 (PS3.16).

A group for each structure (TID 1411 with its segment where the study has a Segmentation of it,
TID 1501 otherwise), and one for each stage that checked something.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from radloom import __version__
from radloom.pipelines.export.dicom.equipment import RESEARCH
from radloom.pipelines.export.dicom.heading import Heading, finish, require
from radloom.pipelines.export.dicom.result import Desk, ObjectSeries, content_digest
from radloom.pipelines.export.dicom.source import SourceSeries
from radloom.pipelines.export.dicom.uids import make_uid
from radloom.pipelines.receipts.plain import plain
from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.study import Study

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Volume", "check_measurements", "measurement_series", "measurements_dataset"]

SCHEME = "99RADLOOM"
"""Coding scheme of names that no standard codes."""

UNITS: Mapping[str, tuple[str, str]] = {
    "": ("1", "no units"),
    "mm": ("mm", "mm"),
    "mL": ("mL", "milliliter"),
    "ml": ("mL", "milliliter"),
    "degree": ("deg", "degree"),
    "HU": ("[hnsf'U]", "Hounsfield unit"),
    "s": ("s", "second"),
    "mm/s": ("mm/s", "millimeter per second"),
    "Bq/mL": ("Bq/ml", "Becquerels per milliliter"),
    "SUV": ("g/ml{SUVbw}", "Standardized Uptake Value body weight"),
}
"""Unit of a check -> UCUM code and meaning; others are written as no units, named in the text."""

LONGEST_MEANING = 64
"""Characters of a CodeMeaning (LO)."""


@dataclass(frozen=True)
class Volume:
    """One row of a table of volumes."""

    role: str
    label: int
    structure: str
    ml: float
    segment: tuple[Dataset, int] | None = None
    """A Segmentation that was made of it, and the number of its segment."""


def measurement_series(study: Study, desk: Desk) -> Iterator[ObjectSeries]:
    """One report for the study, of its tables of volumes and all checks of its stages.

    Raises:
        NoDicomSource: no volume of the study came from DICOM.
    """
    volumes = tuple(_volumes(study, desk))
    checks = {stage: given for stage, given in study.checks.items() if given}
    if not volumes and not checks:
        return
    sources = [desk.source(role) for role in dict.fromkeys(v.role for v in volumes)]
    sources = sources or [desk.any_source()]
    said = [(v.role, v.label, v.structure, v.ml) for v in volumes]
    heading = desk.heading(
        "measurements",
        "study",
        "Volumes and checks",
        content_digest(said, plain(checks)),
        *sources,
    )
    by_role = dict(zip(dict.fromkeys(v.role for v in volumes), sources, strict=False))
    yield ObjectSeries(
        kind="measurements",
        role="",
        name="measurements",
        datasets=[measurements_dataset(volumes, checks, heading, by_role)],
        check=partial(check_measurements, volumes=volumes, checks=checks),
    )


def _volumes(study: Study, desk: Desk) -> Iterator[Volume]:
    for output in study.find(kind="table", name="volumes"):
        segments = _segments(desk, output.role)
        for row in output.table:
            label = int(row["label"])
            yield Volume(
                output.role,
                label,
                str(row["structure"]),
                float(row["volume_ml"]),
                segments.get(str(row["structure"])),
            )


def _segments(desk: Desk, role: str) -> dict[str, tuple[Dataset, int]]:
    """Structure -> the Segmentation of the role that holds it, and its segment's number."""
    found: dict[str, tuple[Dataset, int]] = {}
    for dataset in desk.made.get(("segmentation", role), ()):
        for segment in dataset.get("SegmentSequence") or ():
            found.setdefault(str(segment.SegmentLabel), (dataset, int(segment.SegmentNumber)))
    return found


def measurements_dataset(
    volumes: Sequence[Volume],
    checks: Mapping[str, Sequence[Check]],
    heading: Heading,
    sources: Mapping[str, SourceSeries],
) -> Dataset:
    """One finished Enhanced SR.

    Args:
        volumes: of structures.
        checks: stage -> what it checked.
        heading: of the series.
        sources: role -> the images behind the volume that was measured.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    groups = [_volume_group(v, heading, sources[v.role], n) for n, v in enumerate(volumes)]
    groups += [_check_group(stage, given, heading) for stage, given in checks.items()]
    report = hd.sr.MeasurementReport(
        observation_context=_observer(),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    evidence = [ds for source in heading.sources for ds in source.datasets]
    known = {str(ds.SOPInstanceUID) for ds in evidence}
    for volume in volumes:
        if volume.segment and str(volume.segment[0].SOPInstanceUID) not in known:
            known.add(str(volume.segment[0].SOPInstanceUID))
            evidence.append(volume.segment[0])
    dataset = hd.sr.EnhancedSR(
        evidence=evidence,
        content=report[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        **heading.arguments(),
    )
    dataset.CompletionFlagDescription = RESEARCH
    return finish(dataset, heading)


def _observer() -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=make_uid("radloom device", __version__),
        name="Radloom",
        manufacturer_name="Radloom",
        model_name=f"Radloom {__version__}",
    )
    context = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device, observer_identifying_attributes=device
    )
    return hd.sr.ObservationContext(observer_device_context=context)


def _volume_group(volume: Volume, heading: Heading, source: SourceSeries, number: int) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    measurement = hd.sr.Measurement(
        name=codes.SCT.Volume,
        value=_number(volume.ml),
        unit=hd.sr.CodedConcept(UNITS["mL"][0], "UCUM", UNITS["mL"][1]),
    )
    tracking = hd.sr.TrackingIdentifier(
        identifier=volume.structure[:LONGEST_MEANING],
        uid=heading.uids.other("tracking volume", number),
    )
    if volume.segment is None:
        return hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking,
            finding_type=_named(volume.structure, f"LABEL{volume.label}"),
            measurements=[measurement],
            source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(source.first)],
        )
    segmentation, index = volume.segment
    segments = {int(item.SegmentNumber): item for item in segmentation.SegmentSequence}
    kind = segments[index].SegmentedPropertyTypeCodeSequence[0]
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_segment=_referenced_segment(segmentation, index, source),
        finding_type=hd.sr.CodedConcept.from_dataset(kind),
        measurements=[measurement],
    )


def _referenced_segment(segmentation: Dataset, number: int, source: SourceSeries) -> Any:
    import highdicom as hd

    return hd.sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=number,
        source_series=hd.sr.SourceSeriesForSegmentation(source.series_uid),
    )


def _check_group(stage: str, checks: Sequence[Check], heading: Heading) -> Any:
    import highdicom as hd

    flagged = [check.name for check in checks if check.flagged]
    state = ("FLAGGED", "Out of range: look") if flagged else ("INRANGE", "In range")
    verdict = hd.sr.QualitativeEvaluation(
        name=hd.sr.CodedConcept("CHECKS", SCHEME, "Checks of the stage"),
        value=hd.sr.CodedConcept(state[0], SCHEME, state[1]),
    )
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            identifier=f"stage {stage}", uid=heading.uids.other(f"tracking stage {stage}")
        ),
        finding_type=_named(f"Stage {stage}", f"STAGE_{stage.upper()}"[:16]),
        measurements=[_check_measurement(check) for check in checks if math.isfinite(check.value)],
        qualitative_evaluations=[verdict],
    )


def _check_measurement(check: Check) -> Any:
    import highdicom as hd

    unit = UNITS.get(check.unit, UNITS[""])
    state = ("FLAGGED", "Out of range") if check.flagged else ("INRANGE", "In range")
    return hd.sr.Measurement(
        name=_named(check.name, ""),
        value=_number(check.value),
        unit=hd.sr.CodedConcept(unit[0], "UCUM", unit[1]),
        properties=hd.sr.MeasurementProperties(
            level_of_significance=hd.sr.CodedConcept(state[0], SCHEME, state[1]),
        ),
    )


def _named(meaning: str, code: str) -> Any:
    """A concept of Radloom's own scheme; its code is made from the meaning where there is none."""
    import highdicom as hd

    text = meaning.encode("ascii", "replace").decode()
    value = code or f"C{hashlib.sha256(text.encode()).hexdigest()[:12].upper()}"
    return hd.sr.CodedConcept(value, SCHEME, text[:LONGEST_MEANING])


def _number(value: float) -> float:
    """A number that a DS of 16 characters holds."""
    return float(f"{float(value):.8g}")


def check_measurements(
    datasets: Sequence[Dataset],
    *,
    volumes: Sequence[Volume],
    checks: Mapping[str, Sequence[Check]],
) -> Iterable[Check]:
    """Nothing, if the report's numbers are those of the tables and receipts.

    Raises:
        StageFailed: a number is absent or another.
    """
    where = "structured report"
    found = list(_numbers(datasets[0]))
    meant = [_number(v.ml) for v in volumes]
    meant += [
        _number(c.value) for given in checks.values() for c in given if math.isfinite(c.value)
    ]
    require(len(found) == len(meant), where, f"{len(meant)} numbers", len(found))
    for place, (got, wanted) in enumerate(zip(found, meant, strict=True)):
        require(got == wanted, f"{where}, number {place + 1}", repr(wanted), repr(got))
    return ()


def _numbers(item: Dataset) -> Iterator[float]:
    """Every NUM of a content tree, in its order."""
    if item.get("ValueType") == "NUM":
        measured = item.MeasuredValueSequence[0]
        precise = measured.get("FloatingPointValue")
        yield float(measured.NumericValue if precise is None else precise)
    for child in item.get("ContentSequence") or ():
        yield from _numbers(child)
