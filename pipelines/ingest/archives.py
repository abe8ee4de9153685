"""Zip files: DICOM in them is read in place, and unpacked, one series at a time, when needed.

Of NIfTI, NRRD and MetaImage the first bytes are unpacked for their headers, with their sidecars.

A member's path is that of the archive, a slash, and its own name: ``scans.zip/12/IM0001``. An
archive is a stranger's file: its names never become paths unchecked, and what it claims to unpack
to is held to the limits below before anything is unpacked.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from radloom.errors import ReasonCode, SeriesRefused
from radloom.pipelines.ingest.scan import NIFTI_SUFFIXES, PAIR_SUFFIX
from radloom.pipelines.study import SeriesRecord, StudyRecord
from radloom.transforms.itk_images import ITK_SUFFIXES

__all__ = [
    "ARCHIVE_ERRORS",
    "Refused",
    "beginnings",
    "checked_members",
    "file_that_holds",
    "unpacked",
]

ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
)
"""What zipfile raises on damaged, encrypted and unknown archives."""

MAX_MEMBERS = 200_000
"""Files of one archive; ten times the largest studies."""

MAX_MEMBER_BYTES = 4 << 30
"""Bytes of one file unpacked; the length field of DICOM pixels ends there."""

MAX_ARCHIVE_BYTES = 256 << 30
"""Bytes of all files of one archive unpacked."""

MAX_RATIO = 200
"""Unpacked over packed bytes of a large file; images compress by 2 to 20, empty ones by 1000."""

RATIO_FROM_BYTES = 32 << 20
"""Below this a file may be as empty as it likes."""

ENCRYPTED = 1
"""The bit of a file's flags (APPNOTE section 4.4.4)."""

HEADER_BYTES = 1 << 18
"""Bytes that hold the header of any NIfTI, NRRD or MetaImage file."""

SIDECAR_SUFFIX = ".json"
"""Unpacked whole beside a header."""

_CHUNK = 1 << 20


class Refused(Exception):  # says what was done with the archive
    """An archive that is not to be opened; the message is for people."""


def checked_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of an archive in the order of names, each name once, folders left out.

    Raises:
        Refused: it breaks a limit, or a name leads out of the archive.
    """
    members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    if len(members) > MAX_MEMBERS:
        raise Refused(f"expected at most {MAX_MEMBERS} files in an archive, got {len(members)}")
    total = sum(info.file_size for info in members.values())
    if total > MAX_ARCHIVE_BYTES:
        raise Refused(
            f"expected at most {MAX_ARCHIVE_BYTES >> 30} GiB in an archive, got {total >> 30}"
        )
    if any(info.flag_bits & ENCRYPTED for info in members.values()):
        raise Refused("an archive with a password; unpack it yourself")
    for info in members.values():
        _require_safe(info)
    return [members[name] for name in sorted(members)]


def _require_safe(info: zipfile.ZipInfo) -> None:
    posix, windows = PurePosixPath(info.filename), PureWindowsPath(info.filename)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise Refused("a name in the archive leads out of it; unpack it with care yourself")
    if info.file_size > MAX_MEMBER_BYTES:
        raise Refused(f"expected files below {MAX_MEMBER_BYTES >> 30} GiB, got one above")
    if info.file_size > RATIO_FROM_BYTES and info.file_size > MAX_RATIO * info.compress_size:
        raise Refused(
            f"expected files packed to no less than 1/{MAX_RATIO}, got one below: no image is so "
            "empty"
        )


def file_that_holds(root: Path, path: str) -> Path:
    """The file below `root` that holds `path`: itself, or the archive that it lies in."""
    archive, _ = _split(root, path)
    return root / (archive or path)


def _split(root: Path, path: str) -> tuple[str, str]:
    """An archive and the name within; two empty strings where `path` is a file of its own."""
    parts = path.split("/")
    for n in range(1, len(parts)):
        if parts[n - 1].lower().endswith(".zip"):
            archive = "/".join(parts[:n])
            if (root / archive).is_file():
                return archive, "/".join(parts[n:])
    return "", ""


@contextmanager
def unpacked(record: StudyRecord, series: SeriesRecord) -> Iterator[StudyRecord]:
    """The study with all files of `series` at `record.root`, unpacked to a folder that goes again.

    Raises:
        SeriesRefused: an archive is not what it was at discovery.
    """
    places = [(path, *_split(record.root, path)) for path in series.files]
    if not any(archive for _, archive, _ in places):
        yield record
        return
    with _folder_like(record.root) as folder:
        try:
            _unpack(record.root, places, folder)
        except (Refused, KeyError, *ARCHIVE_ERRORS) as error:
            detail = f"an archive cannot be unpacked ({type(error).__name__}); unpack it yourself"
            raise SeriesRefused(ReasonCode.UNREADABLE, detail) from error
        yield replace(record, root=folder)


@contextmanager
def beginnings(root: Path, paths: Iterable[str]) -> Iterator[Path]:
    """A folder with the first bytes of members of archives, under the same relative paths.

    What lies beside each and begins with its name comes too, sidecars whole. A member that cannot
    be unpacked is not there. The folder goes again.
    """
    by_archive: dict[str, list[str]] = {}
    for archive, name in (_split(root, path) for path in paths):
        if archive:
            by_archive.setdefault(archive, []).append(name)
    if not by_archive:
        yield root
        return
    with _folder_like(root) as folder:
        for archive, names in by_archive.items():
            with suppress(Refused, *ARCHIVE_ERRORS), zipfile.ZipFile(root / archive) as opened:
                members = {info.filename: info for info in checked_members(opened)}
                for name in _with_neighbours(names, members):
                    with suppress(KeyError, *ARCHIVE_ERRORS), opened.open(members[name]) as source:
                        is_whole = name.lower().endswith(SIDECAR_SUFFIX)
                        content = source.read(-1 if is_whole else HEADER_BYTES)
                        _target(folder, f"{archive}/{name}").write_bytes(content)
        yield folder


@contextmanager
def _folder_like(root: Path) -> Iterator[Path]:
    """A folder for a while, of the same name as `root`: labels may come from it."""
    with tempfile.TemporaryDirectory(prefix="radloom-") as name:
        folder = Path(name, root.resolve().name or "study")
        folder.mkdir()
        yield folder


def _with_neighbours(names: Iterable[str], members: Mapping[str, object]) -> list[str]:
    """The names, and those of files beside an image other than DICOM that share its stem.

    >>> beside = {"a/t1.nii.gz": 0, "a/t1.json": 0, "a/t1_x.json": 0, "b/t1.json": 0}
    >>> _with_neighbours(["a/t1.nii.gz"], beside)
    ['a/t1.json', 'a/t1.nii.gz']
    """
    stems = {
        name[: -len(suffix)]
        for name in names
        for suffix in (*NIFTI_SUFFIXES, PAIR_SUFFIX, *ITK_SUFFIXES)
        if name.lower().endswith(suffix)
    }
    found = {name for name in members if stems and any(name[:at] in stems for at in _dots(name))}
    return sorted(found.union(names))


def _dots(name: str) -> list[int]:
    """Where the last part of a path has its dots."""
    start = name.rfind("/") + 1
    return [at for at in range(start, len(name)) if name[at] == "."]


def _unpack(root: Path, places: Sequence[tuple[str, str, str]], folder: Path) -> None:
    by_archive: dict[str, list[str]] = {}
    for path, archive, name in places:
        by_archive.setdefault(archive, []).append(name if archive else path)
    for path in by_archive.pop("", ()):  # copies of a series may lie here and there
        shutil.copyfile(root / path, _target(folder, path))
    for archive, wanted in by_archive.items():
        with zipfile.ZipFile(root / archive) as opened:
            members = {info.filename: info for info in checked_members(opened)}
            for name in _with_neighbours(wanted, members):
                target = _target(folder, f"{archive}/{name}")
                with opened.open(members[name]) as source, target.open("xb") as out:
                    _copy(source, out, members[name].file_size)


def _target(folder: Path, path: str) -> Path:
    target = folder.joinpath(*path.split("/"))
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _copy(source: IO[bytes], out: IO[bytes], size: int) -> None:
    """What the archive's directory promised, and not a byte more."""
    shutil.copyfileobj(source, out, _CHUNK)
    if out.tell() != size:
        raise Refused("a file of the archive has another size than its directory says")
