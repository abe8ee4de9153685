"""Ingestion as a stage: every accepted series as a volume, and the verdicts as a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from radloom.errors import ReasonCode, SeriesRefused
from radloom.pipelines.ingest.archives import file_that_holds
from radloom.pipelines.ingest.fields import missing_fields
from radloom.pipelines.ingest.listing import series_rows
from radloom.pipelines.ingest.names import hide_paths
from radloom.pipelines.ingest.options import IngestOptions
from radloom.pipelines.stage import Check, Context, StageResult
from radloom.pipelines.study import Output, SeriesRecord, Study
from radloom.transforms.dicom import Repairs

__all__ = ["INGEST_VERSION", "IngestStage", "ingest_series", "sidecar_of"]

INGEST_VERSION = 2
"""Raised whenever the same files would give other voxels, so that old receipts no longer match."""

BYTES_A_VOXEL = 20
"""What reading and writing one series takes at its peak: 18 measured on 256 x 256 x 128 voxels."""


@dataclass(frozen=True)
class IngestStage:
    """Reads every accepted series of a study; those that fail on reading become rejected rows."""

    convert_without_role: bool = True
    """Whether series that no stage takes are converted too."""
    roles: Path | None = None
    """A file of role rules (see ``radloom inspect --print-roles``); None: those that ship with
    Radloom. Discovery uses it; a study is read again where a role or its rule changed."""

    deface: bool = False
    """Whether head volumes of MR and CT lose their face; what cannot be defaced is refused then."""
    suv: bool = False
    """Whether PET is given as SUV (body weight) instead of Bq/mL; where the headers do not say all
    that SUV takes, the series is refused."""
    gantry_tilt: Literal["refuse", "correct"] = "refuse"
    """What becomes of a stack that leans: refused, or sheared back onto a straight grid."""
    uneven_spacing: Literal["refuse", "resample"] = "refuse"
    """What becomes of slices of uneven distances: refused, or interpolated onto even ones."""

    philips_scaling: Literal["display", "floating_point"] = "display"
    """Values of Philips MR: those that the console displays, or floating point (see
    `radloom.pipelines.ingest.philips`); where ScaleSlope is not there, the latter is refused."""

    @property
    def options(self) -> IngestOptions:
        """What discovery has to know of these parameters."""
        repairs = Repairs(self.gantry_tilt == "correct", self.uneven_spacing == "resample")
        floating_point = self.philips_scaling == "floating_point"
        return IngestOptions(self.suv, floating_point, repairs)

    @property
    def is_plain(self) -> bool:
        """Whether it computes with NumPy alone (see `radloom.pipelines.stage`)."""
        return not self.deface

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
        salt = study.record.salt
        for series in study.record.series:
            for path in series.files:
                hashes[_digest(salt, path)] = _state(study, path)
            hashes[f"series {series.series_uid} {_digest(salt, *series.files)}"] = _digest(
                salt,
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
        """Bytes of the volumes that stages take, as float32, and what the largest of all takes."""
        wanted = self._wanted(study)
        held = sum(4 * _n_voxels(series) for series in wanted if series.role)
        return held + self.least_memory(study)

    def least_memory(self, study: Study) -> int:
        """Bytes for the largest series alone: each is written as soon as it is read."""
        wanted = self._wanted(study)
        return BYTES_A_VOXEL * max((_n_voxels(series) for series in wanted), default=0)

    def run(self, study: Study, context: Context) -> StageResult:
        """A volume for each series that can be read, and the table ``series`` of all verdicts.

        Where the volume chosen for a role cannot be read, the next in the order of choice that can
        takes the role; its ``role_rule`` says so.
        """
        verdicts = list(study.record.series)
        volumes: dict[int, Output] = {}
        for index, series in enumerate(study.record.series):
            if self._is_wanted(series):
                verdicts[index] = self._ingest(study, series, index, volumes, context)
        for role in _lost_roles(study.record.series, verdicts):
            self._promote(study, role, verdicts, volumes, context)
        outputs = [volumes[index] for index in sorted(volumes)]
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

    def _is_wanted(self, series: SeriesRecord) -> bool:
        return series.status != "rejected" and bool(series.role or self.convert_without_role)

    def _ingest(
        self,
        study: Study,
        series: SeriesRecord,
        index: int,
        volumes: dict[int, Output],
        context: Context,
    ) -> SeriesRecord:
        """The final verdict on one series; its volume, if any, is kept, and in `volumes`."""
        verdict, output = ingest_series(study, series)
        if output is not None and self.deface:
            verdict, output = _defaced(verdict, output, context.n_threads)
        if output is not None:
            volumes[index] = context.keep(output)
        return verdict

    def _promote(
        self,
        study: Study,
        role: str,
        verdicts: list[SeriesRecord],
        volumes: dict[int, Output],
        context: Context,
    ) -> None:
        """Gives a lost role to the first runner-up that can be read, in both collections."""
        candidates = [
            (series.runner_up_place, index)
            for index, series in enumerate(verdicts)
            if series.runner_up_for == role and series.status != "rejected"
        ]
        for _, index in sorted(candidates):
            rule = (
                f"{verdicts[index].role_rule}; took the role, as the one before it cannot be read"
            )
            reason = verdicts[index].reason
            taken = replace(
                study.record.series[index],
                role=role,
                role_rule=rule,
                reason="" if reason == ReasonCode.NOT_A_HEAD_VOLUME.value else reason,
            )
            volumes.pop(index, None)
            verdicts[index] = self._ingest(study, taken, index, volumes, context)
            if index in volumes:
                return

    def _wanted(self, study: Study) -> list[SeriesRecord]:
        return [series for series in study.record.series if self._is_wanted(series)]


def _lost_roles(before: Sequence[SeriesRecord], after: Sequence[SeriesRecord]) -> list[str]:
    """Roles whose volume could not be read, in the order of the series."""
    return [
        old.role
        for old, new in zip(before, after, strict=True)
        if old.role and new.status == "rejected" != old.status
    ]


def _defaced(
    series: SeriesRecord, output: Output, n_threads: int
) -> tuple[SeriesRecord, Output | None]:
    """The verdict and the output without its face; refused where that cannot be done."""
    from radloom.pipelines.deface import deface

    rejected = replace(series, status="rejected", reason=ReasonCode.NOT_DEFACED.value, role="")
    if not series.role:
        return replace(rejected, detail="expected a head volume, got one of no role"), None
    try:
        done = deface(output.volume, n_threads=n_threads)
    except SeriesRefused as refusal:
        return replace(rejected, detail=refusal.detail), None
    said = {"Defaced": True, "DefacedShare": round(float(done.removed.mean()), 6)}
    return series, replace(output, source=done.volume, sidecar={**output.sidecar, **said})


def ingest_series(study: Study, series: SeriesRecord) -> tuple[SeriesRecord, Output | None]:
    """The final verdict on one series, and its volume where it has one."""
    from radloom.pipelines.ingest.pixels import read_with_facts

    try:
        reading = read_with_facts(study.record, series)
    except SeriesRefused as refusal:
        detail = hide_paths(refusal.detail) if study.record.salt else refusal.detail
        rejected = replace(
            series, status="rejected", reason=refusal.code.value, detail=detail, role=""
        )
        return rejected, None
    sidecar = {
        **sidecar_of(series, reading.units),
        **_facts(reading.facts, study),
    }
    missing = missing_fields(series.modality, series.reason, sidecar)
    output = Output(
        kind="volume",
        role=series.role,
        name="ingested",
        source=reading.source,
        entities=dict(series.entities),
        sidecar={**sidecar, **({"MissingFields": list(missing)} if missing else {})},
    )
    return series, output


def _facts(facts: Mapping[str, Any], study: Study) -> Mapping[str, Any]:
    """What was learned on reading; where the study stands under a pseudonym, without text."""
    if not study.record.salt:
        return facts
    from radloom.pipelines.deidentify.profile import load_profile
    from radloom.pipelines.deidentify.sidecars import clean_sidecar

    return clean_sidecar(facts, load_profile())


def sidecar_of(series: SeriesRecord, units: str) -> dict[str, Any]:
    """BIDS fields for the JSON beside a volume: how it was acquired, nothing of whom or when."""
    fields = {
        "Modality": series.modality,
        "Units": units,
        "SeriesDescription": series.description,
        "SeriesInstanceUID": series.series_uid,
        "NumberOfSourceFiles": series.n_files,
        "IngestReason": series.reason,
        **({"IngestDetail": series.detail} if series.detail else {}),
        "Role": series.role,
        "RoleRule": series.role_rule,
        "Reader": series.reader,
    }
    return {**series.headers, **fields}


def _n_voxels(series: SeriesRecord) -> int:
    i, j, k = series.shape
    return i * j * k * int(series.headers.get("NumberOfVolumes", 1))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _state(study: Study, path: str) -> str:
    try:
        status = file_that_holds(study.record.root, path).stat()
    except OSError:
        return "unreadable"
    return _digest(study.record.salt, str(status.st_size), str(status.st_mtime_ns))


def _why(verdicts: list[SeriesRecord]) -> str:
    reasons = sorted({series.reason for series in verdicts if series.status == "rejected"})
    return f"no series can be used: {', '.join(reasons) or 'there is none'}"
