"""What earlier looks found out about the files of a folder, so that no file is read twice.

An entry is good as long as the file's size, time of change and inode are those that it had.

The index holds how images were made and where they lie, and not whose they are: names, numbers,
dates, weight and free text (`withheld`) are left out. Of each set of slices that share these, one
header is read again for them when the index is used. Names of files are held as digests. What it
does hold, UIDs above all, leads one who has the folder or its archive back to the patient, so that
it is written for its owner's eyes alone.

The index can never change an answer, only its cost: one that is damaged, of another version, or
made by other code counts as empty. Its file is an SQLite database that is never changed in place:
where there is something new, another is written beside it and put in its place, so that neither
memory nor what is read grows with the number of files.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from sqlite3 import Connection, connect
from sqlite3 import Error as DatabaseError
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

INDEX_VERSION = 3
"""Of the file's layout."""

SETTLED_S = 2.0
"""A file changed less than this before it was looked at may change again within the same tick of
its file system's clock, and is not kept."""

UNUSABLE = (*ARCHIVE_ERRORS, KeyError, TypeError, IndexError, DatabaseError)
"""What a damaged index makes SQLite, json and the tables here raise, and a file read again."""

ABANDONED_S = 86400.0
"""Age at which an unfinished index is taken for one whose process was killed."""

MOST_KEPT = 4096
"""Entries after which a table in memory is emptied: series come one after the other."""

TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE shared (id INTEGER PRIMARY KEY, digest BLOB UNIQUE, content TEXT);
CREATE TABLE grids (id INTEGER PRIMARY KEY, digest BLOB UNIQUE, content TEXT);
CREATE TABLE files (id INTEGER PRIMARY KEY, name BLOB UNIQUE, state TEXT, content TEXT, sum INT);
"""
"""`shared` and `grids`: what many headers have in common, under its digest. `files`: by the digest
of a path, with a checksum, for SQLite would not notice a changed byte in a text."""

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
    """Path and state of a file -> what it is, and its headers.

    Used as a context; what it learned is written when `complete` is called, and lost otherwise.
    """

    def __init__(self, file: Path | None = None, again: Again | None = None) -> None:
        self._file = file
        self._old = None if file is None or again is None else _Old.opened(file, again)
        self._new: _New | None = None
        self.n_learned = 0
        """Files that it was told of."""

    @classmethod
    def at(cls, file: Path | None, again: Again) -> FileIndex:
        """The index in `file`; an empty one where there is none that can be used.

        Args:
            file: None: nothing is known, and nothing is kept.
            again: reads what the index leaves out.
        """
        return cls(file, again)

    def __enter__(self) -> FileIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget_old()
        if self._new is not None:
            self._new.discard()
        self._new = None

    def lookup(self, entry: Entry) -> tuple[Looked, ...] | None:
        """What is known of a file as it is now; None where nothing is."""
        return None if self._old is None else self._old.lookup(entry)

    def learn(self, entry: Entry, looked: tuple[Looked, ...]) -> None:
        """Takes in what was found out about a file."""
        self.n_learned += 1
        settled_ns = time.time_ns() - int(SETTLED_S * 1e9)
        with self._given_up_on_errors():
            new = self._renewed()
            if new is not None and entry.size >= 0 and entry.mtime_ns < settled_ns:
                new.learn(entry, looked)

    def complete(self) -> None:
        """Writes what is new, whole or not at all, and forgets the files that nobody asked for."""
        if self._new is None and self._old is not None and self._old.is_all_seen:
            return
        with self._given_up_on_errors():
            new = self._renewed()
            if new is not None:
                new.finish(() if self._old is None else self._old.seen())
                self._forget_old()
                new.put_in_place()
        self._new = self._file = None

    def _renewed(self) -> _New | None:
        """What is written into, begun where it is not yet; None where nothing can be kept."""
        if self._new is None and self._file is not None:
            try:
                self._new = _New(self._file, self._old)
            except DatabaseError:  # the old one, most likely
                self._forget_old()
                self._new = _New(self._file, None)
        return self._new

    def _forget_old(self) -> None:
        if self._old is not None:
            self._old.close()
        self._old = None

    @contextmanager
    def _given_up_on_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, DatabaseError):
            if self._new is not None:
                self._new.discard()
            self._new = self._file = None


class _Old:
    """An index as an earlier look left it, read and not changed."""

    def __init__(self, database: Connection, again: Again) -> None:
        about = dict(database.execute("SELECT name, value FROM about"))
        if about["version"] != str(INDEX_VERSION) or about["code"] != _code():
            raise KeyError("version")
        self.database = database
        self.n_people = int(about["people"])
        self._n, _, _ = (
            database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("files", "shared", "grids")
        )
        self._seen = bytearray(self._n // 8 + 1)
        self._n_seen = 0
        self._loader = _Loader(database, again)

    @classmethod
    def opened(cls, file: Path, again: Again) -> _Old | None:
        """None where there is none that can be used."""
        database = None
        try:
            where = f"{file.resolve().as_uri()}?mode=ro&immutable=1"
            database = connect(where, uri=True)
            return cls(database, again)
        except UNUSABLE:
            if database is not None:
                database.close()
            return None

    def close(self) -> None:
        self.database.close()

    @property
    def is_all_seen(self) -> bool:
        """Whether somebody asked for every file that it knows, and each was as it had been."""
        return bool(self._n_seen == self._n)

    def lookup(self, entry: Entry) -> tuple[Looked, ...] | None:
        name = _digest(entry.path)
        try:
            row = self.database.execute(
                "SELECT id, state, content, sum FROM files WHERE name = ?", (name,)
            ).fetchone()
            if row is None or row[1] != _state(entry) or _sum(name, *row[1:3]) != row[3]:
                return None
            looked = self._loader.looked(json.loads(row[2]), entry.path)
            self._mark(row[0])
        except UNUSABLE:
            return None
        return looked

    def _mark(self, number: int) -> None:
        byte, bit = number // 8, 1 << number % 8
        self._n_seen += not self._seen[byte] & bit
        self._seen[byte] |= bit

    def seen(self) -> Iterator[tuple[Any, ...]]:
        """The rows of the files that `lookup` knew."""
        rows = self.database.execute("SELECT id, name, state, content, sum FROM files ORDER BY id")
        for number, *row in rows:
            if self._seen[number // 8] & 1 << number % 8:
                yield tuple(row)


class _New:
    """An index that is being written beside the one that it will replace.

    Raises:
        OSError: it cannot be written.
        DatabaseError: likewise.
    """

    def __init__(self, file: Path, old: _Old | None) -> None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_abandoned(file)
        self._file = file
        self._unfinished = file.with_name(f"{file.name}.{os.getpid()}.partial")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.close(os.open(self._unfinished, flags, 0o600))
        # Nobody else knows of it: no locks, which some network file systems lack, and no journal.
        where = f"{self._unfinished.resolve().as_uri()}?nolock=1"
        self._database = connect(where, uri=True, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode = OFF")
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.executescript(TABLES)
            self._database.execute("BEGIN")
            self._writer = _Writer(self._database, old)
        except DatabaseError:
            self.discard()
            raise

    def learn(self, entry: Entry, looked: tuple[Looked, ...]) -> None:
        content = _json([self._writer.looked(item, entry.path) for item in looked])
        name, state = _digest(entry.path), _state(entry)
        self._insert((name, state, content, _sum(name, state, content)))

    def finish(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Takes over what the old index knows still, and closes the file."""
        with suppress(*UNUSABLE):  # the rest is read anew next time
            for row in rows:
                self._writer.use(json.loads(row[2]))
                self._insert(row)
        self._writer.finish()
        about = {"version": INDEX_VERSION, "code": _code(), "people": self._writer.n_people}
        self._database.executemany("INSERT INTO about VALUES (?, ?)", about.items())
        self._database.execute("COMMIT")
        self._database.close()

    def put_in_place(self) -> None:
        try:
            with self._unfinished.open("rb") as stream:
                os.fsync(stream.fileno())
            self._unfinished.replace(self._file)
        except OSError:
            self.discard()
            raise

    def discard(self) -> None:
        self._database.close()
        with suppress(OSError):
            self._unfinished.unlink(missing_ok=True)

    def _insert(self, row: tuple[Any, ...]) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO files (name, state, content, sum) VALUES (?, ?, ?, ?)", row
        )


def _remove_abandoned(file: Path) -> None:
    """Removes what processes left unfinished that were killed."""
    for path in file.parent.glob(f"{file.name}.*.partial"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()


def _state(entry: Entry) -> str:
    return f"{entry.size} {entry.mtime_ns} {entry.inode}"


def _digest(path: str) -> bytes:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:12]


def _sum(name: bytes, state: str, content: str) -> int:
    return zlib.crc32(content.encode(), zlib.crc32(state.encode(), zlib.crc32(name)))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _code() -> str:
    """Digest of the code that reads headers: what other code found out may differ."""
    import pydicom

    digest = hashlib.sha256(f"{__version__} {pydicom.__version__}".encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


class _Table:
    """Texts that many rows point to, each written once."""

    def __init__(self, database: Connection, name: str, old: _Old | None) -> None:
        self._database = database
        self._name = name
        self._numbers: dict[bytes, int] = {}
        self._last = 0
        self.used: set[int] = set()
        if old is not None:
            rows = old.database.execute(f"SELECT id, digest, content FROM {name}")  # noqa: S608
            for number, digest, content in rows:
                if _text_digest(content) == digest:
                    self._insert(number, digest, content)

    def number(self, value: Any) -> int:
        content = _json(value)
        digest = _text_digest(content)
        if digest not in self._numbers:
            self._insert(self._last + 1, digest, content)
        number = self._numbers[digest]
        self.used.add(number)
        return number

    def finish(self) -> None:
        """Forgets what no row points to any more."""
        lost = ((number,) for number in self._numbers.values() if number not in self.used)
        self._database.executemany(f"DELETE FROM {self._name} WHERE id = ?", lost)  # noqa: S608

    def _insert(self, number: int, digest: bytes, content: str) -> None:
        insert = f"INSERT INTO {self._name} VALUES (?, ?, ?)"  # noqa: S608  # a name from here
        self._database.execute(insert, (number, digest, content))
        self._numbers[digest] = number
        self._last = max(self._last, number)


def _text_digest(content: str) -> bytes:
    return hashlib.sha256(content.encode()).digest()[:16]


class _Writer:
    """Headers as rows that point into tables of what many of them share."""

    def __init__(self, database: Connection, old: _Old | None) -> None:
        self._shared_table = _Table(database, "shared", old)
        self._grids = _Table(database, "grids", old)
        self._seen: dict[tuple[Any, ...], tuple[tuple[Any, ...], int]] = {}
        self._people: dict[bytes, int] = {}
        self._n_known = old.n_people if old is not None else 0

    @property
    def n_people(self) -> int:
        """Sets of headers that share what is withheld, those of the old index included."""
        return self._n_known + len(self._people)

    def use(self, content: Any) -> None:
        """Notes what a row of the old index points to."""
        for *_, rows in content:
            for number, _, place, *_ in rows:
                self._shared_table.used.add(number)
                if place is not None:
                    self._grids.used.add(place[0])

    def finish(self) -> None:
        self._shared_table.finish()
        self._grids.finish()

    def looked(self, looked: Looked, path: str) -> list[Any]:
        found = looked.found
        member = _digest(found.path[len(path) + 1 :]).hex() if found.path != path else ""
        code = found.code.value if found.code else ""
        return [member, found.kind, code, found.detail, [self._row(h) for h in looked.headers]]

    def _row(self, header: SliceHeader) -> list[Any]:
        plane = header.plane
        place = None
        if plane is not None:
            grid = [plane.orientation_lps, plane.pixel_spacing, plane.rows, plane.columns]
            place = [self._grids.number(grid), *plane.position_lps]
        person = self._people.setdefault(_text_digest(repr(withheld(header))), self.n_people)
        own = {name: getattr(header, name) for name in OWN}
        if header.acquired_s is not None:
            own["acquired_s"] = header.acquired_s % DAY_S
        return [self._shared(header), person, place, *own.values()]

    def _shared(self, header: SliceHeader) -> int:
        values = tuple(getattr(header, name) for name in SHARED)
        # The same objects, as most slices of a series have them, are the same values.
        key = tuple(map(id, values))
        if key not in self._seen:
            if len(self._seen) > MOST_KEPT:
                self._seen.clear()
            kept = replace(header, **_blank(header))
            number = self._shared_table.number([_plain(getattr(kept, name)) for name in SHARED])
            self._seen[key] = values, number  # held, so that no other object gets their ids
        return self._seen[key][1]


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

    def __init__(self, database: Connection, again: Again) -> None:
        self._database = database
        self._again = again
        self._grids: dict[int, tuple[Any, ...]] = {}
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
            members = self._again.members(path)
            names |= {_digest(name).hex(): f"{path}/{name}" for name in members}
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
            plane = SlicePlane((x, y, z), *self._grid(grid))
        values = {name: _tuples(value) for name, value in zip(OWN, own, strict=True)}
        if (number, person) not in self._whole:
            _make_room(self._whole)
            source = self._person(person, path, values["frame"])
            self._whole[number, person] = _completed(_shared(self._text("shared", number)), source)
        if values["acquired_s"] is not None:
            day = self._person(person, path, values["frame"]).acquired_s
            values["acquired_s"] += 0.0 if day is None else day // DAY_S * DAY_S
        return SliceHeader(path=path, plane=plane, **self._whole[number, person], **values)

    def _person(self, number: int, path: str, frame: int) -> SliceHeader:
        if number not in self._people:
            _make_room(self._people)
            frames = {header.frame: header for header in self._again.headers(path)}
            self._people[number] = frames[frame]
        return self._people[number]

    def _grid(self, number: int) -> tuple[Any, ...]:
        if number not in self._grids:
            _make_room(self._grids)
            self._grids[number] = _grid(self._text("grids", number))
        return self._grids[number]

    def _text(self, table: str, number: int) -> str:
        row = self._database.execute(
            f"SELECT digest, content FROM {table} WHERE id = ?",  # noqa: S608  # a name from here
            (number,),
        ).fetchone()
        if row is None or _text_digest(row[1]) != row[0]:
            raise KeyError(table)
        return str(row[1])


def _make_room(table: dict[Any, Any]) -> None:
    if len(table) >= MOST_KEPT:
        table.clear()


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
