"""What earlier looks found out about the files of a folder, so that no file is read twice.

An entry is good as long as the file's size, time of change and inode are those that it had.

The index holds how images were made and where they lie, and not whose they are: names, numbers,
dates, weight and free text (`withheld`) are left out. Of each set of slices that share these, one
header is read again for them when the index is used. Names of files are held as digests. What it
does hold, UIDs above all, leads one who has the folder or its archive back to the patient, so that
it is written for its owner's eyes alone.

The index can never change an answer, only its cost: one that is damaged, of another version, or
made by other code counts as empty.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from radloom import __version__
from radloom.errors import ReasonCode
from radloom.pipelines.ingest.archives import ARCHIVE_ERRORS
from radloom.pipelines.ingest.headers import SliceHeader
from radloom.pipelines.ingest.rules import MADE_KEYWORDS, ROLE_KEYWORDS
from radloom.pipelines.ingest.scan import Entry, Found, Looked
from radloom.transforms.dicom import SlicePlane
from radloom.transforms.suv import PetImage

__all__ = ["INDEX_VERSION", "Again", "FileIndex", "withheld"]

INDEX_VERSION = 2
"""Of the file's layout."""

SETTLED_S = 2.0
"""A file changed less than this before it was looked at may change again within the same tick of
its file system's clock, and is not kept."""

UNUSABLE = (*ARCHIVE_ERRORS, KeyError, TypeError, IndexError)
"""What a damaged index makes json, gzip and the tables here raise, and a file read again."""

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

WITHHELD = ("patient_id", "identifiers", "description")
"""What is left out of a header."""

WITHHELD_TAGS = ("ProtocolName", "ContrastBolusAgent", "SequenceName", "PulseSequenceName")
"""What is left out of what role rules look at: people write into it what they like."""

WITHHELD_PET = (
    "weight_kg",
    "injection_datetime",
    "series_date",
    "acquisition_date",
    "ge_scan_datetime",
    "decay_datetime",
)
"""What is left out of what SUV depends on."""

TAGS_IN_ORDER = (*ROLE_KEYWORDS, *MADE_KEYWORDS)

DAY_S = 86400.0

SHARED = tuple(
    item.name for item in fields(SliceHeader) if item.name not in (*OWN, *WITHHELD, "path", "plane")
)
"""What most slices of a series have in common, and is written once."""


class Again(Protocol):
    """Reads what the index leaves out."""

    def headers(self, path: str) -> Sequence[SliceHeader]:
        """Of a file, or of a member of an archive."""

    def members(self, path: str) -> Sequence[str]:
        """Names in an archive."""


class FileIndex:
    """Path and state of a file -> what it is, and its headers."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[State, tuple[Looked, ...]]] = {}
        self._kept: dict[str, Any] = {}
        """As in the file, of files that nobody has asked for yet."""
        self._load: _Loader | None = None
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
            known = (size, mtime_ns, inode), self._load.looked(content, path)
        except UNUSABLE:
            return None
        self._known[path] = known
        return known

    @classmethod
    def read(cls, file: Path, again: Again) -> FileIndex:
        """The index in `file`; an empty one where there is none that can be used.

        Args:
            file: what `write` wrote.
            again: reads what the index leaves out.
        """
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
        index._load = _Loader(shared, grids, again)
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
        self._people: dict[tuple[Any, ...], int] = {}

    def looked(self, looked: Looked, path: str) -> list[Any]:
        found = looked.found
        member = _digest(found.path[len(path) + 1 :]) if found.path != path else ""
        code = found.code.value if found.code else ""
        return [member, found.kind, code, found.detail, [self._row(h) for h in looked.headers]]

    def _row(self, header: SliceHeader) -> list[Any]:
        plane = header.plane
        place = None
        if plane is not None:
            grid = [plane.orientation_lps, plane.pixel_spacing, plane.rows, plane.columns]
            place = [_number(self.grids, grid), *plane.position_lps]
        person = self._people.setdefault(withheld(header), len(self._people))
        own = {name: getattr(header, name) for name in OWN}
        if header.acquired_s is not None:
            own["acquired_s"] = header.acquired_s % DAY_S
        return [self._shared(header), person, place, *own.values()]

    def _shared(self, header: SliceHeader) -> int:
        values = [getattr(header, name) for name in SHARED]
        # The same objects, as most slices of a series have them, are the same values.
        key = tuple(id(value) for value in values)
        if key not in self._seen:
            kept = replace(header, **_blank(header))
            values = [_plain(getattr(kept, name)) for name in SHARED]
            self._seen[key] = _number(self.shared, values)
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


def withheld(header: SliceHeader) -> tuple[Any, ...]:
    """What of a header the index leaves out, the day of acquisition as days from an arbitrary one.

    >>> withheld(SliceHeader("a.dcm", patient_id="7", description="head", acquired_s=86400.5))
    ('7', (), 'head', (None, None, None, None), None, 1.0)
    """
    pet = header.pet
    return (
        *(getattr(header, name) for name in WITHHELD),
        tuple(_hashable(header.tags.get(name)) for name in WITHHELD_TAGS),
        pet and tuple(getattr(pet, name) for name in WITHHELD_PET),
        None if header.acquired_s is None else header.acquired_s // DAY_S,
    )


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _blank(header: SliceHeader) -> dict[str, Any]:
    """The shared values of a header that are written without a part of what they hold."""
    tags = {name: v for name, v in header.tags.items() if name not in WITHHELD_TAGS}
    default = PetImage()
    nothing = {name: getattr(default, name) for name in WITHHELD_PET}
    return {"tags": tags, "pet": header.pet and replace(header.pet, **nothing)}


def _completed(shared: Mapping[str, Any], source: SliceHeader) -> dict[str, Any]:
    """The shared values with what `source`, of the same patient and day, says of these."""
    values = {**shared, **{name: getattr(source, name) for name in WITHHELD}}
    free = {name: v for name, v in source.tags.items() if name in WITHHELD_TAGS}
    tags = {**shared["tags"], **free}
    values["tags"] = {name: tags[name] for name in TAGS_IN_ORDER if name in tags}
    if shared["pet"] is not None and source.pet is not None:
        found = {name: getattr(source.pet, name) for name in WITHHELD_PET}
        values["pet"] = replace(shared["pet"], **found)
    return values


class _Loader:
    """Rows as headers again."""

    def __init__(
        self, shared: list[dict[str, Any]], grids: list[tuple[Any, ...]], again: Again
    ) -> None:
        self._shared = shared
        self._grids = grids
        self._again = again
        self._people: dict[int, SliceHeader] = {}
        """A header of each set that shares what is withheld."""
        self._whole: dict[tuple[int, int], dict[str, Any]] = {}

    def looked(self, kept: Any, path: str) -> tuple[Looked, ...]:
        """What is known of a file.

        Raises:
            KeyError: what the index leaves out cannot be had again; others of `UNUSABLE`.
        """
        names = {"": path}
        if any(member for member, *_ in kept):
            names |= {_digest(name): f"{path}/{name}" for name in self._again.members(path)}
        found = []
        for member, kind, code, detail, rows in kept:
            item = Found(names[member], kind, ReasonCode(code) if code else None, detail)
            headers = tuple(self._header(row, item.path) for row in rows)
            found.append(Looked(item, headers))
        return tuple(found)

    def _header(self, row: list[Any], path: str) -> SliceHeader:
        number, person, place, *own = row
        plane = None
        if place is not None:
            grid, x, y, z = place
            plane = SlicePlane((x, y, z), *self._grids[grid])
        values = {name: _tuples(value) for name, value in zip(OWN, own, strict=True)}
        if (number, person) not in self._whole:
            self._whole[number, person] = _completed(
                self._shared[number], self._person(person, path, values["frame"])
            )
        day = self._people[person].acquired_s
        if values["acquired_s"] is not None and day is not None:
            values["acquired_s"] += day // DAY_S * DAY_S
        return SliceHeader(path=path, plane=plane, **self._whole[number, person], **values)

    def _person(self, number: int, path: str, frame: int) -> SliceHeader:
        if number not in self._people:
            frames = {header.frame: header for header in self._again.headers(path)}
            self._people[number] = frames[frame]
        return self._people[number]


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
