"""What a worker does: it hands each study to a process of its own, and looks after that process.

A study that crashes, hangs or takes too much memory so costs its own process, never the worker, and
the worker knows how it ended. A process lives on for the next study, its imports and weights too.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from radloom.pipelines.engine.death import (
    Cause,
    Remains,
    is_of_memory,
    last_words,
    reason_of_death,
)
from radloom.pipelines.engine.gate import Ask, Gate, NoRoom
from radloom.pipelines.engine.job import Death, Outcome, Task
from radloom.pipelines.engine.messages import receive, send

__all__ = ["Supervisor", "Unwanted", "default_timeout_s"]

_WATCH_S = 0.2
"""Seconds between two looks at the processes."""

_IDLE_S = 120.0
"""How long a process without a study lives on: a run may be gone without a word."""

_KILL_AT = 1.05
"""Times the memory for the run that all processes together may hold before one is ended."""

Tell = Callable[[dict[str, Any]], None]


class Unwanted(Exception):
    """Nobody waits for this study any more."""


def default_timeout_s(estimate: int) -> float:
    """How long a stage may take whose user said nothing: two hours, and one more for each GiB.

    >>> default_timeout_s(3 << 30) / 3600
    5.0
    """
    return 3600.0 * (2 + estimate / 2**30)


@dataclass
class _Process:
    """A process, the study that it is at, and what the watch knows of it."""

    popen: subprocess.Popen[bytes]
    log: Path
    is_wanted: Callable[[], bool] = lambda: True
    is_busy: bool = False
    is_used: bool = False
    """Whether it has had a study before, of which something may be left in it."""
    stage: str = ""
    since: float = 0.0
    """When the stage began, or when the process had nothing to do."""
    deadline: float | None = None
    estimate: int = 0
    held: int = 0
    """Bytes of its resident set at the last look; the largest of the stage."""
    together: int = 0
    """Bytes that all processes held when memory ran out."""
    cause: Cause = ""

    def end(self, cause: Cause) -> None:
        self.cause = self.cause or cause
        self.popen.kill()

    def bury(self) -> int:
        """Its exit status, once it is gone; nobody may be talking to it."""
        self.popen.kill()  # it may only have closed its pipe
        status = self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        return status


@dataclass
class Supervisor:
    """The processes of one worker, at most one for each of its threads."""

    gate: Gate
    logs: Path
    n_threads: int
    """For the native code of each process."""
    name: str = "worker"
    """Begins the names of the logs."""
    spreads: bool = True
    """Whether its processes share out the GPUs that they see; otherwise all take the first."""
    _processes: dict[int, _Process] = field(default_factory=dict)
    _taken: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: threading.Event = field(default_factory=threading.Event)
    _watch: threading.Thread | None = None

    def carry(
        self, task: Task, tell: Tell, is_wanted: Callable[[], bool] = lambda: True
    ) -> Outcome | Death:
        """The study through its process; `tell` hears of its stages as it goes.

        Raises:
            Unwanted: `is_wanted` said so, or the supervisor was closed; its process is ended.
        """
        with self._slot() as slot:
            wanted = lambda: is_wanted() and not self._closed.is_set()  # noqa: E731
            process = self._process(slot, wanted)
            log_start = process.log.stat().st_size if process.log.exists() else 0
            try:
                outcome = self._converse(slot, process, task, tell)
            finally:
                self._settle(slot, process)
            if outcome is not None:
                process.is_used, process.since = True, time.monotonic()
                return outcome
            return self._death(slot, process, task, log_start)

    def close(self) -> None:
        """No process left."""
        self._closed.set()
        with self._lock:
            processes = list(self._processes.values())
            self._processes.clear()
        for process in processes:
            process.end("unwanted")
        for process in processes:
            if not process.is_busy:
                process.bury()

    def _converse(self, slot: int, process: _Process, task: Task, tell: Tell) -> Outcome | None:
        """What the process says of the study; None if it died."""
        streams = process.popen
        assert streams.stdin is not None
        assert streams.stdout is not None
        with contextlib.suppress(OSError):
            send(streams.stdin, "job", task.job, slot if self.spreads else 0)
            while (message := receive(streams.stdout)) is not None:
                match message:
                    case ("enters", str(stage)):
                        self.gate.leave(slot)
                        self._time(process, task, stage, 0)
                        tell({"study": task.study, "stage": stage})
                    case ("asks", int(memory), int(least), str(device)):
                        process.deadline = None
                        ask = Ask(memory, device, task.alone, least)
                        answer = self._admit(slot, process, ask)
                        if answer is None:
                            process.end("unwanted")
                            return None
                        self._time(process, task, process.stage, memory)
                        if device and answer[0] == "go":
                            places = self.gate.n_places(device)
                            tell({"study": task.study, "device": device, "places": places})
                        send(streams.stdin, *answer)
                    case ("computed",):
                        self.gate.leave_device(slot)
                        tell({"study": task.study, "computed": True})
                    case ("over", Outcome() as outcome):
                        return outcome
        return None

    def _admit(self, slot: int, process: _Process, ask: Ask) -> tuple[Any, ...] | None:
        """What a process hears that asks whether it may compute; None: it has to end.

        It is not wanted any more; or it has no room, but had studies before: a new one may have.
        """
        if held := _resident(process.popen.pid):
            self.gate.note(slot, held)
        try:
            entered = self.gate.enter(slot, ask, process.is_wanted)
        except NoRoom as lack:
            if process.is_used:
                process.end("memory")
                return None
            return "no", lack.held, lack.memory
        return ("go", self.gate.given(slot)) if entered else None

    def _time(self, process: _Process, task: Task, stage: str, estimate: int) -> None:
        limit = task.stage_timeout_s or default_timeout_s(estimate)
        process.stage, process.estimate, process.held = stage, estimate, 0
        process.since = time.monotonic()
        process.deadline = process.since + limit

    def _settle(self, slot: int, process: _Process) -> None:
        """The study is over, one way or the other."""
        process.is_busy, process.deadline = False, None
        self.gate.leave(slot)

    def _death(self, slot: int, process: _Process, task: Task, log_start: int) -> Death:
        status = process.bury()
        with self._lock:
            if self._processes.get(slot) is process:
                del self._processes[slot]
        self.gate.note(slot, 0)
        if process.cause == "unwanted" or self._closed.is_set():
            raise Unwanted
        remains = Remains(
            status=status,
            cause=process.cause,
            held=process.held,
            together=process.together,
            allowed=self.gate.memory,
            expected=process.estimate,
            seconds=time.monotonic() - process.since,
            words=last_words(process.log, log_start),
        )
        return Death(task.study, process.stage, reason_of_death(remains), is_of_memory(remains))

    @contextlib.contextmanager
    def _slot(self) -> Iterator[int]:
        """The lowest free number: its process, if it lives, is the one used last of all."""
        with self._lock:
            slot = next(n for n in range(len(self._taken) + 1) if n not in self._taken)
            self._taken.add(slot)
        try:
            yield slot
        finally:
            with self._lock:
                self._taken.discard(slot)

    def _process(self, slot: int, is_wanted: Callable[[], bool]) -> _Process:
        """The living process of a slot, made where there is none, and busy from now on."""
        with self._lock:
            if self._closed.is_set():
                raise Unwanted
            known = self._processes.get(slot)
            if known is None or known.popen.poll() is not None:
                known = self._processes[slot] = self._start(slot)
            known.is_wanted, known.is_busy = is_wanted, True
            known.stage, known.cause, known.since = "", "", time.monotonic()
            if self._watch is None:
                self._watch = threading.Thread(target=self._look_after, daemon=True)
                self._watch.start()
        return known

    def _start(self, slot: int) -> _Process:
        """A new process: deaf to the terminal's signals, its output in a log."""
        log = self.logs / f"{self.name}-{slot}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        isolated = ["-P"] if sys.version_info >= (3, 11) else []
        command = [sys.executable, *isolated, "-m", "radloom.study_process", str(self.n_threads)]
        with log.open("ab") as output:
            popen = subprocess.Popen(  # noqa: S603  # our own module, by our own interpreter
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        assert popen.stdin is not None
        with contextlib.suppress(OSError):  # dead already: the first study will tell
            send(popen.stdin, "path", sys.path)
        return _Process(popen, log)

    def _look_after(self) -> None:
        """Ends processes that are late, unwanted, idle for long, or too many for the memory."""
        while not self._closed.wait(_WATCH_S):
            with self._lock:
                processes = dict(self._processes)
            held = {slot: _resident(process.popen.pid) for slot, process in processes.items()}
            for slot, process in processes.items():
                process.held = max(process.held, held[slot])
                if held[slot]:
                    self.gate.note(slot, held[slot])
                self._judge(slot, process)
            self._keep_within_memory(processes, held)

    def _judge(self, slot: int, process: _Process) -> None:
        now, deadline = time.monotonic(), process.deadline
        if process.is_busy:
            if deadline is not None and now > deadline:
                process.end("time")
            elif not process.is_wanted():
                process.end("unwanted")
            return
        if now - process.since > _IDLE_S:
            self._dismiss(slot, process)

    def _dismiss(self, slot: int, process: _Process) -> bool:
        """Ends a process that has no study; False if it has got one meanwhile."""
        with self._lock:
            if process.is_busy or self._processes.get(slot) is not process:
                return False
            del self._processes[slot]
            process.bury()
            self.gate.note(slot, 0)
        return True

    def _keep_within_memory(self, processes: dict[int, _Process], held: dict[int, int]) -> None:
        """Ends the process that exceeds its estimate most, where all together hold too much."""
        together = sum(held.values())
        if together <= _KILL_AT * self.gate.memory:
            return
        busy = [slot for slot, process in processes.items() if process.is_busy]
        if any(self._dismiss(slot, processes[slot]) for slot in processes if slot not in busy):
            return  # they had nothing to do but to hold memory
        for slot in busy:
            processes[slot].together = together
        if any(processes[slot].cause for slot in busy):
            return  # one is on its way out
        excess = {slot: held[slot] - self.gate.reserved(slot) for slot in busy}
        guilty = [slot for slot in busy if self.gate.reserved(slot) and excess[slot] > 0]
        if guilty:
            processes[max(guilty, key=lambda slot: excess[slot])].end("memory")
        elif busy:
            processes[max(busy, key=lambda slot: held[slot])].end("memory")


def _resident(pid: int) -> int:
    """Bytes of a process's resident set; 0 if it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
