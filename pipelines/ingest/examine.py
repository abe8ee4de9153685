"""Every file of a folder looked at once: what it is, and if it is DICOM, its headers.

A file is opened once and read as far as its header goes. Many files are shared out among processes;
files that an index knows are not opened at all.
"""

from __future__ import annotations

import multiprocessing
import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
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


def look_at_folder(
    folder: Path, *, index: FileIndex | None = None, workers: int = 1
) -> list[Looked]:
    """What each image below `folder` is, in the order of names; members of archives at the end.

    The answer does not depend on `index` and `workers`.

    Args:
        folder: what is searched.
        index: what is known of its files; it learns what is found out.
        workers: processes that read headers. With more than one, a script that calls this must
            guard its entry by ``if __name__ == "__main__"``, as ``multiprocessing`` demands.
    """
    index = FileIndex() if index is None else index
    entries = list(list_folder(folder))
    unknown = [entry for entry in entries if not entry.problem and index.lookup(entry) is None]
    for entry, looked in zip(unknown, _look_at_all(folder, unknown, workers), strict=True):
        index.learn(entry, looked)
    everything: list[Looked] = []
    archived: list[Looked] = []
    for entry in entries:
        if entry.problem:
            everything.append(Looked(unlisted(entry)))
            continue
        for item in index.lookup(entry) or ():
            (everything if item.found.path == entry.path else archived).append(item)
    index.forget_others(entries)
    return [*everything, *archived]


def _look_at_all(
    folder: Path, entries: Sequence[Entry], workers: int
) -> Iterator[tuple[Looked, ...]]:
    n_done = 0
    if workers > 1 and len(entries) >= PARALLEL_FROM:
        tasks = [entries[i : i + FILES_A_TASK] for i in range(0, len(entries), FILES_A_TASK)]
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
                for batch in pool.map(partial(_look_at_some, folder), tasks):
                    n_done += len(batch)
                    yield from batch
        except BrokenProcessPool:
            pass  # no processes are to be had, or one was killed: the rest in this one
    for entry in entries[n_done:]:
        yield _look_at(folder, entry)


def _look_at_some(folder: Path, entries: Sequence[Entry]) -> list[tuple[Looked, ...]]:
    return [_look_at(folder, entry) for entry in entries]


def _look_at(folder: Path, entry: Entry) -> tuple[Looked, ...]:
    if not may_be_image(entry.name):
        return ()
    try:
        with (folder / entry.path).open("rb", buffering=0) as stream:
            head = stream.read(FIRST_READ)
            found = classify(entry.path, head[:HEAD_BYTES])
            if found is None:
                return ()
            if found.kind == "archive":
                return tuple(_look_into(stream, entry.path))
            if found.kind != "dicom":
                return (Looked(found),)
            size = os.fstat(stream.fileno()).st_size
            headers = headers_of(cast("BinaryIO", stream), size, entry.path, head)
            return (Looked(found, tuple(headers)),)
    except OSError as error:
        lost = unopened(entry, error)
        return () if lost is None else (Looked(lost),)


def _look_into(stream: object, path: str) -> Iterator[Looked]:
    """The images of an archive, and what of it cannot be used."""
    try:
        with zipfile.ZipFile(cast("BinaryIO", stream)) as archive:
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
