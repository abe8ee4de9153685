"""What the page shows, read from receipts, records and pictures: no voxels, no identifiers.

Folder and file names of the sources, headers and DICOM UIDs stay out: any of them may name a
patient or lead to one.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radloom.pipelines.export import StudySummary, summarise
from radloom.pipelines.export.readers import read_table
from radloom.pipelines.receipts.files import inside
from radloom.pipelines.receipts.receipt import Check, OutputRecord, Receipt, read_receipts
from radloom.pipelines.receipts.records import read_records
from radloom.pipelines.study import StudyRecord

__all__ = [
    "CheckSpread",
    "Cohort",
    "Picture",
    "SeriesRow",
    "StageView",
    "StudyView",
    "read_cohort",
    "scale_of",
]


@dataclass(frozen=True)
class SeriesRow:
    """One series, or one volume of a split series, with ingestion's last word on it."""

    description: str
    modality: str
    status: str
    reason: str
    detail: str
    role: str
    role_rule: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    n_files: int


@dataclass(frozen=True)
class Picture:
    """A PNG of the report stage."""

    stage: str
    """Which stage it shows."""
    role: str
    series: str
    """The description of the series it shows, for pictures of ingestion."""
    path: Path
    relative: str
    """Relative to OUT, with ``/``."""


@dataclass(frozen=True)
class StageView:
    """A stage of a study and the pictures that show it."""

    receipt: Receipt
    pictures: tuple[Picture, ...]

    @property
    def state(self) -> str:
        """``done``, ``flagged``, ``skipped`` or ``failed``."""
        if self.receipt.status == "done" and self.receipt.flags:
            return "flagged"
        return self.receipt.status


@dataclass(frozen=True)
class StudyView:
    """One study."""

    summary: StudySummary
    series: tuple[SeriesRow, ...]
    stages: tuple[StageView, ...]

    @property
    def key(self) -> str:
        """``sub-<subject>_ses-<session>``."""
        return self.summary.study

    @property
    def state(self) -> str:
        """The status, or ``flagged`` where a check of a study that is done is out of range."""
        flagged = self.summary.status == "done" and self.summary.flags
        return "flagged" if flagged else self.summary.status

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the series taken, in the order of ingestion."""
        taken = (row.role for row in self.series if row.status != "rejected" and row.role)
        return tuple(dict.fromkeys(taken))

    @property
    def modalities(self) -> tuple[str, ...]:
        """DICOM codes of the series taken."""
        taken = (row.modality for row in self.series if row.status != "rejected")
        return tuple(dict.fromkeys(m for m in taken if m))

    @property
    def n_taken(self) -> int:
        """Series that became volumes."""
        return sum(row.status != "rejected" for row in self.series)

    @property
    def n_refused(self) -> int:
        """Series that did not."""
        return len(self.series) - self.n_taken

    @property
    def flagged_checks(self) -> tuple[tuple[str, Check], ...]:
        """(stage, check) for each check out of range."""
        return tuple(
            (stage.receipt.stage, check)
            for stage in self.stages
            for check in stage.receipt.checks
            if check.flagged
        )


@dataclass(frozen=True)
class CheckSpread:
    """One check over all studies."""

    stage: str
    check: Check
    """Its range, unit and meaning; `value` is the median."""
    values: tuple[tuple[str, float, bool], ...]
    """(study, value, flagged), by study; only finite values."""
    n_flagged: int


@dataclass(frozen=True)
class Cohort:
    """All studies of an output folder."""

    studies: tuple[StudyView, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """State -> number of studies."""
        return Counter(study.state for study in self.studies)

    @property
    def seconds(self) -> float:
        """Of all stages, added up."""
        return sum(study.summary.seconds for study in self.studies)

    @property
    def versions(self) -> Mapping[str, tuple[str, ...]]:
        """Package -> the versions that made the results; more than one if runs were mixed."""
        found: dict[str, set[str]] = {}
        for study in self.studies:
            for stage in study.stages:
                for package, version in stage.receipt.versions.items():
                    found.setdefault(package, set()).add(version)
        return {package: tuple(sorted(versions)) for package, versions in found.items()}

    @property
    def refusals(self) -> Mapping[str, int]:
        """Reason code -> number of series refused for it, most frequent first."""
        reasons = Counter(
            row.reason for study in self.studies for row in study.series if row.status == "rejected"
        )
        return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))

    @property
    def spreads(self) -> tuple[CheckSpread, ...]:
        """Each check that two studies or more have, over all of them."""
        groups: dict[tuple[str, str], list[tuple[str, Check]]] = {}
        for study in self.studies:
            for stage in study.stages:
                for check in stage.receipt.checks:
                    key = (stage.receipt.stage, check.name)
                    groups.setdefault(key, []).append((study.key, check))
        return tuple(
            _spread(stage, checks) for (stage, _), checks in groups.items() if len(checks) > 1
        )


def read_cohort(out: Path) -> Cohort:
    """Everything that the page tells about the studies below `out`."""
    records = {record.key: record for record in read_records(out)}
    return Cohort(
        tuple(_study(out, summary, records.get(summary.study)) for summary in summarise(out))
    )


def scale_of(check: Check, values: Sequence[float] = ()) -> tuple[float, float]:
    """The ends of a scale that holds a check's range and its values with some room.

    >>> scale_of(Check("kept", 0.5, low=0.0, high=1.0))
    (-0.25, 1.25)
    """
    bounds = [b for b in (check.low, check.high) if b is not None and math.isfinite(b)]
    shown = [v for v in (values or (check.value,)) if math.isfinite(v)]
    points = [*bounds, *shown] or [0.0]
    low, high = min(points), max(points)
    room = 0.25 * (high - low) or 0.25 * abs(high) or 1.0
    return low - room, high + room


def _spread(stage: str, checks: Sequence[tuple[str, Check]]) -> CheckSpread:
    finite = tuple((k, c.value, c.flagged) for k, c in checks if math.isfinite(c.value))
    median = statistics.median(value for _, value, _ in finite) if finite else math.nan
    first = checks[0][1]
    middle = Check(first.name, median, first.low, first.high, first.unit, first.meaning)
    return CheckSpread(stage, middle, finite, sum(check.flagged for _, check in checks))


def _study(out: Path, summary: StudySummary, record: StudyRecord | None) -> StudyView:
    receipts = tuple(read_receipts(out, summary.study))
    pictures = [p for receipt in receipts for p in _pictures(out, receipt)]
    stages = tuple(
        StageView(receipt, tuple(p for p in pictures if p.stage == receipt.stage))
        for receipt in receipts
    )
    return StudyView(summary, _series(out, receipts, record), stages)


def _pictures(out: Path, receipt: Receipt) -> Iterable[Picture]:
    for output in receipt.outputs:
        if output.kind != "report" or not output.path.endswith(".png"):
            continue
        path = inside(out, output.path)
        if path.is_file():
            stage = str(output.sidecar.get("stage", output.name))
            series = str(output.sidecar.get("series", ""))
            yield Picture(stage, output.role, series, path, output.path)


def _series(
    out: Path, receipts: Iterable[Receipt], record: StudyRecord | None
) -> tuple[SeriesRow, ...]:
    table = next((o for r in receipts if r.stage == "ingest" for o in _series_tables(r)), None)
    if table is not None and inside(out, table.path).is_file():
        return tuple(map(_row, read_table(inside(out, table.path))))
    known = record.series if record is not None else ()
    return tuple(_row({name: getattr(series, name) for name in _COLUMNS}) for series in known)


_COLUMNS = (*SeriesRow.__dataclass_fields__,)


def _series_tables(receipt: Receipt) -> Iterable[OutputRecord]:
    return (o for o in receipt.outputs if o.kind == "table" and o.name == "series")


def _row(values: Mapping[str, Any]) -> SeriesRow:
    texts = {name: str(values.get(name) or "") for name in _COLUMNS[:7]}
    shape, spacing = _numbers(values.get("shape")), _numbers(values.get("spacing"))
    return SeriesRow(
        **texts,
        shape=tuple(int(n) for n in shape) if any(shape) else (),
        spacing=spacing if any(spacing) else (),
        n_files=int(values.get("n_files") or 0),
    )


def _numbers(value: Any) -> tuple[float, ...]:
    """``256x256x180`` as the table of series has it, or numbers as a record does."""
    parts = value.split("x") if isinstance(value, str) else value or ()
    return tuple(float(part) for part in parts if part != "")
