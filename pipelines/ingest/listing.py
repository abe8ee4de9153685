"""Records as plain rows, for the command line and for tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from radloom.pipelines.study import SeriesRecord, StudyRecord, Table

__all__ = ["inspect_rows", "series_rows"]


def inspect_rows(records: Iterable[StudyRecord]) -> list[dict[str, Any]]:
    """One object a series, with the fields of ``radloom inspect --json``."""
    return [
        {
            "study_uid": study.study_uid,
            "series_uid": series.series_uid,
            "modality": series.modality,
            "description": series.description,
            "status": series.status,
            "reason": series.reason,
            "role": series.role,
            "shape": list(series.shape),
            "spacing": list(series.spacing),
            "n_files": series.n_files,
            "rule": series.role_rule,
            "detail": series.detail,
        }
        for study in records
        for series in study.series
    ]


def series_rows(series: Iterable[SeriesRecord]) -> Table:
    """The table ``series`` of the ingest stage."""
    return tuple(
        {
            "series_uid": record.series_uid,
            "modality": record.modality,
            "description": record.description,
            "status": record.status,
            "reason": record.reason,
            "detail": record.detail,
            "role": record.role,
            "role_rule": record.role_rule,
            "shape": "x".join(map(str, record.shape)),
            "spacing": "x".join(f"{value:g}" for value in record.spacing),
            "n_files": record.n_files,
        }
        for record in series
    )
