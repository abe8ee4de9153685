"""Ingestion as a stage: every accepted series as a volume, and the verdicts as a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from radloom.errors import SeriesRefused
from radloom.pipelines.ingest.listing import series_rows
from radloom.pipelines.ingest.options import IngestOptions
from radloom.pipelines.stage import Check, Context, StageResult
from radloom.pipelines.study import Output, SeriesRecord, Study
from radloom.transforms.dicom import Repairs

__all__ = ["INGEST_VERSION", "IngestStage", "ingest_series", "sidecar_of"]

INGEST_VERSION = 1
"""Raised whenever the same files would give other voxels, so that old receipts no longer match."""

BYTES_A_VOXEL = 12
"""Decoded values, float32 copy and the flip of the largest series at once."""


@dataclass(frozen=True)
class IngestStage:
    """Reads every accepted series of a study; those that fail on reading become rejected rows."""

    convert_without_role: bool = True
    """Whether series that no stage takes are converted too."""
    roles: Path | None = None
    """A file of role rules (see ``radloom inspect --print-roles``); None: those that ship with
    Radloom. Discovery uses it; a study is read again where a role or its rule changed."""

    suv: bool = False
    """Whether PET is given as SUV (body weight) instead of Bq/mL; where the headers do not say all
    that SUV takes, the series is refused."""
    gantry_tilt: Literal["refuse", "correct"] = "refuse"
    """What becomes of a stack that leans: refused, or sheared back onto a straight grid."""
    uneven_spacing: Literal["refuse", "resample"] = "refuse"
    """What becomes of slices of uneven distances: refused, or interpolated onto even ones."""

    @property
    def options(self) -> IngestOptions:
        """What discovery has to know of these parameters."""
        repairs = Repairs(self.gantry_tilt == "correct", self.uneven_spacing == "resample")
        return IngestOptions(self.suv, repairs)

    @property
    def name(self) -> str:
        """``ingest``."""
        return "ingest"

    def fingerprint(self) -> str:
        """Hex digest over the parameters and `INGEST_VERSION`."""
        known = {k: v for k, v in asdict(self).items() if k != "roles"}
        text = json.dumps([self.name, INGEST_VERSION, known], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        """Digest of each source file's path -> digest of its size and time of change.

        The path itself may hold a patient's name, so that only its digest goes into receipts.
        """
        hashes = {}
        for series in study.record.series:
            for path in series.files:
                hashes[_digest(path)] = _state(study, path)
            hashes[f"series {series.series_uid} {_digest(*series.files)}"] = _digest(
                series.status,
                series.reason,
                series.role,
                series.role_rule,
                series.units,
                series.reader,
                json.dumps(dict(series.entities)),
            )
        return dict(sorted(hashes.items()))

    def estimate_memory(self, study: Study) -> int:
        """Bytes of all volumes as float32, and the working copies of the largest."""
        voxels = [_n_voxels(series) for series in self._wanted(study)]
        return 4 * sum(voxels) + BYTES_A_VOXEL * max(voxels, default=0)

    def run(self, study: Study, context: Context) -> StageResult:
        """A volume for each series that can be read, and the table ``series`` of all verdicts."""
        del context
        outputs: list[Output] = []
        verdicts: list[SeriesRecord] = []
        wanted = {id(series) for series in self._wanted(study)}
        for series in study.record.series:
            if id(series) not in wanted:
                verdicts.append(series)
                continue
            verdict, output = ingest_series(study, series)
            verdicts.append(verdict)
            outputs += [output] if output is not None else []
        table = Output("table", "", "series", series_rows(verdicts))
        n_lost = sum(
            new.status == "rejected" != old.status
            for new, old in zip(verdicts, study.record.series, strict=True)
        )
        checks = (
            Check("series_read", len(outputs), low=1, meaning="Series that became volumes."),
            Check(
                "series_lost_on_reading",
                n_lost,
                high=0,
                meaning="Series whose headers were in order and whose pixels were not; look at "
                "their reasons in the table of series.",
            ),
        )
        if not outputs:
            return StageResult((table,), checks, "skipped", _why(verdicts))
        return StageResult((*outputs, table), checks)

    def _wanted(self, study: Study) -> list[SeriesRecord]:
        return [
            series
            for series in study.record.series
            if series.status != "rejected" and (series.role or self.convert_without_role)
        ]


def ingest_series(study: Study, series: SeriesRecord) -> tuple[SeriesRecord, Output | None]:
    """The final verdict on one series, and its volume where it has one."""
    from radloom.pipelines.ingest.pixels import read_series

    try:
        volume = read_series(study.record, series)
    except SeriesRefused as refusal:
        rejected = replace(
            series, status="rejected", reason=refusal.code.value, detail=refusal.detail, role=""
        )
        return rejected, None
    output = Output(
        kind="volume",
        role=series.role,
        name="ingested",
        source=volume,
        entities=dict(series.entities),
        sidecar=sidecar_of(series, str(volume.meta["units"])),
    )
    return series, output


def sidecar_of(series: SeriesRecord, units: str) -> dict[str, Any]:
    """BIDS fields for the JSON beside a volume: how it was acquired, nothing of whom or when."""
    fields = {
        "Modality": series.modality,
        "Units": units,
        "SeriesDescription": series.description,
        "SeriesInstanceUID": series.series_uid,
        "NumberOfSourceFiles": series.n_files,
        "IngestReason": series.reason,
        "Role": series.role,
        "RoleRule": series.role_rule,
        "Reader": series.reader,
    }
    return {**series.headers, **fields}


def _n_voxels(series: SeriesRecord) -> int:
    i, j, k = series.shape
    is_4d = series.reason in ("time_series", "diffusion")
    return i * j * k * (max(1, series.n_files) if is_4d else 1)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _state(study: Study, path: str) -> str:
    try:
        status = (study.record.root / path).stat()
    except OSError:
        return "unreadable"
    return _digest(str(status.st_size), str(status.st_mtime_ns))


def _why(verdicts: list[SeriesRecord]) -> str:
    reasons = sorted({series.reason for series in verdicts if series.status == "rejected"})
    return f"no series can be used: {', '.join(reasons) or 'there is none'}"
