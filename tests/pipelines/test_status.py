from __future__ import annotations

import itertools
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from radloom.cli.results import _status_lines
from radloom.pipelines.export import RunTables, summarise, write_tables
from radloom.pipelines.export.index import INDEX_FILE, Index
from radloom.pipelines.receipts.receipt import OutputRecord, Receipt, write_receipt
from radloom.pipelines.receipts.records import write_record
from radloom.pipelines.receipts.runlog import RunLog
from radloom.pipelines.status import is_at_work, read_status
from radloom.pipelines.study import SeriesRecord, StudyRecord


def found(out: Path, subject: str) -> str:
    record = StudyRecord(subject, "1", "1", Path(), (SeriesRecord("1.1", "MR", "d", "accepted"),))
    write_record(out, record)
    return record.key


def put(out: Path, study: str, stage: str = "ingest", status: str = "done", **said) -> None:
    volume = OutputRecord("volume", "t1", "ingested", path="a", files={"a": "0" * 64})
    receipt = Receipt(study, stage, status, outputs=(volume,), seconds=2.0, **said)
    write_receipt(out / "stages" / study / stage / "stage.json", receipt)


def mark(out: Path, study: str, stage: str) -> None:
    (out / "stages" / study / "running.json").write_text(json.dumps({"stage": stage}))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """done, failed, half done, and only found."""
    for subject in "abcd":
        found(tmp_path, subject)
    put(tmp_path, "sub-a_ses-1")
    put(tmp_path, "sub-b_ses-1")
    put(tmp_path, "sub-b_ses-1", "register", "failed", reason="no memory", position=1)
    put(tmp_path, "sub-c_ses-1")
    mark(tmp_path, "sub-c_ses-1", "denoise")
    return tmp_path


def states(out: Path) -> dict[str, tuple[str, str]]:
    return {s.study[4]: (s.state, s.stage) for s in read_status(out).studies}


def test_what_has_become_of_each_while_no_run_goes_on(out):
    assert states(out) == {
        "a": ("done", ""),
        "b": ("failed", "register"),
        "c": ("not finished", ""),
        "d": ("not finished", ""),
    }
    status = read_status(out)
    assert status.sentence() == "4 studies: 1 done, 1 failed, 2 not finished"
    assert not status.all_done
    assert not status.at_work
    assert [study.study[4] for study in status.to_look_at] == ["b"]


def test_and_while_one_does(out):
    log = RunLog(out)
    log.begin(4)
    log.dashboard("http://127.0.0.1:8787/status")
    log.load({"cpu": 0.25})
    log.load({"cpu": 0.5, "cuda:0": 0.9381})
    for study in ("sub-a_ses-1", "sub-b_ses-1"):
        log.enter(study, "ingest")
        log.over(study, "done")
    with FileLock(out / ".lock"):
        assert is_at_work(out)
        assert states(out)["c"] == ("at work", "denoise")
        assert states(out)["d"] == ("waiting", "")
        status = read_status(out)
    assert status.dashboard == "http://127.0.0.1:8787/status"
    assert status.devices == {"cpu": 0.5, "cuda:0": 0.938}
    assert status.studies_per_hour > 0
    assert status.left_s == pytest.approx(2 * 3600 / status.studies_per_hour)
    assert not is_at_work(out)
    assert json.loads(json.dumps(status.plain()))["counts"]["at work"] == 1
    assert "cpu 50% busy, cuda:0 94% busy" in list(_status_lines(status, every=False))
    assert read_status(out).devices == {}


def test_studies_that_earlier_runs_did_do_not_count_for_the_rate(out):
    log = RunLog(out)
    log.begin(4)
    for _ in range(5):
        log.over("sub-a_ses-1", "done")
    with FileLock(out / ".lock"):
        status = read_status(out)
    assert status.studies_per_hour == 0
    assert status.left_s is None


def test_the_index_is_used_only_for_receipts_that_have_not_changed(out, monkeypatch):
    write_tables(out)
    index = Index.load(out)
    assert set(index.rows) == {f"sub-{s}_ses-1" for s in "abcd"}
    reads: list[str] = []
    from radloom.pipelines.export import index as room

    real = room.read_receipts
    monkeypatch.setattr(room, "read_receipts", lambda o, k: reads.append(k) or real(o, k))
    assert summarise(out) == tuple(row for _, row in index.rows.values())
    assert reads == []
    put(out, "sub-d_ses-1")
    (out / "stages" / "sub-c_ses-1" / "running.json").unlink()
    assert [s.status for s in summarise(out)] == ["done", "failed", "done", "done"]
    assert reads == ["sub-c_ses-1", "sub-d_ses-1"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "0", "studies": {}}', None])
def test_an_index_that_is_torn_old_or_gone_changes_nothing(out, content):
    write_tables(out)
    before = summarise(out)
    path = out / "stages" / INDEX_FILE
    path.unlink() if content is None else path.write_bytes(content)
    assert summarise(out) == before
    read_status(out)
    assert set(Index.load(out).rows) == {row.study for row in before}


def test_studies_that_are_gone_leave_the_index(out):
    write_tables(out)
    for path in (out / "stages" / "sub-d_ses-1").iterdir():
        path.unlink()
    assert [row.study[4] for row in summarise(out)] == ["a", "b", "c"]
    (out / "stages" / "sub-d_ses-1").rmdir()
    write_tables(out)
    assert "sub-d" not in (out / "studies.tsv").read_text()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_results_that_may_only_be_read(out):
    out.joinpath("stages").chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert len(read_status(out).studies) == 4
    finally:
        out.joinpath("stages").chmod(stat.S_IRWXU)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_tables_of_a_run_are_brought_up_to_date_but_not_for_each_study(out, monkeypatch):
    clock, written = Clock(), []
    from radloom.pipelines.export import tables as room

    def slow(index):
        written.append(clock.now)
        clock.now += 1.0  # a second for a table: at most two hundredths of the time
        real(index)

    real = room._write_studies
    monkeypatch.setattr(room, "_write_studies", slow)
    tables = RunTables(out, clock=clock)
    for number in range(400):
        put(out, "sub-a_ses-1", "denoise", position=1 + number % 3)
        tables.study_over("sub-a_ses-1")
        clock.now += 0.5
    assert written[0] == 100.0
    assert min(b - a for a, b in itertools.pairwise(written)) >= 50.0
    assert len(written) == 5
    rows = (out / "studies.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == [
        "study", *(f"sub-{s}_ses-1" for s in "abcd")
    ]  # fmt: skip


def test_in_the_end_the_tables_are_those_made_from_nothing(out):
    tables = RunTables(out, every_s=0.0, share=1.0)
    for key in ("sub-a_ses-1", "sub-b_ses-1"):
        tables.study_over(key)
    incremental = (out / "studies.tsv").read_bytes()
    (out / "stages" / INDEX_FILE).unlink()
    write_tables(out)
    assert (out / "studies.tsv").read_bytes() == incremental


def radloom(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "radloom", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_names_all_studies_of_a_small_run_and_says_it_in_json(out):
    done = radloom("status", out)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["study", "status", "stage", "seconds", "flags;", "reason"]
    assert lines[2].split() == ["sub-b_ses-1", "failed", "register", "4", "no", "memory"]
    assert lines[-1] == "4 studies: 1 done, 1 failed, 2 not finished"
    said = json.loads(radloom("status", out, "--json").stdout)
    assert said["studies"][1]["reason"] == "no memory"


def test_of_a_large_run_it_names_those_to_look_at(tmp_path):
    for number in range(240):
        key = found(tmp_path, f"{number:03}")
        put(tmp_path, key, status="failed" if number % 2 else "done", reason="bad")
    few = radloom("status", tmp_path).stdout.splitlines()
    assert sum(line.startswith("sub-") for line in few) == 100
    assert few[-2] == "and 20 more to look at: --all names every study, as studies.tsv does"
    every = radloom("status", tmp_path, "--all").stdout.splitlines()
    assert sum(line.startswith("sub-") for line in every) == 240


def test_nothing_heavy_is_imported(out):
    probe = (
        "import sys, radloom.cli as cli\n"
        f"try: cli.main([sys.argv[1], {str(out)!r}])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'pandas', 'dask', 'nibabel'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    for command in ("status", "report", "verify"):
        done = subprocess.run(
            [sys.executable, "-c", probe, command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
