"""Segmentations say what was meant to readers that are not ours, in every patient position."""

from __future__ import annotations

import logging
import shutil
import subprocess
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from radloom.errors import StageFailed
from radloom.geometry import affine_from_parts, apply_affine, flip_lps_ras
from radloom.pipelines.export.dicom.heading import file_bytes, read_file_bytes
from radloom.pipelines.export.dicom.segmentation import (
    LabelGrid,
    check_segmentation,
    label_grid,
    placed,
    read_segmentation,
    segmentation_dataset,
)
from radloom.pipelines.export.dicom.structures import structures_of
from radloom.pipelines.ingest.quiet import quiet_dicom
from radloom.shapes import make_label

POSITIONS = (
    "axial", "sagittal", "coronal", "oblique", "decubitus", "feet_first", "non_square",
    "negative_columns",
)  # fmt: skip
FORMS = ("BINARY", "LABELMAP")


def written(phantom, form):
    return file_bytes(
        segmentation_dataset(phantom.grid, phantom.structures, phantom.heading, form=form)
    )


def checked(content, phantom):
    return check_segmentation(
        [read_file_bytes(content)],
        grid=phantom.grid,
        structures=phantom.structures,
        where="CT phantom",
    )


def source_image(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def on_grid_of(image, array, lps_from_slice_row_column):
    """`array` (slice, row, column) as SimpleITK lays it over `image`."""
    affine = lps_from_slice_row_column[:, [2, 1, 0, 3]]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    moving = sitk.GetImageFromArray(np.ascontiguousarray(array))
    moving.SetSpacing(spacing.tolist())
    moving.SetOrigin(affine[:3, 3].tolist())
    moving.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    resampled = sitk.Resample(moving, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(resampled)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("position", POSITIONS)
def test_highdicom_and_simpleitk_lay_it_over_the_source(label_phantom, tmp_path, position, form):
    import highdicom as hd

    phantom = label_phantom(position)
    image = source_image(phantom.write_source(tmp_path / "ct"))
    meant = sitk.GetArrayFromImage(image)
    found = hd.seg.segread(BytesIO(written(phantom, form)))
    volume = found.get_volume(combine_segments=True, relabel=False)
    back = on_grid_of(image, volume.array, volume.affine)
    for number, item in enumerate(phantom.structures, 1):
        inside = back == (item.label if form == "LABELMAP" else number)
        assert np.array_equal(inside, meant == item.label), f"Dice of {item.name} is not 1"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("position", POSITIONS)
def test_own_check_and_same_bytes(label_phantom, position, form):
    phantom = label_phantom(position)
    content = written(phantom, form)
    [check] = checked(content, phantom)
    assert check.value < 1e-3
    assert content == written(phantom, form)


@pytest.mark.parametrize("form", FORMS)
def test_no_attribute_is_absent_or_astray(label_phantom, iod_faults, form):
    phantom = label_phantom("oblique")
    assert iod_faults(read_file_bytes(written(phantom, form))) == []


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is absent")
@pytest.mark.parametrize("position", POSITIONS)
def test_dciodvfy_finds_no_error(label_phantom, tmp_path, position):
    path = tmp_path / "seg.dcm"
    path.write_bytes(written(label_phantom(position), "BINARY"))
    said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    lines = said.stderr.splitlines()
    assert "Segmentation" in lines
    assert [line for line in lines if line.startswith(("Error", "Warning"))] == []


@pytest.mark.parametrize("form", FORMS)
def test_each_frame_names_its_source_image(label_phantom, form):
    phantom = label_phantom("coronal")
    dataset = read_file_bytes(written(phantom, form))
    uid_at = {
        tuple(map(float, ds.ImagePositionPatient)): ds.SOPInstanceUID for ds in phantom.datasets
    }
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        [item] = frame.DerivationImageSequence[0].SourceImageSequence
        where = tuple(map(float, frame.PlanePositionSequence[0].ImagePositionPatient))
        assert item.ReferencedSOPInstanceUID == uid_at[where]
        assert item.SpatialLocationsPreserved == "YES"
    listed = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert [i.ReferencedSOPInstanceUID for i in listed] == list(uid_at.values())


def test_empty_frames_stay_in_label_maps_and_go_from_bit_planes(label_phantom):
    phantom = label_phantom("axial")
    label_map = read_file_bytes(written(phantom, "LABELMAP"))
    assert int(label_map.NumberOfFrames) == phantom.grid.labels.shape[2]
    planes = read_file_bytes(written(phantom, "BINARY"))
    filled = sum(
        int(np.any(phantom.grid.labels == item.label, axis=(0, 1)).sum())
        for item in phantom.structures
    )
    assert int(planes.NumberOfFrames) == filled < 6 * phantom.grid.labels.shape[2]


def test_segments_carry_names_codes_sides_and_colours(label_phantom):
    phantom = label_phantom("axial")
    dataset = read_file_bytes(written(phantom, "BINARY"))
    by_name = {item.SegmentLabel: item for item in dataset.SegmentSequence}
    hippocampus = by_name["left hippocampus"]
    kind = hippocampus.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("5366008", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert hippocampus.SegmentDescription == "label 17"
    assert len(hippocampus.RecommendedDisplayCIELabValue) == 3
    assert len({tuple(s.RecommendedDisplayCIELabValue) for s in dataset.SegmentSequence}) == 6
    assert len({s.TrackingUID for s in dataset.SegmentSequence}) == 6


def test_structures_that_are_named_and_nowhere_are_left_out():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1] = 7
    [only] = structures_of(labels, {3: "left cerebral cortex", 7: "Gehörgang\\x"})
    assert (only.label, only.name) == (7, "Geh?rgang/x")


@pytest.mark.parametrize("form", FORMS)
def test_labels_on_a_grid_of_their_own_keep_their_place(label_phantom, form):
    phantom = label_phantom("oblique")
    source = phantom.grid.source
    direction = np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1.0]])
    affine = flip_lps_ras(affine_from_parts((-20, 5, 11), (1.5, 1.25, 2), direction))
    labels = np.zeros((30, 24, 9), np.uint8)
    labels[4:20, 3:9, 2:5], labels[22, 20, 7] = 3, 5
    grid = label_grid(make_label(labels, affine), source)
    assert not grid.is_own
    own = replace(phantom, grid=grid, structures=structures_of(labels, {}))
    content = written(own, form)
    [check] = checked(content, own)
    assert check.value < 1e-3
    dataset = read_file_bytes(content)
    assert dataset.FrameOfReferenceUID == source.frame_of_reference_uid
    assert all(
        "DerivationImageSequence" not in frame for frame in dataset.PerFrameFunctionalGroupsSequence
    )
    found, back = read_segmentation(dataset)
    where = np.argwhere(found == found.max())
    assert np.allclose(apply_affine(back, where.mean(0)), apply_affine(affine, (22, 20, 7)))


def test_no_name_is_logged(label_phantom, caplog):
    phantom = label_phantom("axial")
    for header in phantom.grid.source.datasets:
        header.PatientName, header.ReferringPhysicianName = "Onepart", "Another"
    caplog.set_level(logging.DEBUG)
    dataset = read_file_bytes(written(phantom, "BINARY"))
    assert (dataset.PatientName, dataset.ReferringPhysicianName) == ("Onepart", "Another")
    assert "highdicom" in caplog.text  # UIDs it does quote, where the stage does not silence it
    assert "Onepart" not in caplog.text
    assert "Another" not in caplog.text
    caplog.clear()
    with quiet_dicom():
        written(phantom, "BINARY")
    assert "highdicom" not in caplog.text


def test_the_source_stays_as_it_was(label_phantom):
    phantom = label_phantom("axial")
    before = [header.to_json() for header in phantom.grid.source.datasets]
    for form in FORMS:
        written(phantom, form)
    assert [header.to_json() for header in phantom.grid.source.datasets] == before


def test_a_study_without_date_or_thickness(label_phantom):
    phantom = label_phantom("axial")
    for header in phantom.grid.source.datasets:
        header.StudyDate = header.StudyTime = header.SeriesDate = header.SeriesTime = ""
        header.AcquisitionDate = header.AcquisitionTime = ""
        del header.SliceThickness
    dataset = read_file_bytes(written(phantom, "BINARY"))
    assert (dataset.StudyDate, dataset.ContentDate) == ("", "19930101")


def test_a_left_handed_grid_is_turned_round(label_phantom):
    source = label_phantom("axial").grid.source
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1, 2, 0] = 4
    grid = label_grid(make_label(labels, np.diag([-1.0, -1, -2, 1])), source)
    assert np.linalg.det(grid.affine[:3, :3]) > 0
    [where] = np.argwhere(grid.labels == 4)
    assert np.allclose(apply_affine(grid.affine, where), (-1, -2, 0))


def test_frames_of_a_multi_frame_source_are_named_by_number(label_phantom):
    phantom = label_phantom("axial")
    header = Dataset()
    header.update(phantom.grid.source.first)
    header.NumberOfFrames = 20
    del header.SOPClassUID
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    order = tuple((0, frame) for frame in reversed(range(20)))
    source = replace(phantom.grid.source, datasets=(header,), slices=order)
    enhanced = replace(
        phantom,
        grid=LabelGrid(phantom.grid.labels, source.affine, source, is_own=True),
        heading=replace(phantom.heading, sources=(source,)),
    )
    content = written(enhanced, "LABELMAP")
    assert checked(content, enhanced)
    frames = read_file_bytes(content).PerFrameFunctionalGroupsSequence
    numbers = [
        f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber for f in frames
    ]
    assert numbers == list(range(20, 0, -1))


def _mirrored(dataset):
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        position = frame.PlanePositionSequence[0]
        x, y, z = position.ImagePositionPatient
        position.ImagePositionPatient = [x, y, -float(z)]


def _shifted(dataset):
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        position = frame.PlanePositionSequence[0]
        x, y, z = position.ImagePositionPatient
        position.ImagePositionPatient = [float(x) + 1.0, y, z]


def _nudged(dataset):
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        position = frame.PlanePositionSequence[0]
        x, y, z = position.ImagePositionPatient
        position.ImagePositionPatient = [float(x) + 0.3, y, z]


def _one_bit(dataset):
    pixels = bytearray(dataset.PixelData)
    pixels[40] ^= 1
    dataset.PixelData = bytes(pixels)


def _renamed(dataset):
    dataset.SegmentSequence[2].SegmentLabel = "other"


def _recoded(dataset):
    dataset.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue = "1"


def _dropped(dataset):
    del dataset.SegmentSequence[1]


def _elsewhere(dataset):
    dataset.FrameOfReferenceUID = "2.25.1"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_mirrored, "beside its slice|other|beside the grid|orientation"),
        (_shifted, "every voxel as it was|beside the grid"),
        (_one_bit, "every voxel as it was"),
        (_renamed, "segment 3"),
        (_recoded, "segment 2"),
        (_dropped, "6 segments"),
        (_elsewhere, "frame of reference"),
    ],
)
def test_the_check_finds_what_is_wrong(label_phantom, spoil, message):
    phantom = label_phantom("axial")
    dataset = read_file_bytes(written(phantom, "BINARY"))
    spoil(dataset)
    with pytest.raises(StageFailed, match=message):
        list(checked(file_bytes(dataset), phantom))


def test_the_check_tells_a_small_shift(label_phantom):
    phantom = label_phantom("axial")
    dataset = read_file_bytes(written(phantom, "BINARY"))
    _nudged(dataset)
    [check] = checked(file_bytes(dataset), phantom)
    assert check.value == pytest.approx(0.3, abs=1e-3)
    assert check.flagged


def test_another_spacing_is_no_shift_of_a_grid(label_phantom):
    grid = label_phantom("axial").grid
    with pytest.raises(StageFailed, match="another orientation or spacing"):
        placed(grid.labels, grid.affine @ np.diag([2.0, 1, 1, 1]), grid)


@pytest.mark.slow
def test_a_head_at_one_millimetre(label_phantom):
    phantom = label_phantom("axial")
    i, j, k = np.indices((256, 256, 180), dtype=np.int16)
    labels = ((i // 16 + j // 16 * 7 + k // 12 * 3) % 35 + 1).astype(np.uint8)
    labels[(i - 128) ** 2 + (j - 128) ** 2 + (k - 90) ** 2 > 80**2] = 0
    grid = label_grid(make_label(labels, np.diag([-1.0, -1, 1, 1])), phantom.grid.source)
    head = replace(phantom, grid=grid, structures=structures_of(labels, {}))
    for form in FORMS:
        [check] = checked(written(head, form), head)
        assert check.value < 1e-3
