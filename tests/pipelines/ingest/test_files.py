"""Files without DICOM: what their headers and sidecars say, what they leave open, pairs."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from radloom.errors import SeriesRefused
from radloom.pipelines.ingest import IngestStage, discover, read_image, read_series
from radloom.pipelines.ingest.fields import WANTED
from radloom.pipelines.ingest.options import IngestOptions
from radloom.pipelines.stage import Context
from radloom.pipelines.study import Study
from radloom.shapes import affine_of, array_of

CONTEXT = Context(torch.device("cpu"), torch.Generator())
SHAPE = (5, 6, 7)
VALUES = np.arange(210, dtype=np.float32).reshape(SHAPE) - 1000
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def write(path, values=VALUES, unit="mm", time=None, **sidecar):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, AFFINE)
    image.header.set_xyzt_units(unit, time)
    nib.save(image, path)
    if sidecar:
        path.with_name(path.name.partition(".")[0] + ".json").write_text(json.dumps(sidecar))
    return path


def only(folder, **options):
    (study,) = discover(folder, options=IngestOptions(**options))
    (record,) = study.series
    return study, record


def test_a_file_without_a_sidecar_says_so(tmp_path):
    write(tmp_path / "t1.nii.gz", unit=None)
    _, record = only(tmp_path)
    assert record.status == "accepted"
    assert record.detail == "the header leaves open its spatial unit; there is no sidecar"


def test_each_field_that_a_sidecar_lacks_is_named(tmp_path):
    known = dict.fromkeys(WANTED["MR"], 1.0)
    del known["EchoTime"], known["FlipAngle"]
    write(tmp_path / "t1.nii.gz", **known)
    study, record = only(tmp_path)
    assert record.detail == "the sidecar lacks EchoTime, FlipAngle"
    (volume, _) = IngestStage().run(Study(study), CONTEXT).outputs
    assert volume.sidecar["MissingFields"] == ["EchoTime", "FlipAngle"]
    assert volume.sidecar["AffineSource"] == "sform aligned"
    assert volume.sidecar["IngestDetail"] == record.detail


def test_nothing_is_said_where_nothing_lacks(tmp_path):
    write(tmp_path / "t1.nii.gz", **dict.fromkeys(WANTED["MR"], 1.0))
    study, record = only(tmp_path)
    assert record.detail == ""
    (volume, _) = IngestStage().run(Study(study), CONTEXT).outputs
    assert "MissingFields" not in volume.sidecar


def test_dicom_sidecars_name_what_the_headers_lack(tmp_path, series):
    series(tmp_path, modality="CT", KVP=120, Manufacturer="Some maker")
    (study,) = discover(tmp_path)
    (volume, _) = IngestStage().run(Study(study), CONTEXT).outputs
    assert volume.sidecar["MissingFields"] == [
        "ManufacturersModelName",
        "ConvolutionKernel",
        "SliceThickness",
    ]


def test_a_time_series_has_its_step_from_the_header(tmp_path):
    values = np.stack([VALUES] * 4, axis=-1)
    path = write(tmp_path / "bold.nii.gz", values, time="msec")
    image = nib.load(path)
    image.header["pixdim"][4] = 2500
    nib.save(nib.Nifti1Image(values, AFFINE, image.header), path)
    _, record = only(tmp_path)
    assert record.headers["RepetitionTime"] == 2.5
    assert "SliceTiming" not in record.detail  # there is no sidecar to lack it
    write(path, values, EchoTime=0.03)
    _, record = only(tmp_path)
    assert "time unit" in record.detail
    assert "SliceTiming" in record.detail
    assert "RepetitionTime" not in record.headers


@pytest.mark.parametrize(
    ("word", "units"),
    [("Bq/mL", "Bq/mL"), ("BQML", "Bq/mL"), ("SUV", "SUV"), ("g/ml", "SUV"), ("counts", "")],
)
def test_pet_has_the_units_of_its_sidecar_or_none(tmp_path, word, units):
    write(tmp_path / "scan_pet.nii.gz", Modality="PT", Units=word)
    study, record = only(tmp_path)
    assert record.units == units
    assert read_series(study, record).meta["units"] == (units or "arbitrary")
    _, wanted = only(tmp_path, suv=True)
    assert (wanted.status, wanted.reason) == (
        ("accepted", "") if units == "SUV" else ("rejected", "suv_unknown")
    )


def test_units_of_another_modality_are_not_believed(tmp_path):
    write(tmp_path / "t1.nii.gz", Modality="MR", Units="HU")
    assert only(tmp_path)[1].units == ""


def test_a_pair_is_one_volume_and_both_files_count(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    nib.save(nib.Nifti1Pair(VALUES, AFFINE), folder / "t2.img")
    (folder / "notes.hdr").write_text("samples = 5, an ENVI header\n")
    study, record = only(folder)
    assert (record.role, record.files) == ("t2", ("t2.hdr", "t2.img"))
    np.testing.assert_array_equal(array_of(read_series(study, record))[0], VALUES)
    np.testing.assert_array_equal(affine_of(read_image(folder / "t2.hdr")), AFFINE)
    stage = IngestStage()
    before = stage.input_hashes(Study(study))
    voxels = folder / "t2.img"
    voxels.write_bytes(voxels.read_bytes() + b"\x00")
    assert stage.input_hashes(Study(study)) != before
    voxels.unlink()
    assert only(folder)[1].reason == "truncated"


def test_analyze_is_refused(tmp_path):
    nib.save(nib.AnalyzeImage(VALUES.astype(np.int16), AFFINE), tmp_path / "t1.img")
    record = only(tmp_path)[1]
    assert (record.status, record.reason) == ("rejected", "missing_geometry")


def test_a_segmentation_of_slicer_gets_no_role(tmp_path):
    image = sitk.GetImageFromArray(np.ones((7, 6, 5), np.uint8))
    image.SetMetaData("Segment0_ID", "Segment_1")
    sitk.WriteImage(image, str(tmp_path / "t1.seg.nrrd"))
    record = only(tmp_path)[1]
    assert (record.status, record.role, record.role_rule) == ("accepted", "", "labels")


def test_maps_and_open_places_are_rejected_rows(tmp_path):
    image = nib.Nifti1Image(VALUES, AFFINE)
    image.header.set_intent("z score")
    nib.save(image, tmp_path / "t1_zstat.nii.gz")
    (tmp_path / "t2.nrrd").write_bytes(
        b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 5 6 7\nencoding: raw\nspacings: 1 1 1\n\n"
        + bytes(210)
    )
    (study,) = discover(tmp_path)
    found = {s.description: (s.status, s.reason) for s in study.series}
    assert found == {
        "t1_zstat": ("rejected", "not_an_image"),
        "t2": ("rejected", "missing_geometry"),
    }
    with pytest.raises(SeriesRefused, match="patient's sides are is unknown"):
        read_image(tmp_path / "t2.nrrd")
