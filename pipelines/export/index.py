"""What became of every study, remembered from one look to the next.

``OUT/stages/.index.json`` holds for each study the row that its receipts say, and the stamp of
those receipts: their names, sizes and times of change. A row is used as long as its stamp is that
of now, and anything else is read anew. So the file is never a truth of its own: it may be torn,
old or deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from radloom import __version__
from radloom.pipelines.export.summary import StudySummary, summary_of
from radloom.pipelines.receipts.files import write_file
from radloom.pipelines.receipts.receipt import STAGES_FOLDER, Receipt, read_receipts
from radloom.pipelines.receipts.records import read_record
from radloom.pipelines.study import StudyRecord

__all__ = ["INDEX_FILE", "Index", "Look", "State"]

INDEX_FILE = ".index.json"
"""Below ``OUT/stages``."""

_FORMAT = f"1 {__version__} {' '.join(item.name for item in fields(StudySummary))}"
"""An index of another version, whose rows may say other things, is not used."""


class State(NamedTuple):
    """The receipts of a study at one moment."""

    stamp: str
    """Another wherever a receipt is another; empty where there is none."""
    marked: bool
    """Whether a worker says that it is at work on the study; one that was killed leaves that."""


@dataclass(frozen=True)
class Look:
    """A study as it is on the disk at one moment."""

    summary: StudySummary
    marked: bool
    """As in `State`."""


@dataclass
class Index:
    """The studies of one output folder."""

    out: Path
    rows: dict[str, tuple[str, StudySummary]] = field(default_factory=dict)
    """Study's key -> stamp, row."""
    changed: bool = False
    """Whether rows differ from those in the file."""

    @classmethod
    def load(cls, out: Path) -> Index:
        """The index below `out`; an empty one where there is none that can be used."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads((out / STAGES_FOLDER / INDEX_FILE).read_bytes())
            if content["format"] == _FORMAT:
                rows = {key: _row(key, values) for key, values in content["studies"].items()}
                return cls(out, rows)
        return cls(out)

    def save(self) -> None:
        """Writes the file, where anything changed. Others may write it at the same time."""
        if not self.changed:
            return
        rows = {key: [stamp, *_values(row)] for key, (stamp, row) in sorted(self.rows.items())}
        content = json.dumps({"format": _FORMAT, "studies": rows}, separators=(",", ":"))
        write_file(self.out / STAGES_FOLDER / INDEX_FILE, content.encode(), durable=False)
        self.changed = False

    def studies(self) -> list[str]:
        """The keys of all studies on the disk; rows of others are dropped."""
        found = sorted(_folders(self.out / STAGES_FOLDER))
        for gone in self.rows.keys() - set(found):
            self.drop(gone)
        return found

    def state(self, key: str) -> State:
        """The state of a study's receipts."""
        return _state(self.out / STAGES_FOLDER / key)

    def put(
        self, key: str, state: State, receipts: Sequence[Receipt], record: StudyRecord | None
    ) -> None:
        """What the receipts of `state`, or newer ones, say of a study."""
        summary = summary_of(key, receipts, record, marked=state.marked)
        if self.rows.get(key) != (state.stamp, summary):
            self.rows[key] = (state.stamp, summary)
            self.changed = True

    def drop(self, key: str) -> None:
        """No row of a study of which nothing is left."""
        if self.rows.pop(key, None) is not None:
            self.changed = True

    def look(self) -> Iterator[Look]:
        """Every study by its key; receipts are read only where they changed."""
        for key in self.studies():
            state = self.state(key)
            if state.stamp:
                yield Look(self._current(key, state), state.marked)
            else:
                self.drop(key)

    def look_at(self, key: str) -> StudySummary:
        """One study."""
        return self._current(key, self.state(key))

    def _current(self, key: str, state: State) -> StudySummary:
        known = self.rows.get(key)
        if known is not None and known[0] == state.stamp:
            return known[1]
        self.put(key, state, list(read_receipts(self.out, key)), read_record(self.out, key))
        return self.rows[key][1]


def _row(key: str, values: list[Any]) -> tuple[str, StudySummary]:
    stamp, status, stage, reason, flags, seconds = values
    return stamp, StudySummary(key, status, stage, reason, tuple(flags), seconds)


def _values(row: StudySummary) -> list[Any]:
    return [row.status, row.stage, row.reason, row.flags, row.seconds]


def _folders(stages: Path) -> list[str]:
    try:
        with os.scandir(stages) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []


def _state(folder: Path) -> State:
    """The state of the receipts in a study's folder.

    Ten thousand studies have 70,000 files to ask for, so that `Path` would cost a second of its
    own.
    """
    found, marked = [], False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                marked = marked or entry.name == "running.json"
                if entry.name == "study.json":
                    found.append(_file_state(entry.path))
                elif "." not in entry.name:  # neither files nor <stage>.partial
                    found.append(_file_state(f"{entry.path}/stage.json"))
    except OSError:
        return State("", marked=False)
    states = sorted(state for state in found if state)
    digest = hashlib.blake2b(repr((states, marked)).encode(), digest_size=12).hexdigest()
    return State(digest if states else "", marked)


def _file_state(path: str) -> tuple[str, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - see `_state`
    except OSError:
        return None
    parts = path.rsplit("/", 2)
    return "/".join(parts[1:]), status.st_size, status.st_mtime_ns
