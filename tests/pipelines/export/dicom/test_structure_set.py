"""Structure sets are filled to the labels again, by plastimatch and by us, in any position."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from radloom.errors import StageFailed
from radloom.geometry import affine_from_parts, flip_lps_ras, voxel_volume_ml
from radloom.pipelines.export.dicom.heading import file_bytes, read_file_bytes
from radloom.pipelines.export.dicom.segmentation import label_grid
from radloom.pipelines.export.dicom.structure_set import (
    check_structure_set,
    rasterised,
    read_structure_set,
    structure_set_dataset,
)
from radloom.pipelines.export.dicom.structures import structures_of
from radloom.shapes import make_label

POSITIONS = (
    "axial", "sagittal", "coronal", "oblique", "decubitus", "feet_first", "non_square",
    "negative_columns",
)  # fmt: skip


def written(phantom):
    return file_bytes(structure_set_dataset(phantom.grid, phantom.structures, phantom.heading))


def checked(content, phantom):
    return check_structure_set(
        [read_file_bytes(content)],
        grid=phantom.grid,
        structures=phantom.structures,
        where="CT phantom",
    )


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.skipif(shutil.which("plastimatch") is None, reason="plastimatch is absent")
@pytest.mark.parametrize("position", POSITIONS)
def test_plastimatch_fills_it_to_the_labels(label_phantom, tmp_path, position):
    phantom = label_phantom(position)
    folder = phantom.write_source(tmp_path / "ct")
    (tmp_path / "rt.dcm").write_bytes(written(phantom))
    command = [
        "plastimatch", "convert", "--input", tmp_path / "rt.dcm", "--referenced-ct", folder,
        "--output-prefix", tmp_path / "masks", "--prefix-format", "mha",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    meant = sitk.GetArrayFromImage(image)
    for item in phantom.structures:
        mask = sitk.ReadImage(str(tmp_path / "masks" / f"{item.name}.mha"))
        laid = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        assert dice(sitk.GetArrayFromImage(laid) > 0, meant == item.label) == 1.0, item.name


@pytest.mark.parametrize("position", POSITIONS)
def test_own_check_and_same_bytes(label_phantom, position):
    phantom = label_phantom(position)
    content = written(phantom)
    volumes, centres = checked(content, phantom)
    assert volumes.value < 1e-3
    assert centres.value < 0.05
    assert content == written(phantom)


@pytest.mark.parametrize("position", POSITIONS)
def test_every_point_lies_in_the_plane_of_the_image_that_its_contour_names(label_phantom, position):
    phantom = label_phantom(position)
    dataset = read_file_bytes(written(phantom))
    by_uid = {ds.SOPInstanceUID: ds for ds in phantom.datasets}
    for region in dataset.ROIContourSequence:
        for contour in region.ContourSequence:
            header = by_uid[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            row, column = np.reshape([float(v) for v in header.ImageOrientationPatient], (2, 3))
            points = np.reshape([float(v) for v in contour.ContourData], (-1, 3))
            origin = np.array([float(v) for v in header.ImagePositionPatient])
            assert np.abs((points - origin) @ np.cross(row, column)).max() < 2e-4
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            assert len(points) == contour.NumberOfContourPoints


def test_no_attribute_is_absent_or_astray(label_phantom, iod_faults):
    assert iod_faults(read_file_bytes(written(label_phantom("oblique")))) == []


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is absent")
@pytest.mark.parametrize("position", POSITIONS)
def test_dciodvfy_finds_no_error(label_phantom, tmp_path, position):
    path = tmp_path / "rt.dcm"
    path.write_bytes(written(label_phantom(position)))
    said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    lines = said.stderr.splitlines()
    assert "RTStructureSet" in lines
    assert [line for line in lines if line.startswith(("Error", "Warning"))] == []


def test_regions_carry_names_codes_and_colours(label_phantom):
    phantom = label_phantom("axial")
    dataset = read_file_bytes(written(phantom))
    assert [r.ROIName for r in dataset.StructureSetROISequence] == [
        item.name for item in phantom.structures
    ]
    seen = {o.ReferencedROINumber: o for o in dataset.RTROIObservationsSequence}
    number = 1 + [item.label for item in phantom.structures].index(17)
    code = seen[number].RTROIIdentificationCodeSequence[0]
    assert (code.CodeValue, seen[number].RTROIInterpretedType) == ("5366008", "ORGAN")
    region = dataset.StructureSetROISequence[number - 1]
    voxels = np.count_nonzero(phantom.grid.labels == 17)
    assert float(region.ROIVolume) == pytest.approx(voxels * voxel_volume_ml(phantom.grid.affine))
    assert tuple(dataset.ROIContourSequence[number - 1].ROIDisplayColor) == (
        phantom.structures[number - 1].rgb
    )


def test_a_contour_longer_than_an_explicit_length_is_kept(label_phantom):
    phantom = label_phantom("axial")
    labels = np.zeros(phantom.grid.labels.shape, np.uint8)
    labels[1:-1, 1:-1, 5] = 1
    labels[2:-2:2, 2:-2:2, 5] = 0  # a sieve: one contour of hundreds of keyholes
    grid = replace(phantom.grid, labels=labels)
    sieve = replace(phantom, grid=grid, structures=structures_of(labels, {}))
    content = written(sieve)
    longest = max(
        len(contour.get_item("ContourData").value)
        for region in read_file_bytes(content).ROIContourSequence
        for contour in region.ContourSequence
    )
    assert longest > 65534
    assert checked(content, sieve)


def test_labels_on_a_grid_of_their_own(label_phantom):
    phantom = label_phantom("oblique")
    direction = np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1.0]])
    affine = flip_lps_ras(affine_from_parts((-20, 5, 11), (1.5, 1.25, 2), direction))
    labels = np.zeros((30, 24, 9), np.uint8)
    labels[4:20, 3:9, 2:5], labels[22, 20, 7] = 3, 5
    grid = label_grid(make_label(labels, affine), phantom.grid.source)
    own = replace(phantom, grid=grid, structures=structures_of(labels, {}))
    content = written(own)
    assert checked(content, own)
    dataset = read_file_bytes(content)
    assert all(
        "ContourImageSequence" not in contour
        for region in dataset.ROIContourSequence
        for contour in region.ContourSequence
    )
    _, contours = read_structure_set(dataset)[1]
    assert np.array_equal(rasterised(contours, grid.affine, (30, 24, 9)), labels == 3)


def _points_of(dataset, change):
    for region in dataset.ROIContourSequence:
        for contour in region.ContourSequence:
            points = np.reshape([float(v) for v in contour.ContourData], (-1, 3))
            contour.ContourData = [f"{v:.4f}" for v in change(points).ravel()]


def _mirrored(dataset):
    _points_of(dataset, lambda points: points * (-1, 1, 1))


def _between(dataset):
    _points_of(dataset, lambda points: points + np.array([0, 0, 1.2]))


def _grown(dataset):
    _points_of(dataset, lambda p: p.mean(0) + (p - p.mean(0)) * (1.05, 1.05, 1))


def _lost(dataset):
    del dataset.ROIContourSequence[2].ContourSequence[1]


def _renamed(dataset):
    dataset.StructureSetROISequence[0].ROIName = "other"


def _short(dataset):
    dataset.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 3


def _elsewhere(dataset):
    dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "2.25.1"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_mirrored, "every voxel as it was"),
        (_between, "beside its slice"),
        (_grown, "every voxel as it was|volumes"),
        (_lost, "every voxel as it was"),
        (_renamed, "region 1"),
        (_short, "expected 3 points"),
        (_elsewhere, "frame of reference"),
    ],
)
def test_the_check_finds_what_is_wrong(label_phantom, spoil, message):
    phantom = label_phantom("axial")
    dataset = read_file_bytes(written(phantom))
    spoil(dataset)
    with pytest.raises(StageFailed, match=message):
        checked(file_bytes(dataset), phantom)
