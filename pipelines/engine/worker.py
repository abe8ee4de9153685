"""One study through every stage, its volumes staying in memory; and what is left to do for it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from filelock import FileLock, Timeout

from radloom.errors import ReasonCode, StageFailed
from radloom.pipelines.engine.job import Outcome
from radloom.pipelines.receipts.folder import stage_folders
from radloom.pipelines.receipts.receipt import STAGES_FOLDER, Receipt
from radloom.pipelines.stage import (
    HOST,
    Context,
    Stage,
    forget_stages,
    is_plain,
    resume_stage,
    run_stage,
    take_stage,
)
from radloom.pipelines.study import Study, StudyRecord

if TYPE_CHECKING:  # a run of ingestion alone never imports it
    import torch

__all__ = [
    "Job",
    "Link",
    "Outcome",
    "forget_running",
    "outcome_of",
    "resume_study",
    "run_study",
    "running_stage",
]

_LOCK_S = 600.0
"""How long to wait for a process of a killed run that still works on the same study."""

_ASIDE = frozenset({"ingest", "export", "report"})
"""Stages that read, write or draw: they run beside those that take a device's place."""


@dataclass(frozen=True)
class Job:
    """One study and all that its process needs to carry it through."""

    record: StudyRecord
    stages: tuple[Stage, ...]
    out: Path
    device: str = "cpu"
    """auto, cpu, cuda (the process takes its own) or cuda:N."""
    trust: bool = False
    chosen: frozenset[str] | None = None
    """Stages to run, the others are taken as they are; None: all."""
    required: frozenset[str] = frozenset()
    """Stages not chosen without whose results the study cannot be done."""
    prune: bool = False
    """Whether results of stages that are not among `stages` go."""

    def runs(self, stage: str) -> bool:
        """Whether a stage is chosen."""
        return self.chosen is None or stage in self.chosen


class Link(Protocol):
    """Who is told, and asked, while a study goes on."""

    def enters(self, stage: str) -> None:
        """The study enters a stage."""
        ...

    def turn(self, memory: int, least: int, device: str) -> AbstractContextManager[int]:
        """Waits until so many bytes, and a place on a device, are free; it is left with the block.

        Gives the bytes that there are: `memory`, or less and no less than `least`. `device` is
        empty for a stage that computes nothing.

        Raises:
            OutOfMemory: there is not even `least`.
        """
        ...


class _Alone:
    """The link of a study that runs in its caller's process: nobody listens, nobody waits."""

    def enters(self, stage: str) -> None:
        del stage

    def turn(self, memory: int, least: int, device: str) -> AbstractContextManager[int]:
        del least, device
        return nullcontext(memory)


_ALONE = _Alone()


def run_study(job: Job, link: Link = _ALONE, *, number: int = 0, n_threads: int = 1) -> Outcome:
    """The study through its stages, up to the first that fails.

    Args:
        job: what to do.
        link: told of each stage, asked before it computes.
        number: of this process among those of its worker, to choose a GPU by.
        n_threads: for native code.
    """
    started = time.monotonic()
    key = job.record.key
    folder = job.out / STAGES_FOLDER / key
    folder.mkdir(parents=True, exist_ok=True)
    study, receipts = Study(job.record), list[Receipt]()
    context = Context(
        device=HOST if all(map(is_plain, job.stages)) else _device(job.device, number),
        generator=cast("torch.Generator", None),  # run_stage puts a seeded one in its place
        n_threads=n_threads,
        trust=job.trust,
    )
    with _only_one(folder / ".lock"), _marker(folder):
        for stage in job.stages:
            try:
                if job.runs(stage.name):
                    _announce(job, stage.name, link)
                    study, receipt = run_stage(
                        stage, study, job.out, _for(stage, job, context, link)
                    )
                    receipts.append(receipt)
                else:
                    study, taken = _taken(stage, study, job)
                    receipts += taken
            except StageFailed as error:
                _forget_rest(job, {*(r.stage for r in receipts), stage.name})
                reason = str(error).removeprefix(f"{key}: {stage.name}: ")
                seconds = time.monotonic() - started
                return Outcome(key, "failed", stage.name, reason, seconds=seconds)
            if receipts and not study.find(kind="volume"):
                break  # ingestion refused everything: nothing for any other stage to do
        _forget_rest(job, {receipt.stage for receipt in receipts})
    return outcome_of(study, receipts, time.monotonic() - started)


def resume_study(job: Job) -> Outcome | None:
    """What became of a study that has nothing left to do; None where something is. No voxels."""
    started = time.monotonic()
    study, receipts = Study(job.record), list[Receipt]()
    for stage in job.stages:
        if job.runs(stage.name):
            found = resume_stage(stage, study, job.out)
        else:
            found = take_stage(stage.name, study, job.out)
        if found is None and (job.runs(stage.name) or stage.name in job.required):
            return None
        if found is not None:
            study, receipt = found
            receipts.append(receipt)
            if not study.find(kind="volume"):
                break
    present = {place.stage for place in stage_folders(job.out, job.record.key)}
    if _rest(job, {receipt.stage for receipt in receipts}, present):
        return None
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


def _taken(stage: Stage, study: Study, job: Job) -> tuple[Study, list[Receipt]]:
    """The study with what an earlier run left of a stage that is not chosen, if anything."""
    found = take_stage(stage.name, study, job.out)
    if found is not None:
        return found[0], [found[1]]
    if stage.name in job.required:
        raise StageFailed(
            f"expected its results from an earlier run, found none: choose {stage.name} too"
        )
    return study, []


def _rest(job: Job, reached: Collection[str], present: Collection[str]) -> set[str]:
    """Stages that have results which no longer are of this study: chosen ones not reached.

    Those that are not chosen keep theirs; so do those of other workflows, unless they shall go.
    """
    names = {stage.name for stage in job.stages}
    others = {name for name in present if name not in names} if job.prune else set()
    return others | {n for n in names & {*present} if n not in reached and job.runs(n)}


def _forget_rest(job: Job, reached: Collection[str]) -> None:
    present = {place.stage for place in stage_folders(job.out, job.record.key)}
    forget_stages(job.out, job.record.key, _rest(job, reached, present))


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


def _announce(job: Job, stage: str, link: Link) -> None:
    """Tells the disk, for when this process dies, and the worker which stage begins."""
    path = job.out / STAGES_FOLDER / job.record.key / "running.json"
    path.write_text(json.dumps({"stage": stage}), encoding="utf-8")
    link.enters(stage)


def _for(stage: Stage, job: Job, context: Context, link: Link) -> Context:
    """The context of one stage: its turn is for a device, unless it only reads or writes."""
    device = "" if stage.name in _ASIDE else str(context.device)
    turn = partial(_turn, link=link, device=device, stage_device=context.device)
    return replace(context, is_last=stage is job.stages[-1], turn=turn)


@contextlib.contextmanager
def _turn(
    memory: int, least: int, *, link: Link, device: str, stage_device: torch.device
) -> Iterator[int]:
    """A turn after which the GPU is left as it was found: the next process needs its memory."""
    with link.turn(memory, least, device) as given:
        try:
            yield given
        finally:
            if device and stage_device.type == "cuda":
                import torch

                torch.cuda.empty_cache()


def _device(device: str, number: int) -> torch.device:
    """The process's GPU: by its number where it sees several, as on one machine."""
    import torch

    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if device != "cuda":
        return torch.device(device)
    return torch.device("cuda", number % max(1, torch.cuda.device_count()))
