"""Files that are either whole or not there: every write, move and removal below OUT.

A file is written beside its place, flushed to the disk and renamed; then the folder that holds it
is flushed. Names of unfinished files are fixed: the next run replaces what a killed one left.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path, PurePosixPath

from radloom.errors import InputError

__all__ = [
    "inside",
    "move",
    "remove",
    "remove_tree",
    "require_inside",
    "sha256_of",
    "sync",
    "write_file",
]

_CHUNK = 1 << 20


def write_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """`path` holds `content`: at every instant the old bytes, the new ones, or no file.

    Without `durable`, for what can be made again at any time, a power cut may leave an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".partial")
    try:
        with unfinished.open("wb") as stream:
            stream.write(content)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        move(unfinished, path)
    except OSError:
        remove(unfinished)
        raise
    if durable:
        sync(path.parent)


def move(start: Path, end: Path) -> None:
    """`start` renamed to `end` on the same file system; a file that is there is replaced."""
    end.parent.mkdir(parents=True, exist_ok=True)
    os.replace(start, end)  # noqa: PTH105 - one name for tests to stop the clock at


def remove(path: Path) -> None:
    """No file at `path`, whether or not there was one."""
    path.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """No folder at `folder`, whether or not there was one."""
    if folder.exists():
        shutil.rmtree(folder)


def sync(path: Path) -> None:
    """A file, or the names in a folder, on the disk and no longer only in memory."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle for a folder; it keeps the order of renames by itself
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def inside(folder: Path, relative: str) -> Path:
    """The path of `relative` (POSIX, as in receipts) below `folder`.

    Raises:
        InputError: it would lie elsewhere.
    """
    require_inside(relative)
    return folder.joinpath(*PurePosixPath(relative).parts)


def require_inside(relative: str) -> None:
    """Nothing, if `relative` (POSIX, as in receipts) leads to a place below where it starts.

    Raises:
        InputError: it would lie elsewhere.
    """
    parts = relative.split("/")
    if relative.startswith("/") or ".." in parts or set(parts) <= {"", "."}:
        raise InputError(f"expected a path below the output folder, got <{relative}>")
