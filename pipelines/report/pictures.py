"""A picture as a page shows it: inside the page or linked, and which cells it has.

`GRIDS` says which cells a picture has and where, so that the page can show one cell alone and
alternate between two of them at the same place.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote

from radloom.pipelines.report.cohort import Picture

__all__ = ["BLINKS", "CAPTIONS", "GRIDS", "Shown", "inlined", "linked"]

GRIDS: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "denoise": (("before",), ("after",), ("residual",)),
        "register": (
            ("fixed", "checkerboard"),
            ("moving, before", "contours, before"),
            ("moving, after", "contours, after"),
        ),
        "translate": (("MR",), ("pseudo-CT, brain",), ("pseudo-CT, bone",)),
        "segment": (("image",), ("labels",)),
    }
)
"""Stage -> rows of the titles of the cells of its picture; `ingest` has one or two rows."""

CAPTIONS = {
    "ingest": "Are the letters right, the proportions natural, the head complete, and no slice "
    "missing, doubled or shifted?",
    "denoise": "The residual should be structureless. Anatomy seen in it was taken from the image.",
    "register": "After registration contours lie on the edges below them and edges run unbroken "
    "across the checkerboard. Blink to see what is still displaced.",
    "translate": "Bone, air and soft tissue lie where the MR shows them; the skull is closed "
    "and as thick as in the MR.",
    "segment": "Colours end where the structures end, and both sides look alike. The legend adds "
    "left and right.",
}
"""Stage -> what a person should look for."""

BLINKS = {
    "denoise": ("before", "after"),
    "register": ("fixed", "moving, after"),
    "translate": ("MR", "pseudo-CT, bone"),
    "segment": ("image", "labels"),
}
"""Stage -> the two cells that the blink button alternates."""


@dataclass(frozen=True)
class Shown:
    """A picture as the template needs it."""

    source: str
    """A data URI, or the relative path where the cohort is too large to inline."""
    width: int
    height: int
    alt: str
    title: str
    caption: str
    rows: int
    columns: int
    cells: tuple[tuple[str, int, int], ...]
    """(title, row, column) of each cell that can be shown alone."""
    blink: tuple[int, int] | None
    """Indices into `cells`."""


def inlined(picture: Picture, study: str, content: bytes) -> Shown:
    """A picture that the page holds itself."""
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return _shown(picture, study, content, source)


def linked(picture: Picture, study: str, *, root: str = "") -> Shown:
    """A picture that the page links, and a browser reads when it comes into view.

    `root` leads from the page to OUT: empty, or ``../``.
    """
    with picture.path.open("rb") as stream:
        start = stream.read(24)
    return _shown(picture, study, start, root + quote(picture.relative, safe="/"))


def _shown(picture: Picture, study: str, content: bytes, source: str) -> Shown:
    width, height = struct.unpack(">II", content[16:24])
    grid = GRIDS.get(picture.stage, ())
    cells = tuple((cell, r, c) for r, row in enumerate(grid) for c, cell in enumerate(row))
    titles = [title for title, _, _ in cells]
    blink = BLINKS.get(picture.stage)
    what = picture.role.upper() or picture.series or "series"
    return Shown(
        source=source,
        width=width,
        height=height,
        alt=f"{study}, {picture.stage}, {what}: axial, coronal and sagittal planes"
        + (f"; {', '.join(titles)}" if titles else ""),
        title=what,
        caption=picture.series if picture.role else "",
        rows=len(grid) or 1,
        columns=len(grid[0]) if grid else 1,
        cells=cells,
        blink=(titles.index(blink[0]), titles.index(blink[1])) if blink else None,
    )
