"""What runs in a worker process: one study through every stage, its volumes staying in memory."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from dask.system import CPU_COUNT
from distributed import Worker, WorkerPlugin, get_worker
from filelock import FileLock, Timeout

from radloom.errors import ReasonCode, StageFailed
from radloom.pipelines.receipts.folder import stage_folders
from radloom.pipelines.receipts.receipt import STAGES_FOLDER, Receipt
from radloom.pipelines.stage import Context, Stage, keep_stages, resume_stage, run_stage
from radloom.pipelines.study import Study, StudyRecord

__all__ = [
    "Job",
    "Outcome",
    "WorkerSetup",
    "forget_running",
    "outcome_of",
    "resume_study",
    "run_study",
    "running_stage",
]

_LOCK_S = 600.0
"""How long to wait for a process of a killed run that still works on the same study."""


@dataclass(frozen=True)
class Job:
    """One study and all that a worker needs to carry it through."""

    record: StudyRecord
    stages: tuple[Stage, ...]
    out: Path
    device: str
    """auto, cpu, cuda (the worker takes its own) or cuda:N."""
    n_threads: int
    """For native code; 0: the cores of the worker's machine, divided among its threads."""
    trust: bool
    topic: str
    """Dask topic on which the worker says which stage it is in."""


@dataclass(frozen=True)
class Outcome:
    """What became of a study, told at once; receipts say the rest."""

    study: str
    status: Literal["done", "failed", "skipped"]
    stage: str = ""
    """Where it failed."""
    reason: str = ""
    flags: int = 0
    """How many checks ask a person to look."""
    seconds: float = 0.0
    n_faulty: int = 0
    """How many series were refused for a fault of theirs; a localizer has none."""


def run_study(job: Job) -> Outcome:
    """The study through its stages, up to the first that fails."""
    started = time.monotonic()
    key = job.record.key
    folder = job.out / STAGES_FOLDER / key
    folder.mkdir(parents=True, exist_ok=True)
    study, receipts = Study(job.record), list[Receipt]()
    with _only_one(folder / ".lock"), _marker(folder):
        for stage in job.stages:
            _announce(job, stage.name)
            try:
                context = replace(_context(job), is_last=stage is job.stages[-1])
                study, receipt = run_stage(stage, study, job.out, context)
            except StageFailed as error:
                keep_stages(job.out, key, {*(r.stage for r in receipts), stage.name})
                reason = str(error).removeprefix(f"{key}: {stage.name}: ")
                seconds = time.monotonic() - started
                return Outcome(key, "failed", stage.name, reason, seconds=seconds)
            receipts.append(receipt)
            if not study.find(kind="volume"):
                break  # ingestion refused everything: nothing for any other stage to do
        keep_stages(job.out, key, {receipt.stage for receipt in receipts})
    return outcome_of(study, receipts, time.monotonic() - started)


def resume_study(record: StudyRecord, stages: Sequence[Stage], out: Path) -> Outcome | None:
    """What became of a study that has nothing left to do; None where something is. No voxels."""
    started = time.monotonic()
    names = {stage.name for stage in stages}
    if any(place.stage not in names for place in stage_folders(out, record.key)):
        return None
    study, receipts = Study(record), list[Receipt]()
    for stage in stages:
        found = resume_stage(stage, study, out)
        if found is None:
            return None
        study, receipt = found
        receipts.append(receipt)
        if not study.find(kind="volume"):
            break
    return outcome_of(study, receipts, time.monotonic() - started)


def outcome_of(study: Study, receipts: Sequence[Receipt], seconds: float) -> Outcome:
    """What the receipts of a study, none of which failed, say together."""
    key, n_faulty = study.record.key, _n_faulty(study)
    flags = len({flag for receipt in receipts for flag in receipt.flags})
    if receipts and not any(output.kind == "volume" for output in receipts[0].outputs):
        reason = receipts[0].reason or "no series could be accepted"
        return Outcome(key, "skipped", receipts[0].stage, reason, flags, seconds, n_faulty)
    return Outcome(key, "done", flags=flags, seconds=seconds, n_faulty=n_faulty)


def _n_faulty(study: Study) -> int:
    """Series refused for a fault: by ingestion's own table, else by what discovery found."""
    tables = study.find(kind="table", name="series")
    rows = tables[0].table if tables else tuple(asdict(s) for s in study.record.series)
    refused = [str(row["reason"]) for row in rows if row["status"] == "rejected"]
    return sum(ReasonCode(reason).is_fault for reason in refused if reason)


def running_stage(out: Path, key: str) -> str:
    """The stage that a worker was in when it last said so; empty where no work is under way."""
    try:
        text = (out / STAGES_FOLDER / key / "running.json").read_text(encoding="utf-8")
        return str(json.loads(text)["stage"])
    except (OSError, ValueError, KeyError):
        return ""


def forget_running(out: Path, key: str) -> None:
    """Removes the mark that a killed worker left."""
    (out / STAGES_FOLDER / key / "running.json").unlink(missing_ok=True)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    try:
        with FileLock(path, timeout=_LOCK_S):
            yield
    except Timeout:
        raise TimeoutError(
            "another process still works on this study: end it, then give the command again"
        ) from None


@contextlib.contextmanager
def _marker(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        (folder / "running.json").unlink(missing_ok=True)


def _announce(job: Job, stage: str) -> None:
    """Tells the disk (for when this process dies) and the terminal which stage begins."""
    path = job.out / STAGES_FOLDER / job.record.key / "running.json"
    path.write_text(json.dumps({"stage": stage}), encoding="utf-8")
    with contextlib.suppress(ValueError):  # no worker: the study runs in the caller's process
        get_worker().log_event(job.topic, {"study": job.record.key, "stage": stage})


def _context(job: Job) -> Context:
    return Context(
        device=_device(job.device),
        generator=torch.Generator(),  # run_stage puts a seeded one in its place
        n_threads=job.n_threads or max(1, CPU_COUNT // _worker_threads()),
        trust=job.trust,
    )


def _device(device: str) -> torch.device:
    """The worker's own GPU: by its number in a local cluster, the only one it sees elsewhere."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cuda":
        return torch.device(device)
    return torch.device("cuda", _worker_number() % max(1, torch.cuda.device_count()))


def _worker_number() -> int:
    try:
        return int(get_worker().name)
    except (TypeError, ValueError):
        return 0


def _worker_threads() -> int:
    try:
        return int(get_worker().state.nthreads)
    except ValueError:
        return 1


class WorkerSetup(WorkerPlugin):  # type: ignore[misc]  # distributed carries no types
    """What a worker process of the local cluster does when it starts, and starts again."""

    name = "radloom-setup"

    def __init__(self, logs: str, n_threads: int) -> None:
        self.logs = logs
        self.n_threads = n_threads

    def setup(self, worker: Worker) -> None:
        """Output to a log, threads as told, and death with the parent."""
        _die_with_parent()
        _write_to(Path(self.logs) / f"worker-{worker.name}.log")
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # its log quotes file names
        torch.set_num_threads(self.n_threads)

    def teardown(self, worker: Worker) -> None:
        """Nothing."""


def _write_to(path: Path) -> None:
    """Sends what Python and native code print to a file: the terminal is the user's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)


def _die_with_parent() -> None:
    """Has Linux kill this process with the run that started it.

    Dask's own watch is a Python thread, which waits as long as native code holds the interpreter:
    an elastix registration of a killed run would go on and write beside the next run.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # <linux/prctl.h>
        libc: Any = ctypes.CDLL(None, use_errno=True)
        libc.prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
