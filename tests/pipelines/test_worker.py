from __future__ import annotations

from pathlib import Path

import pytest

from radloom.pipelines.engine.worker import outcome_of
from radloom.pipelines.runner import RunSummary
from radloom.pipelines.study import Output, SeriesRecord, Study, StudyRecord


def series(status: str, reason: str = "") -> SeriesRecord:
    return SeriesRecord("1.2", "MR", "", status, reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reasons", "n_faulty"),
    [((), 0), (("localizer",), 0), (("missing_slice",), 1), (("truncated", "colour"), 1)],
)
def test_series_refused_for_a_fault_count_and_a_localizer_does_not(reasons, n_faulty):
    refused = tuple(series("rejected", reason) for reason in reasons)
    record = StudyRecord("a", "b", "1.2", Path(), (series("accepted"), *refused))
    outcome = outcome_of(Study(record), (), 1.0)
    assert outcome.n_faulty == n_faulty
    summary = RunSummary((outcome,), Path(), None, 1.0)
    assert summary.all_done is (n_faulty == 0)
    assert ("refused for a fault" in summary.sentence()) is (n_faulty > 0)


def test_what_ingestion_found_on_reading_counts_before_what_discovery_said():
    record = StudyRecord("a", "b", "1.2", Path(), (series("accepted"),))
    row = {"series_uid": "1.2", "status": "rejected", "reason": "truncated"}
    study = Study(record).with_outputs("ingest", (Output("table", "", "series", (row,)),))
    assert outcome_of(study, (), 1.0).n_faulty == 1
