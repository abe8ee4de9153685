"""The DICOM objects of a run to a PACS, each once, and what became of each.

The ledger below OUT says what the destination has taken. What was on its way when a run of `send`
was killed, or when the connection broke, is asked for before it is sent again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from radloom.errors import ConfigError, PacsFailed
from radloom.pipelines.pacs.head import HEAD_BYTES, read_file_head
from radloom.pipelines.pacs.ledger import Entry, Event, Ledger
from radloom.pipelines.pacs.limits import DEFAULT_LIMITS, Limits
from radloom.pipelines.pacs.peer import Peer, Stored, StoreResult, retrying
from radloom.pipelines.receipts.files import inside, sha256_of
from radloom.pipelines.receipts.plain import from_json

__all__ = ["LEDGER", "Failure", "SendSummary", "objects_of", "plan", "send"]

LEDGER = "sent/ledger.jsonl"
"""Below OUT."""

_AT_ONCE = 200
"""Instances between two looks at what became of them."""

_NOT_TRIED = StoreResult("not tried: the connection broke before it")


@dataclass(frozen=True)
class Failure:
    """An instance that is not there, and why."""

    path: str
    """Relative to OUT."""
    status: str


@dataclass(frozen=True)
class SendSummary:
    """What became of the objects of a run."""

    n_objects: int
    n_sent: int
    """Accepted now."""
    n_before: int
    """The destination had them already."""
    failures: tuple[Failure, ...]
    confirmation: str = ""
    """How it was made sure that the destination keeps them."""

    def sentence(self) -> str:
        """``12 objects: 10 sent, 2 there already, 0 failed``."""
        return (
            f"{self.n_objects} objects: {self.n_sent} sent, {self.n_before} there already, "
            f"{len(self.failures)} failed"
        )


def objects_of(out: Path) -> tuple[list[Stored], list[Failure]]:
    """The DICOM objects that the manifest of a run lists, and those that cannot be sent as listed.

    Raises:
        ConfigError: there is no manifest.
    """
    try:
        manifest = from_json((out / "manifest.json").read_bytes())
        listed = [(str(e["path"]), str(e["sha256"])) for e in manifest if e["kind"] == "dicom"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"expected the manifest of a run in <{out}>, found none: name the OUT of `radloom run`"
        ) from None
    objects: list[Stored] = []
    failures: list[Failure] = []
    for relative, sha256 in listed:
        path = inside(out, relative)
        try:
            if sha256_of(path) != sha256:
                failures.append(Failure(relative, "changed since the run: run again"))
                continue
            with path.open("rb") as stream:
                head = read_file_head(stream.read(HEAD_BYTES))
            objects.append(Stored(path, head, sha256))
        except OSError as error:
            failures.append(Failure(relative, f"cannot be read: {error.strerror}"))
        except PacsFailed as error:
            failures.append(Failure(relative, str(error)))
    return objects, failures


def plan(out: Path, destination: str) -> Iterator[tuple[str, str]]:
    """Path relative to OUT, and what `send` would do, of each object; nobody is asked.

    Raises:
        ConfigError: `out` holds no run.
    """
    objects, failures = objects_of(out)
    ledger = Ledger(out / LEDGER, destination)
    for failure in failures:
        yield failure.path, failure.status
    for file in objects:
        taken = ledger.taken(file.head.sop_uid) == file.sha256
        relative = file.path.relative_to(out).as_posix()
        yield relative, "there already" if taken else "would be sent"


def send(
    out: Path,
    peer: Peer,
    *,
    limits: Limits = DEFAULT_LIMITS,
    on_sent: Callable[[int, int], None] = lambda _done, _all: None,
    sleep: Callable[[float], None] = time.sleep,
) -> SendSummary:
    """Every DICOM object of the run in `out` to `peer`; those that it has taken are not sent again.

    Args:
        out: OUT of a run.
        peer: where to.
        limits: attempts and waits.
        on_sent: told how many of how many are over.
        sleep: waits between attempts.

    Raises:
        ConfigError: `out` holds no run.
        PacsFailed: the destination cannot be reached or turns everything away.
    """
    objects, failures = objects_of(out)
    sending = _Sending(out, peer, limits, sleep)
    waiting = sending.without_those_there(sending.sort(objects))
    before = sending.taken(objects)
    for start in range(0, len(waiting), _AT_ONCE):
        sending.carry(waiting[start : start + _AT_ONCE])
        on_sent(min(start + _AT_ONCE, len(waiting)), len(waiting))
    confirmation = sending.confirm(objects)
    after = sending.taken(objects)
    failures += sending.failures.values()
    return SendSummary(
        n_objects=len(after) + len(failures),
        n_sent=len(after - before),
        n_before=len(after & before),
        failures=tuple(failures),
        confirmation=confirmation,
    )


class _Sending:
    """One run of `send`."""

    def __init__(
        self, out: Path, peer: Peer, limits: Limits, sleep: Callable[[float], None]
    ) -> None:
        self._out, self._peer, self._limits, self._sleep = out, peer, limits, sleep
        self._ledger = Ledger(out / LEDGER, peer.name)
        self._gone: PacsFailed | None = None
        self.failures: dict[str, Failure] = {}

    def sort(self, objects: Sequence[Stored]) -> list[Stored]:
        """Those that the destination has not taken; other content under a UID of theirs fails."""
        waiting: dict[str, Stored] = {}
        for file in objects:
            uid = file.head.sop_uid
            taken = self._ledger.taken(uid) or (waiting[uid].sha256 if uid in waiting else None)
            if taken is None:
                waiting[uid] = file
            elif taken != file.sha256:
                self._fail(file, "other content was taken under the same UID: remove that there")
        return list(waiting.values())

    def taken(self, objects: Sequence[Stored]) -> set[str]:
        """SOPInstanceUIDs of those that the destination has taken."""
        uids = {f.head.sop_uid for f in objects if self._ledger.taken(f.head.sop_uid) == f.sha256}
        return uids - set(self.failures)

    def without_those_there(self, waiting: Sequence[Stored]) -> list[Stored]:
        """Those that may be there, for nobody knows how sending them ended, asked for."""
        doubtful = [f for f in waiting if self._is_doubtful(f)]
        if not doubtful:
            return list(waiting)
        there = retrying(lambda: self._peer.holds(doubtful), self._limits, self._sleep)
        self._ledger.note(
            *(
                Entry(f.head.sop_uid, f.sha256, "accepted", "found there")
                for f in doubtful
                if f.head.sop_uid in there
            )
        )
        return [f for f in waiting if self._ledger.taken(f.head.sop_uid) is None]

    def _is_doubtful(self, file: Stored) -> bool:
        entry = self._ledger.entry(file.head.sop_uid)
        return entry is not None and entry.event == "sent" and entry.sha256 == file.sha256

    def carry(self, files: Sequence[Stored]) -> None:
        """`files` to the destination; tried again while that brings something or may."""
        waiting, left = list(files), self._limits.attempts
        while waiting:
            n_before = len(waiting)
            problem, results = self._store(waiting)
            again = self._settle([(f, results.get(f.head.sop_uid, _NOT_TRIED)) for f in waiting])
            left = left - 1 if len(again) == n_before else self._limits.attempts
            if problem is not None and not problem.passing:
                self._gone = problem
            if left <= 0 or self._gone is not None:
                for file, result in again:
                    self._fail(file, str(problem or result.status))
                return
            waiting = [file for file, _ in again]
            if waiting:
                self._sleep(self._limits.wait_s * 2 ** (self._limits.attempts - left))
                waiting = self._still_missing(waiting)

    def _settle(
        self, told: Sequence[tuple[Stored, StoreResult]]
    ) -> list[tuple[Stored, StoreResult]]:
        """Notes what was taken and what was refused; the rest, to be tried again."""
        again, entries = [], []
        for file, result in told:
            event: Event = "accepted" if result.accepted else "failed"
            if not result.accepted and (result.doubtful or result is _NOT_TRIED):
                again.append((file, result))
                continue
            entries.append(Entry(file.head.sop_uid, file.sha256, event, result.status))
            if not result.accepted:
                self._fail(file, result.status)
        self._ledger.note(*entries)
        # what may have broken the connection goes last, so that it keeps nothing else out
        return sorted(again, key=lambda item: item[1].doubtful)

    def _store(self, files: Sequence[Stored]) -> tuple[PacsFailed | None, dict[str, StoreResult]]:
        if self._gone is not None:
            return self._gone, {}
        self._ledger.note(*(Entry(f.head.sop_uid, f.sha256, "sent") for f in files))
        try:
            return None, dict(self._peer.store(files))
        except PacsFailed as error:
            return error, {}

    def _still_missing(self, waiting: Sequence[Stored]) -> list[Stored]:
        try:
            return self.without_those_there(waiting)
        except PacsFailed:
            return list(waiting)

    def confirm(self, objects: Sequence[Stored]) -> str:
        """How the destination's keeping was made sure; what it does not keep has failed."""
        taken = [
            f
            for f in objects
            if self._ledger.taken(f.head.sop_uid) == f.sha256
            and f.head.sop_uid not in self.failures
            and (entry := self._ledger.entry(f.head.sop_uid)) is not None
            and entry.event != "kept"
        ]
        if not taken:
            return ""
        try:
            said = retrying(lambda: self._peer.confirm(taken), self._limits, self._sleep)
        except PacsFailed as error:
            return f"not confirmed: {error}"
        entries = []
        for file in taken:
            uid = file.head.sop_uid
            if uid in said.kept:
                entries.append(Entry(uid, file.sha256, "kept", said.how))
            elif uid in said.refused:
                status = f"not kept: {said.refused[uid]}"
                entries.append(Entry(uid, file.sha256, "failed", status))
                self._fail(file, status)
        self._ledger.note(*entries)
        return said.how

    def _fail(self, file: Stored, status: str) -> None:
        relative = file.path.relative_to(self._out).as_posix()
        self.failures[file.head.sop_uid] = Failure(relative, status)
