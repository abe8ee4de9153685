"""What runs in the process of a study: it waits for a study, carries it, says what became of it."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from radloom.errors import OutOfMemory
from radloom.pipelines.engine.job import Outcome
from radloom.pipelines.engine.messages import receive, send

__all__ = ["serve"]


def serve(n_threads: int) -> None:
    """Studies from standard input, until it closes; news on standard output.

    Whatever else prints goes where standard error goes, a log.
    """
    requests = os.fdopen(os.dup(0), "rb")
    news = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    _die_with_parent()
    _be_first_to_go()
    faulthandler.enable(os.fdopen(os.dup(2), "w"), all_threads=False)  # readers borrow 2 at times
    while (message := receive(requests)) is not None:
        match message:
            case ("path", list(path)):
                sys.path[:] = path
            case ("job", bytes(job), int(slot)):
                send(news, "over", _carry(job, slot, n_threads, _Link(requests, news)))


def _carry(job: bytes, slot: int, n_threads: int, link: _Link) -> Outcome:
    """What became of the study; errors outside of its stages are its failure too."""
    import cloudpickle

    from radloom.pipelines.engine.worker import Job, run_study
    from radloom.pipelines.receipts.failure import reason_of
    from radloom.pipelines.stage import is_plain

    study = ""
    try:
        wanted = cloudpickle.loads(job)
        assert isinstance(wanted, Job)
        study = wanted.record.key
        if not all(map(is_plain, wanted.stages)):  # a run of ingestion alone never imports it
            import torch

            torch.set_num_threads(n_threads)
        return run_study(wanted, link, number=slot, n_threads=n_threads)
    except Exception as error:  # noqa: BLE001  # a study's failure never stops others
        return Outcome(study, "failed", reason=reason_of(error))


class _Link:
    """Tells the worker which stage begins, and waits until it may."""

    def __init__(self, requests: IO[bytes], news: IO[bytes]) -> None:
        self._requests = requests
        self._news = news

    def enters(self, stage: str) -> None:
        send(self._news, "enters", stage)

    @contextlib.contextmanager
    def turn(self, memory: int, least: int, device: str) -> Iterator[int]:
        send(self._news, "asks", memory, least, device)
        match receive(self._requests):
            case ("go", int(given)):
                pass
            case ("no", int(held), int(allowed)):
                raise OutOfMemory(_no_room(held + min(least, memory), allowed))
            case _:
                os._exit(1)  # the worker is gone
        try:
            yield given
        finally:
            send(self._news, "computed")


def _no_room(needed: int, allowed: int) -> str:
    return (
        f"needs at least {needed / 1e9:.1f} GB of memory, with what its process holds, and the run "
        f"has {allowed / 1e9:.1f} GB: give --memory more, or take a machine (on a cluster, "
        "workers) with more; it was not begun"
    )


def _die_with_parent() -> None:
    """Has this process end with its worker, on Linux even where native code holds the interpreter.

    Otherwise an elastix registration of a killed run would go on, and write beside the next run.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # <linux/prctl.h>
        libc: Any = ctypes.CDLL(None, use_errno=True)
        libc.prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.name == "posix":
        watch = threading.Thread(target=_watch, args=(parent,), daemon=True)
        watch.start()


def _watch(parent: int) -> None:
    """Ends the process when `parent` is gone."""
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(1.0)
    os._exit(1)


def _be_first_to_go() -> None:
    """Has Linux take this process, not the run, when the machine's memory ends."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
