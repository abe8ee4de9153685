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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from uuid import uuid4

from distributed import CancelledError, Future, KilledWorker, as_completed
from filelock import FileLock, Timeout

from radloom.errors import ConfigError, InputError, StageFailed
from radloom.pipelines.deidentify.keys import Pseudonyms
from radloom.pipelines.engine.cluster import Cluster, choose_device, connect, plan
from radloom.pipelines.engine.pace import Pace, Tally
from radloom.pipelines.engine.worker import (
    Job,
    Outcome,
    forget_running,
    resume_study,
    run_study,
    running_stage,
)
from radloom.pipelines.export import write_tables
from radloom.pipelines.ingest import IngestStage
from radloom.pipelines.ingest.options import DEFAULT_OPTIONS, IngestOptions
from radloom.pipelines.ingest.rules import RoleRules, load_rules
from radloom.pipelines.receipts.failure import reason_of
from radloom.pipelines.receipts.files import write_file
from radloom.pipelines.receipts.records import is_deidentified
from radloom.pipelines.stage import keep_stages, record_failure, write_record
from radloom.pipelines.study import StudyRecord
from radloom.pipelines.workflow import Workflow

__all__ = ["Progress", "RunSummary", "run", "run_records"]

_ATTEMPTS = 2
"""How often a study may take its worker process along before it counts as failed."""

_BYSTANDER_ATTEMPTS = 6
"""How often a study that had not begun may lose its worker to another's crash."""

_TABLES_EVERY_S = 5.0


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
    on_progress: Listener = lambda _: None,
) -> RunSummary:
    """Every study under `studies` through `workflow`; results, tables and report in `out`.

    Args:
        studies: folder of studies.
        out: folder for results; made where absent. One run at a time.
        workflow: what to do.
        device: auto, cpu, cuda or cuda:N.
        workers: processes of the local cluster; None: by cores, GPUs and memory.
        scheduler: address of a Dask scheduler to use instead of a local cluster.
        trust: whether outside bundles and pickled checkpoints may run.
        deidentify: pseudonyms under which everything is written; None: as `discover` names it.
        index: file that remembers headers, as in `discover`.
        readers: processes that read headers, as in `discover`.
        on_progress: told what happens; stage news comes from another thread.

    Raises:
        InputError: no studies, an unusable folder, device or address, another run on `out`, or an
            `out` with studies under names of the other kind.
    """
    from radloom.pipelines.ingest import discover

    _check_folders(studies, out)
    if scheduler is None or device != "auto":
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
    on_progress: Listener = lambda _: None,
) -> RunSummary:
    """As `run`, for studies that are known already; the caller holds `out`."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "workflow.yaml", workflow.resolved().encode())
    for record in records:
        write_record(out, record)
    tally = Tally(len(records))
    state = _Run(workflow, out, device, trust, on_progress, tuple(records), tally)
    on_progress(Progress("found", 0, len(records), pace=tally.now()))
    try:
        state.carry_through(workers=workers, scheduler=scheduler)
    finally:
        write_tables(out)
    outcomes = tuple(state.outcomes[record.key] for record in records)
    return RunSummary(outcomes, out, _report(out, workflow), time.monotonic() - started)


@dataclass
class _Run:
    """The state of one run in the driver: what waits, what is in flight, what is over."""

    workflow: Workflow
    out: Path
    device: str
    trust: bool
    on_progress: Listener
    records: tuple[StudyRecord, ...]
    tally: Tally
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    losses: dict[str, list[str]] = field(default_factory=dict)
    """Study -> the stage it was in each time its worker died; empty where it had not begun."""
    in_flight: dict[Future, StudyRecord] = field(default_factory=dict)
    tables_at: float = 0.0
    topic: str = field(default_factory=lambda: f"radloom-{uuid4().hex}")

    def carry_through(self, *, workers: int | None, scheduler: str | None) -> None:
        """Every study to its end: those whose receipts all match at once, the rest in workers."""
        waiting = self._left_over()
        if not waiting:
            return
        division = plan(len(waiting), workers=workers, device=self.device)
        with connect(division, scheduler=scheduler, logs=self._logs()) as cluster:
            self.tally.dashboard = cluster.dashboard
            cluster.client.subscribe_topic(self.topic, self._hear)
            try:
                self._work_off(waiting, cluster)
            finally:
                cluster.client.cancel(list(self.in_flight), force=True)
                cluster.client.unsubscribe_topic(self.topic)

    def _logs(self) -> Path:
        """Where workers log: not below OUT if that is de-identified, for logs may quote names."""
        if any(record.salt for record in self.records):
            return Path(tempfile.mkdtemp(prefix="radloom-logs-"))
        return self.out / "logs"

    def _left_over(self) -> deque[StudyRecord]:
        """The studies from the first that is not done on: workers look at the rest side by side."""
        waiting = deque(self.records)
        while waiting:
            outcome = resume_study(waiting[0], self.workflow.stages, self.out)
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
                waiting.append(record)
            else:
                self._finish(outcome)

    def _submit(self, cluster: Cluster, record: StudyRecord) -> Future:
        forget_running(self.out, record.key)
        job = Job(
            record=record,
            stages=self.workflow.stages,
            out=self.out.resolve(),
            device=self.device,
            n_threads=cluster.n_threads,
            trust=self.trust,
            topic=self.topic,
        )
        attempt = len(self.losses.get(record.key, ()))
        key = f"{record.key}-{attempt}-{self.topic}"
        future = cluster.client.submit(run_study, job, key=key, pure=False)
        self.in_flight[future] = record
        return future

    def _settle(self, future: Future, record: StudyRecord) -> Outcome | None:
        """What became of a study; None: its worker died and it gets another chance."""
        try:
            return _result(future)
        except KilledWorker:
            stage = running_stage(self.out, record.key)
            losses = self.losses.setdefault(record.key, [])
            losses.append(stage)
            guilty = [lost for lost in losses if lost]
            if len(guilty) < _ATTEMPTS and len(losses) < _BYSTANDER_ATTEMPTS:
                return None
            return self._give_up(record, guilty[-1] if guilty else "")
        except CancelledError:
            raise StageFailed(
                "expected the Dask scheduler to stay, got no connection: "
                "give the same command again to go on"
            ) from None
        except Exception as error:  # noqa: BLE001  # a study's failure never stops others
            return Outcome(record.key, "failed", reason=reason_of(error))

    def _give_up(self, record: StudyRecord, stage: str) -> Outcome:
        """A failed receipt for a study whose process died, and what to tell."""
        names = [known.name for known in self.workflow.stages]
        stage = stage or names[0]
        reason = (
            "the process died twice, of memory or in native code: give fewer workers, or look at "
            "the logs folder"
        )
        keep_stages(self.out, record.key, names[: names.index(stage) + 1])
        record_failure(self.out, record.key, stage, reason)
        return Outcome(record.key, "failed", stage, reason)

    def _finish(self, outcome: Outcome) -> None:
        self.outcomes[outcome.study] = outcome
        forget_running(self.out, outcome.study)
        if time.monotonic() - self.tables_at > _TABLES_EVERY_S:
            write_tables(self.out)
            self.tables_at = time.monotonic()
        self.tally.over(outcome.study, outcome.status)
        self._tell("study", outcome.study, outcome=outcome)

    def _hear(self, event: tuple[float, dict[str, str]]) -> None:
        _, news = event
        self.tally.enters(news["study"], news["stage"])
        self._tell("stage", news["study"], news["stage"])

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


def _result(future: Future) -> Outcome:
    result = future.result()
    assert isinstance(result, Outcome)
    return result


def _report(out: Path, workflow: Workflow) -> Path | None:
    from radloom.pipelines.report import write_report

    return write_report(out) if any(s.name == "report" for s in workflow.stages) else None


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
