"""Stages where memory is short: they step down to the same bytes, or are not begun."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import toys
from toys import Make, record_of

from radloom.errors import OutOfMemory, StageFailed
from radloom.pipelines.demo import write_demo_study
from radloom.pipelines.engine.worker import Job, run_study
from radloom.pipelines.ingest import discover
from radloom.pipelines.runner import Limits, run_records
from radloom.pipelines.stage import HOST, Context, StageResult, read_receipts, run_stage
from radloom.pipelines.study import Deferred, Output, Study
from radloom.pipelines.workflow import Workflow, load_workflow

MIB = 2**20
SHAPE = (16, 16, 32)
VOLUME = 4 * 16 * 16 * 32
TOLD: list[int | None] = []


@dataclass(frozen=True)
class Twice(Make):
    """Gives the newest volume twice over; takes ten of it at its peak, or three."""

    name: str = "denoise"
    shape: tuple[int, int, int] = SHAPE
    fails_above: int = 10**9
    """Runs out of memory where it is told of more than so many bytes."""
    always: bool = False

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        return dict(study.latest("t1").files)

    def estimate_memory(self, study: Study) -> int:
        return 10 * 4 * study.latest("t1").n_voxels

    def least_memory(self, study: Study) -> int:
        return 3 * 4 * study.latest("t1").n_voxels

    def run(self, study: Study, context: Context) -> StageResult:
        TOLD.append(context.memory)
        memory = self.estimate_memory(study) if context.memory is None else context.memory
        if self.always or memory > self.fails_above:
            context.settle(Output("volume", "t1", "unfinished", study.latest("t1").source))
            raise MemoryError
        given = super().run(study, context)
        return replace(given, outputs=tuple(map(context.settle, given.outputs)))


@dataclass(frozen=True)
class Stubborn(Twice):
    """As `Twice`, but it knows no less."""

    least_memory = None  # type: ignore[assignment]


def context_with(given: int | None) -> Context:
    """As a worker's where so many bytes are free beyond those held; None: as many as asked for."""

    @contextmanager
    def turn(memory: int, least: int) -> Iterator[int]:
        if given is not None and given < least:
            raise OutOfMemory("needs more")
        yield memory if given is None else max(least, min(memory, given))

    return Context(HOST, None, turn=turn)  # type: ignore[arg-type]


def carry(out: Path, stage: Make, given: int | None) -> Study:
    TOLD.clear()
    study, _ = run_stage(Make(shape=SHAPE), Study(record_of("a")), out, context_with(None))
    study, _ = run_stage(stage, study, out, context_with(given))
    return study


def files_of(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("sub-*/**/*") if p.is_file()}


def test_a_stage_told_of_less_gives_the_same_and_leaves_nothing_in_memory(tmp_path):
    whole = carry(tmp_path / "whole", Twice(), None)
    assert TOLD == [None]
    assert sum(output.held_bytes for output in whole.find()) == 2 * VOLUME
    tight = carry(tmp_path / "tight", Twice(), 4 * VOLUME)
    assert TOLD == [5 * VOLUME]  # what is free, and the volume that was let go
    assert sum(output.held_bytes for output in tight.find()) == 0
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "tight")
    for one, other in zip(whole.find(), tight.find(), strict=True):
        assert np.array_equal(one.volume.as_tensor(), other.volume.as_tensor())
        assert one.volume.meta["series_uid"] == other.volume.meta["series_uid"]
        assert isinstance(other.source, Deferred)
    receipts = [
        [replace(r, seconds=0, peak_memory_bytes=0, outputs=()) for r in read_receipts(out)]
        for out in (tmp_path / "whole", tmp_path / "tight")
    ]
    assert receipts[0] == receipts[1]
    assert [
        [(o.files, o.series_uid) for r in read_receipts(out) for o in r.outputs]
        for out in (tmp_path / "whole", tmp_path / "tight")
    ].count([(o.files, "1.2") for o in tight.find()]) == 2


def test_memory_that_runs_out_all_the_same_brings_it_down_to_the_least_once(tmp_path):
    carry(tmp_path / "whole", Twice(), None)
    carry(tmp_path / "out", Twice(fails_above=3 * VOLUME), None)
    assert TOLD == [None, 3 * VOLUME]
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "out")
    assert not list(tmp_path.rglob("*unfinished*"))
    with pytest.raises(OutOfMemory, match="out of memory"):
        carry(tmp_path / "never", Twice(always=True), None)
    assert TOLD == [None, 3 * VOLUME]
    assert not list(tmp_path.rglob("*unfinished*"))


def test_a_stage_that_knows_no_less_is_not_asked_again(tmp_path):
    with pytest.raises(OutOfMemory):
        carry(tmp_path, Stubborn(always=True), None)
    assert TOLD == [None]
    with pytest.raises(StageFailed, match="needs more"):
        carry(tmp_path, Stubborn(), 9 * VOLUME)
    assert TOLD == []
    carry(tmp_path, Stubborn(), 10 * VOLUME)
    assert TOLD == [None]


@pytest.mark.slow
def test_a_study_too_large_for_the_memory_is_not_begun_and_told_why(tmp_path):
    cloudpickle.register_pickle_by_value(toys)
    diary, out = tmp_path / "diary", tmp_path / "out"
    stages = (Make(diary), Make(diary, name="denoise", memory=3 * 10**9))
    summary = run_records(
        toys.records_of("a", "b"),
        out,
        Workflow("fake", stages),
        device="cpu",
        workers=2,
        limits=Limits(memory=2 * 10**9),
    )
    assert [(o.status, o.stage) for o in summary.outcomes] == [("failed", "denoise")] * 2
    reason = summary.outcomes[0].reason
    assert reason.startswith("needs at least 3.")
    assert "the run has 2.0 GB: give --memory more" in reason
    assert "denoise" not in diary.read_text()
    assert len((out / "studies.tsv").read_text().splitlines()) == 3


@dataclass(frozen=True)
class Leak(Make):
    """Leaves 700 MB in its process after study a."""

    name: str = "denoise"

    def act(self, study: Study) -> None:
        if study.record.subject == "a":
            sys.left_behind = np.ones(700 * 10**6, np.uint8)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_what_an_earlier_study_left_in_a_process_costs_no_other(tmp_path):
    for module in (toys, sys.modules[__name__]):
        cloudpickle.register_pickle_by_value(module)
    diary = tmp_path / "diary"
    stages = (Make(diary), Leak(diary, memory=10**9))
    summary = run_records(
        toys.records_of("a", "b"),
        tmp_path / "out",
        Workflow("fake", stages),
        device="cpu",
        workers=1,
        limits=Limits(memory=3 * 10**9 // 2),
    )
    assert summary.all_done, summary.outcomes
    assert diary.read_text().count("sub-b_ses-1 ingest") == 1
    assert diary.read_text().count("sub-b_ses-1 denoise") == 1


@dataclass
class Least:
    """A link to a worker that has no more memory than every stage can do with."""

    asked: dict[str, tuple[int, int]] = field(default_factory=dict)
    stage: str = ""

    def enters(self, stage: str) -> None:
        self.stage = stage

    @contextmanager
    def turn(self, memory: int, least: int, device: str) -> Iterator[int]:
        self.asked[self.stage] = memory, least
        yield least


@pytest.mark.slow
def test_the_whole_chain_gives_the_same_bytes_where_memory_is_short(tmp_path):
    write_demo_study(tmp_path / "studies", seed=0, spacing_mm=4.0)
    (record,) = discover(tmp_path / "studies")
    stages = load_workflow("head").stages
    least = Least()
    for name, link in (("whole", None), ("tight", least)):
        job = Job(record, stages, tmp_path / name)
        outcome = run_study(job) if link is None else run_study(job, link)
        assert outcome.status == "done", outcome.reason
    assert {"ingest", "denoise", "register", "report", "export"} <= set(least.asked)
    assert all(least.asked[s][1] < least.asked[s][0] for s in ("ingest", "denoise", "register"))
    whole, tight = files_of(tmp_path / "whole"), files_of(tmp_path / "tight")
    assert set(whole) == set(tight)
    assert [name for name in whole if whole[name] != tight[name]] == []
