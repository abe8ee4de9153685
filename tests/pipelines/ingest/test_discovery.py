from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from radloom.errors import InputError
from radloom.pipelines.ingest import discover, inspect_rows
from radloom.pipelines.ingest.raw_file import RawFile

IDENTIFIERS = ("Doe", "Jane", "HOSPITAL-4711", "19700203", "ACC99887")


def verdicts(records) -> list[tuple[str, str]]:
    return sorted((s.status, s.reason) for study in records for s in study.series)


def only(records):
    (study,) = records
    (series,) = study.series
    return series


def test_a_good_series_is_accepted_with_its_grid_and_role(tmp_path, series, t1_tags):
    series(tmp_path / "a", **t1_tags)
    record = only(discover(tmp_path))
    assert (record.status, record.reason, record.role) == ("accepted", "", "t1")
    assert record.shape == (4, 6, 5)
    assert record.spacing == (1.1, 0.9, 2.0)
    assert record.n_files == 5
    assert record.entities == {"datatype": "anat", "suffix": "T1w"}
    assert record.headers["RepetitionTime"] == pytest.approx(2.3)
    assert record.files == tuple(f"a/{k:03d}.dcm" for k in range(5))


def test_two_series_in_one_folder_are_kept_apart(tmp_path, series):
    series(tmp_path, names="a{}".format, SeriesDescription="one", n=5)
    series(tmp_path, names="b{}".format, SeriesDescription="two", n=7, SeriesNumber=2)
    (study,) = discover(tmp_path)
    assert [(s.description, s.n_files, s.status) for s in study.series] == [
        ("one", 5, "accepted"),
        ("two", 7, "accepted"),
    ]


def test_the_same_instance_twice_counts_once_and_a_whole_copy_wins(tmp_path, series):
    series(tmp_path / "a", series_uid="1.2.9")
    series(tmp_path / "b", series_uid="1.2.9")
    cut = tmp_path / "a" / "002.dcm"
    cut.write_bytes(cut.read_bytes()[:-10])
    record = only(discover(tmp_path))
    assert (record.status, record.n_files, record.shape) == ("accepted", 5, (4, 6, 5))
    assert "b/002.dcm" in record.files


def test_two_studies_of_one_patient_share_a_subject(tmp_path, series):
    series(tmp_path / "a", study_uid="1.1")
    series(tmp_path / "b", study_uid="1.2")
    series(tmp_path / "c", study_uid="1.3", PatientID="somebody else")
    one, two, other = sorted(discover(tmp_path), key=lambda s: s.study_uid)
    assert one.subject == two.subject != other.subject
    assert len({one.session, two.session, other.session}) == 3
    assert all((s.subject + s.session).isalnum() for s in (one, two, other))


def drop(*numbers):
    def edit(dataset, k):
        if k in numbers:
            dataset.SeriesInstanceUID = "1.2.3.999"

    return edit


def set_on(number, **tags):
    def edit(dataset, k):
        if k == number:
            for keyword, value in tags.items():
                setattr(dataset, keyword, value)

    return edit


REFUSALS = {
    "too_few_slices": {"n": 2},
    "mixed_size": {"edit": set_on(2, PixelSpacing=[1.5, 1.5])},
    "duplicate_slice": {"edit": set_on(2, ImagePositionPatient=[-30, 20, 7], InstanceNumber=77)},
    "uneven_spacing": {"edit": set_on(2, ImagePositionPatient=[-30, 20, 9.7])},
    "gantry_tilt": {
        "edit": lambda d, k: setattr(d, "ImagePositionPatient", [-30, 20 + 0.7 * k, 5 + 2.0 * k])
    },
    "missing_geometry": {"edit": lambda d, k: d.__delattr__("ImagePositionPatient")},
    "mixed_orientation": {"edit": set_on(2, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])},
    "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "not_an_image": {"edit": lambda d, k: d.__delattr__("PixelData")},
    "secondary_capture": {"edit": set_on(0), "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
    "colour": {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "Rows": 2,
               "PhotometricInterpretation": "RGB"},
    "unsupported_modality": {"edit": lambda d, k: setattr(d, "Modality", "US")},
}  # fmt: skip


@pytest.mark.parametrize("code", REFUSALS)
def test_every_wrong_series_is_refused_by_its_code(tmp_path, series, code):
    series(tmp_path, **REFUSALS[code])
    record = only(discover(tmp_path))
    assert (record.status, record.reason) == ("rejected", code)
    assert len(record.detail) > 20
    assert record.role == ""


def test_a_missing_slice_is_named(tmp_path, series):
    series(tmp_path)
    (tmp_path / "002.dcm").unlink()
    record = only(discover(tmp_path))
    assert record.reason == "missing_slice"
    assert "9.00 mm" in record.detail


def test_a_three_plane_scout_is_a_localizer(tmp_path, series):
    planes = np.eye(3), np.eye(3)[[0, 2, 1]], np.eye(3)[[2, 0, 1]]
    for number, direction in enumerate(planes):
        series(
            tmp_path, series_uid="1.2.9", names=f"{number}_{{}}".format, direction=direction,
            n=3, seed=number,
        )  # fmt: skip
    assert only(discover(tmp_path)).reason == "localizer"


def test_long_stacks_of_two_directions_are_split(tmp_path, series):
    for number, direction in enumerate((np.eye(3), np.eye(3)[[1, 2, 0]])):
        series(
            tmp_path, series_uid="1.2.9", names=f"{number}_{{}}".format, direction=direction,
            n=12, seed=number,
        )  # fmt: skip
    assert verdicts(discover(tmp_path)) == [("split", "split_series")] * 2


def test_echoes_are_split_and_the_second_is_the_t2(tmp_path, series):
    for number, echo in enumerate((14, 98)):
        series(
            tmp_path, series_uid="1.2.9", names=f"{number}_{{}}".format, seed=number,
            EchoTime=echo, RepetitionTime=3000, ScanningSequence="SE",
        )  # fmt: skip
    (study,) = discover(tmp_path)
    assert [(s.status, s.role, s.entities["echo"]) for s in study.series] == [
        ("split", "pd", "1"),
        ("split", "t2", "2"),
    ]


def test_magnitude_and_phase_are_split_and_phase_has_no_role(tmp_path, series, t1_tags):
    for number, kind in enumerate("MP"):
        series(
            tmp_path, series_uid="1.2.9", names=f"{number}_{{}}".format, seed=number,
            ImageType=["ORIGINAL", "PRIMARY", kind], **t1_tags,
        )  # fmt: skip
    (study,) = discover(tmp_path)
    assert [(s.entities["part"], s.role) for s in study.series] == [("mag", "t1"), ("phase", "")]


def test_time_points_become_one_4d_series(tmp_path, series):
    for time in range(3):
        series(
            tmp_path, series_uid="1.2.9", names=f"{time}_{{}}".format, seed=time,
            TemporalPositionIdentifier=time + 1,
        )  # fmt: skip
    record = only(discover(tmp_path))
    assert (record.status, record.reason, record.role) == ("accepted", "time_series", "")
    assert (record.shape, record.n_files, record.reader) == ((4, 6, 5), 15, "highdicom")


def test_an_incomplete_time_point_is_refused(tmp_path, series):
    for time in range(3):
        series(
            tmp_path, series_uid="1.2.9", names=f"{time}_{{}}".format, seed=time,
            TemporalPositionIdentifier=time + 1, DiffusionBValue=1000.0 * time,
        )  # fmt: skip
    (tmp_path / "1_2").unlink()
    record = only(discover(tmp_path))
    assert (record.status, record.reason) == ("rejected", "missing_slice")


@pytest.mark.parametrize(
    "tags", [{"RescaleType": "US"}, {"edit": lambda d, k: d.__delattr__("RescaleSlope")}]
)
def test_ct_without_certain_units_is_refused(tmp_path, series, tags):
    series(tmp_path, modality="CT", **tags)
    assert only(discover(tmp_path)).reason == "ambiguous_units"


def test_pet_must_be_in_becquerel(tmp_path, series):
    tags = {"RescaleSlope": 2, "RescaleIntercept": 0}
    series(tmp_path / "a", modality="PT", Units="CNTS", **tags)
    series(tmp_path / "b", modality="PT", Units="BQML", **tags)
    assert verdicts(discover(tmp_path)) == [("accepted", ""), ("rejected", "ambiguous_units")]


def test_one_volume_a_role_and_the_others_say_why(tmp_path, series, t1_tags):
    for number, n in enumerate((5, 9, 5)):
        series(
            tmp_path / str(number), n=n, SeriesNumber=number, SeriesDescription=f"s{number}",
            **t1_tags,
        )  # fmt: skip
    (study,) = discover(tmp_path)
    assert [s.role for s in study.series] == ["", "t1", ""]
    assert "another is the t1: s1" in study.series[0].role_rule
    assert [s.entities.get("run") for s in study.series] == ["2", None, "3"]
    assert {s.reason for s in study.series} == {"", "not_a_head_volume"}


@pytest.fixture
def messy(tmp_path, series, t1_tags) -> Path:
    """The folder of everybody's archive."""
    root = tmp_path / "Müller & Söhne scans"
    series(root / "Doe Jane" / "t1 über", series_uid="1.2.1", SeriesDescription="T1 Doe", **t1_tags)
    series(root / "Doe Jane" / "t1 über", series_uid="1.2.2", names="b{}".format, SeriesNumber=2)
    series(root / "hole", series_uid="1.2.3", SeriesNumber=3)
    (root / "hole" / "003.dcm").unlink()
    series(root / "HOSPITAL-4711_cut", series_uid="1.2.4", SeriesNumber=4)
    cut = root / "HOSPITAL-4711_cut" / "001.dcm"
    cut.write_bytes(cut.read_bytes()[:-7])
    (root / "hole" / "empty.dcm").touch()
    (root / "hole" / "letter.dcm").write_text("Dear colleague, " * 40)
    (root / "hole" / "notes.txt").write_text("Jane Doe was here")
    (root / "hole" / "empty.txt").touch()
    (root / "hole" / "x.bval").write_text("0 1000")
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "hole" / "up").symlink_to(root / "Doe Jane", target_is_directory=True)
    (root / "locked").mkdir()
    return root


@pytest.fixture
def locked(messy, monkeypatch) -> Path:
    """`messy` with a folder and a file that nobody may open, root included."""
    scandir, opened = os.scandir, Path.open

    def no_folder(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def no_file(self, *args, **kwargs):
        if self.name == "secret.dcm":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    def no_raw_file(self, path):
        if Path(path).name == "secret.dcm":
            raise PermissionError(13, "Permission denied", path)
        raw(self, path)

    raw = RawFile.__init__
    monkeypatch.setattr(RawFile, "__init__", no_raw_file)
    (messy / "hole" / "secret.dcm").write_bytes(b"x")
    monkeypatch.setattr(os, "scandir", no_folder)
    monkeypatch.setattr(Path, "open", no_file)
    return messy


def test_the_messy_folder_gives_every_verdict_and_nothing_else(locked):
    (study,) = [s for s in discover(locked) if any(r.role for r in s.series)]
    everything = [r for s in discover(locked) for r in s.series]
    by_uid = {r.series_uid: r for r in study.series}
    assert by_uid["1.2.1"].status == by_uid["1.2.2"].status == "accepted"
    assert by_uid["1.2.3"].reason == "missing_slice"
    assert by_uid["1.2.4"].reason == "truncated"
    rest = sorted(r.reason for r in everything if not r.series_uid.startswith("1.2."))
    # The empty file, the letter, the locked file, the locked folder.
    assert rest == ["truncated", "unreadable", "unreadable", "unreadable"]
    assert len(everything) == 8


def test_no_identifier_leaves_the_messy_folder(locked):
    records = discover(locked)
    text = json.dumps(inspect_rows(records)) + "".join(
        f"{s.key} {r.detail} {r.description} {r.role_rule} {dict(r.entities)} {dict(r.headers)}"
        for s in records
        for r in s.series
    )
    assert [word for word in IDENTIFIERS if word.lower() in text.lower()] == []
    assert "<redacted>" in text


def test_an_unreadable_folder_is_a_row(tmp_path, series):
    series(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b").chmod(0)
    try:
        found = verdicts(discover(tmp_path))
    finally:
        (tmp_path / "b").chmod(0o755)
    if os.geteuid() == 0:  # root reads everything
        assert found == [("accepted", "not_a_head_volume")]
    else:
        assert ("rejected", "unreadable") in found


def test_files_without_preamble_or_extension_are_dicom_too(tmp_path, series):
    series(tmp_path, names="IM{:04d}".format)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    assert only(discover(tmp_path)).n_files == 5


def test_an_empty_folder_has_no_studies_and_no_folder_is_an_error(tmp_path):
    assert discover(tmp_path) == ()
    with pytest.raises(InputError, match="expected a folder"):
        discover(tmp_path / "nowhere")


def nifti(path: Path, shape=(5, 6, 7)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ones(shape, np.float32), np.diag([-1, -1, 2, 1.0])), path)


def test_nifti_folders_are_studies_of_their_parent(tmp_path):
    for date in ("date 1", "date-1"):
        nifti(tmp_path / "patient" / date / "brain_T2W.nii.gz")
        nifti(tmp_path / "patient" / date / "FLAIR.nii")
        nifti(tmp_path / "patient" / date / "gt.nii.gz")
    one, two = discover(tmp_path)
    assert one.subject == two.subject == "patient"
    assert one.session != two.session
    assert [(s.role, s.shape, s.spacing) for s in one.series] == [
        ("flair", (5, 6, 7), (1.0, 1.0, 2.0)),
        ("t2", (5, 6, 7), (1.0, 1.0, 2.0)),
        ("", (5, 6, 7), (1.0, 1.0, 2.0)),
    ]
    assert {s.modality for s in one.series} == {"MR"}


def test_bids_labels_and_sidecars_count(tmp_path):
    stem = tmp_path / "sub-07" / "ses-b" / "anat" / "sub-07_ses-b_acq-x"
    nifti(Path(f"{stem}.nii.gz"))
    sidecar = {"RepetitionTime": 9.0, "EchoTime": 0.12, "InversionTime": 2.5,
               "ScanningSequence": "SE\\IR", "PatientName": "Doe^Jane"}  # fmt: skip
    Path(f"{stem}.json").write_text(json.dumps(sidecar))
    (study,) = discover(tmp_path)
    assert study.key == "sub-07_ses-b"
    assert study.series[0].role == "flair"
    assert "Doe" not in str(study.series[0])


def test_other_formats_and_broken_files(tmp_path):
    image = sitk.GetImageFromArray(np.ones((7, 6, 5), np.float32))
    image.SetSpacing((1, 2, 3))
    sitk.WriteImage(image, str(tmp_path / "t1.nrrd"))
    sitk.WriteImage(image, str(tmp_path / "ct.mha"))
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (tmp_path / "not.mha").write_text("hello")
    nifti(tmp_path / "time.nii.gz", (5, 6, 7, 4))
    nifti(tmp_path / "flat.nii.gz", (5, 6, 1))
    (study,) = discover(tmp_path)
    assert {s.description: (s.status, s.reason, s.role) for s in study.series} == {
        "t1": ("accepted", "", "t1"),
        "ct": ("accepted", "", "ct"),
        "cut": ("rejected", "truncated", ""),
        "not": ("rejected", "unreadable", ""),
        "time": ("accepted", "time_series", ""),
        "flat": ("rejected", "too_few_slices", ""),
    }
    assert next(s for s in study.series if s.description == "t1").spacing == (1.0, 2.0, 3.0)


def test_inspect_rows_have_the_fields_of_the_command_line(tmp_path, series):
    series(tmp_path)
    (row,) = inspect_rows(discover(tmp_path))
    assert list(row) == [
        "study_uid", "series_uid", "modality", "description", "status", "reason", "role", "shape",
        "spacing", "n_files", "rule", "detail",
    ]  # fmt: skip
    assert json.loads(json.dumps(row)) == row
