"""What became of each instance at each destination: one line of JSON an event, never rewritten.

A line is flushed to the disk before anything that depends on it happens. A last line that a kill
cut short is passed over. Instances go by SOPInstanceUID (ours, or a pseudonym) and by the sha256
of their file; no other identifier is written, and no time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from radloom.pipelines.receipts.files import sync

__all__ = ["Entry", "Event", "Ledger"]

Event: TypeAlias = Literal["sent", "accepted", "kept", "failed"]
"""sent: on its way, no answer yet; accepted: the peer took it; kept: it said, or a query showed,
that it keeps it; failed: it refused."""


@dataclass(frozen=True)
class Entry:
    """The last that is known of an instance at a destination."""

    sop_uid: str
    sha256: str
    event: Event
    status: str = ""


class Ledger:
    """The ledger of one destination in a file that holds those of all."""

    def __init__(self, path: Path, destination: str) -> None:
        self._path = path
        self._destination = destination
        self._entries: dict[str, Entry] = {}
        self._taken: dict[str, str] = {}
        self._read()

    def entry(self, sop_uid: str) -> Entry | None:
        """The last that is known of it."""
        return self._entries.get(sop_uid)

    def taken(self, sop_uid: str) -> str | None:
        """The sha256 of the file that the destination has taken under this UID, if any."""
        return self._taken.get(sop_uid)

    def note(self, *entries: Entry) -> None:
        """Entries at the end of the file, on the disk when this returns."""
        lines = [
            json.dumps(
                {
                    "destination": self._destination,
                    "sop_uid": entry.sop_uid,
                    "sha256": entry.sha256,
                    "event": entry.event,
                    "status": entry.status,
                },
                sort_keys=True,
            )
            for entry in entries
        ]
        if not lines:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self._path.exists()
        with self._path.open("ab") as stream:
            stream.write(("\n".join(lines) + "\n").encode())
            stream.flush()
            os.fsync(stream.fileno())
        if is_new:
            sync(self._path.parent)
        for entry in entries:
            self._know(entry)

    def _read(self) -> None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        if content and not content.endswith(b"\n"):
            with self._path.open("ab") as stream:  # what a kill cut short stays a line of its own
                stream.write(b"\n")
        for line in content.splitlines():
            with suppress(ValueError, KeyError, TypeError):
                known = json.loads(line)
                if known["destination"] == self._destination:
                    self._know(_entry(known))

    def _know(self, entry: Entry) -> None:
        self._entries[entry.sop_uid] = entry
        if entry.event in ("accepted", "kept"):
            self._taken[entry.sop_uid] = entry.sha256
        elif entry.event == "failed":
            self._taken.pop(entry.sop_uid, None)


def _entry(known: Mapping[str, str]) -> Entry:
    event = known["event"]
    if event not in ("sent", "accepted", "kept", "failed"):
        raise ValueError(event)
    return Entry(known["sop_uid"], known["sha256"], event, known["status"])  # type: ignore[arg-type]
