"""Who may enter a stage now: memory and places on devices are given out, and come back.

A study asks before each stage that it runs, with the stage's own estimate. It waits until the
estimates of all that run, and what the others hold, fit into the memory for the run, and until its
device has a place. Studies that only read or write ask for no device: so the next study is read
while the device works, and results are written behind it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Ask", "Gate"]

_LOOK_S = 0.5
"""How often one who waits asks whether it is still wanted."""


@dataclass(frozen=True)
class Ask:
    """What a stage needs."""

    memory: int = 0
    """Bytes beyond what the study's process holds already."""
    device: str = ""
    """The device that it computes on; empty where it only reads or writes."""
    alone: bool = False
    """Whether no other stage may run meanwhile."""


@dataclass
class _Seat:
    held: int = 0
    """Bytes that the process held when last looked at."""
    granted: Ask | None = None
    reserved: int = 0
    device: str = ""


class Gate:
    """Memory and places on devices, shared by the processes of one worker.

    Asks are met in the order in which they came; only one whose device is taken lets others by. A
    stage that needs more than there is runs when no other does: estimates err, and whoever takes
    too much is ended (`Supervisor`).
    """

    def __init__(self, memory: int, n_places: Callable[[str], int]) -> None:
        self.memory = memory
        self._n_places = n_places
        self._seats: dict[int, _Seat] = {}
        self._queue: list[tuple[int, Ask]] = []
        self._changed = threading.Condition()

    def enter(self, who: int, ask: Ask, is_wanted: Callable[[], bool] = lambda: True) -> bool:
        """Waits until `who` may run a stage; False if it was not wanted any more before that."""
        mine = (who, ask)
        with self._changed:
            self._give_back(who)
            self._queue.append(mine)
            try:
                while not self._is_due(mine):
                    if not is_wanted():
                        return False
                    self._changed.wait(_LOOK_S)
                seat = self._seat(who)
                seat.granted, seat.device = ask, ask.device
                seat.reserved = seat.held + ask.memory
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
        seat.granted, seat.reserved, seat.device = None, 0, ""

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

    def _fits(self, who: int, ask: Ask) -> bool:
        others = [seat for number, seat in self._seats.items() if number != who]
        granted = [seat.granted for seat in others if seat.granted is not None]
        if not granted:
            return True
        if ask.alone or any(other.alone for other in granted):
            return False
        taken = sum(max(seat.held, seat.reserved) for seat in others)
        return taken + self._seat(who).held + ask.memory <= self.memory
