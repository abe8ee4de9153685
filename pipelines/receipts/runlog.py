"""What happens in a run, a line of JSON at a time: ``OUT/run.jsonl``.

Runs append to one file, so that it tells all that was done to OUT. A line is written whole; one
that a dying machine tore is left alone by the next run and passed over by readers. It says when
things happened, so it is no result: neither the manifest nor a decision of a run depends on it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

from radloom import __version__
from radloom.pipelines.receipts.receipt import STAGES_FOLDER, Receipt, read_receipt

__all__ = ["LOG_FILE", "RunLog", "read_events", "tail_of_log"]

LOG_FILE = "run.jsonl"
"""Below OUT."""

_TAIL_BYTES = 1 << 16


@dataclass
class RunLog:
    """The log of one run. Any thread may write to it."""

    out: Path
    run: str = field(default_factory=lambda: uuid4().hex[:12])
    """Stands in each line of this run."""
    _begun_ns: int = 0
    _stages: dict[str, str] = field(default_factory=dict)
    """Study -> the stage that it is in."""
    _over: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, n_studies: int) -> None:
        """The run knows its studies."""
        _end_torn_line(self.out / LOG_FILE)
        self._write("run", studies=n_studies, version=__version__)
        with suppress(OSError):
            self._begun_ns = (self.out / LOG_FILE).stat().st_mtime_ns

    def dashboard(self, address: str) -> None:
        """Where Dask's dashboard is served."""
        self._write("dashboard", address=address)

    def load(self, devices: Mapping[str, float]) -> None:
        """How busy each device is, 0 to 1."""
        self._write("load", devices={name: round(share, 3) for name, share in devices.items()})

    def enter(self, study: str, stage: str) -> None:
        """A study enters a stage, and so has left the one before."""
        if study in self._over:  # news of stages may come after news of the study
            return
        self._leave(study)
        self._stages[study] = stage
        self._write("enter", study=study, stage=stage)

    def over(
        self,
        study: str,
        outcome: str,
        *,
        stage: str = "",
        seconds: float = 0.0,
        reason: str = "",
        flags: int = 0,
    ) -> None:
        """A study is over; `stage` is where it failed."""
        self._over.add(study)
        self._leave(study)
        said = {"stage": stage, "reason": reason, "flags": flags}
        known = {key: value for key, value in said.items() if value}
        self._write("study", study=study, seconds=round(seconds, 3), outcome=outcome, **known)

    def end(self, outcome: str, seconds: float, **counts: int) -> None:
        """The run is over: ``done``, ``stopped`` by the user, or ``failed`` as a whole."""
        self._write("end", seconds=round(seconds, 3), outcome=outcome, **counts)

    def _leave(self, study: str) -> None:
        """Writes what became of the stage that the study was in, as its receipt says."""
        stage = self._stages.pop(study, "")
        place = self.out / STAGES_FOLDER / study / stage / "stage.json"
        receipt = read_receipt(place) if stage else None
        if receipt is None:
            return  # the worker died in it; what becomes of the study will say so
        outcome = "kept" if self._is_older(place) else receipt.status
        self._write("stage", study=study, stage=stage, **_facts(receipt), outcome=outcome)

    def _is_older(self, receipt: Path) -> bool:
        """Whether an earlier run wrote it. Times of one file system are compared, no clocks."""
        with suppress(OSError):
            return receipt.stat().st_mtime_ns < self._begun_ns
        return False

    def _write(self, event: str, **said: Any) -> None:
        """One line, in one call of the system; a full disk costs the line, never the run."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        entry = {"time": now.replace("+00:00", "Z"), "run": self.run, "event": event, **said}
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"
        path = self.out / LOG_FILE
        with self._lock, suppress(OSError), path.open("ab", buffering=0) as stream:
            stream.write(line.encode())


def _facts(receipt: Receipt) -> dict[str, Any]:
    """What the log says of a stage, beside its name and outcome."""
    said: dict[str, Any] = {"seconds": receipt.seconds}
    if receipt.flags:
        said["flags"] = list(receipt.flags)
    if receipt.status == "failed":
        said["reason"] = receipt.reason
    return said


def _end_torn_line(path: Path) -> None:
    with suppress(OSError), path.open("rb+") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")


def read_events(out: Path) -> Iterator[dict[str, Any]]:
    """Every event of every run on `out`, oldest first; torn lines are passed over."""
    with suppress(OSError), (out / LOG_FILE).open("rb") as stream:
        yield from _events(stream)


def tail_of_log(out: Path) -> list[dict[str, Any]]:
    """The latest events, some hundreds, without reading the rest."""
    with suppress(OSError), (out / LOG_FILE).open("rb") as stream:
        start = max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES)
        stream.seek(start)
        lines = stream.read().split(b"\n")
        return list(_events(lines[1:] if start else lines))
    return []


def _events(lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event
