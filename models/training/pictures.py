"""A sheet of samples and results as one PNG: a row a case, a column a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Picture", "sheet", "write_sheet"]

_GAP = 4
_TITLE = 14


@dataclass(frozen=True)
class Picture:
    """One volume of a case and how it is shown."""

    title: str
    volume: torch.Tensor
    """(I, J, K), RAS+."""
    low: float = 0.0
    """Shown black; of grey pictures."""
    high: float = 1.0
    """Shown white."""
    kind: Literal["grey", "labels"] = "grey"


def sheet(rows: Sequence[Sequence[Picture]]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) of the middle axial and sagittal planes of every picture, seen from the feet.

    The patient's left is on the right, the front above.
    """
    tiles = [[_tile(picture) for picture in row] for row in rows]
    height = max(tile.shape[0] for row in tiles for tile in row) + _GAP
    width = max(tile.shape[1] for row in tiles for tile in row) + _GAP
    columns = max(len(row) for row in tiles)
    page = np.zeros((height * len(tiles), width * columns, 3), np.uint8)
    for r, row in enumerate(tiles):
        for c, tile in enumerate(row):
            top, left = r * height, c * width
            page[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return page


def write_sheet(rows: Sequence[Sequence[Picture]], path: Path) -> npt.NDArray[np.uint8]:
    """Write the sheet as PNG and give it back."""
    from PIL import Image

    page = sheet(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(page).save(path)
    return page


def _tile(picture: Picture) -> npt.NDArray[np.uint8]:
    """The two planes side by side under the title."""
    from PIL import Image, ImageDraw

    volume = picture.volume.detach().float().cpu().numpy()
    i, _, k = (n // 2 for n in volume.shape)
    axial, sagittal = volume[::-1, ::-1, k].T, volume[i, ::-1, ::-1].T
    height = max(axial.shape[0], sagittal.shape[0])
    planes = [np.pad(p, ((0, height - p.shape[0]), (0, 0))) for p in (axial, sagittal)]
    pixels = _coloured(np.concatenate(planes, axis=1), picture)
    title = Image.new("RGB", (pixels.shape[1], _TITLE))
    ImageDraw.Draw(title).text((1, 1), picture.title, fill=(255, 220, 120))
    return np.concatenate([np.asarray(title), pixels])


def _coloured(plane: npt.NDArray[np.float32], picture: Picture) -> npt.NDArray[np.uint8]:
    if picture.kind == "labels":
        colours: npt.NDArray[np.uint8] = _colours()[plane.astype(np.int64) % 256]
        return colours
    share = (plane - picture.low) / (picture.high - picture.low)
    grey: npt.NDArray[np.uint8] = (255 * np.nan_to_num(share).clip(0, 1)).astype(np.uint8)
    return np.stack([grey] * 3, axis=-1)


def _colours() -> npt.NDArray[np.uint8]:
    """256 colours of which neighbours differ; 0 is black."""
    hue = np.arange(256) * 0.618034 % 1
    wave = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    bright = np.where(np.arange(256) % 3 == 1, 0.65, 1.0)[:, None]
    shades = 255 * bright * (0.25 + 0.75 * wave.clip(0, 1))
    colours: npt.NDArray[np.uint8] = shades.astype(np.uint8)
    colours[0] = 0
    return colours
