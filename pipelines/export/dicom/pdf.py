r"""A small writer of PDF: lines of text and pictures, one under the other, on A4 pages.

Text is set in the fonts that every reader brings (Helvetica, Courier), so that it can be searched
and copied; pictures are RGB without loss. No dates and no random identifiers: the same content
makes the same bytes. Source: ISO 32000-1 (PDF 1.7) 7.3, 7.5 (syntax, file structure), 8.9
(images), 9.6.2 (standard fonts).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Block", "Line", "Picture", "make_pdf"]

WIDTH, HEIGHT, MARGIN = 595.0, 842.0, 40.0
"""Of an A4 page and its empty border, in points of 1/72 inch."""

_FONTS = {"plain": "Helvetica", "bold": "Helvetica-Bold", "mono": "Courier"}


@dataclass(frozen=True)
class Line:
    """One line of text; Latin-1, other letters become question marks."""

    text: str
    size: float = 9.0
    """Points."""
    font: str = "plain"
    """plain, bold or mono."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image across the page, smaller where it would not fit, under its caption."""

    rgb: npt.NDArray[np.uint8]
    """(row, column, 3)."""
    caption: Line = Line("")


Block: TypeAlias = Line | Picture


@dataclass
class _Page:
    """What stands on one page."""

    content: list[bytes] = field(default_factory=list)
    images: dict[str, Picture] = field(default_factory=dict)


def make_pdf(blocks: Sequence[Block], *, title: str) -> bytes:
    """The file, its pages broken where they are full.

    >>> make_pdf([Line("one")], title="a").startswith(b"%PDF-1.7")
    True
    """
    pages = _laid_out(blocks)
    objects: list[bytes] = [b"", b""]  # catalogue and pages, known at the end
    fonts = {name: _add(objects, _font(base)) for name, base in _FONTS.items()}
    kids = [_add_page(objects, page, fonts) for page in pages]
    objects[0] = b"<< /Type /Catalog /Pages 2 0 R >>"
    listed = b" ".join(b"%d 0 R" % kid for kid in kids)
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), listed)
    info = _add(objects, b"<< /Title (%s) /Producer (Radloom) >>" % _escaped(title))
    return _file(objects, info)


def _laid_out(blocks: Sequence[Block]) -> list[_Page]:
    pages, y = [_Page()], HEIGHT - MARGIN
    for block in blocks:
        height = _height(block)
        if y - height < MARGIN and pages[-1].content:
            pages.append(_Page())
            y = HEIGHT - MARGIN
        y -= height
        _put(block, pages[-1], y)
    return pages


def _size(picture: Picture) -> tuple[float, float]:
    rows, columns = picture.rgb.shape[:2]
    free = HEIGHT - 2 * MARGIN - _height(picture.caption)
    scale = min((WIDTH - 2 * MARGIN) / columns, free / rows)
    return columns * scale, rows * scale


def _height(block: Block) -> float:
    if isinstance(block, Line):
        return block.size * 1.35
    return _size(block)[1] + _height(block.caption)


def _put(block: Block, page: _Page, y: float) -> None:
    if isinstance(block, Line):
        place = b"1 0 0 1 %.2f %.2f Tm" % (MARGIN, y + 0.35 * block.size)
        text = _escaped(block.text)
        page.content.append(
            b"BT /%s %.2f Tf %s (%s) Tj ET" % (block.font.encode(), block.size, place, text)
        )
        return
    name = f"I{len(page.images)}"
    page.images[name] = block
    width, height = _size(block)
    _put(block.caption, page, y + height)
    page.content.append(
        b"q %.2f 0 0 %.2f %.2f %.2f cm /%s Do Q" % (width, height, MARGIN, y, name.encode())
    )


def _escaped(text: str) -> bytes:
    raw = text.encode("cp1252", "replace")
    return raw.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


def _font(base: str) -> bytes:
    return (
        b"<< /Type /Font /Subtype /Type1 /BaseFont /%s /Encoding /WinAnsiEncoding >>"
        % base.encode()
    )


def _add(objects: list[bytes], body: bytes) -> int:
    """The number of a new object."""
    objects.append(body)
    return len(objects)


def _stream(body: bytes, entries: bytes = b"") -> bytes:
    packed = zlib.compress(body, 6)
    head = b"<< %s/Filter /FlateDecode /Length %d >>" % (entries, len(packed))
    return head + b"\nstream\n" + packed + b"\nendstream"


def _add_page(objects: list[bytes], page: _Page, fonts: dict[str, int]) -> int:
    images = {name: _add(objects, _image(picture)) for name, picture in page.images.items()}
    content = _add(objects, _stream(b"\n".join(page.content)))
    resources = b"<< /Font << %s >> /XObject << %s >> >>" % (_names(fonts), _names(images))
    return _add(
        objects,
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Resources %s /Contents %d 0 R >>"
        % (WIDTH, HEIGHT, resources, content),
    )


def _names(numbers: dict[str, int]) -> bytes:
    return b" ".join(b"/%s %d 0 R" % (name.encode(), number) for name, number in numbers.items())


def _image(picture: Picture) -> bytes:
    rows, columns = picture.rgb.shape[:2]
    entries = (
        b"/Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceRGB "
        b"/BitsPerComponent 8 " % (columns, rows)
    )
    return _stream(np.ascontiguousarray(picture.rgb).tobytes(), entries)


def _file(objects: Sequence[bytes], info: int) -> bytes:
    """Header, objects, cross-reference table and trailer."""
    parts = [b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"]
    offsets, at = [], len(parts[0])
    for number, body in enumerate(objects, start=1):
        offsets.append(at)
        parts.append(b"%d 0 obj\n%s\nendobj\n" % (number, body))
        at += len(parts[-1])
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    count = len(objects) + 1
    parts.append(b"xref\n0 %d\n0000000000 65535 f \n%s" % (count, table))
    trailer = b"<< /Size %d /Root 1 0 R /Info %d 0 R >>" % (count, info)
    parts.append(b"trailer\n%s\nstartxref\n%d\n%%%%EOF\n" % (trailer, at))
    return b"".join(parts)
