from __future__ import annotations

import pytest

from radloom.pipelines.engine.pace import WINDOW_S, Tally


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_rate_and_time_left_leave_out_what_was_done_before(clock):
    tally = Tally(8, clock)
    tally.over("a", "done")
    tally.over("b", "done")
    assert tally.now().studies_per_hour == 0
    assert tally.now().left_s is None
    clock.now += 100  # workers start
    for study in "cd":
        tally.enters(study, "ingest")
    clock.now += 20
    tally.over("c", "failed")
    tally.enters("d", "denoise")
    pace = tally.now()
    assert pace.seconds == pytest.approx(120)
    assert pace.studies_per_hour == pytest.approx(180)
    assert pace.left_s == pytest.approx(5 * 20)
    assert pace.running == {"d": "denoise"}
    assert (pace.n_failed, pace.n_skipped) == (1, 0)


def test_load_is_the_share_of_a_devices_places_that_compute(clock):
    tally = Tally(8, clock)
    tally.computes("a", "cpu", 2)
    clock.now += 10
    tally.computes("b", "cpu", 2)
    clock.now += 10
    assert tally.now().devices == {"cpu": pytest.approx(30 / 40)}
    tally.computed("a")
    tally.over("b", "done")
    clock.now += WINDOW_S / 2
    assert tally.now().devices["cpu"] == pytest.approx(30 / (2 * 50))
    clock.now += WINDOW_S
    assert tally.now().devices["cpu"] == 0


def test_a_study_that_lost_its_worker_leaves_its_device(clock):
    tally = Tally(1, clock)
    tally.computes("a", "cuda:0", 1)
    clock.now += 1
    tally.computed("a")
    tally.computed("a")
    clock.now += 1
    assert tally.now().devices["cuda:0"] == pytest.approx(0.5)
