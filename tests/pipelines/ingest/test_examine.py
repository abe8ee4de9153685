from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from radloom.pipelines.ingest import discover, examine
from radloom.pipelines.ingest import index as index_room
from radloom.pipelines.ingest.examine import LooksAgain
from radloom.pipelines.ingest.index import FileIndex
from radloom.pipelines.ingest.raw_file import RawFile
from radloom.pipelines.ingest.scan import Looked, list_folder


@pytest.fixture
def folder(tmp_path, series, t1_tags) -> Path:
    """Two series, a file that is no image, one that is empty; all of them an hour old."""
    root = tmp_path / "in"
    series(root / "a", series_uid="1.2.1", SeriesDescription="T1 of Doe", **t1_tags)
    series(root / "b", series_uid="1.2.2", modality="CT", SeriesNumber=2)
    (root / "notes").write_text("nothing of interest")
    (root / "empty.dcm").touch()
    settle(root)
    return root


def look(folder: Path, **options) -> list[Looked]:
    return list(examine.look_at_folder(folder, **options))


def settle(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, (time.time() - 3600, time.time() - 3600))


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the files that were opened."""
    names: list[str] = []
    by_path = Path.open

    def watched(self, *args, **kwargs):
        names.append(self.name)
        return by_path(self, *args, **kwargs)

    def watched_raw(self, path):
        names.append(Path(path).name)
        raw(self, path)

    raw = RawFile.__init__
    monkeypatch.setattr(Path, "open", watched)
    monkeypatch.setattr(RawFile, "__init__", watched_raw)
    return names


def test_a_second_look_opens_one_file_of_each_series_for_whose_it_is(tmp_path, folder, opened):
    file = tmp_path / "cache" / "index"
    first = discover(folder, index=file)
    n_files = sum(path.is_file() for path in folder.rglob("*"))
    assert len(set(opened) & {p.name for p in folder.rglob("*")}) >= n_files - 5  # equal names
    opened.clear()
    written = file.stat().st_mtime_ns
    second = discover(folder, index=file)
    assert [name for name in opened if name.endswith(".dcm")] == ["000.dcm", "000.dcm"]
    assert "notes" not in opened
    assert second == first == discover(folder)
    assert repr(second) == repr(first)
    assert file.stat().st_mtime_ns == written


def test_a_changed_and_a_new_file_are_read_and_a_lost_one_is_forgotten(
    tmp_path, folder, opened, series
):
    file = tmp_path / "index"
    discover(folder, index=file)
    changed = folder / "a" / "002.dcm"
    changed.write_bytes(changed.read_bytes()[:-10])
    (folder / "b" / "004.dcm").unlink()
    series(folder / "c", series_uid="1.2.3", SeriesNumber=3, names="new{}".format)
    opened.clear()
    records = discover(folder, index=file)
    again = sorted(name for name in opened if name.startswith(("new", "00")))
    assert again == ["000.dcm", "000.dcm", "002.dcm", *(f"new{k}" for k in range(5))]
    assert records == discover(folder)
    reasons = {s.series_uid: s.reason for study in records for s in study.series}
    assert reasons["1.2.1"] == "truncated"
    assert len(rows_of(file, "files")) == 10  # none of the fresh ones


def test_a_file_changed_a_moment_ago_is_not_trusted_to_stay(tmp_path, folder, opened):
    file = tmp_path / "index"
    os.utime(folder / "a" / "001.dcm")
    discover(folder, index=file)
    opened.clear()
    discover(folder, index=file)
    assert sorted(name for name in opened if name.endswith(".dcm")) == [
        "000.dcm",  # for whose each series is
        "000.dcm",
        "001.dcm",
    ]


def rows_of(file: Path, table: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(file)) as database:
        return list(database.execute(f"SELECT * FROM {table}"))


def changed(file: Path, *orders: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        for order in orders:
            database.execute(order)


def flipped(file: Path, word: bytes) -> None:
    """Another byte where a word is written, which SQLite cannot notice."""
    content = file.read_bytes()
    assert word in content
    file.write_bytes(content.replace(word, bytes([word[0] ^ 1]) + word[1:]))


DAMAGE = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "flipped head": lambda file: flipped(file, b"SQLite"),
    "flipped table": lambda file: flipped(file, b"CREATE TABLE files"),
    "flipped file": lambda file: flipped(file, b'"dicom"'),
    "flipped shared": lambda file: flipped(file, b'"MR"'),
    "no index": lambda file: file.write_bytes(b"[1, 2]"),
    "other version": lambda file: changed(
        file, "UPDATE about SET value = 0 WHERE name = 'version'"
    ),
    "other code": lambda file: changed(file, "UPDATE about SET value = 'x' WHERE name = 'code'"),
    "no shared": lambda file: changed(file, "DELETE FROM shared"),
    "no grids": lambda file: changed(file, "DROP TABLE grids"),
    "odd rows": lambda file: changed(file, "UPDATE files SET content = '[7]'"),
    "odd states": lambda file: changed(file, "UPDATE files SET state = NULL, sum = 'x'"),
}


def content_of(file: Path) -> dict[str, set[tuple]]:
    """What an index says, whatever its rows' numbers are."""
    tables = {name: rows_of(file, name) for name in ("files", "shared", "grids")}
    return {name: {row[1:3] for row in rows} for name, rows in tables.items()}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_made_anew(tmp_path, folder, damage):
    file = tmp_path / "index"
    first = discover(folder, index=file)
    good = content_of(file)
    DAMAGE[damage](file)
    assert discover(folder, index=file) == first
    assert content_of(file) == good
    assert discover(folder, index=file) == first


def test_the_index_is_its_owners_alone_and_names_no_path(tmp_path, folder):
    file = tmp_path / "cache" / "index"
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    Path(packed).rename(folder / "Doe.zip")
    settle(folder)
    discover(folder, index=file)
    content = file.read_bytes().decode("latin-1")
    for word in ("000.dcm", "notes", "Doe", ".dcm"):
        assert word not in content
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [p.name for p in file.parent.iterdir()] == ["index"]


def test_the_index_says_not_whose_the_images_are(tmp_path, series, t1_tags):
    root = tmp_path / "in"
    whose = {
        "SeriesDescription": "head of Somebody", "ProtocolName": "Doe again",
        "ContrastBolusAgent": "Gadovist for Jane", "StudyID": "STUDY-77",
        "OtherPatientIDs": "OTHER-88", "SeriesDate": "20240510", "AcquisitionDate": "20240511",
        "AcquisitionTime": "111500", "SeriesTime": "111400", "PatientWeight": "71.25",
    }  # fmt: skip

    def edit(dataset, k):
        dose = Dataset()
        dose.RadiopharmaceuticalStartDateTime = "20240512101500"
        dataset.RadiopharmaceuticalInformationSequence = [dose]
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0

    series(root / "a", series_uid="1.2.1", **whose, **t1_tags)
    series(root / "b", series_uid="1.2.2", modality="PT", Units="BQML", edit=edit, **whose)
    settle(root)
    records = discover(root, index=tmp_path / "index")
    content = (tmp_path / "index").read_bytes().decode("latin-1").lower()
    for word in (
        "doe", "jane", "hospital", "4711", "19700203", "acc998", "somebody", "gadovist", "study-77",
        "other-88", "71.25", "2024051", "768741300",  # seconds from 2000 to the acquisition
    ):  # fmt: skip
        assert word not in content, word
    looked = look(root)
    with FileIndex.at(tmp_path / "index", LooksAgain(root)) as again:
        assert repr(look(root, index=again)) == repr(looked)
    assert {h.patient_id for item in looked for h in item.headers} == {"HOSPITAL-4711"}
    assert {h.acquired_s for item in looked for h in item.headers} == {768741300.0}
    assert discover(root, index=tmp_path / "index") == records


def test_slices_of_two_patients_and_days_are_not_mixed_up(tmp_path, series):
    root = tmp_path / "in"
    cases = (("one", "20240101"), ("two", "20240101"), ("two", "20231231"))
    for number, (patient, day) in enumerate(cases):
        moment = {"AcquisitionDate": day, "AcquisitionTime": "235959.25", "PatientID": patient}
        series(root / str(number), series_uid="1.2.1", study_uid="1.2", seed=number, **moment)
    settle(root)
    discover(root, index=tmp_path / "index")
    looked = look(root)
    with FileIndex.at(tmp_path / "index", LooksAgain(root)) as again:
        assert look(root, index=again) == looked
    assert len({(h.patient_id, h.acquired_s) for item in looked for h in item.headers}) == 3


def test_a_header_that_cannot_be_read_again_is_not_known(tmp_path, folder):
    class Blind(LooksAgain):
        def headers(self, path):
            raise PermissionError

    discover(folder, index=tmp_path / "index")
    looked = look(folder)
    with FileIndex.at(tmp_path / "index", Blind(folder)) as again:
        assert look(folder, index=again) == looked
    assert again.n_learned == 10


def test_an_index_that_cannot_be_written_stops_nothing(tmp_path, folder):
    (tmp_path / "file").touch()
    assert discover(folder, index=tmp_path / "file" / "index") == discover(folder)


def test_processes_give_what_one_process_gives(folder, monkeypatch):
    monkeypatch.setattr(examine, "PARALLEL_FROM", 4)
    monkeypatch.setattr(examine, "FILES_A_TASK", 3)
    assert repr(discover(folder, workers=2)) == repr(discover(folder))


def test_a_pool_that_breaks_leaves_the_rest_to_this_process(folder, monkeypatch):
    def break_down(*args, **kwargs):
        raise examine.BrokenProcessPool

    monkeypatch.setattr(examine, "PARALLEL_FROM", 4)
    monkeypatch.setattr(examine, "ProcessPoolExecutor", break_down)
    assert discover(folder, workers=2) == discover(folder)


@pytest.mark.parametrize("name", ["DICOMDIR", "INDEX"])
def test_a_dicomdir_counts_for_nothing(tmp_path, series, name):
    series(tmp_path / "a")
    before = discover(tmp_path)
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.FileSetID = "DISC"
    directory.DirectoryRecordSequence = []
    pydicom.dcmwrite(tmp_path / name, directory, enforce_file_format=True)
    assert discover(tmp_path) == before


def test_pipes_are_no_files_and_linked_folders_are_not_entered(tmp_path, series):
    series(tmp_path / "a")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "a" / "pipe.dcm")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "linked.dcm").symlink_to(tmp_path / "a" / "000.dcm")
    paths = [entry.path for entry in list_folder(tmp_path)]
    assert paths == ["linked.dcm", *(f"a/{k:03d}.dcm" for k in range(5))]
    (study,) = discover(tmp_path)
    assert study.series[0].n_files == 5


@pytest.mark.real_data
@pytest.mark.slow
def test_real_headers_come_back_from_the_index_as_they_were(tmp_path, real_data):
    again = LooksAgain(real_data)
    with FileIndex.at(tmp_path / "index", again) as index:
        looked = look(real_data, index=index)
    with FileIndex.at(tmp_path / "index", again) as index:
        assert repr(look(real_data, index=index)) == repr(looked)
    assert index.n_learned == 0
    assert sum(len(item.headers) for item in looked) > 900


def test_what_is_shared_is_written_once(tmp_path, series):
    series(tmp_path / "in", n=60)
    settle(tmp_path / "in")
    discover(tmp_path / "in", index=tmp_path / "index")
    tables = [rows_of(tmp_path / "index", name) for name in ("files", "shared", "grids")]
    assert [len(rows) for rows in tables] == [60, 1, 1]
    about = dict(rows_of(tmp_path / "index", "about"))
    assert about["version"] == str(index_room.INDEX_VERSION)
