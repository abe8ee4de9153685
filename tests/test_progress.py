"""What a run says while it goes on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from radloom.pipelines.engine.pace import Pace
from radloom.pipelines.engine.worker import Outcome
from radloom.pipelines.receipts.runlog import read_events
from radloom.pipelines.runner import Progress
from radloom.progress import MANY, duration, line, listener, pace_line

PACE = Pace(
    n_failed=2, n_skipped=1, running={"sub-x_ses-1": "denoise"}, studies_per_hour=61.04,
    left_s=16_500.0, devices={"cuda:0": 0.931}, dashboard="http://127.0.0.1:8787/status",
)  # fmt: skip


def news(n_studies: int = 3) -> Iterator[Progress]:
    yield Progress("found", 0, n_studies)
    yield Progress("stage", 0, n_studies, "sub-a_ses-1", "ingest", pace=PACE)
    done = Outcome("sub-a_ses-1", "done", flags=1, seconds=3.2)
    yield Progress("study", 1, n_studies, "sub-a_ses-1", outcome=done, pace=PACE)
    failed = Outcome("sub-b_ses-1", "failed", "register", "no memory", seconds=1.0)
    yield Progress("study", 2, n_studies, "sub-b_ses-1", outcome=failed, pace=PACE)


def told(n_studies: int = 3, *, terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    with listener(console) as listen:
        for piece in news(n_studies):
            listen(piece)
    return stream.getvalue()


def test_plain_lines_where_there_is_no_terminal():
    assert told().splitlines() == [
        "3 studies",
        "dashboard: http://127.0.0.1:8787/status",
        "[1/3] sub-a_ses-1 done in 3 s, checks to look at: 1",
        "[2/3] sub-b_ses-1 failed at register in 1 s: no memory",
    ]


def test_once_in_a_while_plain_lines_say_how_the_run_gets_on(monkeypatch):
    from radloom import progress

    monkeypatch.setattr(progress, "PACE_EVERY_S", 0.0)
    assert told().splitlines()[-1] == (
        "2 of 3 studies over (2 failed, 1 skipped), 1 at work, 61 an hour, about 4 h 35 min left, "
        "cuda:0 93% busy"
    )


def test_a_terminal_shows_bar_pace_devices_studies_and_dashboard():
    text = told(terminal=True)
    for wanted in ("2/3", "2 failed", "61 studies an hour", "4 h 35 min left", "cuda:0 93% busy",
                   "sub-x_ses-1 denoise", "http://127.0.0.1:8787/status",
                   "[2/3] sub-b_ses-1 failed at register"):  # fmt: skip
        assert wanted in text, wanted


def test_a_terminal_names_of_many_studies_only_those_to_look_at():
    done = Outcome("sub-fine_ses-1", "done", seconds=1.0)
    stream = io.StringIO()
    with listener(Console(file=stream, force_terminal=True, width=120)) as listen:
        listen(Progress("study", 1, MANY + 1, "sub-fine_ses-1", outcome=done))
        for piece in news(MANY + 1):
            listen(piece)
    assert "sub-fine_ses-1" not in stream.getvalue()
    assert "sub-a_ses-1 done in 3 s, checks to look at: 1" in stream.getvalue()


def test_the_first_moments_have_no_rate_and_no_end():
    assert pace_line(Pace(), 0, 7) == "0 of 7 studies over"
    assert pace_line(Pace(left_s=0.0, studies_per_hour=5.0), 7, 7) == (
        "7 of 7 studies over, 5 an hour"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (-3, "0 s"), (59.6, "1 min"), (3600, "1 h"), (3660, "1 h 1 min"),
     (90_000, "1 d 1 h"), (86_400, "1 d")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_lines_of_refused_series():
    outcome = Outcome("sub-a_ses-1", "skipped", "ingest", "no series", seconds=0.4, n_faulty=2)
    assert line(outcome, 1, 1) == (
        "[1/1] sub-a_ses-1 skipped at ingest in 0 s, series refused: 2: no series"
    )


def interrupt(listen: Callable[[Progress], None]) -> None:
    listen(Progress("found", 0, 3))
    raise KeyboardInterrupt


def test_the_log_begins_when_the_studies_are_known_and_tells_how_the_run_ended(tmp_path):
    console = Console(file=io.StringIO())
    with listener(console, tmp_path):
        pass
    assert not list(tmp_path.iterdir())  # a run that was refused writes nothing
    with listener(console, tmp_path) as listen:
        for piece in news():
            listen(piece)
    with pytest.raises(KeyboardInterrupt), listener(console, tmp_path) as listen:
        interrupt(listen)
    events = list(read_events(tmp_path))
    assert [event["event"] for event in events] == [
        "run", "dashboard", "enter", "load", "study", "study", "end", "run", "end",
    ]  # fmt: skip
    assert events[3]["devices"] == {"cuda:0": 0.931}  # once, for the rest came within seconds
    assert events[6]["outcome"] == "done"
    assert (events[6]["studies"], events[6]["over"], events[6]["failed"]) == (3, 2, 2)
    assert events[8]["outcome"] == "stopped"
    assert len({event["run"] for event in events}) == 2
