"""A file read with no more system calls than that takes.

Of the time that a header takes, opening its file is a good part, most of all on network folders and
in containers. Python's own file object asks for the file's state each time, which the listing of
the folder has given already.
"""

from __future__ import annotations

import os

__all__ = ["RawFile"]

FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class RawFile:
    """What answers like a file opened by ``open(path, "rb", buffering=0)``."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, FLAGS)

    def __enter__(self) -> RawFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, n: int) -> bytes:
        """Up to `n` bytes."""
        return os.read(self._descriptor, n)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a place, and gives it."""
        return os.lseek(self._descriptor, offset, whence)

    def tell(self) -> int:
        """The place at which the next read begins."""
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)
