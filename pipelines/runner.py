"""Every study of a folder through a workflow, one Dask task a study.

Receipts decide what is done: the same command again does only what is missing, and a study that
fails, or takes its worker process along, never stops another.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias
from uuid import uuid4

import cloudpickle
from distributed import CancelledError, Future, KilledWorker, as_completed
from filelock import FileLock, Timeout

from radloom.errors import ConfigError, InputError, StageFailed
from radloom.pipelines.deidentify.keys import Pseudonyms
from radloom.pipelines.engine.cluster import Cluster, choose_device, connect, plan
from radloom.pipelines.engine.job import Death, Outcome, Task
from radloom.pipelines.engine.pace import Pace, Tally
from radloom.pipelines.engine.selection import (
    EVERYTHING,
    Selection,
    finish_redo,
    forget_for_redo,
)
from radloom.pipelines.engine.space import (
    is_disk_trouble,
    require_space,
    require_writable,
    space_needed,
)
from radloom.pipelines.engine.tasks import carry_study
from radloom.pipelines.engine.worker import Job, forget_running, resume_study, running_stage
from radloom.pipelines.export import RunTables, write_tables
from radloom.pipelines.ingest import IngestStage
from radloom.pipelines.ingest.options import DEFAULT_OPTIONS, IngestOptions
from radloom.pipelines.ingest.rules import RoleRules, load_rules
from radloom.pipelines.receipts.failure import reason_of
from radloom.pipelines.receipts.files import write_file
from radloom.pipelines.receipts.receipt import STAGES_FOLDER
from radloom.pipelines.receipts.records import is_deidentified
from radloom.pipelines.stage import forget_stages, is_plain, record_failure, write_record
from radloom.pipelines.study import StudyRecord
from radloom.pipelines.workflow import Workflow

__all__ = ["Limits", "Progress", "RunSummary", "run", "run_records"]

_ATTEMPTS = 2
"""How often a study may take its process along before it counts as failed."""

_UNBEGUN_ATTEMPTS = 6
"""How often a study's process, or its worker, may die before the study has begun."""


@dataclass(frozen=True)
class Limits:
    """What a run may take."""

    memory: int | None = None
    """Bytes for all studies under way on this machine; None: nine tenths of what it gives."""
    stage_timeout_s: float | None = None
    """How long a stage may take; None: two hours, and one more for each GiB of its estimate."""


_NO_LIMITS = Limits()


@dataclass(frozen=True)
class Progress:
    """One piece of news from a run."""

    event: Literal["found", "stage", "study"]
    """found: discovery is over; stage: a study enters a stage; study: a study is over."""
    n_done: int
    n_studies: int
    study: str = ""
    stage: str = ""
    outcome: Outcome | None = None
    pace: Pace = field(default_factory=Pace)
    """What is at work, the rate, the time left, each device's load, Dask's dashboard."""


Listener: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True)
class RunSummary:
    """What became of every study."""

    outcomes: tuple[Outcome, ...]
    """In the order of discovery."""
    out: Path
    report: Path | None
    seconds: float

    @property
    def all_done(self) -> bool:
        """Whether no study failed or was refused, and no series was refused for a fault."""
        return all(o.status == "done" and not o.n_faulty for o in self.outcomes)

    def sentence(self) -> str:
        """``5 of 6 studies done, 1 failed; 2 series refused for a fault``."""
        counts = {
            status: sum(outcome.status == status for outcome in self.outcomes)
            for status in ("failed", "skipped")
        }
        done = sum(outcome.status == "done" for outcome in self.outcomes)
        rest = "".join(f", {n} {status}" for status, n in counts.items() if n)
        n_faulty = sum(outcome.n_faulty for outcome in self.outcomes)
        faults = f"; {n_faulty} series refused for a fault" if n_faulty else ""
        return f"{done} of {len(self.outcomes)} studies done{rest}{faults}"


def run(
    studies: Path,
    out: Path,
    workflow: Workflow,
    *,
    device: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    trust: bool = False,
    deidentify: Pseudonyms | None = None,
    index: Path | None = None,
    readers: int = 1,
    selection: Selection = EVERYTHING,
    limits: Limits = _NO_LIMITS,
    on_progress: Listener = lambda _: None,
) -> RunSummary:
    """Every study under `studies` through `workflow`; results, tables and report in `out`.

    Args:
        studies: folder of studies.
        out: folder for results; made where absent. One run at a time.
        workflow: what to do.
        device: auto, cpu, cuda or cuda:N.
        workers: studies that compute at a time on this machine; None: by cores, GPUs and memory.
        scheduler: address of a Dask scheduler to use instead of a local cluster.
        trust: whether outside bundles and pickled checkpoints may run.
        deidentify: pseudonyms under which everything is written; None: as `discover` names it.
        index: file that remembers headers, as in `discover`.
        readers: processes that read headers, as in `discover`.
        selection: which stages to run, to take as they are, to do anew; see `select`.
        limits: memory, and how long a stage may take.
        on_progress: told what happens; stage news comes from another thread.

    Raises:
        InputError: no studies, an unusable folder, device or address, another run on `out`, an
            `out` with studies under names of the other kind, a disk that cannot take the results.
        StageFailed: the disk or the Dask scheduler went away; the same command goes on.
    """
    from radloom.pipelines.ingest import discover

    _check_folders(studies, out)
    if device == "auto" and all(map(is_plain, workflow.stages)):
        device = "cpu"
    elif scheduler is None or device != "auto":
        device = choose_device(device)
    with _only_run(out):
        records = discover(
            studies,
            rules=_role_rules(workflow),
            options=_options(workflow),
            index=index,
            workers=readers,
        )
        if not records:
            raise InputError(f"expected imaging files under <{studies}>, found none")
        _require_same_names(out, deidentify)
        if deidentify is not None:
            from radloom.pipelines.deidentify import deidentify_records

            records = deidentify_records(records, deidentify)
        return run_records(
            records,
            out,
            workflow,
            device=device,
            workers=workers,
            scheduler=scheduler,
            trust=trust,
            selection=selection,
            limits=limits,
            on_progress=on_progress,
        )


def _require_same_names(out: Path, deidentify: Pseudonyms | None) -> None:
    """Nothing, if what `out` holds already is de-identified as this run shall be."""
    known = is_deidentified(out)
    if known is not None and known is not (deidentify is not None):
        there, wanted = ("", "not ") if known else ("not ", "")
        raise ConfigError(
            f"expected results that are {wanted}de-identified in <{out}>, found studies that are "
            f"{there}de-identified: name another folder"
        )


def _role_rules(workflow: Workflow) -> RoleRules:
    """The role rules that the workflow's ingest stage names; those of Radloom where it names none.

    Raises:
        ConfigError: the file of rules cannot be used.
    """
    files = [getattr(stage, "roles", None) for stage in workflow.stages if stage.name == "ingest"]
    return load_rules(files[0] if files else None)


def _options(workflow: Workflow) -> IngestOptions:
    """What the workflow's ingest stage lets discovery do; nothing where there is none."""
    given = [stage.options for stage in workflow.stages if isinstance(stage, IngestStage)]
    return given[0] if given else DEFAULT_OPTIONS


def run_records(
    records: Sequence[StudyRecord],
    out: Path,
    workflow: Workflow,
    *,
    device: str,
    workers: int | None = None,
    scheduler: str | None = None,
    trust: bool = False,
    selection: Selection = EVERYTHING,
    limits: Limits = _NO_LIMITS,
    on_progress: Listener = lambda _: None,
) -> RunSummary:
    """As `run`, for studies that are known already; the caller holds `out`."""
    started = time.monotonic()
    require_writable(out)
    orders = _Orders(workflow, out, device, trust, selection, limits)
    tally = Tally(len(records))
    state = _Run(orders, on_progress, tuple(records), tally, RunTables(out))
    try:
        write_file(out / "workflow.yaml", workflow.resolved().encode())
        for record in records:
            write_record(out, record)
        forget_for_redo(out, [record.key for record in records], selection.redo)
        on_progress(Progress("found", 0, len(records), pace=tally.now()))
        try:
            state.carry_through(workers=workers, scheduler=scheduler)
        finally:
            write_tables(out)
        finish_redo(out)
        report = _report(out, workflow)
    except OSError as error:
        if error.strerror is None or not is_disk_trouble(error.strerror):
            raise
        raise _disk_trouble(out, error.strerror) from None
    outcomes = tuple(state.outcomes[record.key] for record in records)
    return RunSummary(outcomes, out, report, time.monotonic() - started)


@dataclass(frozen=True)
class _Orders:
    """What is to be done to every study."""

    workflow: Workflow
    out: Path
    device: str
    trust: bool
    selection: Selection
    limits: Limits

    def job(self, record: StudyRecord) -> Job:
        return Job(
            record=record,
            stages=self.workflow.stages,
            out=self.out.resolve(),
            device=self.device,
            trust=self.trust,
            chosen=self.selection.chosen,
            required=self.selection.required,
            prune=self.selection.prune,
        )


@dataclass
class _Run:
    """The state of one run in the driver: what waits, what is in flight, what is over."""

    orders: _Orders
    on_progress: Listener
    records: tuple[StudyRecord, ...]
    tally: Tally
    tables: RunTables
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    deaths: dict[str, list[Death]] = field(default_factory=dict)
    """Study -> how its processes died."""
    in_flight: dict[Future, StudyRecord] = field(default_factory=dict)
    topic: str = field(default_factory=lambda: f"radloom-{uuid4().hex}")

    def carry_through(self, *, workers: int | None, scheduler: str | None) -> None:
        """Every study to its end: those whose receipts all match at once, the rest in workers."""
        waiting = self._left_over()
        if not waiting:
            return
        self._require_space(waiting)
        division = plan(
            len(waiting),
            workers=workers,
            device=self.orders.device,
            memory=self.orders.limits.memory,
            plain=all(map(is_plain, self.orders.workflow.stages)),
        )
        logs = self._logs()
        with connect(division, scheduler=scheduler, logs=logs, topic=self.topic) as cluster:
            self.tally.dashboard = cluster.dashboard
            cluster.client.subscribe_topic(self.topic, self._hear)
            try:
                self._work_off(waiting, cluster)
            finally:
                cluster.client.cancel(list(self.in_flight), force=True)
                cluster.client.unsubscribe_topic(self.topic)

    def _require_space(self, waiting: Sequence[StudyRecord]) -> None:
        """Nothing, if the disk can take the studies of which nothing is there yet."""
        stages = self.orders.out / STAGES_FOLDER
        new = [record for record in waiting if not any((stages / record.key).glob("*/stage.json"))]
        names = [stage.name for stage in self.orders.workflow.stages]
        require_space(self.orders.out, space_needed(new, names))

    def _logs(self) -> Path:
        """Where processes log: not below OUT if that is de-identified, for logs may quote names."""
        if any(record.salt for record in self.records):
            return Path(tempfile.mkdtemp(prefix="radloom-logs-"))
        return self.orders.out / "logs"

    def _left_over(self) -> deque[StudyRecord]:
        """The studies from the first that is not done on: workers look at the rest side by side."""
        waiting = deque(self.records)
        while waiting:
            outcome = resume_study(self.orders.job(waiting[0]))
            if outcome is None:
                break
            waiting.popleft()
            self._finish(outcome)
        return waiting

    def _work_off(self, waiting: deque[StudyRecord], cluster: Cluster) -> None:
        """A bounded number of studies at a time, until nothing waits."""
        completed: Any = as_completed([])
        while waiting or self.in_flight:
            while waiting and len(self.in_flight) < cluster.n_slots:
                completed.add(self._submit(cluster, waiting.popleft()))
            future = next(completed)
            record = self.in_flight.pop(future)
            outcome = self._settle(future, record)
            if outcome is None:
                self.tally.computed(record.key)
                waiting.append(record)
            else:
                self._finish(outcome)

    def _submit(self, cluster: Cluster, record: StudyRecord) -> Future:
        forget_running(self.orders.out, record.key)
        deaths = self.deaths.get(record.key, [])
        task = Task(
            study=record.key,
            job=cloudpickle.dumps(self.orders.job(record)),
            topic=self.topic,
            alone=any(death.of_memory for death in deaths),
            stage_timeout_s=self.orders.limits.stage_timeout_s,
        )
        key = f"{record.key}-{len(deaths)}-{self.topic}"
        future = cluster.client.submit(carry_study, task, key=key, pure=False)
        self.in_flight[future] = record
        return future

    def _settle(self, future: Future, record: StudyRecord) -> Outcome | None:
        """What became of a study; None: its process died and it gets another chance."""
        try:
            result = future.result()
        except KilledWorker:
            stage = running_stage(self.orders.out, record.key)
            result = Death(record.key, stage, "its Dask worker died, and nobody knows of what")
        except CancelledError:
            raise StageFailed(
                "expected the Dask scheduler to stay, got no connection: "
                "give the same command again to go on"
            ) from None
        except Exception as error:  # noqa: BLE001  # a study's failure never stops others
            result = Outcome(record.key, "failed", reason=reason_of(error))
        if isinstance(result, Death):
            return self._after_death(record, result)
        assert isinstance(result, Outcome)
        if result.status == "failed" and is_disk_trouble(result.reason):
            raise _disk_trouble(self.orders.out, result.reason)
        return result if result.study else replace(result, study=record.key)

    def _after_death(self, record: StudyRecord, death: Death) -> Outcome | None:
        """A failed receipt for a study that took its process along again; None the first time."""
        deaths = self.deaths.setdefault(record.key, [])
        deaths.append(death)
        guilty = [known for known in deaths if known.stage]
        if len(guilty) < _ATTEMPTS and len(deaths) < _UNBEGUN_ATTEMPTS:
            return None
        last = guilty[-1] if guilty else death
        names = [stage.name for stage in self.orders.workflow.stages]
        stage = last.stage or names[0]
        reason = f"{last.reason}; so it went {len(guilty or deaths)} times"
        chosen = self.orders.selection.chosen
        after = {name for name in names[names.index(stage) + 1 :] if not chosen or name in chosen}
        forget_stages(self.orders.out, record.key, after)
        record_failure(self.orders.out, record.key, stage, reason)
        return Outcome(record.key, "failed", stage, reason)

    def _finish(self, outcome: Outcome) -> None:
        self.outcomes[outcome.study] = outcome
        forget_running(self.orders.out, outcome.study)
        self.tables.study_over(outcome.study)
        self.tally.over(outcome.study, outcome.status)
        self._tell("study", outcome.study, outcome=outcome)

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        """News from a worker, in another thread than the rest."""
        _, news = event
        study = news["study"]
        if study in self.outcomes:
            return  # it came late
        if "stage" in news:
            self.tally.enters(study, news["stage"])
            self._tell("stage", study, news["stage"])
        elif "device" in news:
            self.tally.computes(study, news["device"], news["places"])
        else:
            self.tally.computed(study)

    def _tell(
        self,
        event: Literal["stage", "study"],
        study: str,
        stage: str = "",
        outcome: Outcome | None = None,
    ) -> None:
        n_done, n_studies = len(self.outcomes), len(self.records)
        pace = self.tally.now()
        self.on_progress(Progress(event, n_done, n_studies, study, stage, outcome, pace))


def _disk_trouble(out: Path, reason: str) -> StageFailed:
    return StageFailed(
        f"expected to be able to write to <{out}>, got {reason}: make room, then give the same "
        "command again to go on"
    )


def _report(out: Path, workflow: Workflow) -> Path | None:
    if not any(stage.name == "report" for stage in workflow.stages):
        return None
    from radloom.pipelines.report import write_report

    return write_report(out)


def _check_folders(studies: Path, out: Path) -> None:
    if not studies.is_dir():
        raise ConfigError(f"expected a folder of studies, got <{studies}>, which is not one")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"expected a folder for results, got the file <{out}>")
    if out.resolve().is_relative_to(studies.resolve()):
        raise ConfigError(
            f"expected the results outside of the studies, got <{out}> inside <{studies}>: "
            "the next run would take results for studies; name a folder beside it"
        )


@contextlib.contextmanager
def _only_run(out: Path) -> Iterator[None]:
    """The right to write to `out`; the system takes it back from a process that dies."""
    lock = FileLock(out / ".lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"expected no other run on <{out}>, found one at work: wait for it, or name another "
            "folder"
        ) from None
    except OSError as error:
        raise ConfigError(f"expected to be able to write to <{out}>: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
