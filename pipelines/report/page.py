"""The report: one page over all studies, or, for many studies, a page for each and one over all.

No page fetches anything, and no voxels are read.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from radloom.pipelines.export.index import Index
from radloom.pipelines.receipts.files import write_file
from radloom.pipelines.report.cohort import (
    Cohort,
    Picture,
    StudyView,
    Totals,
    read_cohort,
    read_studies,
)
from radloom.pipelines.report.pictures import Shown, inlined, linked
from radloom.pipelines.report.render import as_data, render, revision
from radloom.pipelines.report.words import seconds_text, words_text

__all__ = [
    "INLINE_LIMIT_BYTES",
    "MANY",
    "PAGE",
    "PAGES",
    "render_cohort",
    "render_page",
    "render_study",
    "write_report",
]

PAGE = "report.html"
"""The page's name below OUT."""

PAGES = "report"
"""The folder below OUT with a page for each study of a large cohort."""

MANY = 50
"""Studies above which each gets a page of its own: a browser takes seconds for more in one."""

INLINE_LIMIT_BYTES = 128 * 2**20
"""Pictures of a cohort beyond this are linked, not inlined: browsers stall on larger pages."""

N_FIRST = 100
"""Rows of a large cohort that stand in the page itself, for readers without JavaScript."""


def write_report(out: Path, *, many: int = MANY) -> Path:
    """``OUT/report.html``, made anew from what lies below `out`; returns its path.

    More than `many` studies get a page each in ``OUT/report``; a page whose study has not changed
    is left as it is.
    """
    if len(Index.load(out).studies()) > many:
        page = _write_pages(out)
        kept = {study for study, *_ in page[1]}
        content = render_cohort(*page)
    else:
        content, kept = render_page(read_cohort(out)), set()
    for path in (out / PAGES).glob("sub-*.html"):
        if path.stem not in kept:
            path.unlink()
    with suppress(OSError):
        (out / PAGES).rmdir()  # where nothing is left in it
    write_file(out / PAGE, content.encode())
    return out / PAGE


def render_page(cohort: Cohort, *, inline_limit_bytes: int = INLINE_LIMIT_BYTES) -> str:
    """All studies in one page."""
    shown = _show_all(cohort, inline_limit_bytes)
    some_linked = any(not picture.source.startswith("data:") for picture in shown.values())
    return render("page", cohort=cohort, shown=shown, linked=some_linked)


def render_cohort(totals: Totals, rows: list[list[Any]], first: list[StudyView]) -> str:
    """The page over many studies: totals, checks, and a table that is made from `rows`."""
    return render("cohort", totals=totals, rows=as_data(rows), first=first, spreads=totals.spreads)


def render_study(study: StudyView, *, before: str, after: str, digest: str) -> str:
    """One study's page in the folder `PAGES`; `before` and `after` are its neighbours' keys."""
    totals = Totals()
    totals.add(study)
    return render(
        "study",
        study=study,
        shown={p.relative: linked(p, study.key, root="../") for p in _pictures(study)},
        before=before,
        after=after,
        digest=digest,
        versions=totals.versions,
    )


def _write_pages(out: Path) -> tuple[Totals, list[list[Any]], list[StudyView]]:
    """A page for each study, and what the page over all of them needs; a study at a time."""
    totals, rows, first = Totals(), list[list[Any]](), list[StudyView]()
    for before, study, after in _with_neighbours(read_studies(out)):
        totals.add(study)
        rows.append(_row(study))
        if len(first) < N_FIRST:
            first.append(study)
        path = out / PAGES / f"{study.key}.html"
        digest = _digest(study, before, after)
        if not _is_of(path, digest):
            page = render_study(study, before=before, after=after, digest=digest)
            write_file(path, page.encode(), durable=False)
    return totals, rows, first


def _with_neighbours(studies: Iterable[StudyView]) -> Iterator[tuple[str, StudyView, str]]:
    """(key before, study, key after), empty keys at the ends."""
    ends: tuple[StudyView | None, ...] = (None,)
    chained: Iterator[StudyView | None] = itertools.chain(ends, studies, ends)
    before, study = next(chained), next(chained, None)
    for after in chained:
        if study is not None:
            yield before.key if before else "", study, after.key if after else ""
        before, study = study, after


def _digest(study: StudyView, before: str, after: str) -> str:
    """Of all that a study's page shows."""
    there = [picture.relative for picture in _pictures(study)]
    receipts = [stage.receipt for stage in study.stages]
    shown = (revision(), before, after, study.summary, study.series, receipts, there)
    return hashlib.sha256(repr(shown).encode()).hexdigest()


def _is_of(path: Path, digest: str) -> bool:
    """Whether the page at `path` says that it shows just that."""
    with suppress(OSError), path.open("rb") as stream:
        return f"<!-- {digest} -->".encode() in stream.read(200)
    return False


def _row(study: StudyView) -> list[Any]:
    """As cohort.js takes it."""
    summary = study.summary
    return [
        study.key,
        study.state,
        ", ".join(study.modalities),
        study.roles,
        study.n_taken,
        study.n_refused,
        summary.stage,
        summary.reason,
        [words_text(flag) for flag in summary.flags],
        round(summary.seconds, 1),
        seconds_text(summary.seconds),
    ]


def _pictures(study: StudyView) -> Iterator[Picture]:
    return (picture for stage in study.stages for picture in stage.pictures)


def _show_all(cohort: Cohort, limit: int) -> dict[str, Shown]:
    shown, n_bytes = {}, 0
    for study in cohort.studies:
        for picture in _pictures(study):
            n_bytes += picture.path.stat().st_size
            if n_bytes <= limit:
                content = picture.path.read_bytes()
                shown[picture.relative] = inlined(picture, study.key, content)
            else:
                shown[picture.relative] = linked(picture, study.key)
    return shown
