from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from radloom.errors import SeriesRefused
from radloom.pipelines.ingest import archives, discover, read_series
from radloom.pipelines.ingest.archives import file_that_holds, unpacked
from radloom.pipelines.ingest.stage import IngestStage
from radloom.pipelines.study import Study


def packed(folder: Path, archive: Path) -> Path:
    """The folder as a zip file, in its place."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                opened.write(file, file.relative_to(folder.parent))
    shutil.rmtree(folder)
    return archive


def only(records):
    (study,) = records
    (series,) = study.series
    return study, series


def test_a_series_in_an_archive_is_read_without_unpacking_and_converts(tmp_path, series, t1_tags):
    values = series(tmp_path / "in" / "a", **t1_tags)
    _, plain = only(discover(tmp_path / "in"))
    packed(tmp_path / "in" / "a", tmp_path / "in" / "scans.zip")
    study, record = only(discover(tmp_path / "in"))
    assert (record.status, record.role, record.shape) == ("accepted", "t1", plain.shape)
    assert record.files == tuple(f"scans.zip/a/{k:03d}.dcm" for k in range(5))
    np.testing.assert_array_equal(np.asarray(read_series(study, record)[0]), values)
    assert [p.name for p in (tmp_path / "in").rglob("*")] == ["scans.zip"]


def test_the_same_instances_in_a_folder_and_an_archive_count_once(tmp_path, series):
    series(tmp_path / "in" / "zz", series_uid="1.2.9")
    shutil.copytree(tmp_path / "in" / "zz", tmp_path / "copy")
    packed(tmp_path / "copy", tmp_path / "in" / "aa.zip")
    _, record = only(discover(tmp_path / "in"))
    assert record.status == "accepted"
    assert record.files == tuple(f"zz/{k:03d}.dcm" for k in range(5))


def test_an_archive_completes_a_series(tmp_path, series):
    values = series(tmp_path / "in" / "zz", series_uid="1.2.9")
    shutil.copytree(tmp_path / "in" / "zz", tmp_path / "copy")
    packed(tmp_path / "copy", tmp_path / "in" / "aa.zip")
    (tmp_path / "in" / "zz" / "002.dcm").unlink()
    study, record = only(discover(tmp_path / "in"))
    assert record.files[1:3] == ("zz/001.dcm", "aa.zip/copy/002.dcm")
    np.testing.assert_array_equal(np.asarray(read_series(study, record)[0]), values)


def test_what_lies_in_an_archive_changes_with_it(tmp_path, series):
    series(tmp_path / "in" / "a")
    archive = packed(tmp_path / "in" / "a", tmp_path / "in" / "scans.zip")
    study, record = only(discover(tmp_path / "in"))
    before = dict(IngestStage().input_hashes(Study(study)))
    assert file_that_holds(study.root, record.files[0]) == archive
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("note.txt", "more")
    assert dict(IngestStage().input_hashes(Study(study))) != before


def rows(folder: Path) -> list[tuple[str, str]]:
    return [(s.reason, s.detail) for study in discover(folder) for s in study.series]


NAMES = ("../out.dcm", "/etc/out.dcm", "a/../../out.dcm", "..\\out.dcm", "C:\\out.dcm")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_is_refused(tmp_path, series, name):
    series(tmp_path / "in" / "a")
    content = (tmp_path / "in" / "a" / "000.dcm").read_bytes()
    packed(tmp_path / "in" / "a", tmp_path / "in" / "scans.zip")
    with zipfile.ZipFile(tmp_path / "in" / "scans.zip", "a") as opened:
        opened.writestr(zipfile.ZipInfo(name), content)
    ((reason, detail),) = rows(tmp_path / "in")
    assert reason == "unreadable"
    assert "leads out" in detail
    assert not list(tmp_path.rglob("out.dcm"))


def test_a_bomb_is_refused_before_it_goes_off(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a.dcm", bytes(64 << 20))
    ((reason, detail),) = rows(tmp_path / "in")
    assert reason == "unreadable"
    assert "no less than 1/200" in detail
    for name, limit in (("MAX_MEMBERS", 0), ("MAX_ARCHIVE_BYTES", 1), ("MAX_MEMBER_BYTES", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(archives, name, limit)
            assert rows(tmp_path / "in")[0][0] == "unreadable"


def test_damaged_locked_and_nested_archives_say_so(tmp_path, series):
    series(tmp_path / "in" / "a")
    good = packed(tmp_path / "in" / "a", tmp_path / "in" / "scans.zip").read_bytes()
    (tmp_path / "in" / "cut.zip").write_bytes(good[: len(good) // 2])
    (tmp_path / "in" / "text.zip").write_text("not an archive")
    with zipfile.ZipFile(tmp_path / "in" / "outer.zip", "w") as opened:
        opened.writestr("inner.zip", good)
        opened.writestr("t1.nii.gz", b"\x1f\x8b")
        opened.writestr("notes.txt", "x")
    locked = bytearray(good)
    for start in (b"PK\x03\x04", b"PK\x01\x02"):
        at = -1
        while (at := locked.find(start, at + 1)) >= 0:
            locked[at + (6 if start[2] == 3 else 8)] |= 1
    (tmp_path / "in" / "locked.zip").write_bytes(locked)
    details = sorted(detail for reason, detail in rows(tmp_path / "in") if reason == "unreadable")
    assert [d.split(": ")[1].split(" (")[0].split(";")[0] for d in details] == [
        "a damaged archive",
        "an archive with a password",
        "an archive within an archive",
        "only DICOM is read from archives",
        "a damaged archive",
    ]


def test_an_archive_that_is_gone_refuses_the_series(tmp_path, series):
    series(tmp_path / "in" / "a")
    archive = packed(tmp_path / "in" / "a", tmp_path / "in" / "scans.zip")
    study, record = only(discover(tmp_path / "in"))
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("other.dcm", b"x")
    with pytest.raises(SeriesRefused, match="unpack it yourself"), unpacked(study, record):
        pass
