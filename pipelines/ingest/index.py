"""What earlier looks found out about the files of a folder, so that no file is read twice.

An entry is good as long as the file's size, time of change and inode are those that it had. The
index holds what `SliceHeader` holds, so the words that identify patients too (they are looked for
in descriptions, to be taken out): it is as confidential as the folder itself, and is written for
its owner's eyes alone. Paths are held as digests; names within archives are held as they are.

The index can never change an answer, only its cost: one that is damaged, of another version, or
made by other code counts as empty.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

from radloom import __version__
from radloom.errors import ReasonCode
from radloom.pipelines.ingest.headers import SliceHeader
from radloom.pipelines.ingest.scan import Entry, Found, Looked
from radloom.transforms.dicom import SlicePlane
from radloom.transforms.suv import PetImage

__all__ = ["INDEX_VERSION", "FileIndex"]

INDEX_VERSION = 1
"""Of the file's layout."""

SETTLED_S = 2.0
"""A file changed less than this before it was looked at may change again within the same tick of
its file system's clock, and is not kept."""

UNUSABLE = (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, zlib.error)
"""What a damaged index makes json, gzip and the tables here raise."""

State: TypeAlias = "tuple[int, int, int]"
"""Size in bytes, time of change in ns, inode."""

OWN = (
    "sop_uid",
    "instance_number",
    "acquisition_number",
    "frame",
    "acquired_s",
    "reference_s",
    "slice_times_s",
    "temporal",
)
"""What each slice has for itself; plane and path besides."""

SHARED = tuple(
    item.name for item in fields(SliceHeader) if item.name not in (*OWN, "path", "plane")
)
"""What most slices of a series have in common, and is written once."""


class FileIndex:
    """Path and state of a file -> what it is, and its headers."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[State, tuple[Looked, ...]]] = {}
        self._kept: dict[str, Any] = {}
        """As in the file, of files that nobody has asked for yet."""
        self._load: Callable[[Any, str], tuple[Looked, ...]] | None = None
        self.has_news = False
        """Whether it knows what its file does not."""

    def lookup(self, entry: Entry) -> tuple[Looked, ...] | None:
        """What is known of a file as it is now; None where nothing is."""
        known = self._known.get(entry.path)
        if known is None and self._load is not None:
            known = self._from_file(entry.path)
        return known[1] if known is not None and known[0] == _state(entry) else None

    def learn(self, entry: Entry, looked: tuple[Looked, ...]) -> None:
        """Takes in what was found out about a file."""
        self._known[entry.path] = _state(entry), looked
        self.has_news = True

    def forget_others(self, entries: Iterable[Entry]) -> None:
        """Keeps what is known of these files alone; each has been looked up."""
        paths = {entry.path for entry in entries}
        self.has_news = self.has_news or bool(self._kept) or not self._known.keys() <= paths
        self._known = {path: known for path, known in self._known.items() if path in paths}
        self._kept = {}

    def _from_file(self, path: str) -> tuple[State, tuple[Looked, ...]] | None:
        kept = self._kept.pop(_digest(path), None)
        if kept is None or self._load is None:
            return None
        try:
            size, mtime_ns, inode, content = kept
            known = (size, mtime_ns, inode), self._load(content, path)
        except UNUSABLE:
            return None
        self._known[path] = known
        return known

    @classmethod
    def read(cls, file: Path) -> FileIndex:
        """The index in `file`; an empty one where there is none that can be used."""
        index = cls()
        try:
            content = json.loads(gzip.decompress(file.read_bytes()))
            if content["version"] != INDEX_VERSION or content["code"] != _code():
                return index
            shared = [_shared(values) for values in content["shared"]]
            grids = [_grid(values) for values in content["grids"]]
            index._kept = dict(content["files"])
        except UNUSABLE:
            return cls()
        index._load = lambda kept, path: _looked(kept, path, shared, grids)
        return index

    def write(self, file: Path) -> None:
        """Puts the index into `file`, whole or not at all, readable to its owner alone.

        Raises:
            OSError: it cannot be written.
        """
        writer = _Writer()
        settled_ns = time.time_ns() - int(SETTLED_S * 1e9)
        files = {}
        for path, (state, looked) in self._known.items():
            if state[0] >= 0 and state[1] < settled_ns:
                files[_digest(path)] = [*state, [writer.looked(item, path) for item in looked]]
        content = {
            "version": INDEX_VERSION,
            "code": _code(),
            "shared": list(writer.shared),
            "grids": list(writer.grids),
            "files": files,
        }
        _write(file, gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 1, mtime=0))
        self.has_news = False


def _state(entry: Entry) -> State:
    return entry.size, entry.mtime_ns, entry.inode


def _digest(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def _code() -> str:
    """Digest of the code that reads headers: what other code found out may differ."""
    import pydicom

    digest = hashlib.sha256(f"{__version__} {pydicom.__version__}".encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _write(file: Path, content: bytes) -> None:
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.partial")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


class _Writer:
    """Headers as rows that point into tables of what many of them share."""

    def __init__(self) -> None:
        self.shared: dict[str, int] = {}
        self.grids: dict[str, int] = {}
        self._seen: dict[tuple[Any, ...], int] = {}

    def looked(self, looked: Looked, path: str) -> list[Any]:
        found = looked.found
        member = found.path[len(path) :]
        code = found.code.value if found.code else ""
        return [member, found.kind, code, found.detail, [self._row(h) for h in looked.headers]]

    def _row(self, header: SliceHeader) -> list[Any]:
        plane = header.plane
        place = None
        if plane is not None:
            grid = [plane.orientation_lps, plane.pixel_spacing, plane.rows, plane.columns]
            place = [_number(self.grids, grid), *plane.position_lps]
        return [self._shared(header), place, *(getattr(header, name) for name in OWN)]

    def _shared(self, header: SliceHeader) -> int:
        values = [getattr(header, name) for name in SHARED]
        # The same objects, as most slices of a series have them, are the same values.
        key = tuple(id(value) for value in values)
        if key not in self._seen:
            self._seen[key] = _number(self.shared, [_plain(value) for value in values])
        return self._seen[key]


def _number(table: dict[str, int], value: Any) -> int:
    text = json.dumps(value, separators=(",", ":"))
    return table.setdefault(text, len(table))


def _plain(value: Any) -> Any:
    if isinstance(value, ReasonCode):
        return value.value
    if isinstance(value, PetImage):
        return [_plain(getattr(value, item.name)) for item in fields(PetImage)]
    return value if not isinstance(value, Mapping) else dict(value)


def _looked(
    kept: Any, path: str, shared: list[dict[str, Any]], grids: list[tuple[Any, ...]]
) -> tuple[Looked, ...]:
    found = []
    for member, kind, code, detail, rows in kept:
        item = Found(path + member, kind, ReasonCode(code) if code else None, detail)
        headers = tuple(_header(row, path + member, shared, grids) for row in rows)
        found.append(Looked(item, headers))
    return tuple(found)


def _header(
    row: list[Any], path: str, shared: list[dict[str, Any]], grids: list[tuple[Any, ...]]
) -> SliceHeader:
    number, place, *own = row
    plane = None
    if place is not None:
        grid, x, y, z = place
        plane = SlicePlane((x, y, z), *grids[grid])
    values = {name: _tuples(value) for name, value in zip(OWN, own, strict=True)}
    return SliceHeader(path=path, plane=plane, **shared[number], **values)


def _shared(text: str) -> dict[str, Any]:
    values = dict(zip(SHARED, json.loads(text), strict=True))
    problem, pet = values["problem"], values["pet"]
    values = {name: _tuples(value) for name, value in values.items()}
    values["problem"] = ReasonCode(problem) if problem else None
    values["pet"] = PetImage(*map(_tuples, pet)) if pet is not None else None
    return values


def _grid(text: str) -> tuple[Any, ...]:
    return tuple(map(_tuples, json.loads(text)))


def _tuples(value: Any) -> Any:
    """Lists as the tuples that they were; what lies in a mapping was lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
