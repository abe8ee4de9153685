"""How a run gets on: what is at work, how fast it goes, how busy each device is."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

__all__ = ["Pace", "Tally"]

WINDOW_S = 60.0
"""How far back a device's load looks."""

_NOTHING: Mapping[str, str] = MappingProxyType({})
_NO_LOAD: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Pace:
    """How a run gets on at one moment; the numbers are of this run, not of those before it."""

    seconds: float = 0.0
    """Since the run began."""
    n_failed: int = 0
    n_skipped: int = 0
    running: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Study -> the stage that it is in, oldest first."""
    studies_per_hour: float = 0.0
    """Of the studies that something was done for; 0 until the first of them is over."""
    left_s: float | None = None
    """Seconds until the last study is over at this rate; None as long as there is no rate."""
    devices: Mapping[str, float] = field(default_factory=lambda: _NO_LOAD)
    """Device (``cpu``, ``cuda:0``, with the worker before it on a cluster) -> share of its places
    that computed during the last minute, 0 to 1."""
    dashboard: str = ""
    """Address of Dask's dashboard; empty where it is not served."""


class Tally:
    """Counts what it is told, from any thread, and gives a `Pace`."""

    def __init__(self, n_studies: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._n_studies = n_studies
        self._clock = clock
        self._started = clock()
        self._worked_since: float | None = None
        self._lock = threading.Lock()
        self._running: dict[str, str] = {}
        self._n_over = {"done": 0, "failed": 0, "skipped": 0}
        self._n_resumed = 0
        self._devices: dict[str, _Device] = {}
        self.dashboard = ""

    def enters(self, study: str, stage: str) -> None:
        """A study enters a stage."""
        with self._lock:
            if self._worked_since is None:
                self._worked_since = self._clock()
            self._running[study] = stage

    def computes(self, study: str, device: str, n_places: int) -> None:
        """A study begins to compute on one of the places of a device."""
        with self._lock:
            places = self._devices.setdefault(device, _Device(n_places, self._clock()))
            places.busy[study] = self._clock()

    def computed(self, study: str) -> None:
        """A study has left its device, for whatever reason."""
        with self._lock:
            self._leave(study)

    def over(self, study: str, status: Literal["done", "failed", "skipped"]) -> None:
        """A study is over."""
        with self._lock:
            self._leave(study)
            self._n_over[status] += 1
            if self._running.pop(study, None) is None:
                self._n_resumed += 1

    def now(self) -> Pace:
        """The pace at this moment."""
        with self._lock:
            now, n_over = self._clock(), sum(self._n_over.values())
            n_worked = n_over - self._n_resumed
            rate = n_worked / max(now - (self._worked_since or now), 1e-3) if n_worked else 0.0
            return Pace(
                seconds=now - self._started,
                n_failed=self._n_over["failed"],
                n_skipped=self._n_over["skipped"],
                running=dict(self._running),
                studies_per_hour=3600 * rate,
                left_s=(self._n_studies - n_over) / rate if rate else None,
                devices={name: device.load(now) for name, device in self._devices.items()},
                dashboard=self.dashboard,
            )

    def _leave(self, study: str) -> None:
        now = self._clock()
        for device in self._devices.values():
            began = device.busy.pop(study, None)
            if began is not None:
                device.past.append((began, now))


@dataclass
class _Device:
    n_places: int
    since: float
    busy: dict[str, float] = field(default_factory=dict)
    """Study -> since when."""
    past: deque[tuple[float, float]] = field(default_factory=deque)

    def load(self, now: float) -> float:
        start = max(self.since, now - WINDOW_S)
        while self.past and self.past[0][1] < start:
            self.past.popleft()
        spans = [*self.past, *((began, now) for began in self.busy.values())]
        worked = sum(end - max(began, start) for began, end in spans)
        return min(1.0, worked / max(self.n_places * (now - start), 1e-3))
