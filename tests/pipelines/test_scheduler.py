"""Runs on a scheduler that exists: named by its file, and lost on the way."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import pytest
import toys
from toys import Make, records_of

from radloom.errors import ConfigError, RadloomError
from radloom.pipelines.runner import RunSummary, run_records
from radloom.pipelines.study import Study
from radloom.pipelines.workflow import Workflow

for module in (toys, sys.modules[__name__]):  # workers that somebody else started know neither
    cloudpickle.register_pickle_by_value(module)


@dataclass(frozen=True)
class Wait(Make):
    """Waits while `gate` is there, on all studies but a."""

    gate: Path = Path("gate")

    def act(self, study: Study) -> None:
        while self.gate.exists() and study.record.subject != "a":
            time.sleep(0.1)


def wait_until(met: Callable[[], bool], what: str, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < deadline, f"expected within {limit_s:.0f} s that {what}"
        time.sleep(0.1)


@contextlib.contextmanager
def dask(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of Dask's command line, which is asked to end with the block."""
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments], stdout=sink, stderr=sink
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=15)


@contextlib.contextmanager
def scheduler_and_worker(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """``file:PATH`` of a scheduler with one worker, and the scheduler's process."""
    file, log = folder / "scheduler.json", folder / "dask.log"
    file.unlink(missing_ok=True)
    where = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    with dask("scheduler", "--scheduler-file", str(file), *where, log=log) as scheduler:
        wait_until(file.exists, f"a scheduler starts; {log.read_text()}")
        worker = ("--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard")
        local = ("--local-directory", str(folder), "--host", "127.0.0.1")
        with dask("worker", *worker, *local, log=log):
            yield f"file:{file}", scheduler


def carry_through(tmp_path: Path, scheduler: str) -> RunSummary:
    stage = Wait(tmp_path / "diary", gate=tmp_path / "gate")
    return run_records(
        records_of("a", "b", "c"),
        tmp_path / "out",
        Workflow("fake", (stage,)),
        device="auto",
        scheduler=scheduler,
    )


@pytest.mark.slow
def test_a_lost_scheduler_is_said_and_the_same_command_goes_on(tmp_path, capfd):
    diary, gate, out = tmp_path / "diary", tmp_path / "gate", tmp_path / "out"
    gate.touch()
    ends: list[str] = []

    def run(scheduler: str) -> None:
        try:
            ends.append(carry_through(tmp_path, scheduler).sentence())
        except RadloomError as error:
            ends.append(str(error))

    with scheduler_and_worker(tmp_path) as (scheduler, process):
        driver = threading.Thread(target=run, args=(scheduler,))
        driver.start()
        wait_until(lambda: diary.exists() and "sub-b" in diary.read_text(), "b is at work")
        process.kill()
        driver.join(timeout=60)
        assert not driver.is_alive(), "the driver still waits for a scheduler that is gone"
    assert "expected the Dask scheduler to stay" in ends[0]
    assert "same command again" in ends[0]
    assert "distributed" not in "".join(capfd.readouterr())
    assert [row["study"] for row in json.loads((out / "manifest.json").read_text())] == [
        "sub-a_ses-1"
    ]

    gate.unlink()
    with scheduler_and_worker(tmp_path) as (scheduler, _):
        assert carry_through(tmp_path, scheduler).all_done
    assert diary.read_text().split().count("sub-a_ses-1") == 1  # its receipt held


@pytest.mark.parametrize("content", [None, "not JSON", "{}", "[]"])
def test_a_file_that_no_scheduler_wrote_is_refused(tmp_path, content):
    file = tmp_path / "scheduler.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match="expected a Dask scheduler's file, got --scheduler"):
        carry_through(tmp_path, f"file:{file}")
