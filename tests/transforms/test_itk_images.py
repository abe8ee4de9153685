from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from radloom.errors import ReasonCode, SeriesRefused
from radloom.shapes import affine_of, array_of
from radloom.transforms.itk_images import read_itk_header, read_itk_image

SHAPE = (3, 4, 5)
VALUES = np.arange(60, dtype="<f4").reshape(SHAPE, order="F")
DIRECTIONS = "space directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)"


def nrrd(path, fields, kind="float"):
    head = f"NRRD0005\ntype: {kind}\ndimension: 3\nsizes: 3 4 5\nendian: little\nencoding: raw\n"
    path.write_bytes(f"{head}{fields}\n\n".encode() + VALUES.tobytes(order="F"))
    return path


def mha(path, fields):
    head = f"ObjectType = Image\nNDims = 3\nDimSize = 3 4 5\n{fields}\n"
    tail = "ElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    path.write_bytes((head + tail).encode() + VALUES.tobytes(order="F"))
    return path


def refused(path, code, match):
    for read in (read_itk_header, read_itk_image):
        with pytest.raises(SeriesRefused, match=match) as caught:
            read(path)
        assert caught.value.code is code
        assert path.name in caught.value.detail


SPACES = {
    "right-anterior-superior": (1, 1),
    "RAS": (1, 1),
    "left-anterior-superior": (-1, 1),
    "LAS": (-1, 1),
    "left-posterior-superior": (-1, -1),
    "LPS": (-1, -1),
}
"""NRRD's word for its world -> signs that take its x and y to RAS."""


@pytest.mark.parametrize("space", SPACES)
def test_every_space_of_nrrd_ends_in_ras(tmp_path, space):
    volume = read_itk_image(nrrd(tmp_path / "a.nrrd", f"space: {space}\n{DIRECTIONS}"))
    x, y = SPACES[space]
    expected = np.diag([x * 2.0, y * 3, 4, 1])
    expected[:3, 3] = x * 10, y * 20, 30
    np.testing.assert_array_equal(affine_of(volume), expected)
    np.testing.assert_array_equal(array_of(volume)[0], VALUES)


def test_oblique_directions_are_columns_in_nrrd_and_rows_in_metaimage(tmp_path):
    turn = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    vectors = " ".join(f"({','.join(map(str, 2 * axis))})" for axis in turn.T)
    path = nrrd(
        tmp_path / "a.nrrd", f"space: RAS\nspace directions: {vectors}\nspace origin: (1,2,3)"
    )
    expected = np.eye(4)
    expected[:3, :3], expected[:3, 3] = 2 * turn, (1, 2, 3)
    np.testing.assert_allclose(affine_of(read_itk_image(path)), expected, atol=1e-6)
    flip = np.diag([-1.0, -1, 1])
    matrix = " ".join(map(str, (flip @ turn).T.ravel()))
    path = mha(
        tmp_path / "a.mha",
        f"TransformMatrix = {matrix}\nOffset = -1 -2 3\nElementSpacing = 2 2 2",
    )
    np.testing.assert_allclose(affine_of(read_itk_image(path)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ("spacings: 2 3 4", "a space such as left-posterior-superior, space directions, space"),
        (f"space dimension: 3\n{DIRECTIONS}", "a space such as"),
        (f"space: scanner-xyz\n{DIRECTIONS}", "a space such as"),
        (f"space: 3D-right-handed\n{DIRECTIONS}", "a space such as"),
        ("space: RAS\nspace directions: (2,0,0) (0,3,0) (0,0,4)", "expected space origin"),
    ],
)
def test_an_nrrd_that_leaves_its_place_open_is_refused(tmp_path, fields, match):
    """ITK reads every one of them, and calls its axes LPS."""
    path = nrrd(tmp_path / "a.nrrd", fields)
    sitk.ReadImage(str(path))
    refused(path, ReasonCode.MISSING_GEOMETRY, match)


PLACE = {
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "10 20 30",
    "ElementSpacing": "2 3 4",
}


def place(**changes):
    fields = {k: v for k, v in (PLACE | changes).items() if v is not None}
    return "\n".join(f"{name} = {value}" for name, value in fields.items())


def test_a_metaimage_is_lps_under_every_name_of_its_fields(tmp_path):
    expected = np.diag([-2.0, -3, 4, 1])
    expected[:3, 3] = -10, -20, 30
    other = {"Rotation": "1 0 0 0 1 0 0 0 1", "Position": "10 20 30", "ElementSpacing": "2 3 4"}
    for fields in (place(), "\n".join(f"{name} = {value}" for name, value in other.items())):
        volume = read_itk_image(mha(tmp_path / "a.mha", fields))
        np.testing.assert_array_equal(affine_of(volume), expected)
        np.testing.assert_array_equal(array_of(volume)[0], VALUES)


@pytest.mark.parametrize(
    ("absent", "match"),
    [
        ("TransformMatrix", "expected transformmatrix in"),
        ("Offset", "expected offset in"),
        ("ElementSpacing", "expected elementspacing in"),
    ],
)
def test_a_metaimage_that_leaves_its_place_open_is_refused(tmp_path, absent, match):
    path = mha(tmp_path / "a.mha", place(**{absent: None}))
    sitk.ReadImage(str(path))
    refused(path, ReasonCode.MISSING_GEOMETRY, match)


def test_other_lengths_than_millimetres_are_refused(tmp_path):
    units = 'space units: "um" "um" "um"'
    path = nrrd(tmp_path / "a.nrrd", f"space: RAS\n{DIRECTIONS}\n{units}")
    refused(path, ReasonCode.INVALID_AFFINE, "expected lengths in mm, got um")
    fine = f"space: RAS\n{DIRECTIONS}\n" + units.replace("um", "mm")
    assert read_itk_header(nrrd(path, fine)).shape == SHAPE
    path = mha(tmp_path / "a.mha", f"DistanceUnits = um\n{place()}")
    refused(path, ReasonCode.INVALID_AFFINE, "got um")


def test_a_segmentation_of_slicer_is_a_label(tmp_path):
    path = nrrd(tmp_path / "a.seg.nrrd", f"space: LPS\n{DIRECTIONS}\nSegment0_ID:=Segment_1")
    assert read_itk_header(path).is_label
    assert not read_itk_header(nrrd(path, f"space: LPS\n{DIRECTIONS}")).is_label


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_complex_and_vector_images_are_refused(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    sitk.WriteImage(sitk.Image((4, 4, 4), sitk.sitkComplexFloat32), str(path))
    refused(path, ReasonCode.COLOUR, "one number a voxel, got 2")
    sitk.WriteImage(sitk.Image((4, 4, 4), sitk.sitkVectorUInt8, 3), str(path))
    refused(path, ReasonCode.COLOUR, "got 3")


@pytest.mark.parametrize("ending", ["nrrd", "mha", "nhdr", "mhd"])
def test_what_simpleitk_writes_is_read_and_a_cut_is_noticed(tmp_path, ending):
    image = sitk.GetImageFromArray(VALUES.transpose(2, 1, 0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    image.SetOrigin((1, 2, 3))
    path = tmp_path / f"a.{ending}"
    sitk.WriteImage(image, str(path))
    volume = read_itk_image(path)
    np.testing.assert_array_equal(array_of(volume)[0], VALUES)
    np.testing.assert_array_equal(affine_of(volume)[:3, :2], [[0, -1], [1, 0], [0, 0]])
    voxels = next((p for p in tmp_path.iterdir() if p.suffix in (".raw", ".zraw", ".gz")), path)
    voxels.write_bytes(voxels.read_bytes()[:-9])
    with pytest.raises(SeriesRefused) as caught:
        read_itk_image(path)
    assert caught.value.code is ReasonCode.TRUNCATED


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_other_content_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"a letter\nnot = an image\n")
    refused(tmp_path / name, ReasonCode.UNREADABLE, "not a valid image")
    (tmp_path / name).write_bytes(b"")
    refused(tmp_path / name, ReasonCode.TRUNCATED, "empty")
