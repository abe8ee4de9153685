"""Who may enter a stage now: memory and places on devices are given out, and come back.

A study asks before each stage that it runs, with the stage's own estimate. It waits until the
estimates of all that run, and what the others hold, fit into the memory for the run, and until its
device has a place. Studies that only read or write ask for no device: so the next study is read
while the device works, and results are written behind it.

A stage that needs more than there is runs when no other does, and is told how much there is. One
that cannot do with that is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Ask", "Gate", "NoRoom"]

_LOOK_S = 0.5
"""How often one who waits asks whether it is still wanted."""


class NoRoom(Exception):
    """A stage needs more than there is, though no other runs."""

    def __init__(self, held: int, memory: int) -> None:
        super().__init__(f"{held} of {memory} bytes are held by its own process")
        self.held = held
        """Bytes that its process holds."""
        self.memory = memory
        """Bytes for all."""


@dataclass(frozen=True)
class Ask:
    """What a stage needs."""

    memory: int = 0
    """Bytes beyond what the study's process holds already."""
    device: str = ""
    """The device that it computes on; empty where it only reads or writes."""
    alone: bool = False
    """Whether no other stage may run meanwhile, and this one shall do with the least."""
    least: int | None = None
    """Bytes with which it can do; below zero where it lets go of what it holds; None: `memory`."""

    @property
    def at_least(self) -> int:
        """`least`, or `memory` where it knows no less."""
        return self.memory if self.least is None else min(self.least, self.memory)


@dataclass
class _Seat:
    held: int = 0
    """Bytes that the process held when last looked at."""
    granted: Ask | None = None
    given: int = 0
    """Bytes that it may take beyond what it held."""
    reserved: int = 0
    device: str = ""


class Gate:
    """Memory and places on devices, shared by the processes of one worker.

    Asks are met in the order in which they came; only one whose device is taken lets others by.
    Estimates err, and whoever takes too much is ended (`Supervisor`).
    """

    def __init__(self, memory: int, n_places: Callable[[str], int]) -> None:
        self.memory = memory
        self._n_places = n_places
        self._seats: dict[int, _Seat] = {}
        self._queue: list[tuple[int, Ask]] = []
        self._changed = threading.Condition()

    def enter(self, who: int, ask: Ask, is_wanted: Callable[[], bool] = lambda: True) -> bool:
        """Waits until `who` may run a stage; False if it was not wanted any more before that.

        Raises:
            NoRoom: it can do with no less than there is not.
        """
        mine = (who, ask)
        with self._changed:
            self._give_back(who)
            held = self._seat(who).held
            if held + ask.at_least > self.memory:
                raise NoRoom(held, self.memory)
            self._queue.append(mine)
            try:
                while not self._is_due(mine):
                    if not is_wanted():
                        return False
                    self._changed.wait(_LOOK_S)
                seat = self._seat(who)
                seat.granted, seat.device, seat.given = ask, ask.device, self._share(ask)
                seat.reserved = seat.held + seat.given
            finally:
                self._queue.remove(mine)
                self._changed.notify_all()
        return True

    def leave_device(self, who: int) -> None:
        """`who` has computed and goes on to write."""
        with self._changed:
            self._seat(who).device = ""
            self._changed.notify_all()

    def leave(self, who: int) -> None:
        """`who` has ended its stage."""
        with self._changed:
            self._give_back(who)
            self._changed.notify_all()

    def note(self, who: int, held: int) -> None:
        """`who` holds so many bytes at this moment; 0 takes it off the list."""
        with self._changed:
            self._seat(who).held = held
            if not held:
                del self._seats[who]
            self._changed.notify_all()

    def given(self, who: int) -> int:
        """Bytes that `who` may take in its stage beyond what it held before."""
        with self._changed:
            return self._seat(who).given

    def reserved(self, who: int) -> int:
        """Bytes that `who` was expected to take at most; 0 outside of a stage."""
        with self._changed:
            return self._seat(who).reserved

    def n_places(self, device: str) -> int:
        """How many may compute on a device at a time."""
        return self._n_places(device)

    def _seat(self, who: int) -> _Seat:
        return self._seats.setdefault(who, _Seat())

    def _give_back(self, who: int) -> None:
        seat = self._seat(who)
        seat.granted, seat.given, seat.reserved, seat.device = None, 0, 0, ""

    def _is_due(self, mine: tuple[int, Ask]) -> bool:
        for ticket in self._queue:
            who, ask = ticket
            if ticket is mine:
                return self._has_place(ask.device) and self._fits(who, ask)
            if self._has_place(ask.device):
                return False  # it came first, and waits for memory or is about to go
        return False

    def _has_place(self, device: str) -> bool:
        taken = sum(seat.device == device for seat in self._seats.values())
        return not device or taken < self._n_places(device)

    def _share(self, ask: Ask) -> int:
        """What it gets: all that it asked for, or what there is beside what all hold."""
        if ask.alone:
            return ask.at_least
        room = self.memory - sum(seat.held for seat in self._seats.values())
        return max(ask.at_least, min(ask.memory, room))

    def _fits(self, who: int, ask: Ask) -> bool:
        others = [seat for number, seat in self._seats.items() if number != who]
        granted = [seat.granted for seat in others if seat.granted is not None]
        if not granted:
            return True
        if ask.alone or any(other.alone for other in granted):
            return False
        taken = sum(max(seat.held, seat.reserved) for seat in others)
        return taken + self._seat(who).held + ask.memory <= self.memory
