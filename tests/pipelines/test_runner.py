"""The runner with stages made for it: one is fine, one raises, one takes its process along."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import numpy as np
import psutil
import pytest
import toys
from distributed import Client, LocalCluster
from filelock import FileLock
from toys import Make, records_of

from radloom.errors import ConfigError, InputError, StageFailed
from radloom.pipelines import runner
from radloom.pipelines.engine.cluster import Plan, choose_device, plan
from radloom.pipelines.engine.selection import select
from radloom.pipelines.runner import Limits, run_records
from radloom.pipelines.stage import read_receipts
from radloom.pipelines.study import Study
from radloom.pipelines.workflow import Workflow

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class Crash(Make):
    """Ends its process without a word, as native code does, on the study that it is told."""

    name: str = "denoise"
    victim: str = "crash"

    def act(self, study: Study) -> None:
        if study.record.subject == self.victim:
            os._exit(11)


@dataclass(frozen=True)
class CrashOnce(Crash):
    """As `Crash`, but fine the second time."""

    def act(self, study: Study) -> None:
        seen = self.diary.with_name("crashed")
        if study.record.subject == self.victim and not seen.exists():
            seen.touch()
            os._exit(11)


@dataclass(frozen=True)
class Raise(Make):
    """Raises on the study that it is told."""

    name: str = "register"

    def act(self, study: Study) -> None:
        if study.record.subject == "raise":
            raise StageFailed("expected two volumes, got one")
        if study.record.subject == "bug":
            raise KeyError("something nobody thought of")


@dataclass(frozen=True)
class Hang(Make):
    """Never comes back from native code that holds the interpreter."""

    name: str = "denoise"

    def act(self, study: Study) -> None:
        if study.record.subject == "hang":
            ctypes.PyDLL(None).sleep(3600)


@dataclass(frozen=True)
class Devour(Make):
    """Takes more and more memory."""

    name: str = "register"

    def act(self, study: Study) -> None:
        blocks = []
        while study.record.subject == "devour" and len(blocks) < 64:
            blocks.append(np.ones(32 * 2**20, np.uint8))
            time.sleep(0.05)


def run_count(diary: Path) -> dict[str, int]:
    lines = diary.read_text().splitlines() if diary.exists() else []
    return {line: lines.count(line) for line in lines}


@pytest.mark.slow
def test_only_the_study_that_fails_or_crashes_fails(tmp_path, capfd):
    diary, out = tmp_path / "diary", tmp_path / "out"
    workflow = Workflow("fake", (Make(diary), Crash(diary), Raise(diary)))
    records = records_of("a", "crash", "b", "raise", "c", "bug", "d")
    news = []
    summary = run_records(records, out, workflow, device="cpu", workers=2, on_progress=news.append)
    outcome = {o.study.removeprefix("sub-").removesuffix("_ses-1"): o for o in summary.outcomes}

    assert {name: o.status for name, o in outcome.items()} == {
        **dict.fromkeys("abcd", "done"),
        **dict.fromkeys(("crash", "raise", "bug"), "failed"),
    }
    assert outcome["crash"].stage == "denoise"
    assert (
        outcome["crash"].reason == "its process ended by itself with status 11; so it went 2 times"
    )
    assert outcome["raise"].reason == "expected two volumes, got one"
    assert outcome["bug"].stage == "register"
    assert "KeyError" in outcome["bug"].reason
    assert not summary.all_done
    assert summary.sentence() == "4 of 7 studies done, 3 failed"

    count = run_count(diary)
    assert count.pop("sub-crash_ses-1 denoise") == 2  # one retry
    assert count.pop("sub-crash_ses-1 ingest") == 1  # and its receipt held
    assert set(count.values()) == {1}
    failed = {(r.study, r.stage) for r in read_receipts(out) if r.status == "failed"}
    assert ("sub-crash_ses-1", "denoise") in failed
    assert len(failed) == 3
    rows = (out / "studies.tsv").read_text().splitlines()
    assert sum("\tfailed\t" in row for row in rows) == 3
    assert sum("\tdone\t" in row for row in rows) == 4
    assert {n.event for n in news} >= {"found", "study"}
    assert not list(out.glob("stages/*/running.json"))
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    assert "distributed" not in printed


@pytest.mark.slow
def test_a_crash_that_does_not_come_back_costs_nothing(tmp_path):
    diary = tmp_path / "diary"
    workflow = Workflow("fake", (Make(diary), CrashOnce(diary)))
    summary = run_records(
        records_of("a", "crash"), tmp_path / "out", workflow, device="cpu", workers=1
    )
    assert summary.all_done
    assert run_count(diary)["sub-crash_ses-1 ingest"] == 1


def test_the_same_command_again_runs_no_stage_and_starts_no_process(tmp_path, monkeypatch):
    diary, out = tmp_path / "diary", tmp_path / "out"
    workflow = Workflow("fake", (Make(diary), Make(diary, name="denoise")))
    records = records_of("a", "b", "c")
    assert run_records(records, out, workflow, device="cpu", workers=1).all_done
    count, manifest = run_count(diary), (out / "manifest.json").read_bytes()

    def refuse(*args, **kwargs):
        raise AssertionError("a finished cohort needs no cluster")

    monkeypatch.setattr(runner, "connect", refuse)
    again = run_records(records, out, workflow, device="cpu", workers=1)
    assert again.all_done
    assert len(again.outcomes) == 3
    assert run_count(diary) == count
    assert (out / "manifest.json").read_bytes() == manifest


@pytest.mark.slow
def test_a_scheduler_that_exists_does_the_work_and_stays(tmp_path):
    diary, out = tmp_path / "diary", tmp_path / "out"
    workflow = Workflow("fake", (Make(diary), Raise(diary)))
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        summary = run_records(
            records_of("a", "raise", "b"),
            out,
            workflow,
            device="auto",
            scheduler=cluster.scheduler_address,
        )
        assert [outcome.status for outcome in summary.outcomes] == ["done", "failed", "done"]
        with Client(cluster) as client:
            assert len(client.scheduler_info()["workers"]) == 2
    assert run_count(diary)["sub-a_ses-1 ingest"] == 1


@pytest.mark.slow
def test_results_of_another_workflow_stay_unless_they_shall_go(tmp_path):
    diary, out = tmp_path / "diary", tmp_path / "out"
    both = Workflow("both", (Make(diary), Make(diary, name="denoise")))
    assert run_records(records_of("a"), out, both, device="cpu", workers=1).all_done
    assert len(json.loads((out / "manifest.json").read_text())) == 2
    one = Workflow("one", (Make(diary),))
    assert run_records(records_of("a"), out, one, device="cpu", workers=1).all_done
    assert len(json.loads((out / "manifest.json").read_text())) == 2
    prune = select(["ingest"], prune=True)
    assert run_records(records_of("a"), out, one, device="cpu", workers=1, selection=prune).all_done
    assert len(json.loads((out / "manifest.json").read_text())) == 1


@dataclass(frozen=True)
class Timed(Make):
    """Notes when it begins and ends."""

    def act(self, study: Study) -> None:
        end = time.time()
        with self.diary.with_name("times").open("a") as times:
            times.write(f"{self.name} {end - self.seconds} {end}\n")


@pytest.mark.slow
def test_the_next_study_is_read_while_the_device_works(tmp_path, monkeypatch):
    """One place on the device, two studies under way: never two compute, and reading overlaps."""
    monkeypatch.setattr(runner, "plan", lambda *args, **kwargs: Plan(1, 1, 1, 10**10))
    diary, out = tmp_path / "diary", tmp_path / "out"
    stages = (Timed(diary, seconds=0.5), Timed(diary, name="denoise", seconds=1.0))
    summary = run_records(records_of(*"abcdef"), out, Workflow("fake", stages), device="cpu")
    assert summary.all_done
    lines = [line.split() for line in (tmp_path / "times").read_text().splitlines()]
    spans = {
        name: sorted((float(a), float(b)) for n, a, b in lines if n == name) for name, *_ in lines
    }
    computed, read = spans["denoise"], spans["ingest"]
    assert len(computed) == len(read) == 6
    pairs = list(itertools.pairwise(computed))
    assert all(ends <= begins + 0.01 for (_, ends), (begins, _) in pairs)
    overlap = [any(b < start < e for b, e in computed) for start, _ in read]
    assert sum(overlap) >= 3


@pytest.mark.slow
def test_a_hung_native_call_and_one_that_takes_all_memory_end_with_their_study(tmp_path):
    diary, out = tmp_path / "diary", tmp_path / "out"
    workflow = Workflow("fake", (Make(diary), Hang(diary), Devour(diary)))
    summary = run_records(
        records_of("a", "hang", "devour"),
        out,
        workflow,
        device="cpu",
        workers=1,
        limits=Limits(memory=800 * 2**20, stage_timeout_s=8),
    )
    outcome = {o.study.removeprefix("sub-").removesuffix("_ses-1"): o for o in summary.outcomes}
    assert outcome["a"].status == "done"
    assert outcome["hang"].stage == "denoise"
    assert "came to no end in 8 s" in outcome["hang"].reason
    assert outcome["devour"].stage == "register"
    assert "memory ran out" in outcome["devour"].reason
    (receipt,) = [r for r in read_receipts(out) if r.stage == "register" and r.status == "failed"]
    assert receipt.reason == outcome["devour"].reason


def test_a_second_run_on_the_same_folder_is_refused(tmp_path):
    studies, out = tmp_path / "studies", tmp_path / "out"
    studies.mkdir()
    out.mkdir()
    workflow = Workflow("fake", (Make(tmp_path / "diary"),))
    with FileLock(out / ".lock"), pytest.raises(ConfigError, match="expected no other run"):
        runner.run(studies, out, workflow, device="cpu")


def test_results_inside_of_the_studies_are_refused(tmp_path):
    workflow = Workflow("fake", (Make(tmp_path / "diary"),))
    with pytest.raises(ConfigError, match="outside of the studies"):
        runner.run(tmp_path, tmp_path / "out", workflow, device="cpu")
    with pytest.raises(ConfigError, match="expected a folder of studies"):
        runner.run(tmp_path / "absent", tmp_path / "out", workflow, device="cpu")
    (tmp_path / "file").touch()
    (tmp_path / "studies").mkdir()
    with pytest.raises(ConfigError, match="got the file"):
        runner.run(tmp_path / "studies", tmp_path / "file", workflow, device="cpu")


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "studies").mkdir()
    workflow = Workflow("fake", (Make(tmp_path / "diary"),))
    with pytest.raises(InputError, match="found none"):
        runner.run(tmp_path / "studies", tmp_path / "out", workflow, device="cpu")


def test_plan_divides_the_machine_and_never_exceeds_the_studies():
    assert plan(1, workers=None, device="cpu").n_workers == 1
    one, four = plan(9, workers=1, device="cpu"), plan(9, workers=4, device="cpu")
    assert isinstance(one, Plan)
    assert (one.n_workers, four.n_workers) == (1, 4)
    assert one.n_threads >= four.n_threads >= 1
    assert plan(2, workers=4, device="cpu").n_workers == 2


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "cuda:99", "CPU"])
def test_an_unknown_device_is_refused(word):
    with pytest.raises(ConfigError, match="expected"):
        choose_device(word)


def test_a_scheduler_that_does_not_answer_is_refused(tmp_path):
    workflow = Workflow("fake", (Make(tmp_path / "diary"),))
    with pytest.raises(ConfigError, match="expected a Dask scheduler"):
        run_records(
            records_of("a"),
            tmp_path / "out",
            workflow,
            device="cpu",
            scheduler="not an address",
        )


DRIVER = """
import signal
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import toys
from radloom.pipelines.runner import run_records
from radloom.pipelines.workflow import Workflow

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
    diary, out = Path(sys.argv[2]), Path(sys.argv[3])
    stages = (toys.Make(diary), toys.Make(diary, name="denoise", seconds=600))
    run_records(toys.records_of("a", "b"), out, Workflow("f", stages), device="cpu", workers=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_a_driver_that_is_killed(tmp_path, how):
    script, diary, out = tmp_path / "driver.py", tmp_path / "diary", tmp_path / "out"
    script.write_text(DRIVER)
    with subprocess.Popen(
        [sys.executable, script, Path(toys.__file__).parent, diary, out],
        stderr=subprocess.DEVNULL,
    ) as driver:
        deadline = time.monotonic() + 120
        while sum(" denoise" in line for line in run_count(diary)) < 2:
            assert time.monotonic() < deadline, "the workers never came to the second stage"
            assert driver.poll() is None
            time.sleep(0.2)
        workers = psutil.Process(driver.pid).children(recursive=True)
        assert len(workers) >= 2
        driver.send_signal(how)
        driver.wait(timeout=30)
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert not alive
