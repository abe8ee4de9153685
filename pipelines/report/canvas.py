"""A picture as palette indices, and its PNG bytes, the same on every run.

One palette serves all pictures: `N_GREYS` greys, then each of `N_HUES` hues laid over `N_SHADES`
greys, and pure. Working in indices keeps files small, overlays exact and pictures undithered.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from radloom.pipelines.report.planes import PLANES, View

if TYPE_CHECKING:
    from PIL import ImageFont

__all__ = ["ACCENT", "N_GREYS", "N_HUES", "N_SHADES", "Cell", "compose", "hue_index", "palette"]

N_GREYS = 64
"""As many as the eye tells apart beside each other on a screen, in a quarter of the bytes."""

N_SHADES = 7
"""Brightnesses of the image that stay apart below a label."""

_HUES = (
    (255, 176, 0), (86, 180, 233), (230, 80, 180), (60, 190, 90), (235, 95, 40), (150, 100, 240),
    (240, 225, 70), (0, 170, 160), (255, 150, 170), (60, 110, 240), (170, 215, 60), (190, 130, 80),
    (90, 225, 235), (225, 50, 60), (195, 170, 250), (150, 150, 50), (150, 235, 190), (170, 40, 99),
    (250, 195, 150), (110, 150, 180), (255, 140, 60), (0, 140, 90), (215, 120, 225), (215, 205, 99),
)  # fmt: skip
"""RGB of the labels; neighbours in the list differ in hue and in brightness."""

N_HUES = len(_HUES)
"""Labels beyond this number share colours, in turn."""

ACCENT = 0
"""The hue of contours: amber."""

_OPACITY = 0.5
"""Of a label over the image: the usual middle of viewers, so that edges below stay visible."""

_STRIP = 20
"""Height of the line of text above each cell."""
_GAP = 6
_WHITE, _DIM = N_GREYS - 1, 40


@dataclass(frozen=True)
class Cell:
    """Three planes side by side under a line of text."""

    title: str
    note: str
    planes: Mapping[str, npt.NDArray[np.uint8]]
    """Plane -> (rows, columns) palette indices."""
    legend: Sequence[tuple[int, str]] = ()
    """Hue (negative: no swatch) and text of each line at the cell's right."""


def palette() -> npt.NDArray[np.uint8]:
    """(256, 3) RGB: the greys, then for each hue its blends with grey and the pure colour."""
    table = np.zeros((256, 3))
    table[:N_GREYS] = np.linspace(0, 255, N_GREYS)[:, None]
    for hue, rgb in enumerate(_HUES):
        for shade in range(N_SHADES):
            grey = 200 * shade / (N_SHADES - 1)
            table[hue_index(hue, shade)] = _OPACITY * np.array(rgb) + (1 - _OPACITY) * grey
        table[hue_index(hue)] = rgb
    return np.asarray(np.round(table), dtype=np.uint8)


def hue_index(hue: int, shade: int = N_SHADES) -> int:
    """The palette index of a hue (0..N_HUES-1) over a grey (0..N_SHADES-1), or pure."""
    return N_GREYS + hue * (N_SHADES + 1) + shade


def compose(grid: Sequence[Sequence[Cell]], view: View) -> bytes:
    """PNG bytes of rows of cells, all of one size, that share one view."""
    cells = [[_draw_cell(cell, view) for cell in row] for row in grid]
    return _png(np.concatenate([np.concatenate(row, axis=1) for row in cells], axis=0))


def _draw_cell(cell: Cell, view: View) -> npt.NDArray[np.uint8]:
    sizes = {name: view.size(plane) for name, plane in PLANES.items()}
    height = max(rows for rows, _ in sizes.values())
    legend_width = 210 if cell.legend else 0
    width = sum(columns + _GAP for _, columns in sizes.values()) + _GAP + legend_width
    height = max(height, 16 * len(cell.legend))
    canvas = np.zeros((_STRIP + height + _GAP, width), dtype=np.uint8)
    texts = _Texts(canvas)
    texts.write(_GAP, 3, cell.title, size=13)
    texts.write(_GAP + texts.width(cell.title, 13) + 10, 4, cell.note, size=11, level=_DIM)
    left = _GAP
    for name, plane in PLANES.items():
        rows, columns = sizes[name]
        top = _STRIP + (height - rows) // 2
        canvas[top : top + rows, left : left + columns] = cell.planes[name]
        _direction_letters(texts, plane.letters, top, left, rows, columns)
        position = f"{'xyz'[plane.across]} {round(view.centre[plane.across]):+d}"
        texts.write(left + 2, top + rows - 13, position, size=10, level=_DIM)
        left += columns + _GAP
    _scale_bar(canvas, left - _GAP, _STRIP + (height + sizes["sagittal"][0]) // 2, view.pixel_mm)
    for line, (hue, text) in enumerate(cell.legend):
        top = _STRIP + 2 + 16 * line
        if hue >= 0:
            canvas[top : top + 11, left + 4 : left + 15] = hue_index(hue)
        texts.write(left + 21, top - 1, text, size=11)
    return canvas


def _direction_letters(
    texts: _Texts, letters: str, top: int, left: int, rows: int, columns: int
) -> None:
    middle_row, middle_column = top + rows // 2 - 7, left + columns // 2 - 4
    for letter, x, y in zip(
        letters,
        (left + 2, left + columns - 10, middle_column, middle_column),
        (middle_row, middle_row, top + 1, top + rows - 14),
        strict=True,
    ):
        texts.write(x, y, letter, size=12)


def _scale_bar(canvas: npt.NDArray[np.uint8], right: int, bottom: int, pixel_mm: float) -> None:
    length = round(50 / pixel_mm)
    canvas[bottom - 5 : bottom - 3, right - 4 - length : right - 4] = _WHITE
    for tick in (right - 4 - length, right - 5):
        canvas[bottom - 8 : bottom - 3, tick] = _WHITE
    texts = _Texts(canvas)
    texts.write(right - 4 - texts.width("50 mm", 10), bottom - 20, "50 mm", size=10, level=_DIM)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


class _Texts:
    """Writes on a canvas of palette indices, in greys with a dark rim that keeps it legible."""

    def __init__(self, canvas: npt.NDArray[np.uint8]) -> None:
        self._canvas = canvas

    def width(self, text: str, size: int) -> int:
        return int(_font(size).getlength(text))

    def write(self, left: int, top: int, text: str, *, size: int, level: int = _WHITE) -> None:
        from PIL import Image, ImageDraw

        if not text:
            return
        height, width = size + 5, self.width(text, size) + 4
        picture = Image.new("L", (width, height))
        ImageDraw.Draw(picture).text((1, 0), text, fill=255, font=_font(size))
        share = np.asarray(picture, dtype=np.float32) / 255
        target = self._canvas[top : top + height, left : left + width]
        share = share[: target.shape[0], : target.shape[1]]
        rim = np.zeros_like(share, dtype=np.bool_)
        for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            rim |= np.roll(share, shift, axis=(0, 1)) > 0.5
        target[rim | (share > 0)] = (share * level)[rim | (share > 0)].astype(np.uint8)


def _png(indices: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of palette indices (rows, columns), rows filtered by Paeth's predictor.

    Written here rather than by an imaging library because those leave palette images unfiltered,
    a sixth larger for noisy greys, and because nothing else must get into the bytes.
    Source: PNG (Third Edition), W3C Recommendation, sections 5 and 9.
    """
    rows, columns = indices.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    filtered = np.concatenate([np.full((rows, 1), 4, np.uint8), _paeth(indices)], axis=1)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    data = squeeze.compress(filtered.tobytes()) + squeeze.flush()
    chunks = ((b"IHDR", header), (b"PLTE", palette().tobytes()), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _paeth(indices: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    padded = np.pad(indices, ((1, 0), (1, 0))).astype(np.int16)
    left, above, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    guess = left + above - corner
    to_left, to_above, to_corner = (np.abs(guess - part) for part in (left, above, corner))
    nearer = np.where(to_above <= to_corner, above, corner)
    predicted = np.where((to_left <= to_above) & (to_left <= to_corner), left, nearer)
    return np.asarray((padded[1:, 1:] - predicted) & 0xFF, dtype=np.uint8)
