from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from radloom.errors import SeriesRefused
from radloom.pipelines.ingest import archives, discover, read_series
from radloom.pipelines.ingest.archives import beginnings, file_that_holds, unpacked
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
        "a damaged archive",
    ]
    (cut,) = [detail for reason, detail in rows(tmp_path / "in") if reason == "truncated"]
    assert cut.startswith("<t1.nii.gz>")


def write_images(folder: Path) -> dict[str, np.ndarray]:
    """An image of each format with what belongs beside it; the voxels by stem."""
    folder.mkdir(parents=True)
    images = {}
    for number, name in enumerate(("t1.nii.gz", "t2.nii", "flair.nrrd", "pd.mha", "ct.mhd")):
        values = np.random.default_rng(number).integers(-900, 3000, (64, 48, 40)).astype(np.int16)
        images[name.partition(".")[0]] = values
        if ".nii" in name:
            nib.save(nib.Nifti1Image(values, np.diag([1.0, 2.0, 3.0, 1.0])), folder / name)
        else:
            image = sitk.GetImageFromArray(values.T)
            sitk.WriteImage(image, str(folder / name))
    pair = nib.Nifti1Pair(images["t1"], np.eye(4))
    nib.save(pair, folder / "pair_pd.hdr")
    images["pair_pd"] = images["t1"]
    (folder / "t2.json").write_text('{"EchoTime": 0.09, "RepetitionTime": 5, "FlipAngle": 90}')
    return images


def test_images_other_than_dicom_are_read_from_archives_as_from_folders(tmp_path):
    images = write_images(tmp_path / "plain" / "ms01" / "date1")
    before = discover(tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", tmp_path / "in")
    packed(tmp_path / "in" / "ms01" / "date1", tmp_path / "in" / "ms01" / "date1.zip")
    (study,) = records = discover(tmp_path / "in")
    assert [study.key for study in records] == [study.key for study in before]

    def seen(study):
        return sorted(
            (s.description, s.status, s.role, s.role_rule, s.shape, s.spacing, s.detail, s.reader)
            for s in study.series
        )

    assert seen(study) == seen(before[0])
    assert {s.description for s in study.series} == set(images)
    for series in study.series:
        volume = read_series(study, series)
        np.testing.assert_array_equal(np.asarray(volume[0]), images[series.description])
    (t2,) = [s for s in study.series if s.description == "t2"]
    assert t2.headers["EchoTime"] == 0.09
    assert t2.files == ("ms01/date1.zip/date1/t2.nii",)
    assert {p.name for p in (tmp_path / "in").rglob("*") if p.is_file()} == {"date1.zip"}


def test_only_the_beginning_of_an_image_is_unpacked_for_its_header(tmp_path, monkeypatch):
    write_images(tmp_path / "in" / "a")
    packed(tmp_path / "in" / "a", tmp_path / "in" / "a.zip")
    with beginnings(tmp_path / "in", ["a.zip/a/t2.nii", "a.zip/a/lost.nii"]) as folder:
        sizes = {p.name: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    assert sizes.keys() == {"t2.nii", "t2.json"}
    assert sizes["t2.nii"] == 352 + 2 * 64 * 48 * 40
    monkeypatch.setattr(archives, "HEADER_BYTES", 1000)
    with beginnings(tmp_path / "in", ["a.zip/a/t2.nii"]) as folder:
        assert (folder / "a.zip" / "a" / "t2.nii").stat().st_size == 1000
        assert len((folder / "a.zip" / "a" / "t2.json").read_text()) > 50
    assert not folder.exists()
    assert all(s.status == "accepted" for s in discover(tmp_path / "in")[0].series)


def test_a_damaged_image_in_an_archive_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "a.zip", "w") as opened:
        opened.writestr("t1.nii", b"x" * 4000)
        opened.writestr("t2.nrrd", b"NRRD0005\nkind: none\n\n")
    assert {reason for reason, _ in rows(tmp_path / "in")} <= {"unreadable", "missing_geometry"}
    assert len(rows(tmp_path / "in")) == 2


def test_an_archive_that_is_gone_refuses_the_series(tmp_path, series):
    series(tmp_path / "in" / "a")
    archive = packed(tmp_path / "in" / "a", tmp_path / "in" / "scans.zip")
    study, record = only(discover(tmp_path / "in"))
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("other.dcm", b"x")
    with pytest.raises(SeriesRefused, match="unpack it yourself"), unpacked(study, record):
        pass
