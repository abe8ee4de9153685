"""What discovery found in a study, kept beside its receipts without anything that names a patient.

Folder and file names of the source stay out: they may hold names, and they belong to one machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from radloom.pipelines.receipts.files import write_file
from radloom.pipelines.receipts.plain import from_json, plain, to_json
from radloom.pipelines.receipts.receipt import STAGES_FOLDER
from radloom.pipelines.study import SeriesRecord, StudyRecord

__all__ = ["is_deidentified", "read_record", "read_records", "write_record"]


def write_record(out: Path, record: StudyRecord) -> Path:
    """``OUT/stages/<key>/study.json``, without the study's folder and its file names."""
    content = plain(replace(record, pseudonyms=None))
    del content["root"], content["salt"], content["pseudonyms"]
    content["deidentified"] = bool(record.salt)
    for series, known in zip(content["series"], record.series, strict=True):
        del series["files"]
        series["n_files"] = known.n_files
    path = out / STAGES_FOLDER / record.key / "study.json"
    write_file(path, to_json(content))
    return path


def read_records(out: Path) -> Iterator[StudyRecord]:
    """Every readable record below `out`, by key; `root` is empty and no series has `files`."""
    for path in sorted((out / STAGES_FOLDER).glob("*/study.json")):
        record = read_record(out, path.parent.name)
        if record is not None:
            yield record


def read_record(out: Path, key: str) -> StudyRecord | None:
    """One study's record, as `read_records` has it; None where there is none to be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return _record(from_json((out / STAGES_FOLDER / key / "study.json").read_bytes()))
    return None


def _record(content: Mapping[str, Any]) -> StudyRecord:
    series = tuple(_series(item) for item in content["series"])
    known = {key: value for key, value in content.items() if key != "deidentified"}
    return StudyRecord(**{**known, "root": Path(), "series": series})


def is_deidentified(out: Path) -> bool | None:
    """Whether the studies below `out` stand under pseudonyms; None where there are none."""
    for path in sorted((out / STAGES_FOLDER).glob("*/study.json")):
        with suppress(OSError, ValueError):
            return bool(from_json(path.read_bytes()).get("deidentified", False))
    return None


def _series(content: Mapping[str, Any]) -> SeriesRecord:
    known = {key: value for key, value in content.items() if key != "n_files"}
    i, j, k = known["shape"]
    x, y, z = known["spacing"]
    return SeriesRecord(**{**known, "shape": (i, j, k), "spacing": (x, y, z), "files": ()})
