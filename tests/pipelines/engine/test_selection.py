"""Which stages run, on one study in this process: `--only`, `--from`, `--redo`, `--prune`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from radloom.errors import ConfigError, StageFailed
from radloom.pipelines.engine.selection import (
    EVERYTHING,
    Selection,
    finish_redo,
    forget_for_redo,
    select,
)
from radloom.pipelines.engine.worker import Job, Outcome, resume_study, run_study
from radloom.pipelines.stage import Context, StageResult, read_receipts
from radloom.pipelines.study import Output, SeriesRecord, Study, StudyRecord
from radloom.shapes import make_volume

NAMES = ("ingest", "denoise", "register", "segment")
RECORD = StudyRecord(
    "a", "1", "1.2", Path(), (SeriesRecord("1.2.3", "MR", "T1", "accepted", role="t1"),)
)
RUNS: list[str] = []


@dataclass(frozen=True)
class Add:
    """Adds one number to the newest volume."""

    name: str
    number: float = 1.0
    fails: bool = False

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.name} {self.number}".encode()).hexdigest()

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        return dict(study.latest("t1").files) if study.outputs else {}

    def estimate_memory(self, study: Study) -> int:
        return 0

    def run(self, study: Study, context: Context) -> StageResult:
        RUNS.append(self.name)
        if self.fails:
            raise StageFailed("expected to work")
        before = study.latest("t1").volume.as_tensor()[0].numpy() if study.outputs else 0.0
        values = np.zeros((4, 5, 6), np.float32) + before + self.number
        volume = make_volume(values, np.eye(4), modality="MR", units="arbitrary")
        return StageResult((Output("volume", "t1", f"{self.name}ed", volume),))


def go(out: Path, selection: Selection = EVERYTHING, **numbers: float) -> tuple[Outcome, list[str]]:
    """What became of the study, and which stages ran, under a selection and with parameters."""
    stages = tuple(
        Add(name, abs(numbers.get(name, 1.0)), fails=numbers.get(name, 1.0) < 0) for name in NAMES
    )
    job = Job(
        RECORD,
        stages,
        out,
        chosen=selection.chosen,
        required=selection.required,
        prune=selection.prune,
    )
    forget_for_redo(out, [RECORD.key], selection.redo)
    resumed = resume_study(job)
    RUNS.clear()
    outcome = run_study(job)
    if resumed is not None:
        assert RUNS == []
        assert (resumed.status, resumed.reason) == (outcome.status, outcome.reason)
    finish_redo(out)
    return outcome, list(RUNS)


def stages_of(out: Path) -> list[str]:
    return [f"{r.stage} {r.status}" for r in read_receipts(out) if r.study == RECORD.key]


def files_of(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.glob("sub-*/**/*") if p.is_file()}


def test_a_changed_parameter_runs_the_stages_it_reaches_and_no_other(tmp_path):
    assert go(tmp_path)[1] == list(NAMES)
    assert go(tmp_path)[1] == []
    assert go(tmp_path, register=2.0)[1] == ["register", "segment"]
    assert go(tmp_path, register=1.0)[1] == ["register", "segment"]
    assert go(tmp_path, segment=2.0)[1] == ["segment"]


def test_only_runs_what_it_names_and_leaves_the_rest_as_it_is(tmp_path):
    go(tmp_path)
    before = files_of(tmp_path)
    outcome, ran = go(tmp_path, select(NAMES, only=["register"]), register=2.0, denoise=9.0)
    assert (outcome.status, ran) == ("done", ["register"])
    changed = {name for name, content in files_of(tmp_path).items() if before[name] != content}
    assert changed
    assert all("registered" in name for name in changed)
    assert stages_of(tmp_path) == [f"{name} done" for name in NAMES]
    assert go(tmp_path, register=2.0)[1] == ["segment"]  # all of it, later: what is out of date


def test_only_on_an_empty_folder_leaves_stages_out(tmp_path):
    assert go(tmp_path, select(NAMES, only=["ingest", "segment"]))[1] == ["ingest", "segment"]
    assert go(tmp_path)[1] == ["denoise", "register", "segment"]


def test_from_needs_the_results_before_it_and_takes_them_as_they_are(tmp_path):
    start = select(NAMES, start="register")
    outcome, ran = go(tmp_path, start)
    assert (outcome.status, outcome.stage, ran) == ("failed", "ingest", [])
    assert "found none" in outcome.reason
    go(tmp_path)
    assert go(tmp_path, start, denoise=5.0)[1] == []
    assert go(tmp_path, start, denoise=5.0, register=2.0)[1] == ["register", "segment"]


def test_redo_does_a_stage_anew_and_others_only_if_its_bytes_changed(tmp_path):
    go(tmp_path)
    before = files_of(tmp_path)
    assert go(tmp_path, select(NAMES, redo=["denoise"]))[1] == ["denoise"]
    assert files_of(tmp_path) == before


def test_redo_that_was_killed_goes_on_and_does_not_start_over(tmp_path):
    go(tmp_path)
    forget_for_redo(tmp_path, [RECORD.key], frozenset({"denoise"}))
    assert go(tmp_path)[1] == ["denoise"]  # the killed run came as far as this study
    (tmp_path / "redo.json").write_text('["denoise"]')
    forget_for_redo(tmp_path, [RECORD.key], frozenset({"denoise"}))
    assert "denoise done" in stages_of(tmp_path)
    forget_for_redo(tmp_path, [RECORD.key], frozenset({"segment"}))
    assert "segment done" not in stages_of(tmp_path)


def test_a_failure_takes_later_results_along_only_if_they_are_chosen(tmp_path):
    go(tmp_path)
    outcome, _ = go(tmp_path, select(NAMES, only=["denoise"]), denoise=-2.0)
    assert outcome.status == "failed"
    assert stages_of(tmp_path) == ["ingest done", "denoise failed", "register done", "segment done"]
    go(tmp_path, denoise=-2.0)
    assert stages_of(tmp_path) == ["ingest done", "denoise failed"]


def test_another_workflow_leaves_results_unless_it_prunes(tmp_path):
    go(tmp_path)
    ingest = Job(RECORD, (Add("ingest"),), tmp_path)
    assert run_study(ingest).status == "done"
    assert resume_study(ingest) is not None
    assert len(stages_of(tmp_path)) == 4
    pruning = Job(RECORD, (Add("ingest"),), tmp_path, prune=True)
    assert resume_study(pruning) is None
    assert run_study(pruning).status == "done"
    assert stages_of(tmp_path) == ["ingest done"]
    assert all("ingest" in name or "T1w" in name for name in files_of(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"only": ["denoize"]}, "did you mean 'denoise'"),
        ({"start": "nothing"}, "expected --from with a stage, got 'nothing'"),
        ({"redo": ["x"]}, "expected --redo with a stage"),
        ({"only": ["ingest"], "start": "denoise"}, "got both"),
        ({"start": "register", "redo": ["denoise"]}, "leaves out"),
    ],
)
def test_words_that_make_no_sense_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        select(NAMES, **words)
