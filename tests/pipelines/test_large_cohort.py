"""Ten thousand studies: seconds of computing, not of waiting, since other tests may run beside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from radloom.pipelines.export import RunTables, write_tables
from radloom.pipelines.receipts.receipt import Check, OutputRecord, Receipt, write_receipt
from radloom.pipelines.receipts.records import write_record
from radloom.pipelines.report import write_report
from radloom.pipelines.study import SeriesRecord, StudyRecord

resource = pytest.importorskip("resource")  # Windows has none

KEY = "sub-TEMPLATE_ses-1"
STAGES = ("ingest", "report")


def make_cohort(out: Path, n_studies: int) -> None:
    """The first study by the functions of a run, the rest as copies under other names."""
    series = SeriesRecord("1.2", "MR", "T1", "accepted", role="t1")
    write_record(out, StudyRecord("TEMPLATE", "1", "1", Path(), (series,)))
    for position, stage in enumerate(STAGES):
        path = f"sub-TEMPLATE/ses-1/anat/sub-TEMPLATE_ses-1_desc-{stage}_T1w.nii.gz"
        checks = tuple(Check(f"{stage}_{n}", 0.5, 0.0, 1.0, meaning="It tells.") for n in range(4))
        volume = OutputRecord("volume", "t1", stage, path=path, files={path: "a" * 64})
        receipt = Receipt(
            KEY, stage, "done", position=position, outputs=(volume,), checks=checks, seconds=1.0
        )
        write_receipt(out / "stages" / KEY / stage / "stage.json", receipt)
    files = {path.relative_to(out / "stages" / KEY): path for path in out.rglob("*.json")}
    texts = {place: path.read_text() for place, path in files.items()}
    for number in range(n_studies - 1):
        for place, text in texts.items():
            path = out / "stages" / f"sub-{number:05}_ses-1" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("TEMPLATE", f"{number:05}"))


def computing_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def test_a_copy_is_what_a_run_would_have_written(tmp_path):
    make_cohort(tmp_path, 3)
    for stage in STAGES:
        text = (tmp_path / "stages" / "sub-00001_ses-1" / stage / "stage.json").read_text()
        receipt = json.loads(text)
        assert receipt["study"] == "sub-00001_ses-1"
        assert receipt["outputs"][0]["path"].startswith("sub-00001/ses-1/anat/sub-00001_ses-1_")


@pytest.mark.slow
def test_ten_thousand_studies_have_tables_and_a_status_in_two_seconds(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    make_cohort(small, 1_000)
    make_cohort(large, 10_000)
    first = computing_s(lambda: write_tables(small))
    assert computing_s(lambda: write_tables(large)) < 16 * first + 1  # linear, with some room
    assert len((large / "studies.tsv").read_text().splitlines()) == 10_001
    assert len(json.loads((large / "manifest.json").read_bytes())) == 20_000

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "radloom", "status", str(large)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout == "10,000 studies: 10,000 done\n"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0

    tables = RunTables(large)
    tables.study_over("sub-00000_ses-1")  # looks at all, once
    assert computing_s(lambda: [tables.study_over("sub-00001_ses-1") for _ in range(100)]) < 1.0


@pytest.mark.slow
def test_the_report_takes_twice_as_long_for_twice_the_studies(tmp_path):
    sizes = (300, 1_200)
    for size in sizes:
        make_cohort(tmp_path / str(size), size)
    write_report(tmp_path / "300")  # templates are compiled once
    for path in (tmp_path / "300" / "report").iterdir():
        path.unlink()
    few, many = (computing_s(lambda s=size: write_report(tmp_path / str(s))) for size in sizes)
    assert many < 6 * few
    assert computing_s(lambda: write_report(tmp_path / "1200")) < 0.8 * many  # pages are kept
