"""The stage that draws, on a whole study, and the page made of what it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from radloom.errors import InputError
from radloom.pipelines.report import ReportStage, write_report
from radloom.pipelines.report import stage as stage_module
from radloom.pipelines.stage import Context, StageResult, run_stage, write_record
from radloom.pipelines.study import Output, SeriesRecord, Study, StudyRecord
from radloom.shapes import Volume, like, make_label, make_volume

AFFINE = np.diag([-4.0, -4.0, 4.0, 1.0])
AFFINE[:3, 3] = 94, 94, -94


def volume(modality: str = "MR", uid: str = "1.2.3") -> Volume:
    points = np.moveaxis(np.indices((48, 48, 48)), 0, -1) - 23.5
    inside = ((points / (17, 21, 19)) ** 2).sum(axis=-1) <= 1
    air, tissue, units = (-1000, 40, "HU") if modality == "CT" else (0, 100, "arbitrary")
    array = np.where(inside, tissue + points[..., 2], air)
    return make_volume(array, AFFINE, modality=modality, units=units, series_uid=uid)


def study() -> Study:
    series = (
        SeriesRecord("1.2.3", "MR", "MPRAGE", "accepted", role="t1"),
        SeriesRecord("1.2.4", "MR", "ep2d", "accepted", reason="time_series"),
    )
    record = StudyRecord("a", "1", "1.2", Path("/nowhere"), series)
    t1, t2, ct = volume(), volume(), volume("CT")
    bold = like(t1, np.stack([np.asarray(t1[0])] * 2), series_uid="1.2.4")
    label = make_label(np.asarray(t1[0]) > 100, AFFINE)
    return Study(
        record,
        {
            "ingest": (
                Output("volume", "t1", "ingested", t1, files={"t1.nii.gz": "aa"}),
                Output("volume", "t2", "ingested", t2),
                Output("volume", "ct", "ingested", ct),
                Output("volume", "", "ingested", bold,
                       entities={"datatype": "func", "suffix": "bold", "run": "2"}),
            ),
            "denoise": (Output("volume", "t1", "denoised", t1, files={"den.nii.gz": "bb"}),),
            "register": (Output("volume", "t2", "registered", t2, space="t1"),),
            "translate": (Output("volume", "ct", "pseudo_ct", ct, space="t1"),),
            "segment": (
                Output("label", "t1", "brain", label, label_names={1: "brain"}),
                Output("label", "t1", "lesions", label, label_names={1: "lesion"}),
            ),
        },
    )  # fmt: skip


@dataclass(frozen=True)
class Giving:
    """A stage that gives what the study's own stage of that name gave."""

    name: str
    outputs: tuple[Output, ...]

    def fingerprint(self) -> str:
        return "0" * 64

    def input_hashes(self, study: Study) -> dict[str, str]:
        return {}

    def estimate_memory(self, study: Study) -> int:
        return 0

    def run(self, study: Study, context: Context) -> StageResult:
        return StageResult(self.outputs)


@pytest.fixture
def context() -> Context:
    return Context(torch.device("cpu"), torch.Generator())


def test_a_picture_for_each_thing_that_stages_gave(context):
    result = ReportStage().run(study(), context)
    drawn = [(output.name, output.role) for output in result.outputs]
    assert drawn == [
        ("ingest", "t1"), ("ingest", "t2"), ("ingest", "ct"), ("ingest", ""),
        ("denoise", "t1"), ("register", "t2"), ("translate", "t1"),
        ("segment", "t1"), ("segment-lesions", "t1"),
    ]  # fmt: skip
    assert all(output.kind == "report" for output in result.outputs)
    assert all(output.data.startswith(b"\x89PNG") for output in result.outputs)
    assert [check.flagged for check in result.checks] == [False]


def test_a_picture_that_fails_costs_only_itself(context, monkeypatch):
    def fail(*_: object) -> bytes:
        raise InputError("nothing to see")

    monkeypatch.setattr(stage_module, "draw_denoise", fail)
    result = ReportStage().run(study(), context)
    assert "denoise" not in {output.name for output in result.outputs}
    assert len(result.outputs) == 8
    (check,) = result.checks
    assert check.flagged
    assert check.value == 1
    assert "denoise t1" in check.meaning


def test_bytes_are_the_same_each_time(context):
    first, second = (ReportStage().run(study(), context) for _ in range(2))
    assert [o.data for o in first.outputs] == [o.data for o in second.outputs]


def test_depends_on_every_file_written_before(context):
    given = study()
    assert ReportStage().input_hashes(given) == {"t1.nii.gz": "aa", "den.nii.gz": "bb"}
    after = given.with_outputs("report", (Output("report", "", "x", b"", files={"x": "y"}),))
    assert ReportStage().input_hashes(after) == ReportStage().input_hashes(given)
    assert len(ReportStage().fingerprint()) == 64
    assert ReportStage().estimate_memory(given) > 0


def test_a_study_without_volumes_has_no_pictures(context):
    result = ReportStage().run(Study(study().record), context)
    assert result.outputs == ()
    assert not result.checks[0].flagged


def test_written_by_run_stage_and_shown_on_the_page(tmp_path, context):
    given = study()
    write_record(tmp_path, given.record)
    done = Study(given.record)
    for name, outputs in given.outputs.items():
        done, _ = run_stage(Giving(name, outputs), done, tmp_path, context)
    done, receipt = run_stage(ReportStage(), done, tmp_path, context)
    assert receipt.status == "done"
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == len(receipt.outputs) == 9
    assert "BOLD" not in page
    assert "<b>ep2d</b>" in page  # a series without a role goes by its description
    for output in receipt.outputs:
        assert f'href="{output.path}"' in page
    _, again = run_stage(ReportStage(), done, tmp_path, context)
    assert again == receipt
