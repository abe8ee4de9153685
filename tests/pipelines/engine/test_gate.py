from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from radloom.pipelines.engine.gate import Ask, Gate, NoRoom

GIB = 2**30


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Asking(threading.Thread):
    """Enters a gate in the background, and says when it is in."""

    def __init__(self, gate: Gate, who: int, ask: Ask) -> None:
        super().__init__(daemon=True)
        self.gate, self.who, self.ask = gate, who, ask
        self.wanted = True
        self.answer: bool | None = None
        self.start()

    def run(self) -> None:
        self.answer = self.gate.enter(self.who, self.ask, lambda: self.wanted)

    @property
    def waits(self) -> bool:
        time.sleep(0.05)
        return self.answer is None


@pytest.fixture
def gate() -> Gate:
    return Gate(10 * GIB, lambda device: 1)


def test_what_fits_goes_and_the_rest_waits_for_it(gate):
    gate.note(0, 2 * GIB)
    gate.note(1, 2 * GIB)
    assert gate.enter(0, Ask(4 * GIB))
    second = Asking(gate, 1, Ask(3 * GIB))
    assert second.waits  # 2 + 4 + 2 + 3 > 10
    gate.leave(0)
    eventually(lambda: second.answer is True)


def test_one_that_alone_does_not_fit_goes_when_no_other_is_in_a_stage(gate):
    gate.note(1, 2 * GIB)
    assert gate.enter(0, Ask(GIB))
    assert gate.given(0) == GIB
    large = Asking(gate, 1, Ask(99 * GIB, least=3 * GIB))
    assert large.waits
    gate.leave(0)
    eventually(lambda: large.answer is True)
    assert gate.given(1) == 8 * GIB
    assert gate.reserved(1) == 10 * GIB
    small = Asking(gate, 2, Ask(1))
    assert small.waits
    gate.leave(1)
    eventually(lambda: small.answer is True)


@pytest.mark.parametrize(
    ("held", "ask", "enters"),
    [
        (0, Ask(10 * GIB), True),
        (0, Ask(10 * GIB + 1), False),
        (1, Ask(10 * GIB), False),
        (9 * GIB, Ask(4 * GIB, least=GIB), True),
        (9 * GIB, Ask(4 * GIB, least=GIB + 1), False),
        (9 * GIB, Ask(99 * GIB, least=-8 * GIB), True),  # it lets go of a large study
        (9 * GIB, Ask(GIB, least=2 * GIB), True),  # its least is no more than what it needs
    ],
)
def test_one_that_can_do_with_no_less_than_there_is_not_is_refused(gate, held, ask, enters):
    gate.note(0, held)
    if enters:
        assert gate.enter(0, ask)
        assert ask.at_least <= gate.given(0) <= 10 * GIB - held
        return
    with pytest.raises(NoRoom) as refusal:
        gate.enter(0, ask)
    assert (refusal.value.held, refusal.value.memory) == (held, 10 * GIB)
    assert gate.enter(1, Ask(GIB))  # nobody waits for it


def test_what_others_hold_between_their_stages_is_not_given_away(gate):
    gate.note(0, GIB)
    gate.note(1, 4 * GIB)
    assert gate.enter(0, Ask(9 * GIB, least=GIB))
    assert gate.given(0) == 5 * GIB


def test_a_device_is_taken_by_turns_while_others_read_and_write(gate):
    assert gate.enter(0, Ask(GIB, "cuda:0"))
    second = Asking(gate, 1, Ask(GIB, "cuda:0"))
    assert second.waits
    assert gate.enter(2, Ask(GIB))  # reads the next study meanwhile
    gate.leave_device(0)  # and writes
    eventually(lambda: second.answer is True)


def test_whoever_came_first_is_not_starved_by_small_ones(gate):
    assert gate.enter(0, Ask(6 * GIB))
    large = Asking(gate, 1, Ask(8 * GIB))
    assert large.waits
    small = Asking(gate, 2, Ask(GIB))
    assert small.waits
    gate.leave(0)
    eventually(lambda: large.answer is True)
    eventually(lambda: small.answer is True)


def test_one_whose_memory_ran_out_is_left_alone(gate):
    assert gate.enter(0, Ask(1))
    alone = Asking(gate, 1, Ask(9, alone=True, least=5))
    assert alone.waits
    gate.leave(0)
    eventually(lambda: alone.answer is True)
    assert gate.given(1) == 5
    other = Asking(gate, 0, Ask(1))
    assert other.waits
    gate.leave(1)
    eventually(lambda: other.answer is True)


def test_who_is_not_wanted_any_more_stops_waiting_and_blocks_nobody(gate):
    assert gate.enter(0, Ask(9 * GIB))
    gone = Asking(gate, 1, Ask(5 * GIB))
    next_one = Asking(gate, 2, Ask(GIB))
    assert next_one.waits
    gone.wanted = False
    eventually(lambda: gone.answer is False)
    eventually(lambda: next_one.answer is True)


def test_bounds_hold_however_many_ask():
    """Twelve threads, hundreds of stages: never too much memory, never two on a device."""
    gate, lock = Gate(10, lambda device: 2), threading.Lock()
    memory, on_device, most = [0], [0], [0, 0]

    def work(who: int) -> None:
        generator = random.Random(who)
        for _ in range(40):
            need, device = generator.randint(1, 6), generator.choice(["", "cpu"])
            assert gate.enter(who, Ask(need, device))
            with lock:
                memory[0] += need
                on_device[0] += bool(device)
                most[:] = [max(most[0], memory[0]), max(most[1], on_device[0])]
            time.sleep(0)
            with lock:
                memory[0] -= need
                on_device[0] -= bool(device)
            gate.leave(who)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert 6 <= most[0] <= 10
    assert most[1] == 2
