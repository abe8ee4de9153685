"""The stage ``export``: DICOM objects of what the stages before gave, each read back and compared.

It stands last, after the stage ``report``, whose pictures two of the objects hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from radloom import __version__
from radloom.errors import ConfigError, StageFailed
from radloom.pipelines.export.dicom.heading import file_bytes, read_file_bytes
from radloom.pipelines.export.dicom.result import Builder, Desk, ObjectSeries
from radloom.pipelines.export.dicom.source import NoDicomSource
from radloom.pipelines.export.naming import SPACE_LABELS
from radloom.pipelines.ingest.quiet import quiet_dicom
from radloom.pipelines.ingest.stage import IngestStage
from radloom.pipelines.receipts.plain import plain
from radloom.pipelines.stage import Check, Context, StageResult
from radloom.pipelines.study import Output, Study

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["DEFAULT_OBJECTS", "OBJECTS", "ExportStage"]

_HOME = "radloom.pipelines.export.dicom"

OBJECTS: Mapping[str, str] = {
    "derived": f"{_HOME}.derived:derived_series",
    "parametric": f"{_HOME}.parametric:parametric_series",
    "segmentation": f"{_HOME}.segmentation:segmentation_series",
    "labelmap": f"{_HOME}.segmentation:labelmap_series",
    "structure_set": f"{_HOME}.structure_set:structure_set_series",
    "registration": f"{_HOME}.registration:registration_series",
    "measurements": f"{_HOME}.measurements:measurement_series",
    "pictures": f"{_HOME}.pictures:picture_series",
    "document": f"{_HOME}.document:document_series",
}
"""Kind of object -> what makes it."""

DEFAULT_OBJECTS = tuple(kind for kind in OBJECTS if kind != "labelmap")
"""What a run makes unless told otherwise: segmentations once, in the form that every archive
takes."""

_SUFFIXES = {
    "segmentation": "seg",
    "structure_set": "rtstruct",
    "registration": "reg",
    "parametric": "pmap",
    "measurements": "sr",
    "pictures": "capture",
    "document": "report",
}
"""Kind -> suffix of the files' names; derived images have that of their role."""

_REVISION = 1
"""Raised when the same results give other objects."""

_BYTES_A_VOXEL = 12
"""A derived series at the check: float64 slices, integers, and the files read back."""


@dataclass(frozen=True)
class ExportStage:
    """Objects of every kind asked for, over the study's source images.

    Where no volume of the study came from DICOM there is nothing to lay them over: the stage is
    skipped and says so. A self-check that fails, fails the study.
    """

    objects: tuple[str, ...] = DEFAULT_OBJECTS
    """Kinds, keys of `OBJECTS`; empty: none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "objects", tuple(self.objects))
        unknown = [kind for kind in self.objects if kind not in OBJECTS]
        if unknown:
            raise ConfigError(
                f"export: expected objects of {', '.join(OBJECTS)}, got {unknown[0]!r}"
            )

    @property
    def name(self) -> str:
        """``export``."""
        return "export"

    def fingerprint(self) -> str:
        """Of the kinds, the revision and the version."""
        text = json.dumps(["export", _REVISION, __version__, self.objects])
        return hashlib.sha256(text.encode()).hexdigest()

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        """Every file and check of the stages before, and the state of each source file."""
        files = {
            path: digest
            for stage, outputs in study.outputs.items()
            if stage != self.name
            for output in outputs
            for path, digest in output.files.items()
        }
        given = {stage: found for stage, found in study.checks.items() if stage != self.name}
        checks = json.dumps(plain(given), sort_keys=True)
        sources = IngestStage().input_hashes(study)
        return {**sources, **files, "checks": hashlib.sha256(checks.encode()).hexdigest()}

    def estimate_memory(self, study: Study) -> int:
        """The largest derived series, its files read back beside it."""
        if "derived" not in self.objects:
            return 0
        shapes = (series.shape for series in study.record.series if series.role)
        return _BYTES_A_VOXEL * max((i * j * k for i, j, k in shapes), default=0)

    def least_memory(self, study: Study) -> int:
        """The same and a volume or label, read for one series of objects."""
        volumes = study.find(kind="volume") + study.find(kind="label")
        return self.estimate_memory(study) + 4 * max((o.n_voxels for o in volumes), default=0)

    def run(self, study: Study, context: Context) -> StageResult:
        """Every instance as an output of kind ``dicom``; skipped where nothing came from DICOM.

        Raises:
            StageFailed: what a read of an object gives is not what was meant.
        """
        desk = Desk(study, self.fingerprint())
        outputs: list[Output] = []
        checks: list[Check] = []
        reasons: list[str] = []
        for kind in self.objects:
            reason = _make(kind, desk, context, outputs, checks)
            if reason:
                reasons.append(reason)
        if not outputs:
            none = "nothing that an object could hold" if self.objects else "none was asked for"
            why = "; ".join(dict.fromkeys(reasons)) or none
            return StageResult(status="skipped", reason=f"no DICOM objects: {why}")
        return StageResult(tuple(outputs), tuple(checks))


def _make(
    kind: str, desk: Desk, context: Context, outputs: list[Output], checks: list[Check]
) -> str:
    """Adds the objects of a kind and their checks; why it cannot be made, else an empty string."""
    try:
        with quiet_dicom():  # remarks on names quote them
            for series in _builder(kind)(desk.study, desk):
                made, found = _write(series, context, desk)
                outputs.extend(made)
                checks.extend(found)
    except NoDicomSource as reason:
        return str(reason)
    return ""


def _builder(kind: str) -> Builder:
    module, _, name = OBJECTS[kind].partition(":")
    return cast("Builder", getattr(import_module(module), name))


def _write(series: ObjectSeries, context: Context, desk: Desk) -> tuple[list[Output], list[Check]]:
    """The outputs of one series, written, and what its self-check says."""
    outputs, back = [], []
    for output, content in _outputs(series):
        kept = context.keep(output)
        _require_written(kept, content)
        outputs.append(kept)
        back.append(read_file_bytes(content))
    checks = list(series.check(back))
    if series.kind == "segmentation":
        desk.made.setdefault((series.kind, series.role), []).extend(back)
    return outputs, checks


def _outputs(series: ObjectSeries) -> Iterator[tuple[Output, bytes]]:
    for index, dataset in enumerate(series.datasets):
        content = file_bytes(dataset)
        yield (
            Output(
                kind="dicom",
                role=series.role,
                name=series.name,
                source=content,
                space=series.space,
                entities=_entities(series, index),
                sidecar=_said(dataset),
            ),
            content,
        )


def _entities(series: ObjectSeries, index: int) -> dict[str, str]:
    many = not isinstance(series.datasets, Sequence) or len(series.datasets) > 1
    entities = {"chunk": f"{index + 1:04d}"} if many else {}
    if series.kind in _SUFFIXES:
        entities["suffix"] = _SUFFIXES[series.kind]
        entities["mod"] = SPACE_LABELS.get(series.role, series.role)
    return {**entities, **series.entities}


def _said(dataset: Dataset) -> dict[str, str]:
    """What the receipt tells of an object, for whoever sends it on."""
    return {
        keyword: str(dataset[keyword].value)
        for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    }


def _require_written(output: Output, content: bytes) -> None:
    """Nothing, if the file on the disk holds `content`; outside of a run there is no file."""
    digest = hashlib.sha256(content).hexdigest()
    if output.files and digest not in output.files.values():
        raise StageFailed(f"{output.name}: a read of the object's file gives other bytes")
