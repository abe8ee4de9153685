"""The tables of a run, made anew from receipts and records: nothing else is known or needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from radloom.pipelines.export.dataset import write_dataset
from radloom.pipelines.export.readers import read_table
from radloom.pipelines.export.tsv import join_lines
from radloom.pipelines.receipts.files import inside, write_file
from radloom.pipelines.receipts.plain import to_json
from radloom.pipelines.receipts.receipt import OutputRecord, Receipt, read_receipts
from radloom.pipelines.receipts.records import read_records
from radloom.pipelines.study import StudyRecord

__all__ = ["StudySummary", "summarise", "write_tables"]

STUDY_COLUMNS = ("study", "status", "stage", "reason", "flags", "seconds")
INGEST_COLUMNS = ("series_uid", "path", "status", "reason")


@dataclass(frozen=True)
class StudySummary:
    """One study's row in ``studies.tsv``."""

    study: str
    status: Literal["done", "failed", "skipped"]
    stage: str = ""
    """Which stage failed."""
    reason: str = ""
    flags: tuple[str, ...] = ()
    """Names of the checks out of range."""
    seconds: float = 0.0


def write_tables(out: Path) -> None:
    """``studies.tsv``, ``manifest.json``, ``ingest.tsv`` and the dataset's description in `out`."""
    receipts, records = list(read_receipts(out)), list(read_records(out))
    write_dataset(out)
    write_file(out / "studies.tsv", _tsv(STUDY_COLUMNS, map(_study_row, summarise(out))))
    write_file(out / "ingest.tsv", _tsv(INGEST_COLUMNS, _ingest_rows(out, receipts, records)))
    write_file(out / "manifest.json", to_json(_manifest(receipts)))


def summarise(out: Path) -> tuple[StudySummary, ...]:
    """What became of each study below `out`, by key."""
    by_study: dict[str, list[Receipt]] = defaultdict(list)
    for receipt in read_receipts(out):
        by_study[receipt.study].append(receipt)
    records = {record.key: record for record in read_records(out)}
    keys = sorted(set(by_study) | set(records))
    return tuple(_summary(key, by_study[key], records.get(key)) for key in keys)


def _summary(key: str, receipts: Sequence[Receipt], record: StudyRecord | None) -> StudySummary:
    flags = tuple(dict.fromkeys(flag for receipt in receipts for flag in receipt.flags))
    seconds = sum(receipt.seconds for receipt in receipts)
    failed = [receipt for receipt in receipts if receipt.status == "failed"]
    if failed:
        first = failed[0]
        return StudySummary(key, "failed", first.stage, first.reason, flags, seconds)
    if record is not None and all(series.status == "rejected" for series in record.series):
        return StudySummary(key, "skipped", "ingest", _refusals(record), flags, seconds)
    ingested = [receipt for receipt in receipts if receipt.stage == "ingest"]
    if not receipts:
        reason = "not finished: give the same command again"
        return StudySummary(key, "failed", "", reason, flags, seconds)
    if ingested and not any(o.kind == "volume" for o in ingested[0].outputs):
        reason = ingested[0].reason or "no series could be accepted"
        return StudySummary(key, "skipped", "ingest", reason, flags, seconds)
    left_out = [f"{r.stage} skipped: {r.reason}" for r in receipts if r.status == "skipped"]
    return StudySummary(key, "done", "", "; ".join(left_out), flags, seconds)


def _refusals(record: StudyRecord) -> str:
    reasons = sorted({series.reason for series in record.series if series.reason})
    return "no series could be accepted" + (f" ({', '.join(reasons)})" if reasons else "")


def _study_row(study: StudySummary) -> Mapping[str, str]:
    return {
        "study": study.study,
        "status": study.status,
        "stage": study.stage,
        "reason": study.reason,
        "flags": ";".join(study.flags),
        "seconds": f"{study.seconds:.1f}",
    }


def _manifest(receipts: Iterable[Receipt]) -> list[dict[str, str]]:
    """One entry an output: the file that holds its data. JSON files beside it go without saying."""
    entries = [
        {
            "study": receipt.study,
            "stage": receipt.stage,
            "kind": output.kind,
            "role": output.role,
            "path": output.path,
            "sha256": output.files[output.path],
        }
        for receipt in receipts
        if receipt.status == "done"
        for output in receipt.outputs
    ]
    return sorted(entries, key=lambda entry: entry["path"])


def _ingest_rows(
    out: Path, receipts: Iterable[Receipt], records: Iterable[StudyRecord]
) -> list[Mapping[str, str]]:
    """A row a series of every study, as ingestion saw it last: after pixels, else from headers."""
    ingested = {r.study: r for r in receipts if r.stage == "ingest" and r.status == "done"}
    known = {record.key: record for record in records}
    rows: list[Mapping[str, str]] = []
    for key in sorted(set(ingested) | set(known)):
        outputs = ingested[key].outputs if key in ingested else ()
        rows += _with_paths(_series_rows(out, outputs, known.get(key)), outputs)
    return rows


def _series_rows(
    out: Path, outputs: Iterable[OutputRecord], record: StudyRecord | None
) -> list[Mapping[str, str]]:
    columns = ("series_uid", "status", "reason")
    tables = [o.path for o in outputs if o.kind == "table" and o.name == "series"]
    series: Iterable[Mapping[str, Any]] = ()
    if tables and inside(out, tables[0]).is_file():
        series = read_table(inside(out, tables[0]))
    elif record is not None:
        series = [{k: getattr(known, k) for k in columns} for known in record.series]
    return [{k: str(row[k]) for k in columns} for row in series]


def _with_paths(
    rows: Iterable[Mapping[str, str]], outputs: Iterable[OutputRecord]
) -> list[Mapping[str, str]]:
    """Rows with the file that each series became; volumes of one series in their order."""
    paths: dict[str, list[str]] = defaultdict(list)
    for output in outputs:
        if output.kind == "volume":
            paths[output.series_uid].append(output.path)
    found: list[Mapping[str, str]] = []
    for row in rows:
        left = paths[row["series_uid"]] if row["status"] != "rejected" else []
        found.append({**row, "path": left.pop(0) if left else ""})
    return found


def _tsv(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> bytes:
    lines = ([" ".join(row[column].split()) for column in columns] for row in rows)
    return join_lines([columns, *lines])
