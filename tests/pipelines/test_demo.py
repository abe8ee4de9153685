from __future__ import annotations

import hashlib

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from radloom.geometry import corners, flip_lps_ras, same_grid
from radloom.pipelines.demo import write_demo_study
from radloom.shapes import affine_of, array_of, require_volume, spatial_shape

ROLES = ("t1", "t2", "flair", "ct")


@pytest.fixture(scope="module")
def headers(demo_folder):
    files = [f for f in demo_folder.rglob("*") if f.is_file() and f.suffix != ".TXT"]
    return {f: pydicom.dcmread(f) for f in files}


DEMANDED = """
    SOPClassUID SOPInstanceUID PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime
    AccessionNumber ReferringPhysicianName StudyID StudyInstanceUID SeriesInstanceUID SeriesNumber
    FrameOfReferenceUID PositionReferenceIndicator Manufacturer InstanceNumber ImageType
    PatientPosition Modality Rows Columns PixelSpacing SliceThickness BitsAllocated BitsStored
    HighBit PixelRepresentation
"""
DEMANDED_OF_MR = """
    ScanningSequence SequenceVariant ScanOptions MRAcquisitionType RepetitionTime EchoTime
    EchoTrainLength
"""
DEMANDED_OF_CT = "RescaleIntercept RescaleSlope KVP AcquisitionNumber"


def of_series(headers, uid):
    return {f: ds for f, ds in headers.items() if ds.SeriesInstanceUID == uid}


def test_the_study_holds_five_series_and_a_stray_file(demo_folder, demo_truth, headers):
    assert {ds.SeriesInstanceUID for ds in headers.values()} == set(demo_truth.series_uids.values())
    assert set(demo_truth.series_uids) == {*ROLES, "localizer"}
    assert len({ds.StudyInstanceUID for ds in headers.values()}) == 1
    assert len({ds.SOPInstanceUID for ds in headers.values()}) == len(headers)
    assert (demo_folder / "README.TXT").is_file()
    assert all(len(ds.SOPInstanceUID) <= 64 for ds in headers.values())
    assert all(ds.SOPInstanceUID.startswith("2.25.") for ds in headers.values())


def test_file_names_say_nothing_of_the_order(demo_truth, headers):
    series = of_series(headers, demo_truth.series_uids["t1"])
    numbers = [int(series[f].InstanceNumber) for f in sorted(series, key=lambda f: f.name)]
    assert numbers != sorted(numbers)
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("role", ROLES)
def test_simpleitk_reads_the_voxels_where_the_truth_has_them(role, demo_truth, headers):
    series = of_series(headers, demo_truth.series_uids[role])
    files = sorted(series, key=lambda f: series[f].InstanceNumber)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(f) for f in files])
    image = reader.Execute()
    truth = demo_truth.volumes[role]
    require_volume(truth)
    read = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    np.testing.assert_array_equal(read, array_of(truth)[0])
    size = spatial_shape(truth)
    assert image.GetSize() == size
    lps = corners(flip_lps_ras(affine_of(truth)), size)
    index = np.stack(np.meshgrid(*[(0, n - 1) for n in size], indexing="ij"), -1).reshape(-1, 3)
    for voxel, expected in zip(index.tolist(), lps, strict=True):
        point = image.TransformIndexToPhysicalPoint(voxel)
        np.testing.assert_allclose(point, expected, atol=2e-4)


def test_headers_place_every_slice(demo_truth, headers):
    for role in ROLES:
        affine = flip_lps_ras(affine_of(demo_truth.volumes[role]))
        for ds in of_series(headers, demo_truth.series_uids[role]).values():
            k = int(ds.InstanceNumber) - 1
            row, column = np.array(ds.ImageOrientationPatient, dtype=float).reshape(2, 3)
            expected = affine[:3, 3] + k * affine[:3, 2]
            np.testing.assert_allclose(ds.ImagePositionPatient, expected, atol=1e-4)
            np.testing.assert_allclose(row * ds.PixelSpacing[1], affine[:3, 0], atol=1e-6)
            np.testing.assert_allclose(column * ds.PixelSpacing[0], affine[:3, 1], atol=1e-6)
            normal = np.cross(row, column)
            assert float(ds.SliceLocation) == pytest.approx(normal @ expected, abs=1e-4)


def test_the_attributes_that_the_standard_demands_are_there(headers):
    for ds in headers.values():
        more = DEMANDED_OF_CT if ds.Modality == "CT" else DEMANDED_OF_MR
        wanted = [*DEMANDED.split(), *more.split()]
        assert [k for k in wanted if k not in ds] == []
        assert str(ds.PatientName) == "Phantom^Radloom"
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID


def test_the_frame_of_reference_changes_with_the_scanner(demo_truth, headers):
    frames = {
        role: {
            ds.FrameOfReferenceUID
            for ds in of_series(headers, demo_truth.series_uids[role]).values()
        }
        for role in ROLES
    }
    assert frames["t1"] == frames["t2"] == frames["flair"] != frames["ct"]
    compressed = of_series(headers, demo_truth.series_uids["t2"]).values()
    assert all(ds.file_meta.TransferSyntaxUID.is_compressed for ds in compressed)


def test_ct_is_in_hu_through_its_intercept(demo_truth, headers):
    series = of_series(headers, demo_truth.series_uids["ct"])
    ds = max(series.values(), key=lambda ds: int(ds.InstanceNumber))
    hu = ds.pixel_array.astype(float) * ds.RescaleSlope + ds.RescaleIntercept
    np.testing.assert_array_equal(hu.T, array_of(demo_truth.volumes["ct"])[0, :, :, -1])
    assert ds.RescaleIntercept == -1024


def test_only_t2_and_ct_moved_and_they_did(demo_truth):
    still = np.eye(4)
    moves = demo_truth.moving_from_fixed
    for role in ("t1", "flair"):
        np.testing.assert_array_equal(moves[role].matrix, still)
    for role in ("t2", "ct"):
        turn = moves[role].matrix[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.norm(moves[role].matrix[:3, 3]) > 3
    assert not same_grid(
        affine_of(demo_truth.volumes["t1"]),
        spatial_shape(demo_truth.volumes["t1"]),
        affine_of(demo_truth.volumes["t2"]),
        spatial_shape(demo_truth.volumes["t2"]),
    )


def digest(folder):
    parts = [
        (str(f.relative_to(folder)), hashlib.sha256(f.read_bytes()).hexdigest())
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def test_a_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_demo_study(tmp_path / name, seed=seed, spacing_mm=4)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


@pytest.mark.slow
def test_a_demo_study_of_real_size(tmp_path):
    truth = write_demo_study(tmp_path, seed=1)
    assert affine_of(truth.volumes["t1"])[0, 2] == pytest.approx(1)
    assert min(spatial_shape(truth.volumes["t1"])) >= 176
