from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from radloom.pipelines.ingest import IngestStage, discover
from radloom.pipelines.stage import Context
from radloom.pipelines.study import Study
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
    assert stage.estimate_memory(Study(record)) == (4 + 12) * 4 * 6 * 5
