"""An array written box by box into a folder in Zarr's format, version 2, never whole in memory.

The chunks are float16, compressed by zlib: any reader of Zarr opens them (``zarr.open(folder)``).
Nothing but the standard library and NumPy is needed to write them.

Source: https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ZarrFolder"]

_CHUNK = 64


class ZarrFolder:
    """Probabilities (classes, I, J, K), background where nothing was written."""

    def __init__(
        self, path: Path, shape: Sequence[int], *, background: bool, attributes: Mapping[str, Any]
    ) -> None:
        """Make the folder.

        Args:
            path: must not be there yet.
            shape: (classes, I, J, K).
            background: whether class 0 is background, with probability 1 where nothing is written.
            attributes: what ``.zattrs`` says.

        Raises:
            FileExistsError: something is at `path`.
        """
        self.path, self.shape, self._background = path, tuple(shape), background
        self.chunks = (shape[0], *(min(n, _CHUNK) for n in shape[1:]))
        path.mkdir()
        layout = {
            "zarr_format": 2,
            "shape": list(self.shape),
            "chunks": list(self.chunks),
            "dtype": "<f2",
            "compressor": {"id": "zlib", "level": 1},
            "fill_value": 0.0,
            "order": "C",
            "filters": None,
        }
        (path / ".zarray").write_text(json.dumps(layout), encoding="utf-8")
        (path / ".zattrs").write_text(json.dumps(dict(attributes)), encoding="utf-8")

    def write(self, place: tuple[slice, ...], values: npt.NDArray[np.float16]) -> None:
        """The probabilities (classes, i, j, k) of a box of I, J, K."""
        ranges = [
            range(along.start // size, (along.stop - 1) // size + 1)
            for along, size in zip(place, self.chunks[1:], strict=True)
        ]
        for at in itertools.product(*ranges):
            chunk = self._read(at)
            into, part = [slice(None)], [slice(None)]
            for n, along, size in zip(at, place, self.chunks[1:], strict=True):
                low, high = max(along.start, n * size), min(along.stop, (n + 1) * size)
                into.append(slice(low - n * size, high - n * size))
                part.append(slice(low - along.start, high - along.start))
            chunk[tuple(into)] = values[tuple(part)]
            self._write(at, chunk)

    def close(self) -> None:
        """Write what no box touched."""
        if not self._background:
            return
        counts = [-(-n // size) for n, size in zip(self.shape[1:], self.chunks[1:], strict=True)]
        for at in itertools.product(*map(range, counts)):
            if not self._file(at).exists():
                self._write(at, self._read(at))

    def _file(self, at: Sequence[int]) -> Path:
        return self.path / ".".join(str(n) for n in (0, *at))

    def _read(self, at: Sequence[int]) -> npt.NDArray[np.float16]:
        if self._file(at).exists():
            raw = zlib.decompress(self._file(at).read_bytes())
            return np.array(np.frombuffer(raw, "<f2").astype(np.float16).reshape(self.chunks))
        chunk = np.zeros(self.chunks, np.float16)
        chunk[0] = 1.0 if self._background else 0.0
        return chunk

    def _write(self, at: Sequence[int], chunk: npt.NDArray[np.float16]) -> None:
        self._file(at).write_bytes(zlib.compress(np.ascontiguousarray(chunk, "<f2").tobytes(), 1))
