"""The workers of a run: threads of this process, or those of a Dask cluster that exists.

A worker computes nothing itself; its `Supervisor` gives each study a process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.system import MEMORY_LIMIT

from radloom.errors import ConfigError
from radloom.pipelines.engine.tasks import Limits, Studies

__all__ = ["STUDY_MEMORY_BYTES", "Cluster", "Plan", "choose_device", "connect", "plan"]

STUDY_MEMORY_BYTES = 6 * 2**30
"""What one study of whole-head volumes may need: how many share a machine by default."""

PLAIN_MEMORY_BYTES = 2 * 2**30
"""The same where stages are plain: a series of 512 x 512 x 500 voxels and its file."""

_SLOTS_OLD_S = 2.0
"""How long the count of a cluster's threads is believed."""

_SETTINGS = {
    "distributed.scheduler.worker-ttl": None,
    "distributed.admin.tick.limit": "1h",
    "distributed.admin.low-level-log-length": 1000,  # news of a run of days must not pile up
}


@dataclass(frozen=True)
class Plan:
    """How a run divides this machine."""

    n_workers: int
    """How many studies compute at a time."""
    n_ahead: int
    """How many more are under way: they are read, or written, while the others compute."""
    n_threads: int
    """For the native code of each study."""
    memory: int
    """Bytes that all of them may take together."""
    device: str = "cpu"

    @property
    def n_slots(self) -> int:
        """How many studies are under way at a time."""
        return self.n_workers + self.n_ahead


@dataclass
class Cluster:
    """A client and what the runner needs to know of what is behind it."""

    client: Client
    plan: Plan | None
    """How this machine is divided; None for a cluster that exists."""
    _slots: int = field(default=0, repr=False)
    _counted: float = field(default=-_SLOTS_OLD_S, repr=False)

    @property
    def dashboard(self) -> str:
        """Address of the scheduler's dashboard; empty where it serves none (it needs bokeh)."""
        if self.plan is not None and not _has_dashboard():
            return ""
        has_one = "dashboard" in self.client.scheduler_info(n_workers=0).get("services", {})
        return str(self.client.dashboard_link) if has_one else ""

    @property
    def n_slots(self) -> int:
        """How many studies may be in flight. A cluster that grows with its queue must see one."""
        if self.plan is not None:
            return self.plan.n_slots
        if time.monotonic() - self._counted > _SLOTS_OLD_S:
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
            self._slots = max(16, 2 * sum(int(worker["nthreads"]) for worker in workers))
            self._counted = time.monotonic()
        return self._slots


def plan(
    n_studies: int,
    *,
    workers: int | None,
    device: str,
    memory: int | None = None,
    plain: bool = False,
) -> Plan:
    """One study per two cores or per GPU, as memory allows, and others that are read meanwhile.

    Args:
        n_studies: how many there are to do; never are more under way.
        workers: how many compute at a time; None: as said.
        device: cpu, cuda or cuda:N.
        memory: bytes for all together; None: nine tenths of what the machine gives.
        plain: whether all stages are (see `radloom.pipelines.stage.is_plain`): each study then
            takes a core and less memory, and none is ahead.
    """
    on_gpu = device.startswith("cuda")
    memory = memory or int(0.9 * MEMORY_LIMIT)
    if workers is None and plain:
        workers = min(CPU_COUNT, memory // PLAIN_MEMORY_BYTES)
    elif workers is None:
        n_gpus = 1 if ":" in device or not on_gpu else _n_gpus()
        workers = min(n_gpus if on_gpu else CPU_COUNT // 2, memory // STUDY_MEMORY_BYTES)
    n_workers = max(1, min(workers, n_studies))
    n_ahead = 0 if plain else n_workers if on_gpu else -(-n_workers // 4)
    return Plan(
        n_workers,
        max(0, min(n_ahead, n_studies - n_workers)),
        max(1, CPU_COUNT // n_workers),
        memory,
        device,
    )


def _n_gpus() -> int:
    import torch

    n_gpus: int = torch.cuda.device_count()
    return n_gpus


def choose_device(device: str) -> str:
    """``cpu``, ``cuda`` or ``cuda:N`` for what the user said; auto: cuda where there is one.

    Raises:
        ConfigError: not a device, or one that is not here.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if device != "cpu" and (kind != "cuda" or (":" in device and not index.isdigit())):
        raise ConfigError(f"expected a device auto, cpu, cuda or cuda:N, got {device!r}")
    n_gpus = _n_gpus()
    if kind == "cuda" and int(index or 0) >= n_gpus:
        raise ConfigError(f"expected one of this machine's {n_gpus} CUDA devices, got {device!r}")
    return device


@contextlib.contextmanager
def connect(division: Plan, *, scheduler: str | None, logs: Path, topic: str) -> Iterator[Cluster]:
    """Workers that know of a run, and know no more of it when the block ends for whatever reason.

    Args:
        division: how to use this machine, where no scheduler is given.
        scheduler: address of a scheduler that exists, or ``file:PATH``.
        logs: folder for what the processes of studies print.
        topic: names the run.

    Raises:
        ConfigError: no scheduler answers at the address given.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(_SETTINGS))
        stack.enter_context(_quiet())
        if scheduler is not None:
            client = stack.enter_context(_existing(scheduler))
            limits = None
        else:
            client = stack.enter_context(_local(division.n_slots))
            limits = Limits(division.memory, division.n_threads, _places(division))
        studies = Studies(topic, str(logs.resolve()), limits)
        client.register_plugin(studies)
        try:
            yield Cluster(client, None if limits is None else division)
        finally:
            with contextlib.suppress(Exception):  # the scheduler may be what went away
                client.unregister_worker_plugin(studies.name)


def _places(division: Plan) -> int:
    """How many studies may compute on each device."""
    n_devices = _n_gpus() if division.device == "cuda" else 1
    return -(-division.n_workers // max(1, int(n_devices)))


@contextlib.contextmanager
def _local(n_slots: int) -> Iterator[Client]:
    """A scheduler and a worker as threads of this process; nothing listens but a dashboard."""
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=n_slots,
            processes=False,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": _has_dashboard()},
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _has_dashboard() -> bool:
    """Whether Dask can serve its dashboard here."""
    return find_spec("bokeh") is not None


@contextlib.contextmanager
def _existing(scheduler: str) -> Iterator[Client]:
    address = _address(scheduler)
    try:
        client = Client(address, timeout=20)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"expected a Dask scheduler at {scheduler!r}, got no answer ({type(error).__name__}): "
            "start one with `dask scheduler`, or leave --scheduler out"
        ) from None
    with client:
        yield client


def _address(scheduler: str) -> str:
    """The address itself, or the one in the JSON file that a scheduler wrote: ``file:PATH``."""
    if not scheduler.startswith("file:"):
        return scheduler
    path = Path(scheduler.removeprefix("file:"))
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"expected a Dask scheduler's file, got --scheduler <{path}>: `dask scheduler "
            "--scheduler-file FILE` writes one"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own log, which prints tracebacks of dying workers, kept off the terminal."""
    names = ("distributed", "distributed.client", "tornado.application")  # each has its own level
    loggers = [logging.getLogger(name) for name in names]
    levels = [cast("Any", logger.level) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
