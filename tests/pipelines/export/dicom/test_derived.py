from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from radloom.errors import GridMismatch, StageFailed
from radloom.geometry import apply_affine, flip_lps_ras
from radloom.pipelines.export.dicom.derived import derived_series, image_datasets
from radloom.pipelines.export.dicom.heading import file_bytes, read_file_bytes
from radloom.pipelines.export.dicom.result import Desk, ObjectSeries
from radloom.pipelines.export.dicom.stored import stored_form
from radloom.pipelines.study import Output, Study
from radloom.shapes import affine_of, array_of, like, make_volume, spatial_shape
from radloom.transforms.spatial import Transform, resample


@pytest.fixture
def results(study: Study) -> Study:
    """Denoised T1, T2 and CT brought to T1, a pseudo-CT and a PET on T1's grid."""
    t1 = study.latest("t1").volume
    grid = affine_of(t1), spatial_shape(t1)
    turn = np.eye(4)
    turn[:3, :3] = [[0.995, -0.0998, 0], [0.0998, 0.995, 0], [0, 0, 1]]
    turn[:3, 3] = 2, -1, 3
    moving_from_fixed = Transform(turn)
    t2 = resample(study.latest("t2").volume, moving_from_fixed, *grid)
    ct = resample(study.latest("ct").volume, None, *grid)
    pet = make_volume(array_of(t2) * 0.0137, grid[0], modality="PT", units="SUV")
    return study.with_outputs(
        "fake",
        (
            Output("volume", "t1", "denoised", like(t1, t1 * 0.987),
                   sidecar={"DenoisingMethod": "nlm"}),
            Output("transform", "t2", "moving_from_fixed", moving_from_fixed, space="t1"),
            Output("volume", "t2", "registered", t2, space="t1"),
            Output("volume", "ct", "pseudoct", ct, space="t1", sidecar={"Model": "m"}),
            Output("volume", "t2", "suv", pet, space="t1"),
            Output("volume", "t1", "normalised", like(t1, t1 / 1500)),
        ),
    )  # fmt: skip


@pytest.fixture
def made(results: Study) -> dict[str, ObjectSeries]:
    series = derived_series(results, Desk(results, "fingerprint"))
    return {one.name: replace(one, datasets=list(one.datasets)) for one in series}


def test_an_independent_reader_finds_grid_and_voxels(
    results: Study, made: dict[str, ObjectSeries], tmp_path: Path
) -> None:
    assert list(made) == ["denoised", "registered", "pseudoct", "suv", "normalised"]
    for name, series in made.items():
        (output,) = results.find(kind="volume", name=name)
        folder = tmp_path / name
        folder.mkdir()
        for index, dataset in enumerate(series.datasets):
            (folder / f"{(7 * index) % 31:02d}.dcm").write_bytes(file_bytes(dataset))
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
        image = sitk.ReadImage(files)
        array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
        meant = array_of(output.volume)[0]
        limit = 0.5 * stored_form(meant, hounsfield=name == "pseudoct").slope
        assert np.abs(array - meant).max() <= limit * 1.001 + 1e-6
        affine = affine_of(output.volume)
        for index in ((0, 0, 0), (19, 0, 6), (3, 23, 2)):
            found = image.TransformIndexToPhysicalPoint(index)
            wanted = apply_affine(flip_lps_ras(affine), index)
            np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_a_read_agrees_and_reports_its_rounding(made: dict[str, ObjectSeries]) -> None:
    for series in made.values():
        back = [read_file_bytes(file_bytes(ds)) for ds in series.datasets]
        (check,) = series.check(back)
        assert not check.flagged
        assert check.value <= check.high
        assert check.name.endswith("_rounding")
    (pseudo,) = made["pseudoct"].check(
        [read_file_bytes(file_bytes(ds)) for ds in made["pseudoct"].datasets]
    )
    assert (pseudo.unit, pseudo.high) == ("HU", pytest.approx(0.5, rel=1e-3))


def test_headers_say_what_it_is_and_from_what(
    results: Study, made: dict[str, ObjectSeries]
) -> None:
    source = Desk(results, "").source("t1")
    for name, series in made.items():
        for k, ds in enumerate(series.datasets):
            assert ds.ImageType[0] == "DERIVED"
            assert ds.FrameOfReferenceUID == "1.2.826.77.1"
            assert ds.StudyInstanceUID == "1.2.826.99"
            assert (ds.PatientName, ds.PatientID) == ("Mustermann^Maria", "SECRET4711")
            assert ds.SeriesDescription.endswith("(research)")
            assert "research" in ds.ImageComments
            assert "InstanceCreationDate" not in ds
            assert ds.ContentDate == "20200304"
            assert ds.ImagePositionPatient == source.datasets[k].ImagePositionPatient
            assert ds.Manufacturer == "Radloom"
            ours, theirs = ds.ContributingEquipmentSequence[-1], ds.ContributingEquipmentSequence[0]
            assert (ours.Manufacturer, theirs.Manufacturer) == ("Radloom", "ACME")
        first = series.datasets[0]
        assert name in first.DerivationDescription
    denoised = made["denoised"].datasets[4]
    (item,) = denoised.SourceImageSequence
    assert item.ReferencedSOPInstanceUID == source.datasets[4].SOPInstanceUID
    assert "DenoisingMethod=nlm" in denoised.DerivationDescription
    assert denoised.DerivationCodeSequence[0].CodeMeaning == "Smoothing"
    warped = made["registered"].datasets[3]
    assert warped.ReferencedImageSequence[0].ReferencedSOPInstanceUID == (
        source.datasets[3].SOPInstanceUID
    )
    named = [str(item.ReferencedSOPInstanceUID) for item in warped.SourceImageSequence]
    assert all(uid.startswith("1.2.826.99.2.") for uid in named)
    assert made["pseudoct"].datasets[0].Modality == "CT"
    assert made["suv"].datasets[0].Units == "GML"


def test_source_images_are_those_that_reach_the_slice(
    results: Study, made: dict[str, ObjectSeries]
) -> None:
    """Every T2 slice whose depth a voxel of the warped slice is interpolated from is named."""
    fixed, moving = (Desk(results, "").source(role) for role in ("t1", "t2"))
    transform = results.find(kind="transform")[0].transform
    for k, ds in enumerate(made["registered"].datasets):
        index = np.array(np.meshgrid(range(20), range(24), [k], indexing="ij")).reshape(3, -1).T
        there = transform.apply(apply_affine(fixed.affine, index))
        at = apply_affine(np.linalg.inv(moving.affine), there)
        inside = ((at >= 0) & (at <= np.array(moving.shape) - 1)).all(axis=1)
        needed = {*np.floor(at[inside, 2]).astype(int), *np.ceil(at[inside, 2]).astype(int)}
        named = {str(i.ReferencedSOPInstanceUID) for i in ds.get("SourceImageSequence") or ()}
        assert {str(moving.datasets[n].SOPInstanceUID) for n in needed} <= named


def test_the_check_finds_what_is_wrong(results: Study, made: dict[str, ObjectSeries]) -> None:
    series = made["denoised"]

    def back() -> list:
        return [read_file_bytes(file_bytes(ds)) for ds in series.datasets]

    with pytest.raises(StageFailed, match="a read gives 6, expected 7 images"):
        series.check(back()[:-1])
    changed = back()
    pixels = np.frombuffer(changed[2].PixelData, "<u2").copy()
    pixels[7] ^= 4
    changed[2].PixelData = pixels.tobytes()
    with pytest.raises(StageFailed, match=r"T1w denoised: a read gives one .* away"):
        series.check(changed)
    moved = back()
    for ds in moved:
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x + 0.5, y, z]
    with pytest.raises(StageFailed, match=r"expected the volume's grid"):
        series.check(moved)
    swapped = back()
    swapped[1].ImagePositionPatient, swapped[2].ImagePositionPatient = (
        swapped[2].ImagePositionPatient,
        swapped[1].ImagePositionPatient,
    )
    with pytest.raises(StageFailed, match=r"slice 1: a read gives"):
        series.check(swapped)
    other = back()
    other[0].FrameOfReferenceUID = "1.2.3"
    with pytest.raises(StageFailed, match="one frame of reference"):
        series.check(other)


def test_a_volume_on_another_grid_is_no_image_of_this_one(study: Study, desk: Desk) -> None:
    source, t2 = desk.source("t1"), study.latest("t2").volume
    heading = desk.heading("derived", "x", "x", "x", source)
    with pytest.raises(GridMismatch, match="expected the grid of its source images"):
        list(image_datasets(t2, heading, stored_form(array_of(t2)), what="denoised",
                            description="", grid=source, origin=source))  # fmt: skip


def test_checkers_find_no_error(
    made: dict[str, ObjectSeries], validate: Callable[[bytes], list[str]]
) -> None:
    for series in made.values():
        found = validate(file_bytes(series.datasets[0]))
        assert not found, "\n".join((series.name, *found))


def test_check_takes_slices_in_any_order(made: dict[str, ObjectSeries]) -> None:
    series = made["registered"]
    back = [read_file_bytes(file_bytes(ds)) for ds in series.datasets][::-1]
    assert [c.flagged for c in series.check(back)] == [False]
