"""A folder into another: nothing of the patient arrives, everything of the image does."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from radloom.errors import ConfigError
from radloom.pipelines.deidentify import (
    Options,
    Pseudonyms,
    deidentify_folder,
    deidentify_records,
    write_crosswalk,
)
from radloom.pipelines.ingest.discovery import discover
from radloom.pipelines.ingest.pixels import read_series
from radloom.shapes import affine_of, array_of


def test_no_planted_identifier_is_left(planted, tmp_path, names, find_leaks):
    summary = deidentify_folder(planted, tmp_path / "out", names)
    assert find_leaks(tmp_path / "out") == []
    assert (summary.n_written, summary.n_refused) == (12, 0)
    assert summary.sentence() == "12 of 12 images de-identified"


def test_images_come_out_as_they_went_in(planted, tmp_path, names, read_dicom):
    out = tmp_path / "out"
    deidentify_folder(planted, out, names)
    before, after = read_dicom(planted), read_dicom(out)
    assert len(after) == len(before) == 10
    by_place = {(str(d.StudyInstanceUID), float(d.ImagePositionPatient[2])): d for d in after}
    for old in before:
        new = by_place[names.uid(old.StudyInstanceUID), float(old.ImagePositionPatient[2])]
        expected = np.frombuffer(old.PixelData, "<u2") & 0x0FFF
        np.testing.assert_array_equal(np.frombuffer(new.PixelData, "<u2"), expected)
        for keyword in ("ImageOrientationPatient", "PixelSpacing", "EchoTime", "InstanceNumber",
                        "ScanningSequence", "SoftwareVersions", "Manufacturer"):  # fmt: skip
            assert new[keyword].value == old[keyword].value, keyword
    (nifti,) = out.rglob("*.nii.gz")
    (source,) = planted.rglob("*.nii.gz")
    old, new = nib.load(source), nib.load(nifti)
    np.testing.assert_array_equal(np.asarray(new.dataobj), np.asarray(old.dataobj))
    np.testing.assert_array_equal(new.affine, old.affine)
    assert new.get_data_dtype() == old.get_data_dtype()
    assert list(new.header.extensions) == []
    (volume,) = out.rglob("*.nrrd")
    assert sitk.GetArrayFromImage(sitk.ReadImage(volume)).max() == 5 * 6 * 7 - 1


def test_the_ingestion_sees_the_same_series(planted, tmp_path, names):
    def seen(folder):
        return sorted(
            (s.modality, s.status, s.role, s.shape) for r in discover(folder) for s in r.series
        )

    deidentify_folder(planted, tmp_path / "out", names)
    assert seen(tmp_path / "out") == seen(planted)
    assert [role for _, _, role, _ in seen(planted)].count("t1ce") == 2


def test_the_stamp_and_the_labels(planted, tmp_path, names, read_dicom):
    deidentify_folder(planted, tmp_path / "out", names)
    objects = read_dicom(tmp_path / "out")
    for ds in objects:
        assert ds.PatientIdentityRemoved == "YES"
        assert ds.DeidentificationMethod.startswith("Radloom ")
        assert [i.CodeValue for i in ds.DeidentificationMethodCodeSequence] == [
            "113100", "113105", "113107", "113111",
        ]  # fmt: skip
        assert {i.CodingSchemeDesignator for i in ds.DeidentificationMethodCodeSequence} == {"DCM"}
        assert ds.LongitudinalTemporalInformationModified == "MODIFIED"
        assert ds.PatientID == ds.PatientName == names.subject("MRN-8812345")
        assert ds.SeriesDescription == "t1 mprage sag"
        assert ds.ContrastBolusAgent == "Gadovist"
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.PatientBirthDate == ds.PatientSex == ds.AccessionNumber == ""
        assert not any(e.tag.is_private and e.tag.group != 0x0019 for e in ds)
    instances = {ds.SOPInstanceUID for ds in objects}
    assert len(instances) == 10
    assert {d.ReferencedImageSequence[0].ReferencedSOPInstanceUID for d in objects} == instances


def test_dates_of_a_patient_move_together_and_times_stay(planted, tmp_path, names, read_dicom):
    from datetime import date

    deidentify_folder(planted, tmp_path / "out", names)
    objects = read_dicom(tmp_path / "out")
    moved = sorted({date.fromisoformat(f"{d.StudyDate[:4]}-{d.StudyDate[4:6]}-{d.StudyDate[6:]}")
                    for d in objects})  # fmt: skip
    assert (moved[1] - moved[0]).days == 30
    assert (date(2019, 4, 22) - moved[0]).days == -names.days("MRN-8812345") > 0
    assert {d.StudyTime for d in objects} == {"101112"}
    assert {d.AcquisitionDateTime[8:] for d in objects} == {"101112.123456+0100"}
    sessions = {path.name for path in (tmp_path / "out").glob("sub-*/ses-*")}
    assert {f"ses-{day:%Y%m%d}" for day in moved} <= sessions


def test_sidecars_keep_how_and_lose_whom(planted, tmp_path, names):
    deidentify_folder(planted, tmp_path / "out", names)
    (path,) = (tmp_path / "out").rglob("*T1w*.json")
    said = json.loads(path.read_text())
    assert said.pop("AcquisitionDateTime").endswith("T10:11:12.500000")
    assert said.pop("StudyInstanceUID").startswith("2.25.")
    assert said == {
        "AcquisitionTime": "10:11:12.5",
        "SeriesDescription": "t1 mprage",
        "Manufacturer": "Siemens",
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "EchoTime": 0.0029,
        "RepetitionTime": 2.3,
        "InversionTime": 0.9,
        "SliceTiming": [0.0, 0.5],
    }
    assert path.with_suffix(".bval").read_text() == "0 1000 1000\n"


def test_twice_gives_the_same_bytes_and_another_key_other_names(planted, tmp_path, names):
    def bytes_of(folder):
        return {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*") if p.is_file()
        }  # fmt: skip

    deidentify_folder(planted, tmp_path / "a", names)
    first = bytes_of(tmp_path / "a")
    deidentify_folder(planted, tmp_path / "a", names)
    assert bytes_of(tmp_path / "a") == first
    deidentify_folder(planted, tmp_path / "b", Pseudonyms(bytes(32)))
    shared = {"deidentification.json", "deidentification.tsv"}
    assert set(bytes_of(tmp_path / "b")) & set(first) == shared


def test_what_may_show_text_is_refused_unless_stated(tmp_path, names, make_slice):
    cases = {
        "burned": {"BurnedInAnnotation": "YES"},
        "us": {"Modality": "US"},
        "capture": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        "colour": {"SamplesPerPixel": 3},
        "report": {"PixelData": None},
        "good": {},
    }
    for n, (name, tags) in enumerate(cases.items()):
        ds = make_slice(n)
        for keyword, value in tags.items():
            setattr(ds, keyword, value)
        if name == "report":
            del ds.PixelData
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        (tmp_path / "in").mkdir(exist_ok=True)
        pydicom.dcmwrite(tmp_path / "in" / f"{name}.dcm", ds, enforce_file_format=True)

    def reasons(options):
        out = tmp_path / f"out{len(options.accept)}"
        summary = deidentify_folder(tmp_path / "in", out, names, options)
        return {item.source.removesuffix(".dcm"): item.reason for item in summary.items}

    strict = {
        "burned": "burned_in_annotation", "us": "unsupported_modality",
        "capture": "secondary_capture", "colour": "colour", "report": "not_an_image", "good": "",
    }  # fmt: skip
    assert reasons(Options()) == strict
    loose = reasons(Options(accept=frozenset({"US"})))
    assert loose == {**strict, "us": ""}


def test_characteristics_stay_on_request(planted, tmp_path, names, read_dicom):
    deidentify_folder(planted, tmp_path / "out", names, Options(keep_characteristics=True))
    ds = read_dicom(tmp_path / "out")[0]
    assert (ds.PatientSex, ds.PatientWeight) == ("F", 61)
    assert "113108" in [item.CodeValue for item in ds.DeidentificationMethodCodeSequence]


@pytest.mark.parametrize(
    ("comment", "stays"),
    [
        ("b=1500(0.445,-0.000,0.895)", True),
        ("b=0", True),
        ("b=1500 of Olga", False),
        ("b=8812345(1,0,0)", False),  # a number of hers
    ],
)
def test_a_comment_stays_if_it_is_a_weighting_alone(tmp_path, names, make_slice, comment, stays):
    dataset = make_slice(0)
    dataset.ImageComments = comment
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    (tmp_path / "in").mkdir()
    pydicom.dcmwrite(tmp_path / "in" / "a.dcm", dataset, enforce_file_format=True)
    deidentify_folder(tmp_path / "in", tmp_path / "out", names)
    (path,) = (tmp_path / "out").rglob("*.dcm")
    assert pydicom.dcmread(path).get("ImageComments") == (comment if stays else None)


def test_folders_that_are_not_taken(planted, tmp_path, names):
    with pytest.raises(ConfigError, match="expected OUT outside of"):
        deidentify_folder(planted, planted / "out", names)
    with pytest.raises(ConfigError, match="expected the originals outside of OUT"):
        deidentify_folder(planted, tmp_path, names)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(ConfigError, match="holds something else"):
        deidentify_folder(planted, tmp_path / "full", names)


def test_the_crosswalk_leads_back_and_lies_elsewhere(planted, tmp_path, names):
    summary = deidentify_folder(planted, tmp_path / "out", names)
    write_crosswalk(summary, tmp_path / "crosswalk.tsv")
    text = (tmp_path / "crosswalk.tsv").read_text()
    assert "ZWETKOVA_OLGA_0.dcm\tsub-" in text
    assert (tmp_path / "crosswalk.tsv").stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="outside of"):
        write_crosswalk(summary, tmp_path / "out" / "crosswalk.tsv")


@pytest.mark.real_data
def test_real_series_of_all_vendors_are_seen_as_before(real_data, tmp_path, names):
    def seen(folder):
        return sorted(
            (s.modality, s.status, s.reason, s.role, s.shape, s.spacing)
            for r in discover(folder)
            for s in r.series
            if s.reason not in ("secondary_capture", "colour")
        )

    for name in ("dicom/vendors", "dicom/enhanced", "studies/mr_sagittal_mixed"):
        out = tmp_path / name
        deidentify_folder(real_data / name, out, names)
        assert seen(out) == seen(real_data / name)


@pytest.mark.slow
@pytest.mark.real_data
def test_real_volumes_are_the_same_to_the_last_bit(real_data, tmp_path, names):
    """Mosaics, enhanced multi-frame objects of two vendors, and classic slices."""

    def volumes(folder, name_of):
        return {
            (name_of(s.series_uid), s.entities.get("part"), s.entities.get("echo")): read_series(
                r, s
            )
            for r in discover(folder)
            for s in r.series
            if s.status != "rejected"
        }

    for name in ("dicom/enhanced", "studies/mr_sagittal_mixed"):
        deidentify_folder(real_data / name, tmp_path / name, names)
        before = volumes(real_data / name, names.uid)
        after = volumes(tmp_path / name, str)
        assert set(after) == set(before)
        for key, volume in after.items():
            np.testing.assert_array_equal(array_of(volume), array_of(before[key]))
            np.testing.assert_array_equal(affine_of(volume), affine_of(before[key]))


def test_archives_are_opened(planted, tmp_path, names, find_leaks):
    (tmp_path / "packed").mkdir()
    shutil.make_archive(str(tmp_path / "packed" / "Zwetkova"), "zip", planted)
    summary = deidentify_folder(tmp_path / "packed", tmp_path / "out", names)
    assert (summary.n_written, summary.n_refused) == (12, 0)
    assert find_leaks(tmp_path / "out") == []
    (sidecar,) = (tmp_path / "out").rglob("ses-*/*.json")
    assert json.loads(sidecar.read_text())["EchoTime"] == 0.0029
    assert len(list((tmp_path / "out").rglob("*.bval"))) == 1
    records = deidentify_records(discover(tmp_path / "packed"), names)
    by_subject = {record.subject: record for record in records}
    assert by_subject[names.subject("MRN-8812345")].series[0].role == "t1ce"
