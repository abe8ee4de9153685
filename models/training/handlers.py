"""What happens between the steps: the curve, the clock, checkpoints, validation."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from radloom.models.training.processes import Processes

__all__ = ["Clock", "Curve", "Every", "TrainingDiverged"]

_log = logging.getLogger(__name__)


class TrainingDiverged(ArithmeticError):
    """The loss is no longer a finite number; the last checkpoint is from before."""


class Curve:
    """Writes the losses of every step to ``curve.tsv`` and to TensorBoard.

    They stay on the device until `every` of them are there, for each look makes a GPU wait.

    Args:
        path: a table: step, seconds, rate, loss, its parts; rows from `start` on are removed.
        writer: TensorBoard's; None: this process writes nothing.
        processes: means over them are written.
        optimizer: its learning rate is written.
        every: steps between looks.
        start: the step that the run starts from.
    """

    def __init__(
        self,
        path: Path,
        writer: Any,
        processes: Processes,
        optimizer: torch.optim.Optimizer,
        every: int,
        start: int,
    ) -> None:
        self._path, self._writer, self._processes = path, writer, processes
        self._optimizer, self._every = optimizer, every
        self._waiting: list[tuple[int, float, torch.Tensor]] = []
        self._names: list[str] = []
        self._since = time.monotonic()
        if writer is not None:
            _keep_rows(path, start)

    def attach(self, engine: Any) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._hear)

    def _hear(self, engine: Any) -> None:
        parts = dict(engine.state.output)
        gradient = parts.pop("gradient")
        self._names = ["loss", *parts, "gradient"]
        values = torch.stack(list(parts.values()))
        row = torch.cat([values.sum()[None], values, gradient[None].to(values)])
        rate = float(self._optimizer.param_groups[0]["lr"])
        self._waiting.append((engine.state.iteration, rate, row))
        if len(self._waiting) >= self._every:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            TrainingDiverged: a loss is not finite.
        """
        if not self._waiting:
            return
        rows = self._processes.mean(torch.stack([row for _, _, row in self._waiting])).tolist()
        seconds = (time.monotonic() - self._since) / len(rows)
        steps, rates = [w[0] for w in self._waiting], [w[1] for w in self._waiting]
        self._waiting.clear()
        self._since = time.monotonic()
        if self._writer is not None:
            self._write(steps, rates, rows, seconds)
        for step, row in zip(steps, rows, strict=True):
            if not math.isfinite(row[0]):
                raise TrainingDiverged(
                    f"step {step}: expected a finite loss, got {row[0]}; give the command again "
                    "with a lower rate (--optimizer#lr) to go on from the last checkpoint"
                )

    def _write(
        self, steps: list[int], rates: list[float], rows: list[list[float]], seconds: float
    ) -> None:
        new = not self._path.exists()
        with self._path.open("a", encoding="utf-8") as stream:
            if new:
                stream.write("\t".join(["step", "seconds", "rate", *self._names]) + "\n")
            for step, rate, row in zip(steps, rates, rows, strict=True):
                cells = [str(step), f"{seconds:.4f}", f"{rate:.6g}", *map(repr, row)]
                stream.write("\t".join(cells) + "\n")
                for name, value in zip(self._names, row, strict=True):
                    self._writer.add_scalar(f"train/{name}", value, step)
                self._writer.add_scalar("train/rate", rate, step)
        self._writer.add_scalar("train/seconds_per_step", seconds, steps[-1])
        _log.info("step %d  loss %.4f  %.3f s a step", steps[-1], rows[-1][0], seconds)


def _keep_rows(path: Path, start: int) -> None:
    """Remove the rows of steps after `start`, which will come again."""
    if not path.exists():
        return
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    whole = [row for row in rows if row.count("\t") == head.count("\t")]
    kept = [row for row in whole if int(row.partition("\t")[0]) <= start]
    path.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")


class Clock:
    """Stops the engine before its time is up, between two steps.

    Kept in hand: twice the slowest of the last steps, and what saving took the last time.

    Args:
        max_minutes: from `started`.
        processes: stop together.
        started: `time.monotonic()` when time began.
    """

    def __init__(self, max_minutes: float, processes: Processes, started: float) -> None:
        self._start = self._last = started
        self._limit = 60 * max_minutes
        self._processes = processes
        self._steps: deque[float] = deque(maxlen=50)
        self.saving_s = 2.0
        """How long a checkpoint takes; 2 seconds are assumed before the first."""
        self.stopped = False
        """Whether time was up."""

    def attach(self, engine: Any) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._look)

    def left(self) -> float:
        """Seconds until the run must be over, saving set aside."""
        return self._limit - (time.monotonic() - self._start) - 1.5 * self.saving_s

    def _begin(self, _: Any) -> None:
        self._last = time.monotonic()

    def _look(self, engine: Any) -> None:
        self._steps.append(time.monotonic() - self._last)
        if self._processes.any(self.left() < 2 * max(self._steps)):
            self.stopped = True
            engine.terminate()


class Every:
    """Calls `act(step)` every `interval` steps, unless the run is being stopped.

    Args:
        interval: in steps.
        act: what is done.
        unless: asked first.
    """

    def __init__(
        self, interval: int, act: Callable[[int], None], unless: Callable[[], bool]
    ) -> None:
        self._interval, self._act, self._unless = interval, act, unless

    def attach(self, engine: Any) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self._interval), self._hear)

    def _hear(self, engine: Any) -> None:
        if not self._unless():
            self._act(engine.state.iteration)
