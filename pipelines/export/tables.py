"""The tables of a run, made anew from receipts and records: nothing else is known or needed."""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from radloom.pipelines.export.dataset import write_dataset
from radloom.pipelines.export.index import Index
from radloom.pipelines.export.summary import StudySummary
from radloom.pipelines.export.tsv import join_lines, read_table
from radloom.pipelines.receipts.files import inside, write_file
from radloom.pipelines.receipts.receipt import OutputRecord, Receipt, read_receipts
from radloom.pipelines.receipts.records import read_record
from radloom.pipelines.study import StudyRecord

__all__ = ["RunTables", "StudySummary", "summarise", "write_tables"]

STUDY_COLUMNS = ("study", "status", "stage", "reason", "flags", "seconds")
INGEST_COLUMNS = ("series_uid", "path", "status", "reason")

TABLES_EVERY_S = 5.0
TABLES_SHARE = 0.02
"""Of a run's time, at the most, that goes into tables while it is at work: what keeps the sum over
a run linear in its studies, though each writing takes as long as there are studies."""


def write_tables(out: Path) -> None:
    """``studies.tsv``, ``manifest.json``, ``ingest.tsv`` and the dataset's description in `out`.

    One pass over the receipts, a study at a time.
    """
    index = Index.load(out)
    manifest: list[tuple[str, str]] = []
    ingested: list[Mapping[str, str]] = []
    for key in index.studies():
        state = index.state(key)
        receipts, record = list(read_receipts(out, key)), read_record(out, key)
        if not receipts and record is None:
            index.drop(key)
            continue
        index.put(key, state, receipts, record)
        manifest += _manifest(receipts)
        ingested += _ingest_rows(out, receipts, record)
    write_dataset(out)
    _write_studies(index)
    write_file(out / "ingest.tsv", _tsv(INGEST_COLUMNS, ingested))
    write_file(out / "manifest.json", _json_list(entry for _, entry in sorted(manifest)))


def summarise(out: Path) -> tuple[StudySummary, ...]:
    """What became of each study below `out`, by key; receipts are read only if they changed."""
    return tuple(look.summary for look in Index.load(out).look())


class RunTables:
    """``studies.tsv`` and the index of a run that is at work, kept up to date as studies end."""

    def __init__(
        self,
        out: Path,
        *,
        every_s: float = TABLES_EVERY_S,
        share: float = TABLES_SHARE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s, self._share, self._clock = every_s, share, clock
        self._index = Index.load(out)
        self._due, self._looked = clock(), False

    def study_over(self, key: str) -> None:
        """Reads the receipts of one study, and writes where that is due."""
        self._index.look_at(key)
        now = self._clock()
        if now < self._due:
            return
        if not self._looked:  # the studies that wait, and what earlier runs left
            deque(self._index.look(), maxlen=0)
            self._looked = True
        _write_studies(self._index)
        took = self._clock() - now
        self._due = now + max(self._every_s, took / self._share)


def _write_studies(index: Index) -> None:
    rows = [summary for _, (_, summary) in sorted(index.rows.items())]
    write_file(index.out / "studies.tsv", _tsv(STUDY_COLUMNS, map(_study_row, rows)))
    index.save()


def _json_list(entries: Iterable[str]) -> bytes:
    """The bytes of `to_json` for a list whose entries are JSON already, indented by two."""
    body = ",\n".join(entries)
    return f"[\n{body}\n]\n".encode() if body else b"[]\n"


def _study_row(study: StudySummary) -> Mapping[str, str]:
    return {
        "study": study.study,
        "status": study.status,
        "stage": study.stage,
        "reason": study.reason,
        "flags": ";".join(study.flags),
        "seconds": f"{study.seconds:.1f}",
    }


def _manifest(receipts: Iterable[Receipt]) -> Iterator[tuple[str, str]]:
    """Path and entry of each output: of the file with its data. JSON files go without saying."""
    for receipt in receipts:
        for output in receipt.outputs if receipt.status == "done" else ():
            entry = {
                "study": receipt.study,
                "stage": receipt.stage,
                "kind": output.kind,
                "role": output.role,
                "path": output.path,
                "sha256": output.files[output.path],
            }
            text = json.dumps(entry, indent=2, sort_keys=True, ensure_ascii=False)
            yield output.path, "  " + text.replace("\n", "\n  ")


def _ingest_rows(
    out: Path, receipts: Iterable[Receipt], record: StudyRecord | None
) -> list[Mapping[str, str]]:
    """A row a series of a study, as ingestion saw it last: after pixels, else from headers."""
    ingested = [r for r in receipts if r.stage == "ingest" and r.status == "done"]
    outputs = ingested[0].outputs if ingested else ()
    return _with_paths(_series_rows(out, outputs, record), outputs)


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
