from __future__ import annotations

import subprocess
import weakref
from dataclasses import replace

import dcm2niix
import nibabel as nib
import numpy as np
import pytest
import torch

from radloom.pipelines.ingest import IngestStage, discover
from radloom.pipelines.stage import Context, resume_stage, run_stage
from radloom.pipelines.study import Deferred, Study
from radloom.shapes import array_of, require_volume

CONTEXT = Context(torch.device("cpu"), torch.Generator())


def run(folder, stage=None):
    (record,) = discover(folder)
    study = Study(record)
    return study, (stage or IngestStage()).run(study, CONTEXT)


def test_every_accepted_series_becomes_a_volume_and_every_verdict_a_row(tmp_path, series, t1_tags):
    stored = series(tmp_path / "a", SeriesDescription="T1 of Jane", **t1_tags)
    series(tmp_path / "b", SeriesNumber=2, SeriesDescription="unknown thing")
    series(tmp_path / "c", SeriesNumber=3, n=2)
    study, result = run(tmp_path)
    assert result.status == "done"
    volumes = [o for o in result.outputs if o.kind == "volume"]
    assert [(o.role, o.name) for o in volumes] == [("t1", "ingested"), ("", "ingested")]
    np.testing.assert_array_equal(array_of(require_volume(volumes[0].volume))[0], stored)
    assert volumes[0].entities == {"datatype": "anat", "suffix": "T1w"}
    sidecar = volumes[0].sidecar
    assert sidecar["RepetitionTime"] == 2.3
    assert sidecar["InversionTime"] == 0.9
    assert sidecar["SeriesDescription"] == "T1 of <redacted>"
    assert not {"Doe", "HOSPITAL-4711", "19700203"} & set(map(str, sidecar.values()))
    (table,) = [o.table for o in result.outputs if o.kind == "table"]
    assert [(row["status"], row["reason"], row["role"]) for row in table] == [
        ("accepted", "", "t1"),
        ("accepted", "not_a_head_volume", ""),
        ("rejected", "too_few_slices", ""),
    ]
    assert not any(check.flagged for check in result.checks)
    assert study.record.series[0].role == "t1"


def test_a_series_lost_on_reading_is_a_rejected_row_and_a_flag(tmp_path, series, t1_tags):
    series(tmp_path / "Jane HOSPITAL-4711", **t1_tags)
    series(tmp_path / "b", SeriesNumber=2)
    (record,) = discover(tmp_path)
    cut = tmp_path / "Jane HOSPITAL-4711" / "001.dcm"
    cut.write_bytes(cut.read_bytes()[:-3])
    result = IngestStage().run(Study(record), CONTEXT)
    table = result.outputs[-1].table
    assert [(row["status"], row["reason"]) for row in table] == [
        ("rejected", "truncated"),
        ("accepted", "not_a_head_volume"),
    ]
    assert table[0]["detail"].startswith("<<redacted>/001.dcm>: the file ends")
    assert [o.kind for o in result.outputs] == ["volume", "table"]
    assert {c.name: c.flagged for c in result.checks} == {
        "series_read": False,
        "series_lost_on_reading": True,
    }


def test_a_study_without_a_usable_series_is_skipped_with_the_reason(tmp_path, series):
    series(tmp_path, n=2)
    _, result = run(tmp_path)
    assert result.status == "skipped"
    assert "too_few_slices" in result.reason
    assert result.outputs[-1].table[0]["reason"] == "too_few_slices"


def test_series_without_a_role_can_be_left_out(tmp_path, series):
    series(tmp_path)
    _, result = run(tmp_path, IngestStage(convert_without_role=False))
    assert [o.kind for o in result.outputs] == ["table"]


def test_inputs_hash_content_changes_and_no_path(tmp_path, series):
    series(tmp_path / "HOSPITAL-4711")
    (record,) = discover(tmp_path)
    stage, study = IngestStage(), Study(record)
    before = stage.input_hashes(study)
    assert before == stage.input_hashes(study)
    assert not any("HOSPITAL" in key for key in before)
    other_role = replace(record, series=(replace(record.series[0], role="t2"),))
    assert stage.input_hashes(Study(other_role)) != before
    path = tmp_path / "HOSPITAL-4711" / "001.dcm"
    path.write_bytes(path.read_bytes() + b"\x00\x00")
    assert stage.input_hashes(study) != before


def test_fingerprint_follows_parameters_and_memory_follows_voxels(tmp_path, series):
    series(tmp_path)
    (record,) = discover(tmp_path)
    stage = IngestStage()
    assert stage.fingerprint() == IngestStage().fingerprint()
    assert stage.fingerprint() != IngestStage(convert_without_role=False).fingerprint()
    assert stage.estimate_memory(Study(record)) == 20 * 4 * 6 * 5
    taken = replace(record, series=(replace(record.series[0], role="t1"),))
    assert stage.estimate_memory(Study(taken)) == (4 + 20) * 4 * 6 * 5


def three_t1(folder, series, tags):
    """Three T1 of which the largest is chosen; its values, in the order of choice."""
    return [
        series(
            folder / f"{number}", n=n, SeriesNumber=number, series_uid=f"1.2.{number}", seed=number,
            SeriesDescription=f"t1 {number}", **tags,
        )
        for number, n in ((3, 9), (1, 7), (2, 5))
    ]  # fmt: skip


def break_pixels(folder, monkeypatch):
    """Lets the decoder give up on the files of `folder`, whose headers stay in order."""
    from radloom.errors import ReasonCode, SeriesRefused
    from radloom.pipelines.ingest import pixels

    decode = pixels.decode

    def broken(file):
        if file.parent == folder:
            raise SeriesRefused(ReasonCode.UNREADABLE, "the pixels cannot be decoded (test)")
        return decode(file)

    monkeypatch.setattr(pixels, "decode", broken)


@pytest.mark.parametrize("convert_without_role", [True, False])
def test_the_next_volume_takes_the_role_of_one_that_cannot_be_read(
    tmp_path, series, t1_tags, monkeypatch, convert_without_role
):
    stored = three_t1(tmp_path, series, t1_tags)
    (record,) = discover(tmp_path)
    assert [s.role for s in record.series] == ["", "", "t1"]
    break_pixels(tmp_path / "3", monkeypatch)
    result = IngestStage(convert_without_role=convert_without_role).run(Study(record), CONTEXT)
    (t1,) = [o for o in result.outputs if o.role == "t1"]
    np.testing.assert_array_equal(array_of(t1.volume)[0], stored[1])
    assert t1.sidecar["Role"] == "t1"
    assert t1.sidecar["IngestReason"] == ""
    assert "took the role" in t1.sidecar["RoleRule"]
    table = result.outputs[-1].table
    assert [(row["status"], row["reason"], row["role"]) for row in table] == [
        ("accepted", "", "t1"),
        ("accepted", "not_a_head_volume", ""),
        ("rejected", "unreadable", ""),
    ]
    assert {c.name: c.flagged for c in result.checks}["series_lost_on_reading"]


def test_a_runner_up_that_cannot_be_read_either_passes_the_role_on(
    tmp_path, series, t1_tags, monkeypatch
):
    stored = three_t1(tmp_path, series, t1_tags)
    (record,) = discover(tmp_path)
    break_pixels(tmp_path / "3", monkeypatch)
    break_pixels(tmp_path / "1", monkeypatch)
    result = IngestStage(convert_without_role=False).run(Study(record), CONTEXT)
    (t1,) = [o for o in result.outputs if o.kind == "volume"]
    np.testing.assert_array_equal(array_of(t1.volume)[0], stored[2])
    assert [row["role"] for row in result.outputs[-1].table] == ["", "t1", ""]


def test_a_promoted_volume_is_the_same_after_a_resume(tmp_path, series, t1_tags, monkeypatch):
    three_t1(tmp_path / "in", series, t1_tags)
    (record,) = discover(tmp_path / "in")
    break_pixels(tmp_path / "in" / "3", monkeypatch)
    first, receipt = run_stage(IngestStage(), Study(record), tmp_path / "out", CONTEXT)
    again = resume_stage(IngestStage(), Study(record), tmp_path / "out")
    assert again is not None
    assert again[1] == receipt
    assert first.roles == again[0].roles == ("t1",)
    np.testing.assert_array_equal(
        array_of(first.latest("t1").volume), array_of(again[0].latest("t1").volume)
    )
    (path,) = [p for p in first.latest("t1").files if p.endswith(".nii.gz")]
    assert path.endswith("_run-2_T1w.nii.gz")


PHILIPS = {
    "Manufacturer": "Philips Medical Systems", "RescaleSlope": 1.5, "RescaleIntercept": -10,
}  # fmt: skip


def with_scale_slope(dataset, k):
    block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    block.add_new(0x0E, "FL", 0.002)


def test_philips_values_are_displayed_ones_or_floating_point_as_asked(tmp_path, series):
    stored = series(tmp_path, edit=with_scale_slope, **PHILIPS).astype(float)
    scale = float(np.float32(0.002))
    expected = {
        "display": stored * 1.5 - 10,
        "floating_point": (stored * 1.5 - 10) / (1.5 * scale),
    }
    for number, (scaling, values) in enumerate(expected.items()):
        stage = IngestStage(philips_scaling=scaling)
        (record,) = discover(tmp_path, options=stage.options)
        volume = stage.run(Study(record), CONTEXT).outputs[0]
        np.testing.assert_allclose(array_of(volume.volume)[0], values, rtol=1e-6)
        assert volume.sidecar["UsePhilipsFloatNotDisplayScaling"] == number
        assert volume.sidecar["PhilipsScaleSlope"] == scale
        assert volume.sidecar["PhilipsRescaleSlope"] == 1.5
        assert volume.sidecar["PhilipsRescaleIntercept"] == -10


def test_floating_point_without_its_slope_is_refused_and_other_makers_are_left_alone(
    tmp_path, series
):
    series(tmp_path / "a", **PHILIPS)
    series(tmp_path / "b", SeriesNumber=2, Manufacturer="SIEMENS")
    options = IngestStage(philips_scaling="floating_point").options
    (record,) = discover(tmp_path, options=options)
    assert [s.reason for s in record.series] == ["ambiguous_units", "not_a_head_volume"]
    assert "ScaleSlope (2005,100E)" in record.series[0].detail
    assert "UsePhilipsFloatNotDisplayScaling" not in record.series[1].headers


@pytest.mark.real_data
def test_philips_floating_point_is_that_of_dcm2niix(real_data, tmp_path):
    folder = real_data / "dicom" / "vendors" / "philips" / "anatomical" / "002"
    command = [dcm2niix.bin, "-z", "n", "-p", "y", "-f", "%s", "-o", str(tmp_path), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    theirs = [np.asarray(nib.load(p).dataobj) for p in sorted(tmp_path.glob("*.nii"))]
    stage = IngestStage(philips_scaling="floating_point")
    (record,) = discover(folder, options=stage.options)
    for output in stage.run(Study(record), CONTEXT).outputs[:-1]:
        ours = array_of(output.volume)[0]
        # dcm2niix stretches the slope of phase images by 7e-5.
        close = [np.allclose(np.flip(t, (0, 1)), ours, rtol=1e-4, atol=1e-4) for t in theirs]
        assert sum(close) == 1


def test_a_diffusion_series_has_its_gradient_table_beside_it(tmp_path, series):
    for t, b in enumerate((0.0, 1000.0)):
        series(
            tmp_path / "in", series_uid="1.2.9", names=f"{t}_{{}}".format, seed=t,
            DiffusionBValue=b, DiffusionGradientOrientation=[b / 1000, 0.0, 0.0],
            RepetitionTime=3000,
        )  # fmt: skip
    (record,) = discover(tmp_path / "in")
    study, _ = run_stage(IngestStage(), Study(record), tmp_path / "out", CONTEXT)
    (output,) = study.find(kind="volume")
    (image, *beside) = [tmp_path / "out" / path for path in output.files]
    assert [p.suffix for p in beside] == [".bval", ".bvec", ".json"]
    assert beside[0].read_text() == "0 1000\n"
    assert beside[1].read_text() == "0 -1\n0 0\n0 0\n"
    assert nib.load(image).shape == (4, 6, 5, 2)


def test_each_volume_is_kept_before_the_next_is_read(tmp_path, series):
    """Converting holds one series at a time: what was written is let go."""
    for number in range(4):
        series(tmp_path / str(number), SeriesNumber=number + 1, seed=number)
    (record,) = discover(tmp_path)
    alive: list[weakref.ref] = []

    def keep(output):
        assert sum(ref() is not None for ref in alive) == 0
        alive.append(weakref.ref(output.volume))
        return replace(output, source=Deferred(tmp_path / "absent", lambda path: path))

    context = replace(CONTEXT, keep=keep)
    result = IngestStage().run(Study(record), context)
    assert len(alive) == 4
    assert all(isinstance(o.source, Deferred) for o in result.outputs if o.kind == "volume")
