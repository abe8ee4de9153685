"""One self-contained HTML page over all studies: everything inlined, nothing fetched, no voxels.

Every text passes through the template's escaping, and a content security policy that names the
hash of the page's own script keeps any other script inert.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from radloom import __version__
from radloom.pipelines.receipts.files import write_file
from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.report.cohort import Cohort, Picture, read_cohort, scale_of
from radloom.pipelines.report.figures import GRIDS

__all__ = ["INLINE_LIMIT_BYTES", "PAGE", "render_page", "write_report"]

PAGE = "report.html"
"""The page's name below OUT."""

INLINE_LIMIT_BYTES = 128 * 2**20
"""Pictures of a cohort beyond this are linked, not inlined: browsers stall on larger pages."""

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


def write_report(out: Path) -> Path:
    """``OUT/report.html``, made anew from what lies below `out`; returns its path."""
    path = out / PAGE
    write_file(path, render_page(read_cohort(out)).encode())
    return path


def render_page(cohort: Cohort, *, inline_limit_bytes: int = INLINE_LIMIT_BYTES) -> str:
    """The page's HTML."""
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    folder = resources.files(__package__)
    style, script, template = (
        folder.joinpath(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js", "page.html.jinja")
    )
    shown = _show_all(cohort, inline_limit_bytes)
    environment = Environment(
        loader=DictLoader({"page": template}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number_text, "seconds": seconds_text, "bytes": bytes_text, "range": range_text,
        "url": lambda path: quote(path, safe="/"), "triple": triple_text, "words": words_text,
    }  # fmt: skip
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page").render(
        cohort=cohort,
        shown=shown,
        linked=any(not s.source.startswith("data:") for s in shown.values()),
        captions=CAPTIONS,
        bar=bar_of,
        dots=dots_of,
        dump=lambda value: json.dumps(value, indent=2, sort_keys=True),
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=digest,
        version=__version__,
    )


def _show_all(cohort: Cohort, limit: int) -> dict[str, Shown]:
    shown, inlined = {}, 0
    for study in cohort.studies:
        for stage in study.stages:
            for picture in stage.pictures:
                content = picture.path.read_bytes()
                inlined += len(content)
                shown[picture.relative] = _show(picture, study.key, content, inlined <= limit)
    return shown


def _show(picture: Picture, study: str, content: bytes, inline: bool) -> Shown:  # noqa: FBT001
    width, height = struct.unpack(">II", content[16:24])
    grid = GRIDS.get(picture.stage, ())
    cells = tuple((cell, r, c) for r, row in enumerate(grid) for c, cell in enumerate(row))
    titles = [title for title, _, _ in cells]
    blink = BLINKS.get(picture.stage)
    what = picture.role.upper() or picture.series or "series"
    source = quote(picture.relative, safe="/")
    if inline:
        source = "data:image/png;base64," + base64.b64encode(content).decode()
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


def bar_of(check: Check) -> dict[str, float]:
    """Percentages of a bar's width: the start and width of the range, the place of the value."""
    low, high = scale_of(check)
    start = _share(check.low, low, high, 0.0)
    end = _share(check.high, low, high, 100.0)
    return {"start": start, "width": end - start, "mark": _share(check.value, low, high, -1.0)}


def dots_of(check: Check, values: Iterable[tuple[str, float, bool]]) -> dict[str, object]:
    """As `bar_of`, with a position for each (study, value, flagged)."""
    values = tuple(values)
    low, high = scale_of(check, [value for _, value, _ in values])
    start = _share(check.low, low, high, 0.0)
    end = _share(check.high, low, high, 100.0)
    dots = [(key, value, flagged, _share(value, low, high, 0.0)) for key, value, flagged in values]
    return {"start": start, "width": end - start, "dots": dots}


def _share(value: float | None, low: float, high: float, otherwise: float) -> float:
    if value is None or not math.isfinite(value):
        return otherwise
    return round(100 * (value - low) / (high - low), 2)


def number_text(value: float | None) -> str:
    """Four significant digits at most.

    >>> number_text(0.123456), number_text(12345.6), number_text(2.0)
    ('0.1235', '12,346', '2')
    """
    if value is None:
        return ""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def range_text(check: Check) -> str:
    """The range in words.

    >>> range_text(Check("folded", 0.0, high=0.01)), range_text(Check("n", 1.0))
    ('at most 0.01', '')
    """
    if check.low is not None and check.high is not None:
        same = check.low == check.high
        return number_text(check.low) if same else (
            f"{number_text(check.low)} to {number_text(check.high)}"
        )  # fmt: skip
    if check.high is not None:
        return f"at most {number_text(check.high)}"
    return f"at least {number_text(check.low)}" if check.low is not None else ""


def seconds_text(seconds: float) -> str:
    """A duration for people.

    >>> seconds_text(3.21), seconds_text(200), seconds_text(4020)
    ('3.2 s', '3 min 20 s', '1 h 7 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def bytes_text(count: int) -> str:
    """A size in MiB or GiB; empty for none.

    >>> bytes_text(3 * 2**29)
    '1.5 GiB'
    """
    if not count:
        return ""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def triple_text(values: Iterable[float]) -> str:
    """Numbers joined by a multiplication sign.

    >>> triple_text((256, 256, 176))
    '256 × 256 × 176'
    """
    return " \u00d7 ".join(f"{value:.4g}" for value in values)


def words_text(name: str) -> str:
    """A name of underscored words as text.

    >>> words_text("missing_slice")
    'missing slice'
    """
    return name.replace("_", " ")
