"""Every file of a folder looked at once: what it is, and if it is DICOM, its headers.

A file is opened once and read as far as its header goes. Many files are shared out among processes;
files that an index knows are not opened at all. Files are listed as they are looked at, so that no
more than some thousand are in memory at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from radloom.errors import ReasonCode
from radloom.pipelines.ingest.archives import (
    ARCHIVE_ERRORS,
    Refused,
    checked_members,
    file_that_holds,
)
from radloom.pipelines.ingest.elements import FIRST_READ
from radloom.pipelines.ingest.headers import SliceHeader, headers_of, read_headers
from radloom.pipelines.ingest.index import FileIndex
from radloom.pipelines.ingest.raw_file import RawFile
from radloom.pipelines.ingest.scan import (
    ARCHIVE_SUFFIX,
    HEAD_BYTES,
    Entry,
    Found,
    Looked,
    classify,
    list_folder,
    may_be_image,
    unlisted,
    unopened,
)

__all__ = ["LooksAgain", "look_at_folder"]

PARALLEL_FROM = 3000
"""Files from which more processes pay: to start one takes as long as several hundred headers."""

FILES_A_TASK = 250

KNOWN_A_TASK = 2000
"""Files that the index knows, after which a task is full too."""


def look_at_folder(
    folder: Path, *, index: FileIndex | None = None, workers: int = 1
) -> Iterator[Looked]:
    """What each image below `folder` is, in the order of names; members of archives at the end.

    The answer does not depend on `index` and `workers`.

    Args:
        folder: what is searched.
        index: what is known of its files; it learns what is found out.
        workers: processes that read headers. With more than one, a script that calls this must
            guard its entry by ``if __name__ == "__main__"``, as ``multiprocessing`` demands.
    """
    index = FileIndex() if index is None else index
    archives: list[Entry] = []
    for task in _carried_out(folder, _tasks(_others(folder, archives), index), workers):
        yield from _answers(task, index)
    for task in _tasks(archives, index):
        task.read(folder)
        yield from _answers(task, index)
    index.complete()


@dataclass
class _Task:
    """Some files in order: what the index knows of each, and those of which it knows nothing."""

    entries: list[tuple[Entry, tuple[Looked, ...] | None]] = field(default_factory=list)
    unknown: list[Entry] = field(default_factory=list)
    found: list[tuple[Looked, ...]] = field(default_factory=list)
    """Of each that is unknown, once they are read."""
    future: Future[list[tuple[Looked, ...]]] | None = None

    @property
    def is_full(self) -> bool:
        return len(self.unknown) >= FILES_A_TASK or len(self.entries) >= KNOWN_A_TASK

    def read(self, folder: Path) -> None:
        self.found = _look_at_some(folder, self.unknown)


def _others(folder: Path, archives: list[Entry]) -> Iterator[Entry]:
    """Every entry but archives, which are kept for later."""
    for entry in list_folder(folder):
        if entry.name.endswith(ARCHIVE_SUFFIX) and not entry.problem:
            archives.append(entry)
        else:
            yield entry


def _tasks(entries: Iterable[Entry], index: FileIndex) -> Iterator[_Task]:
    task = _Task()
    for entry in entries:
        known = (Looked(unlisted(entry)),) if entry.problem else index.lookup(entry)
        task.entries.append((entry, known))
        if known is None:
            task.unknown.append(entry)
        if task.is_full:
            yield task
            task = _Task()
    yield task


def _answers(task: _Task, index: FileIndex) -> Iterator[Looked]:
    found = iter(task.found)
    for entry, known in task.entries:
        if known is None:
            known = next(found)
            index.learn(entry, known)
        yield from known


def _carried_out(folder: Path, tasks: Iterable[_Task], workers: int) -> Iterator[_Task]:
    """Each task once its files are read: in this process, or in others as soon as they pay."""
    n_ahead = max(2 * workers, -(-PARALLEL_FROM // FILES_A_TASK)) if workers > 1 else 1
    ahead: deque[_Task] = deque()
    with ExitStack() as stack:
        readers = _Readers(folder, workers, stack)
        for task in tasks:
            ahead.append(task)
            readers.share_out(ahead)
            if len(ahead) >= n_ahead:
                yield readers.carry_out(ahead.popleft())
        while ahead:
            yield readers.carry_out(ahead.popleft())


class _Readers:
    """The processes that read headers; none, until there is much to read."""

    def __init__(self, folder: Path, workers: int, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def share_out(self, tasks: Sequence[_Task]) -> None:
        """Gives the files of `tasks` to other processes, if there are enough for that."""
        try:
            if self._pool is None and self._pays(tasks):
                context = multiprocessing.get_context("spawn")
                pool = ProcessPoolExecutor(self._workers, mp_context=context)
                self._pool = self._stack.enter_context(pool)
            if self._pool is not None:
                for task in tasks:
                    if task.future is None:
                        task.future = self._pool.submit(_look_at_some, self._folder, task.unknown)
        except BrokenProcessPool:
            self._give_up()

    def carry_out(self, task: _Task) -> _Task:
        try:
            if task.future is not None:
                task.found, task.future = task.future.result(), None
                return task
        except BrokenProcessPool:
            self._give_up()
        task.read(self._folder)
        return task

    def _pays(self, tasks: Sequence[_Task]) -> bool:
        return self._workers > 1 and sum(len(task.unknown) for task in tasks) >= PARALLEL_FROM

    def _give_up(self) -> None:
        """No processes are to be had, or one was killed: the rest in this one."""
        self._pool, self._workers = None, 1


def _look_at_some(folder: Path, entries: Sequence[Entry]) -> list[tuple[Looked, ...]]:
    return [_look_at(folder, entry) for entry in entries]


def _look_at(folder: Path, entry: Entry) -> tuple[Looked, ...]:
    if not may_be_image(entry.name):
        return ()
    try:
        with RawFile(f"{folder}/{entry.path}") as stream:
            head = stream.read(FIRST_READ)
            found = classify(entry.path, head[:HEAD_BYTES])
            if found is None:
                return ()
            if found.kind == "dicom":
                size = entry.size if entry.size >= 0 else stream.seek(0, os.SEEK_END)
                stream.seek(len(head))
                headers = headers_of(cast("BinaryIO", stream), size, entry.path, head)
                return (Looked(found, tuple(headers)),)
        if found.kind != "archive":
            return (Looked(found),)
        with (folder / entry.path).open("rb") as archive:
            return tuple(_look_into(archive, entry.path))
    except OSError as error:
        lost = unopened(entry, error)
        return () if lost is None else (Looked(lost),)


def _look_into(stream: BinaryIO, path: str) -> Iterator[Looked]:
    """The images of an archive, and what of it cannot be used."""
    try:
        with zipfile.ZipFile(stream) as archive:
            members = checked_members(archive)
            for info in members:
                yield from _look_at_member(archive, info, f"{path}/{info.filename}")
    except Refused as refusal:
        yield _refused(path, str(refusal))
    except ARCHIVE_ERRORS as error:
        yield _refused(path, f"a damaged archive ({type(error).__name__}); copy it anew")


def _look_at_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> Iterator[Looked]:
    name = path.rpartition("/")[2].lower()
    if not may_be_image(name):
        return
    if name.endswith(ARCHIVE_SUFFIX):
        yield _refused(path, "an archive within an archive; unpack the outer one")
        return
    try:
        with archive.open(info) as member:
            head = member.read(FIRST_READ)
            found = classify(path, head[:HEAD_BYTES])
            if found is None:
                return
            if found.kind == "dicom":
                headers = headers_of(cast("BinaryIO", member), info.file_size, path, head)
                yield Looked(found, tuple(headers))
            else:
                yield Looked(found)
    except ARCHIVE_ERRORS as error:
        yield _refused(path, f"a damaged file in an archive ({type(error).__name__})")


class LooksAgain:
    """Reads from a folder what its index leaves out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def headers(self, path: str) -> list[SliceHeader]:
        """Of a file, or of a member of an archive."""
        file = file_that_holds(self._folder, path)
        if file == self._folder / path:
            return read_headers(file, path)
        with zipfile.ZipFile(file) as archive:
            info = archive.getinfo(path[len(file.relative_to(self._folder).as_posix()) + 1 :])
            with archive.open(info) as member:
                return headers_of(cast("BinaryIO", member), info.file_size, path)

    def members(self, path: str) -> list[str]:
        """Names in an archive."""
        with zipfile.ZipFile(self._folder / path) as archive:
            return archive.namelist()


def _refused(path: str, detail: str) -> Looked:
    return Looked(Found(path, "bad", ReasonCode.UNREADABLE, detail))
