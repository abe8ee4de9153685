"""What a Dask worker does for a run: `Studies` prepares it, `carry_study` is its task.

Imports nothing heavy: the studies' own processes do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask.system import CPU_COUNT
from distributed import Worker, WorkerPlugin, get_worker
from distributed.core import Status
from distributed.system import MEMORY_LIMIT

from radloom.pipelines.engine.gate import Gate
from radloom.pipelines.engine.job import Death, Outcome, Task
from radloom.pipelines.engine.supervisor import Supervisor

__all__ = ["Limits", "Studies", "carry_study"]


@dataclass(frozen=True)
class Limits:
    """What the studies on one worker may take."""

    memory: int
    """Bytes, all together."""
    n_threads: int
    """For native code, each."""
    n_places: int
    """How many may compute on one device at a time."""


class Studies(WorkerPlugin):  # type: ignore[misc]  # distributed carries no types
    """Gives a worker a `Supervisor` for one run, and takes it away again with all its processes."""

    def __init__(self, topic: str, logs: str, limits: Limits | None) -> None:
        self.name = topic
        self.logs = logs
        self.limits = limits
        """None on a cluster that exists: each worker takes what it was started with."""
        self.supervisor: Supervisor | None = None

    def setup(self, worker: Worker) -> None:
        """Called by Dask on each worker, also on those that join later."""
        name = hashlib.sha256(str(worker.address).encode()).hexdigest()[:8]
        limits = self.limits or _own_limits(worker)
        is_local = self.limits is not None

        def n_places(device: str) -> int:
            return 1 if device.startswith("cuda") and not is_local else limits.n_places

        self.supervisor = Supervisor(
            Gate(limits.memory, n_places),
            Path(self.logs),
            limits.n_threads,
            name="worker" if is_local else f"worker-{name}",
            spreads=is_local,
        )

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the run is over, or the worker."""
        del worker
        if self.supervisor is not None:
            self.supervisor.close()


def carry_study(task: Task) -> Outcome | Death:
    """The study through a process of this worker's."""
    worker = get_worker()
    supervisor = worker.plugins[task.topic].supervisor
    key = worker.get_current_task()

    def tell(news: dict[str, Any]) -> None:
        worker.log_event(task.topic, news)

    def is_wanted() -> bool:
        known = worker.state.tasks.get(key)
        over = known is None or known.state == "cancelled"
        return not over and worker.status not in (Status.closing, Status.closed, Status.failed)

    result: Outcome | Death = supervisor.carry(task, tell, is_wanted)
    return result


def _own_limits(worker: Worker) -> Limits:
    """Of a worker that somebody else started: its memory limit, and its share of the cores."""
    n_threads = int(worker.state.nthreads)
    memory = worker.memory_manager.memory_limit or MEMORY_LIMIT
    return Limits(int(0.9 * memory), max(1, CPU_COUNT // n_threads), n_threads)
