"""The headers of a folder, gathered series by series without being held in memory.

What is in memory does not grow with the number of files: beyond some thousand headers, those of a
series are put away together into a file without a name, which goes when it is closed.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import IO

from radloom.pipelines.ingest.headers import SliceHeader

__all__ = ["GatheredHeaders"]

MOST_HELD = 2048
"""Headers in memory: some four megabytes."""


class GatheredHeaders(AbstractContextManager["GatheredHeaders"]):
    """Headers by SeriesInstanceUID, each series in the order in which its headers came.

    >>> with GatheredHeaders() as headers:
    ...     headers.add(SliceHeader("b.dcm", series_uid="1.2"))
    ...     headers.add(SliceHeader("a.dcm", series_uid="1.2"))
    ...     [[header.path for header in series] for series in headers]
    [['b.dcm', 'a.dcm']]
    """

    def __init__(self) -> None:
        self._away: dict[str, list[tuple[int, int]]] = {}
        """Series -> offsets and sizes in the file of pickled lists of its headers."""
        self._held: dict[str, list[SliceHeader]] = {}
        self._n_held = 0
        self._file: IO[bytes] | None = None
        self._open = ExitStack()

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, header: SliceHeader) -> None:
        """Takes in a header that names its series."""
        self._away.setdefault(header.series_uid, [])
        self._held.setdefault(header.series_uid, []).append(header)
        self._n_held += 1
        if self._n_held >= MOST_HELD:
            self._put_away()

    def __iter__(self) -> Iterator[list[SliceHeader]]:
        """Each series; the one that was seen first comes first."""
        for uid, places in self._away.items():
            headers: list[SliceHeader] = []
            for place in places:
                headers += self._fetch(*place)
            yield headers + self._held.get(uid, [])

    def _put_away(self) -> None:
        try:
            if self._file is None:
                opened = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # the stack's to close
                self._file = self._open.enter_context(opened)
            for uid in list(self._held):
                self._away[uid].append(self._write(self._held[uid]))
                self._n_held -= len(self._held.pop(uid))
        except OSError:
            pass  # no room there: the rest stays in memory, and it is tried again

    def _write(self, headers: list[SliceHeader]) -> tuple[int, int]:
        assert self._file is not None
        # In one list the values that slices share are written once.
        content = pickle.dumps(headers, protocol=pickle.HIGHEST_PROTOCOL)
        offset = self._file.seek(0, os.SEEK_END)
        if self._file.write(content) != len(content):
            raise OSError
        return offset, len(content)

    def _fetch(self, offset: int, size: int) -> list[SliceHeader]:
        assert self._file is not None
        self._file.seek(offset)
        headers: list[SliceHeader] = pickle.loads(self._file.read(size))  # noqa: S301  # ours
        return headers
