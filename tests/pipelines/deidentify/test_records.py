"""A run under pseudonyms: labels, records, receipts, tables, sidecars and names tell nothing."""

from __future__ import annotations

import json
import re

import pydicom
import pytest
from typer.testing import CliRunner

from radloom.cli import app
from radloom.errors import ConfigError
from radloom.pipelines import runner
from radloom.pipelines.deidentify import Pseudonyms, deidentify_records
from radloom.pipelines.engine.worker import Job, run_study
from radloom.pipelines.export import write_tables
from radloom.pipelines.ingest.discovery import discover
from radloom.pipelines.ingest.stage import IngestStage
from radloom.pipelines.stage import write_record
from radloom.pipelines.workflow import load_workflow


def convert(records, out):
    """What a run of the ingest stage leaves in `out`, in this process."""
    outcomes = []
    for record in records:
        write_record(out, record)
        outcomes.append(run_study(Job(record, (IngestStage(),), out)))
    write_tables(out)
    return outcomes


def test_nothing_that_a_run_writes_holds_an_identifier(planted, tmp_path, names, find_leaks):
    records = deidentify_records(discover(planted), names)
    outcomes = convert(records, tmp_path / "out")
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert find_leaks(tmp_path / "out") == []
    assert list((tmp_path / "out").rglob("*_ce-gadolinium_T1w.nii.gz"))


def test_without_the_key_the_labels_are_the_unsalted_ones(planted, tmp_path, find_leaks):
    convert(discover(planted), tmp_path / "out")
    assert find_leaks(tmp_path / "out") != []


def test_labels_dates_and_uids(planted, names):
    records = deidentify_records(discover(planted), names)
    subject = names.subject("MRN-8812345")
    dicom = [record for record in records if record.subject == subject]
    expected = {names.date("MRN-8812345", day) for day in ("20190422", "20190522")}
    assert {record.session for record in dicom} == expected
    assert {record.study_uid for record in dicom} == {
        names.uid("1.2.826.0.1.3680043.9.7777.1"), names.uid("1.2.826.0.1.3680043.9.7777.2"),
    }  # fmt: skip
    assert [(s.role, s.description) for r in dicom for s in r.series] == [
        ("t1ce", "t1 mprage sag")
    ] * 2
    assert len({record.salt for record in records}) == len(records)
    (files,) = (record for record in records if record.subject != subject)
    assert re.fullmatch(r"[0-9a-f]{10}", files.subject)


def test_two_studies_of_a_day_have_two_names(tmp_path, names, make_slice):
    for study in (1, 3):
        for k in range(4):
            ds = make_slice(k, study=study)
            ds.StudyDate = "20190422"
            ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            pydicom.dcmwrite(tmp_path / f"{study}{k}.dcm", ds, enforce_file_format=True)
    records = deidentify_records(discover(tmp_path), names)
    assert len({record.key for record in records}) == 2


def test_burned_in_annotation_is_refused(tmp_path, names, make_slice):
    for k in range(4):
        ds = make_slice(k)
        ds.BurnedInAnnotation = "YES" if k == 2 else "NO"
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        pydicom.dcmwrite(tmp_path / f"{k}.dcm", ds, enforce_file_format=True)
    (before,) = discover(tmp_path)
    assert before.series[0].status == "accepted"
    (record,) = deidentify_records([before], names)
    (series,) = record.series
    assert (series.status, series.reason, series.role) == (
        "rejected", "burned_in_annotation", "",
    )  # fmt: skip


def test_refusals_on_reading_quote_no_path(planted, tmp_path, names, find_leaks):
    records = deidentify_records(discover(planted), names)
    for path in planted.rglob("*_2.dcm"):
        path.write_bytes(path.read_bytes()[:-40])
    outcomes = convert(records, tmp_path / "out")
    assert "truncated" in {outcome.reason.split(": ")[-1] for outcome in outcomes}
    assert find_leaks(tmp_path / "out") == []


def test_one_folder_holds_results_of_one_kind(planted, tmp_path, names):
    out = tmp_path / "out"
    convert(deidentify_records(discover(planted), names), out)
    study = json.loads(next(out.glob("stages/*/study.json")).read_text())
    assert study["deidentified"] is True
    assert "salt" not in study
    workflow = load_workflow("head", only=("ingest",))
    with pytest.raises(ConfigError, match="not de-identified"):
        runner.run(planted, out, workflow)
    other = tmp_path / "other"
    convert(discover(planted), other)
    with pytest.raises(ConfigError, match="name another folder"):
        runner.run(planted, other, workflow, deidentify=names)


def test_the_same_key_resumes(planted, tmp_path, names):
    out = tmp_path / "out"
    convert(deidentify_records(discover(planted), names), out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.nii.gz")}
    convert(deidentify_records(discover(planted), names), out)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.nii.gz")} == before


@pytest.mark.slow
def test_run_and_convert_with_a_key_leave_nothing(planted, tmp_path, find_leaks):
    key, out = tmp_path / "key", tmp_path / "out"
    workflow = tmp_path / "short.yaml"
    workflow.write_text("name: short\nstages: [{stage: ingest}, {stage: denoise}, {stage: report}]")
    command = ["run", str(planted), str(out), "--deidentify", str(key), "--workflow", str(workflow)]
    assert CliRunner().invoke(app, command).exit_code == 2  # no key yet
    done = CliRunner().invoke(app, [*command, "--new-key"])
    assert done.exit_code == 0, done.output
    assert find_leaks(out) == []
    assert (out / "report.html").is_file()
    assert key.read_text().strip() not in "".join(
        p.read_text(errors="replace") for p in out.rglob("*") if p.is_file()
    )
    assert CliRunner().invoke(app, command).exit_code == 0
    inside = ["run", str(planted), str(out), "--deidentify", str(out / "key"), "--new-key"]
    assert CliRunner().invoke(app, inside).exit_code == 2
    assert CliRunner().invoke(app, [*command, "--index", str(out / "index")]).exit_code == 2


def test_the_command_deidentify(planted, tmp_path, find_leaks):
    key, out = tmp_path / "key", tmp_path / "out"
    command = ["deidentify", str(planted), str(out), "--key", str(key)]
    done = CliRunner().invoke(app, [*command, "--new-key", "--crosswalk", str(tmp_path / "x.tsv")])
    assert done.exit_code == 0, done.output
    assert "12 of 12 images de-identified" in done.output
    assert find_leaks(out) == []
    assert Pseudonyms(bytes.fromhex(key.read_text())).key.hex() == key.read_text().strip()
    assert CliRunner().invoke(app, [*command, "--crosswalk", str(out / "x.tsv")]).exit_code == 2
