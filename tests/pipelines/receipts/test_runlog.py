from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from radloom.pipelines.receipts.runlog import LOG_FILE, RunLog, read_events, tail_of_log

KEY = "sub-a_ses-1"


def test_a_run_from_its_beginning_to_its_end(results, make):
    log = RunLog(results)
    log.begin(2)
    log.dashboard("http://127.0.0.1:8787/status")
    log.enter(KEY, "ingest")  # its receipt is older than the run
    log.enter("sub-b_ses-1", "ingest")
    make(results, "b")
    log.enter("sub-b_ses-1", "segment")
    log.over("sub-b_ses-1", "done", seconds=3.25, flags=1)
    log.over(KEY, "failed", stage="denoise", seconds=1.0, reason="no memory")
    log.end("done", 9.9, studies=2)
    events = list(read_events(results))
    assert {event["run"] for event in events} == {log.run}
    assert all(event["time"].endswith("Z") for event in events)
    assert [event["event"] for event in events] == [
        "run", "dashboard", "enter", "enter", "stage", "enter", "stage", "study", "stage",
        "study", "end",
    ]  # fmt: skip
    told = {(e["study"], e["stage"]): e for e in events if e["event"] == "stage"}
    assert told[(KEY, "ingest")]["outcome"] == "kept"
    assert told[("sub-b_ses-1", "ingest")]["outcome"] == "done"
    assert told[("sub-b_ses-1", "segment")]["seconds"] == 3.5
    assert told[("sub-b_ses-1", "segment")]["flags"] == ["segment_noise"]
    failed = next(e for e in events if e["event"] == "study" and e["outcome"] == "failed")
    assert (failed["stage"], failed["reason"], failed["seconds"]) == ("denoise", "no memory", 1.0)


def test_news_of_stages_that_come_after_the_study_is_over_are_left_out(results):
    log = RunLog(results)
    log.begin(1)
    log.over(KEY, "done")
    log.enter(KEY, "ingest")
    assert [event["event"] for event in read_events(results)] == ["run", "study"]


def test_runs_append_and_a_torn_line_costs_only_itself(tmp_path):
    RunLog(tmp_path, run="one").begin(1)
    with (tmp_path / LOG_FILE).open("ab") as stream:
        stream.write(b'{"time":"2026-11-21T06:00:00.000Z","run":"one","ev')
    RunLog(tmp_path, run="two").begin(1)
    assert [event["run"] for event in read_events(tmp_path)] == ["one", "two"]
    lines = (tmp_path / LOG_FILE).read_bytes().split(b"\n")
    assert len(lines) == 4
    assert lines[-1] == b""


@pytest.mark.parametrize("n_events", [0, 3, 5000])
def test_the_tail_is_the_end_of_all(tmp_path, n_events):
    log = RunLog(tmp_path)
    for number in range(n_events):
        log.over(f"sub-{number}_ses-1", "done")
    tail = tail_of_log(tmp_path)
    everything = list(read_events(tmp_path))
    assert len(everything) == n_events
    assert tail == everything[len(everything) - len(tail) :]
    assert len(tail) == min(n_events, len(tail))
    assert bool(tail) == bool(n_events)


def test_lines_of_many_threads_are_whole(tmp_path):
    log = RunLog(tmp_path)
    work = [
        threading.Thread(target=lambda t=t: [log.over(f"{t}-{n}", "done") for n in range(50)])
        for t in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    assert len({json.loads(line)["study"] for line in lines}) == 400


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_a_run_that_is_killed_at_any_instant_leaves_lines_that_can_be_read(tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "from radloom.pipelines.receipts.runlog import RunLog\n"
        "log = RunLog(Path(sys.argv[1])); log.begin(1); print('on', flush=True)\n"
        "while True: log.over('x' * 500, 'done')\n"
    )
    for attempt in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
        ) as run:
            assert run.stdout.readline()
            threading.Event().wait(0.02 * attempt)
            run.send_signal(signal.SIGKILL)
    events = list(read_events(tmp_path))
    assert len({event["run"] for event in events}) == 3
    torn = len((tmp_path / LOG_FILE).read_text().splitlines()) - len(events)
    assert torn <= 3


def test_a_log_that_cannot_be_written_never_costs_the_run(tmp_path):
    (tmp_path / LOG_FILE).mkdir()
    log = RunLog(tmp_path)
    log.begin(1)
    log.over(KEY, "done")
    log.end("done", 1.0)
    assert (tmp_path / LOG_FILE).is_dir()
