from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from radloom.errors import InputError
from radloom.geometry import affine_from_parts, apply_affine
from radloom.shapes import affine_of, array_of, make_volume
from radloom.transforms.itk_files import as_written, read_transform, write_transform
from radloom.transforms.nifti import write_nifti
from radloom.transforms.spatial import Transform, resample

FLIP = np.array([-1.0, -1.0, 1.0])
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
GRIDS = {
    "RAS": affine_from_parts((-30.5, 7, 1 / 3), (1, 2, 3), np.eye(3)),
    "LPS": affine_from_parts((30.5, 7, 12), (1.5, 0.7, 3), np.diag([-1, -1, 1])),
    "LAS": affine_from_parts((30.5, -7, 12), (1.5, 0.7, 3), np.diag([-1, 1, 1])),
    "oblique": affine_from_parts((30.1, 7.2, -12.3), (1.1, 0.7, 3.3), TURN),
}
SHAPE = (7, 8, 9)


def points_of(transform, points_ras) -> np.ndarray:
    """What a SimpleITK transform does to RAS points, in RAS."""
    return np.array([transform.TransformPoint((p * FLIP).tolist()) for p in points_ras]) * FLIP


def some_matrix(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] += rng.normal(size=(3, 3)) * 0.2
    matrix[:3, 3] = rng.normal(size=3) * 30
    return matrix


def some_field(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, *SHAPE)).astype(np.float32) * 4


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_matrix_keeps_every_bit_and_simpleitk_reads_it(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("tfm")
    transform = Transform(some_matrix(seed))
    path = write_transform(transform, folder / "moving.tfm")
    assert np.array_equal(read_transform(path).matrix, transform.matrix)
    points = np.random.default_rng(seed).normal(size=(5, 3)) * 80
    theirs = points_of(sitk.ReadTransform(str(path)), points)
    np.testing.assert_allclose(theirs, transform.apply(points), atol=1e-10)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("matrix", [np.eye(4), some_matrix(3)], ids=["pure", "with matrix"])
def test_a_displacement_read_by_simpleitk_maps_the_same_points(tmp_path, grid, matrix):
    transform = Transform(matrix, some_field(), grid)
    path = write_transform(transform, tmp_path / "moving_xfm")
    assert path.name == "moving_xfm.nii.gz"
    image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    theirs = sitk.DisplacementFieldTransform(image)
    index = np.random.default_rng(1).uniform(0.01, np.array(SHAPE) - 1.01, size=(200, 3))
    points = apply_affine(grid, index)
    np.testing.assert_allclose(points_of(theirs, points), transform.apply(points), atol=1e-3)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("kind", ["matrix", "field"])
def test_simpleitk_resamples_through_the_file_as_we_do(tmp_path, grid, kind):
    """Images, masks of what is seen and the transform all go through files."""
    values = np.random.default_rng(5).normal(size=(15, 16, 17)).astype(np.float32)
    moving_grid = GRIDS["oblique"] @ np.diag([0.8, 0.9, 0.9, 1.0])
    moving = make_volume(values, moving_grid, modality="MR", units="arbitrary")
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", (4, -5, 6), degrees=True).as_matrix()
    middle = matrix[:3, :3] @ apply_affine(grid, [3.0, 3.5, 4.0])
    matrix[:3, 3] = apply_affine(moving_grid, [7.0, 7.5, 8.0]) - middle
    transform = (
        Transform(matrix, 0.1 * some_field(), grid) if kind == "field" else Transform(matrix)
    )
    transform = as_written(transform)
    fixed = make_volume(np.zeros(SHAPE, np.float32), grid, modality="MR", units="arbitrary")
    for name, volume in (("fixed", fixed), ("moving", moving)):
        write_nifti(volume, tmp_path / f"{name}.nii.gz")
    path = write_transform(transform, tmp_path / "x")
    images = [sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("fixed", "moving")]
    if kind == "matrix":
        theirs = sitk.ReadTransform(str(path))
    else:
        theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    warped = sitk.Resample(images[1], images[0], theirs, sitk.sitkLinear, 0.0)
    mine = array_of(resample(moving, transform, affine_of(fixed), SHAPE))[0]
    close = np.isclose(sitk.GetArrayFromImage(warped).T, mine, atol=2e-3)
    assert (mine != 0).mean() > 0.3
    assert close.mean() > 0.99  # the others lie on the rim of moving, where a bit decides


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_memory_equals_a_read_of_the_file(tmp_path, grid):
    written = as_written(Transform(some_matrix(2), some_field(), grid))
    read = read_transform(write_transform(written, tmp_path / "x"))
    np.testing.assert_array_equal(read.matrix, written.matrix)
    np.testing.assert_array_equal(read.displacement_mm, written.displacement_mm)
    np.testing.assert_array_equal(read.grid_affine, written.grid_affine)
    assert as_written(written) is written


@pytest.mark.parametrize("kind", ["matrix", "field"])
def test_equal_transforms_make_equal_bytes(tmp_path, kind):
    transform = Transform(some_matrix(1))
    if kind == "field":
        transform = Transform(some_matrix(1), some_field(), GRIDS["oblique"])
    one = write_transform(transform, tmp_path / "one")
    two = write_transform(read_transform(one), tmp_path / "two")
    assert one.read_bytes() == two.read_bytes()


def test_the_suffix_follows_the_kind(tmp_path):
    assert write_transform(Transform.identity(), tmp_path / "a.nii.gz").name == "a.tfm"
    field = Transform(np.eye(4), some_field(), GRIDS["RAS"])
    assert write_transform(field, tmp_path / "b_xfm.tfm").name == "b_xfm.nii.gz"


def test_transforms_that_others_wrote_are_read(tmp_path):
    euler = sitk.Euler3DTransform((10, -20, 30), 0.1, -0.2, 0.3, (4, 5, 6))
    shift = sitk.TranslationTransform(3, (1, 2, 3))
    points = np.random.default_rng(0).normal(size=(4, 3)) * 50
    for name, transform in {
        "euler.tfm": euler,
        "euler.mat": euler,
        "shift.txt": shift,
        "both.tfm": sitk.CompositeTransform([euler, shift]),
        "both.h5": sitk.CompositeTransform([euler, shift]),
    }.items():
        path = tmp_path / name
        sitk.WriteTransform(transform, str(path))
        mine = read_transform(path).apply(points)
        np.testing.assert_allclose(mine, points_of(transform, points), atol=1e-9, err_msg=name)


def test_a_matrix_offset_transform_as_c3d_writes_it_is_read(tmp_path):
    path = tmp_path / "reference.txt"
    path.write_text(
        "#Insight Transform File V1.0\n#Transform 0\n"
        "Transform: MatrixOffsetTransformBase_double_3_3\n"
        "Parameters: 1 0.01 0 -0.01 1 0 0 0 1.02 0.5 -0.25 3\n"
        "FixedParameters: -1 11 -5\n"
    )
    points = np.random.default_rng(0).normal(size=(4, 3)) * 50
    theirs = points_of(sitk.ReadTransform(str(path)), points)
    np.testing.assert_allclose(read_transform(path).apply(points), theirs, atol=1e-10)


def test_intent_1006_holds_ras_components(tmp_path):
    vectors = np.broadcast_to(np.float32([1, 2, 3]), (4, 4, 4, 1, 3))
    image = nib.Nifti1Image(vectors, np.diag([-1.0, -1, 1, 1]))
    image.header.set_intent(1006)
    path = tmp_path / "ras.nii.gz"
    nib.save(image, path)
    theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    points = np.array([[-1.0, -1.0, 1.0]])
    np.testing.assert_allclose(read_transform(path).apply(points), points_of(theirs, points))


def test_a_sheared_grid_is_refused(tmp_path):
    shear = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    with pytest.raises(InputError, match="expected a grid of right angles, got a sheared one"):
        write_transform(Transform(np.eye(4), some_field(), shear), tmp_path / "x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tfm", b"not a transform", "<a.tfm>: expected a transform file that SimpleITK reads"),
        ("a.nii.gz", b"not an image", "<a.nii.gz>: expected a NIfTI displacement"),
        ("a.tfm", None, "<a.tfm>: expected a transform file, got no such file"),
    ],
)
def test_files_of_no_use_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_transform(tmp_path / name)


def test_an_image_that_is_no_displacement_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4)), tmp_path / "i.nii.gz")
    with pytest.raises(InputError, match=r"vector image \(I, J, K, 1, 3\), got shape"):
        read_transform(tmp_path / "i.nii.gz")


def test_a_curved_itk_transform_is_refused(tmp_path):
    spline = sitk.BSplineTransform(3, 3)
    spline.SetTransformDomainMeshSize([2, 2, 2])
    path = tmp_path / "spline.tfm"
    sitk.WriteTransform(spline, str(path))
    with pytest.raises(InputError, match="expected a linear transform, got BSplineTransform"):
        read_transform(path)
