"""The processes that studies run in: a local Dask cluster, or a connection to one that exists."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dask
import torch
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.system import MEMORY_LIMIT

from radloom.errors import ConfigError
from radloom.pipelines.engine.worker import WorkerSetup

__all__ = ["STUDY_MEMORY_BYTES", "Cluster", "choose_device", "connect", "plan"]

STUDY_MEMORY_BYTES = 6 * 2**30
"""What one study of whole-head volumes may need: how many workers share a machine by default."""

_START_S = 300.0
"""How long a worker may take to start: the imports of a cold disk."""

_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,  # the runner counts: only the guilty one pays
    "distributed.scheduler.worker-ttl": None,  # native code may hold the interpreter for minutes
    "distributed.admin.tick.limit": "1h",
    "distributed.worker.multiprocessing-method": "spawn",
    "distributed.worker.memory.target": False,  # a study's volumes are in use, not results to spill
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
}


@dataclass(frozen=True)
class Plan:
    """How a local cluster divides the machine."""

    n_workers: int
    n_threads: int
    """For the native code of each worker."""


@dataclass(frozen=True)
class Cluster:
    """A client and what the runner needs to know of what is behind it."""

    client: Client
    local: bool
    n_threads: int
    """For native code in each worker; 0: the worker counts its own cores."""

    @property
    def dashboard(self) -> str:
        """Address of the scheduler's dashboard; empty where it serves none (it needs bokeh)."""
        has_one = "dashboard" in self.client.scheduler_info(n_workers=0).get("services", {})
        return str(self.client.dashboard_link) if has_one else ""

    @property
    def n_slots(self) -> int:
        """How many studies may be in flight.

        A local cluster gets as many as it has workers, so that a crash takes no bystander along.
        One that grows with its queue must see a queue.
        """
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        slots = sum(int(worker["nthreads"]) for worker in workers)
        return max(1, slots) if self.local else max(16, 2 * slots)


def plan(n_studies: int, *, workers: int | None, device: str) -> Plan:
    """One worker per two cores or per GPU, as memory allows, and no more than there are studies."""
    if workers is None:
        by_device = torch.cuda.device_count() if device.startswith("cuda") else CPU_COUNT // 2
        workers = min(by_device, int(MEMORY_LIMIT // STUDY_MEMORY_BYTES))
    n_workers = max(1, min(workers, n_studies))
    return Plan(n_workers, max(1, CPU_COUNT // n_workers))


def choose_device(device: str) -> str:
    """``cpu``, ``cuda`` or ``cuda:N`` for what the user said; auto: cuda where there is one.

    Raises:
        ConfigError: not a device, or one that is not here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if device != "cpu" and (kind != "cuda" or (":" in device and not index.isdigit())):
        raise ConfigError(f"expected a device auto, cpu, cuda or cuda:N, got {device!r}")
    n_gpus = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= n_gpus:
        raise ConfigError(f"expected one of this machine's {n_gpus} CUDA devices, got {device!r}")
    return device


@contextlib.contextmanager
def connect(division: Plan, *, scheduler: str | None, logs: Path) -> Iterator[Cluster]:
    """A cluster that is closed, workers and all, when the block ends for whatever reason.

    Raises:
        ConfigError: no scheduler answers at the address given.
    """
    if scheduler is not None:
        with _existing(scheduler) as client:
            yield Cluster(client, local=False, n_threads=0)
        return
    environment = {
        "OMP_NUM_THREADS": str(division.n_threads),
        "MKL_NUM_THREADS": str(division.n_threads),
        "OPENBLAS_NUM_THREADS": str(division.n_threads),
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(division.n_threads),
    }
    settings = {**_SETTINGS, "distributed.nanny.pre-spawn-environ": environment}
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        stack.enter_context(_quiet())
        with _shielded():
            cluster = stack.enter_context(_local_cluster(division.n_workers))
        client = stack.enter_context(Client(cluster, timeout=_START_S))
        client.register_plugin(WorkerSetup(str(logs), division.n_threads))
        client.wait_for_workers(1, timeout=_START_S)
        yield Cluster(client, local=True, n_threads=division.n_threads)


def _local_cluster(n_workers: int) -> LocalCluster:
    return LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        memory_limit=MEMORY_LIMIT,
        silence_logs=logging.CRITICAL,
    )


@contextlib.contextmanager
def _shielded() -> Iterator[None]:
    """Ctrl-C waits, and never reaches the threads and processes that start in the block.

    A terminal sends it to every process of a command; only the driver may act on it.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado.application")]
    levels = [cast("Any", logger.level) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
