"""Workflow files: strict, resolved, and run by MONAI's bundle runner."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from radloom.errors import ConfigError, StageFailed
from radloom.pipelines import runner
from radloom.pipelines.workflow import STAGES, HeadWorkflow, Workflow, load_workflow, make_stage


def write(folder: Path, *stages: object, **more: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "stages": list(stages), **more}))
    return path


def test_head_holds_every_stage_in_order():
    workflow = load_workflow()
    assert workflow.name == "head"
    assert [stage.name for stage in workflow.stages] == list(STAGES)


def test_the_resolved_workflow_is_read_back_as_the_same_workflow(tmp_path):
    (tmp_path / "bspline.txt").touch()
    given = write(
        tmp_path,
        {"stage": "ingest"},
        {"stage": "register", "parameters": {"parameter_files": ["bspline.txt"], "fixed": "flair"}},
    )
    workflow = load_workflow(given, fast=True)
    assert workflow.stages[1].parameter_files == (tmp_path / "bspline.txt",)
    assert workflow.stages[1].fast
    again = tmp_path / "elsewhere" / "workflow.yaml"
    again.parent.mkdir()
    again.write_text(workflow.resolved())
    assert load_workflow(again) == workflow
    assert load_workflow(again).resolved() == workflow.resolved()


def test_fast_reaches_every_stage_that_knows_it():
    fast = {stage.name: getattr(stage, "fast", None) for stage in load_workflow(fast=True).stages}
    assert fast["denoise"] is fast["register"] is fast["segment"] is True
    assert fast["ingest"] is None


def test_arguments_replace_parameters_and_choose_stages():
    workflow = load_workflow(
        "head", only=("ingest", "register"), parameters={"register": {"transform": "affine"}}
    )
    assert [stage.name for stage in workflow.stages] == ["ingest", "register"]
    assert workflow.stages[1].transform == "affine"


@pytest.mark.parametrize(
    ("stages", "more", "message"),
    [
        ([{"stage": "ingest", "parameter": {}}], {}, r"parameter'.*did you mean 'parameters'"),
        ([{"stage": "ingest"}], {"stagse": []}, "unknown key 'stagse': did you mean 'stages'"),
        ([{"stage": "ingest"}, {"stage": "regster"}], {}, "did you mean 'register'"),
        (
            [{"stage": "ingest"}, {"stage": "register", "parameters": {"fxed": "t1"}}],
            {},
            "parameter of stage register in <mine.yaml>, got 'fxed': did you mean 'fixed'",
        ),
        (
            [{"stage": "ingest"}, {"stage": "register", "parameters": {"fixed": 3}}],
            {},
            "stage register in <mine.yaml>: fixed: .*got 3",
        ),
        (
            [{"stage": "ingest"}, {"stage": "register", "parameters": {"transform": "elastic"}}],
            {},
            "rigid.*got 'elastic'",
        ),
        ([{"stage": "denoise"}], {}, "first stage to be ingest"),
        ([{"stage": "ingest"}, {"stage": "ingest"}], {}, "each stage once"),
        ([], {}, "stages"),
        ([{"stage": "ingest"}], {"name": 3}, "name: .*got 3"),
    ],
)
def test_what_a_workflow_file_cannot_say(tmp_path, stages, more, message):
    with pytest.raises(ConfigError, match=message):
        load_workflow(write(tmp_path, *stages, **more))


@pytest.mark.parametrize(
    ("text", "message"),
    [("name: [", "plain YAML"), ("just words", "mine.yaml"), ("when: 2020-01-01", "plain YAML")],
)
def test_what_is_no_workflow_file(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_workflow(path)


def test_an_unknown_workflow_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'head'"):
        load_workflow("heads")
    with pytest.raises(ConfigError, match="which is not there"):
        load_workflow(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="expected a stage of workflow head, got 'sgment'"):
        load_workflow("head", only=("sgment",))


def test_a_stage_by_itself():
    assert make_stage("register", {"transform": "deformable"}).transform == "deformable"


def test_monai_reads_and_sets_the_properties(tmp_path, monkeypatch):
    meta = tmp_path / "metadata.json"
    meta.write_text(json.dumps({"version": "7.8.9"}))
    workflow = HeadWorkflow("in", "out", device="cpu", meta_file=str(meta))
    assert workflow.version == "7.8.9"
    assert workflow.dataset_dir == "in"
    assert workflow.check_properties() == []
    workflow.dataset_dir = "elsewhere"
    with pytest.raises(AttributeError, match="evaluator"):
        _ = workflow.evaluator
    missing = HeadWorkflow("in", "out", workflow_type="infer").check_properties()
    assert "evaluator" in missing
    assert "device" not in missing

    called = {}

    def fake(studies: Path, out: Path, given: Workflow, **options: object) -> SimpleNamespace:
        called.update(options, studies=studies, out=out, stages=len(given.stages))
        return SimpleNamespace(all_done=False, sentence=lambda: "1 of 2 studies done, 1 failed")

    monkeypatch.setattr(runner, "run", fake)
    workflow.initialize()
    workflow.run()
    assert called["studies"] == Path("elsewhere")
    assert called["device"] == "cpu"
    assert called["stages"] == len(STAGES)
    with pytest.raises(StageFailed, match="1 of 2 studies done"):
        workflow.finalize()


@pytest.mark.slow
def test_monais_bundle_runner_runs_it(tmp_path, demo_folder):
    meta, mine = tmp_path / "metadata.json", write(tmp_path, {"stage": "ingest"})
    meta.write_text(json.dumps({"version": "1.0.0"}))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run_workflow"),
            *("--workflow_name", "radloom.pipelines.workflow.HeadWorkflow"),
            *("--meta_file", meta, "--workflow", mine, "--device", "cpu"),
            *("--studies_dir", demo_folder, "--output_dir", tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {entry["stage"] for entry in manifest} == {"ingest"}
    assert "mine" in (tmp_path / "out" / "workflow.yaml").read_text()
