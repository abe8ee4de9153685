"""The folder in which instances from the network arrive.

::

    INCOMING/studies/<study>/<series>/<instance>.dcm      what a run may read
    INCOMING/unfinished/<study>/...                       studies that are still being fetched
    INCOMING/receiving/                                   instances on their way; emptied at start
    INCOMING/state/                                       what a listener has run

Names are digests of UIDs: nothing that a peer sends becomes part of a path. An instance is written
beside its place, flushed to the disk and renamed, so that a file in its place is whole. The folder
holds originals with all that names patients; only its owner can enter it.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from radloom.errors import ConfigError, PacsFailed
from radloom.pipelines.pacs.head import HEAD_BYTES, InstanceHead
from radloom.pipelines.pacs.limits import DEFAULT_LIMITS, Limits
from radloom.pipelines.receipts.files import move, remove, sync

__all__ = ["Arrival", "Inbox", "digest_of"]

_DIGITS = 32
_LOOK_EVERY = 64 << 20
"""Bytes between two looks at what the disk has left."""


def digest_of(uid: str) -> str:
    """The name that stands for a UID in paths: 128 bits as hex digits."""
    return hashlib.sha256(uid.encode()).hexdigest()[:_DIGITS]


class Inbox:
    """One process's hold on such a folder."""

    def __init__(self, root: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self.root = root
        self.limits = limits
        self.studies = root / "studies"
        self.unfinished = root / "unfinished"
        self.receiving = root / "receiving"
        self.state = root / "state"
        self._lock = threading.Lock()
        self._written = 0
        self._counts: Counter[str] = Counter()

    @contextlib.contextmanager
    def opened(self) -> Iterator[Inbox]:
        """The folder made, held by this process alone, without what a killed one left half done.

        Raises:
            ConfigError: another process holds it, or it cannot be written.
        """
        lock = FileLock(self.root / ".lock", timeout=0)
        try:
            for folder in (self.root, self.studies, self.unfinished, self.receiving, self.state):
                folder.mkdir(mode=0o700, parents=folder is self.root, exist_ok=True)
            self.root.chmod(0o700)
            lock.acquire()
        except Timeout:
            raise ConfigError(
                f"expected no other process at <{self.root}>, found one: wait for it, or name "
                "another folder with --incoming"
            ) from None
        except OSError as error:
            raise ConfigError(f"<{self.root}>: cannot be written: {error.strerror}") from None
        try:
            for left in self.receiving.iterdir():
                remove(left)
            yield self
        finally:
            lock.release()

    def arrival(self) -> Arrival:
        """Room for one instance on its way."""
        return Arrival(self)

    def present(self, study_uid: str) -> Mapping[str, set[str]]:
        """Series digest -> instance digests of a study, finished or not."""
        found: dict[str, set[str]] = {}
        for base in (self.studies, self.unfinished):
            for path in (base / digest_of(study_uid)).glob("*/*.dcm"):
                found.setdefault(path.parent.name, set()).add(path.stem)
        return found

    def place(self, head: InstanceHead, *, finished: bool) -> Path:
        """Where an instance belongs."""
        base = self.studies if finished else self.unfinished
        study, series, instance = map(digest_of, (head.study_uid, head.series_uid, head.sop_uid))
        return base / study / series / f"{instance}.dcm"

    def keep(self, arrival: Arrival, head: InstanceHead, *, finished: bool) -> bool:
        """The instance in its place; whether it is news, or the same bytes were there already.

        Raises:
            PacsFailed: the study has as many instances as the limits allow.
        """
        arrival.close()
        end = self.place(head, finished=finished)
        if end.exists() and filecmp.cmp(arrival.path, end, shallow=False):
            arrival.discard()
            return False
        self._admit(end)
        sync(arrival.path)
        end.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        move(arrival.path, end)
        sync(end.parent)
        return True

    def publish(self, study_uid: str) -> None:
        """A study that is whole: its instances, file by file, to where runs read."""
        start = self.unfinished / digest_of(study_uid)
        for path in sorted(start.glob("*/*.dcm")):
            end = self.studies / path.relative_to(self.unfinished)
            end.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            move(path, end)
        shutil.rmtree(start, ignore_errors=True)

    def claim(self, n_bytes: int) -> None:
        """Room for more bytes.

        Raises:
            PacsFailed: the limits or the disk have none.
        """
        with self._lock:
            looked, self._written = self._written // _LOOK_EVERY, self._written + n_bytes
            if self._written > self.limits.total_bytes:
                raise PacsFailed(f"more than {self.limits.total_bytes} bytes came: not taken")
            if self._written // _LOOK_EVERY == looked and self._written != n_bytes:
                return
        if shutil.disk_usage(self.root).free < self.limits.free_bytes:
            raise PacsFailed(f"the disk of <{self.root}> is full: make room, then try again")

    def _admit(self, end: Path) -> None:
        """Counts one more instance of a study, unless it replaces one."""
        if end.exists():
            return
        study = end.parents[1]
        with self._lock:
            if study.name not in self._counts:
                self._counts[study.name] = sum(1 for _ in study.glob("*/*.dcm"))
            if self._counts[study.name] >= self.limits.study_instances:
                raise PacsFailed(
                    f"a study of more than {self.limits.study_instances} instances: not taken"
                )
            self._counts[study.name] += 1


class Arrival:
    """An instance on its way: bounded in length, in a file of its own that is not yet in place."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.path = inbox.receiving / f"{uuid4().hex}.partial"
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._stream = os.fdopen(handle, "wb")
        self._head = bytearray()
        self.n_bytes = 0

    def write(self, data: bytes) -> None:
        """More of it.

        Raises:
            PacsFailed: it is longer than the limits allow, or there is no more room.
        """
        self.n_bytes += len(data)
        if self.n_bytes > self._inbox.limits.instance_bytes:
            raise PacsFailed(
                f"an instance longer than {self._inbox.limits.instance_bytes} bytes: not taken"
            )
        self._inbox.claim(len(data))
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
        try:
            self._stream.write(data)
        except OSError as error:
            raise PacsFailed(f"<{self.path.name}>: cannot be written: {error.strerror}") from None

    @property
    def head(self) -> bytes:
        """Its first bytes."""
        return bytes(self._head)

    def close(self) -> None:
        """All of it is there."""
        self._stream.close()

    def discard(self) -> None:
        """Nothing of it stays."""
        with contextlib.suppress(OSError):
            self._stream.close()
        remove(self.path)
