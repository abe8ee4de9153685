"""What discovery found, as a table for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from radloom.pipelines.study import SeriesRecord, StudyRecord

__all__ = ["as_table"]


def as_table(records: Iterable[StudyRecord]) -> Table:
    """A row a series, for people, with the detail of each refusal and the rule behind each role."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("study", "series", "mod.", "status", "role", "shape", "spacing / mm"):
        table.add_column(column, overflow="fold")
    table.add_column("why", overflow="fold", ratio=1)
    for record in records:
        name = record.key
        for series in record.series:
            table.add_row(name, *_cells(series))
            name = ""
    return table


def _cells(series: SeriesRecord) -> tuple[str, ...]:
    known = any(series.shape)
    why = f"{series.reason}: {series.detail}" if series.detail else series.reason
    if series.status != "rejected":
        why = "; ".join(text for text in (why, series.role_rule) if text)
    return tuple(
        _literal(text)
        for text in (
            series.description,
            series.modality,
            series.status,
            series.role or "-",
            " x ".join(str(n) for n in series.shape) if known else "-",
            " x ".join(f"{step:.3g}" for step in series.spacing) if known else "-",
            why,
        )
    )


def _literal(text: str) -> str:
    """Text from headers, so that rich takes none of it for markup."""
    from rich.markup import escape

    return escape(text)
