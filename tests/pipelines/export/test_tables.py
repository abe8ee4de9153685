from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from radloom.pipelines.export import summarise, write_tables
from radloom.pipelines.export.tsv import to_tsv
from radloom.pipelines.receipts.files import write_file
from radloom.pipelines.receipts.plain import to_json
from radloom.pipelines.receipts.receipt import Check, OutputRecord, Receipt, write_receipt
from radloom.pipelines.receipts.records import write_record
from radloom.pipelines.study import SeriesRecord, StudyRecord

KEY = "sub-a_ses-1"


def put(out: Path, stage: str, status: str = "done", **fields) -> None:
    study = fields.pop("study", KEY)
    receipt = Receipt(study, stage, status, **fields)
    write_receipt(out / "stages" / study / stage / "stage.json", receipt)


def volume(path: str, series_uid: str = "", kind: str = "volume") -> OutputRecord:
    files = {path: "f" * 64, path.split(".", maxsplit=1)[0] + ".json": "e" * 64}
    return OutputRecord(kind, "t1", "ingested", series_uid=series_uid, path=path, files=files)


def record(*statuses: str, subject: str = "a") -> StudyRecord:
    series = tuple(
        SeriesRecord(f"1.{n}", "MR", "d", status, "localizer" if status == "rejected" else "")
        for n, status in enumerate(statuses)
    )
    return StudyRecord(subject, "1", "1", Path(), series)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_a_study_is_done_and_tells_its_flags(tmp_path):
    put(tmp_path, "ingest", outputs=(volume("a.nii.gz"),), seconds=1.0)
    checks = (Check("t1_noise", 9, 0, 1), Check("t1_ok", 0.5, 0, 1), Check("t2_noise", 9, 0, 1))
    put(tmp_path, "denoise", checks=checks, position=1, seconds=2.25)
    put(tmp_path, "translate", "skipped", reason="no weights", position=2)
    write_tables(tmp_path)
    assert rows(tmp_path / "studies.tsv") == [
        {
            "study": KEY,
            "status": "done",
            "stage": "",
            "reason": "translate skipped: no weights",
            "flags": "t1_noise;t2_noise",
            "seconds": "3.2",
        }
    ]


def test_a_failed_stage_fails_the_study(tmp_path):
    put(tmp_path, "ingest", outputs=(volume("a.nii.gz"),))
    put(tmp_path, "register", "failed", reason="no\tmemory", position=1)
    write_tables(tmp_path)
    (row,) = rows(tmp_path / "studies.tsv")
    assert (row["status"], row["stage"], row["reason"]) == ("failed", "register", "no memory")


def test_a_study_without_an_accepted_series_is_skipped(tmp_path):
    write_record(tmp_path, record("rejected"))
    write_record(tmp_path, record("accepted", subject="b"))
    put(tmp_path, "ingest", study="sub-b_ses-1")
    write_record(tmp_path, record("accepted", subject="c"))
    a, b, c = summarise(tmp_path)
    assert (a.status, a.stage, a.reason) == (
        "skipped",
        "ingest",
        "no series could be accepted (localizer)",
    )
    assert (b.status, b.stage) == ("skipped", "ingest")
    assert (c.status, c.reason) == ("failed", "not finished: give the same command again")


def test_the_manifest_lists_each_output_of_done_stages_by_path(tmp_path):
    put(tmp_path, "ingest", outputs=(volume("b.nii.gz"), volume("a.nii.gz")))
    put(tmp_path, "denoise", "failed", outputs=(volume("c.nii.gz"),))
    write_tables(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    assert [entry["path"] for entry in manifest] == ["a.nii.gz", "b.nii.gz"]
    assert manifest[0] == {
        "study": KEY,
        "stage": "ingest",
        "kind": "volume",
        "role": "t1",
        "path": "a.nii.gz",
        "sha256": "f" * 64,
    }


def test_ingest_rows_come_from_the_series_table_where_there_is_one(tmp_path):
    write_record(tmp_path, record("accepted", "rejected", "accepted"))
    table = tuple(
        {"series_uid": uid, "status": status, "reason": reason, "detail": "x"}
        for uid, status, reason in (
            ("1.0", "split", "split_series"),
            ("1.0", "split", "split_series"),
            ("1.1", "rejected", "localizer"),
            ("1.2", "rejected", "truncated"),
        )
    )
    write_file(tmp_path / "s.tsv", to_tsv(table))
    columns = {name: {"Format": "string"} for name in table[0]}
    write_file(tmp_path / "s.json", to_json(columns))
    series = OutputRecord("table", "", "series", path="s.tsv", files={"s.tsv": "0"})
    outputs = (volume("v1.nii.gz", "1.0"), volume("v2.nii.gz", "1.0"), series)
    put(tmp_path, "ingest", outputs=outputs)
    write_tables(tmp_path)
    found = [tuple(row.values()) for row in rows(tmp_path / "ingest.tsv")]
    assert found == [
        ("1.0", "v1.nii.gz", "split", "split_series"),
        ("1.0", "v2.nii.gz", "split", "split_series"),
        ("1.1", "", "rejected", "localizer"),
        ("1.2", "", "rejected", "truncated"),
    ]


def test_ingest_rows_come_from_the_record_where_nothing_was_read(tmp_path):
    write_record(tmp_path, record("rejected", "accepted"))
    write_tables(tmp_path)
    header = (tmp_path / "ingest.tsv").read_text().splitlines()[0]
    assert header == "series_uid\tpath\tstatus\treason"
    found = [tuple(row.values()) for row in rows(tmp_path / "ingest.tsv")]
    assert found == [("1.0", "", "rejected", "localizer"), ("1.1", "", "accepted", "")]


@pytest.mark.parametrize("name", ["studies.tsv", "manifest.json", "ingest.tsv", ".bidsignore"])
def test_an_empty_folder_has_tables_too(tmp_path, name):
    write_tables(tmp_path)
    first = (tmp_path / name).read_bytes()
    write_tables(tmp_path)
    assert (tmp_path / name).read_bytes() == first
    description = json.loads((tmp_path / "dataset_description.json").read_bytes())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "Radloom"
