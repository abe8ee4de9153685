"""Whether the disk can take what a run will write: asked before work starts."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from radloom.errors import ConfigError
from radloom.pipelines.receipts.files import remove, write_file
from radloom.pipelines.study import StudyRecord

__all__ = ["is_disk_trouble", "require_space", "require_writable", "space_needed"]

_BYTES_A_VOXEL = 1.5
"""Of float32 images under gzip: the least seen, head MR with its background at zero."""

_WRITES_VOLUMES = frozenset({"ingest", "denoise", "register", "translate"})
"""Stages that write about as many voxels as there are in the study."""


def space_needed(records: Iterable[StudyRecord], stages: Collection[str]) -> int:
    """Bytes that these studies will take at least, by what their headers say.

    It errs low: a run that is refused for it would not have come to its end.
    """
    n_volumes = len(_WRITES_VOLUMES & {*stages})
    n_voxels = 0
    for record in records:
        for series in record.series:
            if series.status != "rejected":
                i, j, k = series.shape
                n_voxels += i * j * k
    return int(n_voxels * n_volumes * _BYTES_A_VOXEL)


def require_space(out: Path, needed: int) -> None:
    """Nothing, if `needed` bytes are free where `out` lies; ConfigError otherwise."""
    free = shutil.disk_usage(out).free
    if free < needed:
        raise ConfigError(
            f"expected at least {_size(needed)} free for what is left to do in <{out}>, found "
            f"{_size(free)}: make room, or name another folder"
        )


def require_writable(out: Path) -> None:
    """Nothing, if files can be written below `out`, which is made where absent.

    Raises:
        ConfigError: the disk is full or read-only, or the folder another's.
    """
    for folder in (out, out / "stages"):
        probe = folder / ".probe"
        try:
            write_file(probe, bytes(4096))
            remove(probe)
        except OSError as error:
            raise ConfigError(
                f"expected to be able to write to <{folder}>: {error.strerror}"
            ) from None


def is_disk_trouble(reason: str) -> bool:
    """Whether a failure was the disk's, full or not to be written to, and not the study's.

    >>> is_disk_trouble("OSError: No space left on device")
    True
    """
    return any(os.strerror(code) in reason for code in _TROUBLE)


_TROUBLE = tuple(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS") if hasattr(errno, name)
)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
