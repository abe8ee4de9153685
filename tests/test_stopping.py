"""Ctrl-C and TERM on the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from radloom.cli import app

PATIENT = """
import sys, time
from radloom.cli.stopping import stoppable
try:
    with stoppable():
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("stopping", flush=True)
    time.sleep(float(sys.argv[1]))
    print("stopped", flush=True)
"""


def start(seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PATIENT, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_cleanly(how):
    with start(0) as process:
        process.send_signal(how)
        said, _ = process.communicate(timeout=30)
    assert said == "stopping\nstopped\n"


def test_the_second_signal_stops_at_once():
    with start(60) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "stopping\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert time.monotonic() - begun < 5
    assert process.returncode == 130


@pytest.mark.slow
def test_a_stop_that_hangs_ends_within_ten_seconds():
    with start(60) as process:
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert 8 < time.monotonic() - begun < 12
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "denoise,segmnt"], "did you mean 'segment'"),
        (["--from", "x"], "expected --from with a stage, got 'x'"),
        (["--only", "ingest", "--redo", "segment"], "leaves out"),
    ],
)
def test_unknown_stages_are_refused_before_work_starts(tmp_path, words, said):
    (tmp_path / "in").mkdir()
    done = CliRunner().invoke(app, ["run", str(tmp_path / "in"), str(tmp_path / "out"), *words])
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert not (tmp_path / "out").exists()
