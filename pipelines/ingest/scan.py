"""One pass over a folder: which files there are, and what each is by its name and first bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from radloom.errors import ReasonCode
from radloom.pipelines.ingest.headers import SliceHeader, is_dicom
from radloom.transforms.itk_images import ITK_SUFFIXES

__all__ = [
    "Entry",
    "Found",
    "Looked",
    "classify",
    "image_stem",
    "list_folder",
    "may_be_image",
    "scan_folder",
    "unlisted",
    "unopened",
]

FileKind: TypeAlias = Literal["dicom", "nifti", "itk", "archive", "bad"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")

PAIR_SUFFIX = ".hdr"
"""The header of a pair; its voxels lie in an .img beside it, which is not looked at by itself."""

PAIR_HEADS = tuple(n.to_bytes(4, order) for n in (348, 540) for order in ("little", "big"))
"""How NIfTI and Analyze headers begin; what else ends in .hdr is none of ours."""

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom", ".dic")
"""Endings that promise DICOM; most scanners write none at all."""

ARCHIVE_SUFFIX = ".zip"

OTHER_NAMES = ("dicomdir", "readme", "license", "licence", "changes", "thumbs")
"""Stems of files that lie beside images and are none. A DICOMDIR lists files that lie there too."""

HEAD_BYTES = 512
"""Enough to know DICOM, with its preamble or without."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as the listing of its folder shows it; nothing of it has been read."""

    path: str
    """Relative to the folder searched, with forward slashes."""
    size: int = -1
    """Bytes; -1 where it cannot be known."""
    mtime_ns: int = 0
    inode: int = 0
    is_link: bool = False
    problem: str = ""
    """Why a folder could not be opened: the error's name."""

    @property
    def name(self) -> str:
        """The last part of the path, in lower case."""
        return self.path.rpartition("/")[2].lower()


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is an image, or claims to be one."""

    path: str
    """Relative to the folder searched, with forward slashes."""
    kind: FileKind
    code: ReasonCode | None = None
    """Why it can't be used, for kind ``bad``."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of one file, or of one member of an archive."""

    found: Found
    headers: tuple[SliceHeader, ...] = ()
    """Of DICOM."""


def scan_folder(folder: Path) -> Iterator[Found]:
    """Every image below `folder`, in the order of names; other files are passed over in silence.

    Links to folders are not followed, so that a link to a parent can't loop; links to files are.
    A folder that can't be opened is reported as one unusable item. Archives are not opened.
    """
    for entry in list_folder(folder):
        found = _looked_at(folder, entry)
        if found is not None and found.kind != "archive":
            yield found


def list_folder(folder: Path) -> Iterator[Entry]:
    """Every file below `folder`, in the order of names, and every folder that can't be opened."""
    pending = [""]
    while pending:
        relative = pending.pop()
        prefix = f"{relative}/" if relative else ""
        try:
            names, links, inside = _names(folder / relative)
        except OSError as error:
            yield Entry(relative, problem=type(error).__name__)
            continue
        for name in names:
            entry = _entry(folder, prefix + name, is_link=name in links)
            if entry is not None:
                yield entry
        pending.extend(prefix + name for name in reversed(inside))


def _names(folder: Path) -> tuple[list[str], set[str], list[str]]:
    """Of files in order, of those that are links, and of folders in order.

    Names alone, for a folder may hold a hundred thousand files.
    """
    names: list[str] = []
    links: set[str] = set()
    inside: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inside.append(entry.name)
            elif not entry.is_dir():
                names.append(entry.name)
                if entry.is_symlink():
                    links.add(entry.name)
    return sorted(names), links, sorted(inside)


def _entry(folder: Path, path: str, *, is_link: bool) -> Entry | None:
    """None for what is no file: reading a pipe would wait for ever."""
    try:
        status = os.stat(f"{folder}/{path}")  # noqa: PTH116  # once a file: a Path takes as long
    except OSError:
        return Entry(path, is_link=is_link)
    if not stat.S_ISREG(status.st_mode):
        return None
    return Entry(path, status.st_size, status.st_mtime_ns, status.st_ino, is_link)


def image_stem(name: str) -> str:
    """A file's name without the endings of image formats.

    >>> image_stem("study1_T1W.nii.gz"), image_stem("1.2.840.dcm")
    ('study1_T1W', '1.2.840')
    """
    for suffix in (*NIFTI_SUFFIXES[::-1], PAIR_SUFFIX, *ITK_SUFFIXES, *DICOM_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def may_be_image(name: str) -> bool:
    """Whether a file of this name, in lower case, is worth a look.

    >>> may_be_image("im0001"), may_be_image("dicomdir"), may_be_image(".hidden.dcm")
    (True, False, False)
    """
    stem = name.rpartition(".")[0]
    is_other = stem.startswith(OTHER_NAMES) if stem else name in OTHER_NAMES
    return not name.startswith(".") and not is_other


def classify(path: str, head: bytes) -> Found | None:
    """What a file is; None where it is no image and does not claim to be one.

    Args:
        path: relative, with forward slashes; the name has passed `may_be_image`.
        head: its first `HEAD_BYTES`, or all of it.
    """
    name = path.rpartition("/")[2].lower()
    if not head:
        if _claims(name) or _has_no_ending(name):
            return Found(path, "bad", ReasonCode.TRUNCATED, "the file is empty; copy it anew")
        return None
    is_pair = name.endswith(PAIR_SUFFIX) and head.startswith(PAIR_HEADS)
    if is_pair or name.endswith(NIFTI_SUFFIXES):
        return Found(path, "nifti")
    if name.endswith(ITK_SUFFIXES):
        return Found(path, "itk")
    if name.endswith(ARCHIVE_SUFFIX):
        return Found(path, "archive")
    if is_dicom(head):
        return Found(path, "dicom")
    if name.endswith(DICOM_SUFFIXES):
        return Found(path, "bad", ReasonCode.UNREADABLE, "named as DICOM, but it is something else")
    return None


def unopened(entry: Entry, error: OSError) -> Found | None:
    """What to say of a file that cannot be opened; None where nobody would miss it."""
    if entry.is_link and isinstance(error, FileNotFoundError) and not _claims(entry.name):
        return None
    if _claims(entry.name) or _has_no_ending(entry.name):
        detail = f"the file cannot be opened ({type(error).__name__})"
        return Found(entry.path, "bad", ReasonCode.UNREADABLE, detail)
    return None


def unlisted(entry: Entry) -> Found:
    """What to say of a folder that cannot be opened."""
    detail = f"the folder cannot be opened ({entry.problem})"
    return Found(entry.path, "bad", ReasonCode.UNREADABLE, detail)


def _looked_at(folder: Path, entry: Entry) -> Found | None:
    if entry.problem:
        return unlisted(entry)
    if not may_be_image(entry.name):
        return None
    try:
        with (folder / entry.path).open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        return unopened(entry, error)
    return classify(entry.path, head)


def _claims(name: str) -> bool:
    return name.endswith((*NIFTI_SUFFIXES, *ITK_SUFFIXES, *DICOM_SUFFIXES, ARCHIVE_SUFFIX))


def _has_no_ending(name: str) -> bool:
    return "." not in name or not name.rpartition(".")[2].isalpha()
