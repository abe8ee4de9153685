"""What the page shows, read from receipts, records and pictures: no voxels, no identifiers.

Folder and file names of the sources, headers and DICOM UIDs stay out: any of them may name a
patient or lead to one.
"""

from __future__ import annotations

import math
import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from radloom.pipelines.export.index import Index
from radloom.pipelines.export.summary import StudySummary, summary_of
from radloom.pipelines.export.tsv import read_table
from radloom.pipelines.receipts.files import inside
from radloom.pipelines.receipts.receipt import Check, OutputRecord, Receipt, read_receipts
from radloom.pipelines.receipts.records import read_record
from radloom.pipelines.study import StudyRecord

__all__ = [
    "CheckSpread",
    "Cohort",
    "Picture",
    "SeriesRow",
    "StageView",
    "StudyView",
    "Totals",
    "read_cohort",
    "read_studies",
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


class Totals:
    """What a cohort says as a whole, added up a study at a time."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """State -> number of studies."""
        self.seconds = 0.0
        """Of all stages, added up."""
        self.n_studies = self.n_taken = self.n_refused = 0
        self._refusals: Counter[str] = Counter()
        self._versions: dict[str, set[str]] = {}
        self._checks: dict[tuple[str, str], _Values] = {}

    def add(self, study: StudyView) -> None:
        """One more study."""
        self.n_studies += 1
        self.counts[study.state] += 1
        self.seconds += study.summary.seconds
        self.n_taken += study.n_taken
        self.n_refused += study.n_refused
        self._refusals.update(row.reason for row in study.series if row.status == "rejected")
        for stage in study.stages:
            for package, version in stage.receipt.versions.items():
                self._versions.setdefault(package, set()).add(version)
            for check in stage.receipt.checks:
                name = (stage.receipt.stage, check.name)
                self._checks.setdefault(name, _Values(check)).add(study.key, check)

    @property
    def versions(self) -> Mapping[str, tuple[str, ...]]:
        """Package -> the versions that made the results; more than one if runs were mixed."""
        return {package: tuple(sorted(found)) for package, found in self._versions.items()}

    @property
    def refusals(self) -> Mapping[str, int]:
        """Reason code -> number of series refused for it, most frequent first."""
        return dict(sorted(self._refusals.items(), key=lambda item: (-item[1], item[0])))

    @property
    def spreads(self) -> tuple[CheckSpread, ...]:
        """Each check that two studies or more have, over all of them."""
        items = self._checks.items()
        return tuple(values.spread(stage) for (stage, _), values in items if values.n > 1)


class _Values:
    """The values of one check, eight bytes a study."""

    def __init__(self, first: Check) -> None:
        self._first = first
        self._keys: list[str] = []
        self._values, self._flagged = array("d"), bytearray()
        self.n = self.n_flagged = 0

    def add(self, key: str, check: Check) -> None:
        self.n += 1
        self.n_flagged += check.flagged
        if math.isfinite(check.value):
            self._keys.append(key)
            self._values.append(check.value)
            self._flagged.append(check.flagged)

    def spread(self, stage: str) -> CheckSpread:
        median = statistics.median(self._values) if self._values else math.nan
        middle = replace(self._first, value=median)
        known = zip(self._keys, self._values, map(bool, self._flagged), strict=True)
        return CheckSpread(stage, middle, tuple(known), self.n_flagged)


@dataclass(frozen=True)
class Cohort:
    """All studies of an output folder, and what they say together."""

    studies: tuple[StudyView, ...]

    @cached_property
    def totals(self) -> Totals:
        """Over all studies."""
        totals = Totals()
        for study in self.studies:
            totals.add(study)
        return totals


def read_cohort(out: Path) -> Cohort:
    """Everything that the page tells about the studies below `out`."""
    return Cohort(tuple(read_studies(out)))


def read_studies(out: Path) -> Iterator[StudyView]:
    """Every study below `out` by its key, one at a time in memory."""
    index = Index.load(out)
    for key in index.studies():
        marked = index.state(key).marked
        receipts, record = tuple(read_receipts(out, key)), read_record(out, key)
        if receipts or record is not None:
            summary = summary_of(key, receipts, record, marked=marked)
            yield _study(out, summary, receipts, record)


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


def _study(
    out: Path, summary: StudySummary, receipts: tuple[Receipt, ...], record: StudyRecord | None
) -> StudyView:
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
