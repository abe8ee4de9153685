"""Kill the run at seeded random instants, give the same command again: the same bytes."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from radloom.pipelines.demo import write_demo_study

N_STUDIES = 6
KILLS = 3
SEED = 20
WORKFLOW = """
name: short
stages:
  - stage: ingest
  - stage: denoise
    parameters: {method_mr: tv, method_other: tv}
  - stage: register
    parameters: {moving: [flair], fast: true}
  - stage: segment
  - stage: report
"""

LIMIT_S = 1800
"""Far above what a run takes on a busy machine: only a hang is longer."""


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    for seed in range(N_STUDIES):
        write_demo_study(folder / f"patient {seed}", seed=seed, spacing_mm=4.0)
    (folder.parent / "short.yaml").write_text(WORKFLOW)
    return folder


def start(studies: Path, out: Path, *more: object) -> subprocess.Popen[str]:
    workflow = studies.parent / "short.yaml"
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "radloom", "run", studies, out, "--workflow", workflow),
            *map(str, more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    with process:
        text, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, text
    assert "Traceback" not in text
    return text


def receipts(out: Path) -> int:
    return len(list(out.glob("stages/*/*/stage.json")))


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    def lives(process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if lives(process)]


def kill_when(process: subprocess.Popen[str], out: Path, n_receipts: int, delay_s: float) -> None:
    """SIGKILL for the driver alone, `delay_s` after the receipts have come to a number."""
    with process:
        deadline = time.monotonic() + LIMIT_S
        while receipts(out) < n_receipts:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(delay_s)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    deadline = time.monotonic() + 10
    while alive(workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(workers), "workers outlived the run that was killed"


def instants(n_receipts: int) -> Iterator[tuple[int, float]]:
    """When to kill: after how many of the receipts, and how long after that."""
    generator = random.Random(SEED)
    for n in sorted(generator.sample(range(1, n_receipts - 2), KILLS)):
        yield n, generator.uniform(0, 3)


def files_of(out: Path) -> dict[str, str]:
    """Every result file but those that tell of time, with its hash."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
        and path.relative_to(out).parts[0] not in ("stages", "logs")
        and path.name not in ("studies.tsv", "report.html", "run.jsonl", ".lock")
    }


@pytest.mark.slow
def test_a_run_killed_three_times_ends_in_the_bytes_of_one_never_killed(tmp_path, studies):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(studies, whole, "--workers", 2))
    n_receipts = receipts(whole)
    for n, delay_s in instants(n_receipts):
        kill_when(start(studies, killed), killed, n, delay_s)
    finish(start(studies, killed))

    manifest = (whole / "manifest.json").read_bytes()
    assert (killed / "manifest.json").read_bytes() == manifest
    entries = json.loads(manifest)
    assert len({entry["study"] for entry in entries}) == N_STUDIES
    assert all((killed / entry["path"]).is_file() for entry in entries)
    assert files_of(killed) == files_of(whole)
    assert not list(killed.rglob("*.partial"))

    before = {path: path.stat().st_mtime_ns for path in killed.rglob("*/stage.json")}
    started = time.monotonic()
    again = finish(start(studies, killed))
    took_s = time.monotonic() - started
    assert f"{N_STUDIES} of {N_STUDIES} studies done" in again
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert took_s < 60  # of which all but a second are the imports
    assert list((killed / "logs").iterdir())
