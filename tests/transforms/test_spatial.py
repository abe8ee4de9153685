from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from radloom.errors import ConfigError, InputError
from radloom.geometry import affine_from_parts, apply_affine, as_stored
from radloom.shapes import affine_of, array_of, make_label, make_volume
from radloom.transforms.spatial import Transform, grid_points, outside_value, resample


def rotation(axis: int, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [n for n in range(3) if n != axis]
    turn = np.eye(3)
    turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
    return turn


def rigid(degrees: float = 20.0, shift=(5.0, -7.0, 3.0)) -> Transform:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(0, degrees) @ rotation(2, -degrees / 2)
    matrix[:3, 3] = shift
    return Transform(matrix)


SHEAR = np.array([[2.0, 0.3, 0.0, -30], [0, 2.0, 0.5, -35], [0, 0, 2.5, -40], [0, 0, 0, 1]])
GRIDS = {
    "RAS": affine_from_parts((-30, -35, -40), (2, 2, 2.5), np.eye(3)),
    "LPS": affine_from_parts((30, 35, -40), (2, 2, 2.5), np.diag([-1, -1, 1])),
    "LAS": affine_from_parts((30, -35, -40), (2, 2, 2.5), np.diag([-1, 1, 1])),
    "PSR": affine_from_parts((-30, 35, -40), (2, 2, 2), np.eye(3)[[2, 0, 1]] * [-1, 1, 1]),
    "oblique": affine_from_parts((-30, -35, -40), (2, 2, 2.5), rotation(1, 25) @ rotation(0, 10)),
    "sheared": SHEAR,
}
SHAPE = (32, 36, 34)


def bump(grid: np.ndarray, shape=SHAPE, height: float = 4.0) -> np.ndarray:
    """A smooth displacement (3, I, J, K) that dies out at the border."""
    points = grid_points(grid, shape)
    centre = apply_affine(grid, (np.array(shape) - 1) / 2)
    weight = np.exp(-((points - centre) ** 2).sum(-1) / (2 * 12.0**2))
    return (np.stack([weight, -0.5 * weight, 0.7 * weight]) * height).astype(np.float32)


def inner_points(grid: np.ndarray, n: int = 200, seed: int = 0) -> np.ndarray:
    index = np.random.default_rng(seed).uniform(4, np.array(SHAPE) - 5, size=(n, 3))
    return apply_affine(grid, index)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_displacement_is_its_grid_values_at_voxel_centres(grid):
    field = bump(grid)
    transform = Transform(np.eye(4), field, grid)
    points = grid_points(grid, SHAPE)
    expected = points + np.moveaxis(field, 0, -1)
    np.testing.assert_allclose(transform.apply(points), expected, atol=1e-5)


def test_displacement_is_zero_outside_its_grid_and_the_matrix_still_applies():
    field = np.ones((3, 4, 4, 4), np.float32)
    transform = Transform(rigid().matrix, field, np.eye(4))
    outside = np.array([[-0.6, 1, 1], [1, 1, 3.6], [100, 0, 0]])
    np.testing.assert_allclose(transform.apply(outside), rigid().apply(outside))
    border = np.array([[-0.4, 1, 3.4]])
    np.testing.assert_allclose(transform.apply(border), rigid().apply(border + 1))


def test_inverse_of_a_matrix_is_exact():
    transform = rigid()
    points = inner_points(GRIDS["RAS"])
    there = transform.inverse().apply(transform.apply(points))
    np.testing.assert_allclose(there, points, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("first", [Transform.identity(), rigid(8.0)], ids=["identity", "rigid"])
def test_inverse_of_a_displacement_comes_home(grid, first):
    transform = Transform(first.matrix, bump(grid), grid)
    points = inner_points(grid)
    there_and_back = transform.inverse().apply(transform.apply(points))
    # The inverse is linear between voxel centres while the bump curves: half a tenth of a voxel.
    assert np.linalg.norm(there_and_back - points, axis=1).max() < 0.1
    moved = np.linalg.norm(transform.displacement_at(points), axis=1).max()
    assert moved > 3.0


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_points_go_back_one_by_one_to_where_they_came_from(grid):
    transform = Transform(rigid(8.0).matrix, bump(grid), grid)
    points = inner_points(grid)
    np.testing.assert_allclose(transform.apply_inverse(transform.apply(points)), points, atol=1e-3)
    assert transform.apply_inverse(np.zeros((0, 3))).shape == (0, 3)
    np.testing.assert_allclose(rigid().apply_inverse(rigid().apply([1, 2, 3])), [1, 2, 3])


@pytest.mark.parametrize("second", ["affine", "field"])
@pytest.mark.parametrize("first", ["affine", "field"])
def test_composition_maps_points_one_after_the_other(first, second):
    grid = GRIDS["oblique"]

    def make(kind: str, degrees: float) -> Transform:
        matrix = rigid(degrees, (1, 2, -2)).matrix
        return Transform(matrix, bump(grid), grid) if kind == "field" else Transform(matrix)

    b_from_a, c_from_b = make(first, 4), make(second, -6)
    points = inner_points(grid)
    expected = c_from_b.apply(b_from_a.apply(points))
    atol = 0.1 if first == second == "field" else 1e-4
    np.testing.assert_allclose((c_from_b @ b_from_a).apply(points), expected, atol=atol)


def test_as_displacement_says_the_same_on_its_grid():
    grid = GRIDS["oblique"]
    transform = Transform(rigid().matrix, bump(grid), grid)
    pure = transform.as_displacement(grid, SHAPE)
    np.testing.assert_array_equal(pure.matrix, np.eye(4))
    points = grid_points(grid, SHAPE)
    np.testing.assert_allclose(pure.apply(points), transform.apply(points), atol=1e-5)


def test_folded_share_counts_what_turns_inside_out():
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    smooth = Transform(np.eye(4), bump(grid), grid)
    assert smooth.folded_share() == 0.0
    fold = np.zeros((3, 10, 10, 10), np.float32)
    fold[0, 5:] = -10.0  # the far half jumps 10 mm back over a step of 2 mm
    share = Transform(np.eye(4), fold, grid).folded_share()
    assert share == pytest.approx(0.2)  # central differences see it in the two planes beside
    assert Transform(np.diag([-1.0, 1, 1, 1])).folded_share() == 1.0


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shape", [(9, 8, 7), (1, 8, 7)])
def test_folded_share_is_that_of_the_whole_jacobian(monkeypatch, mirrored, shape):
    """Slab by slab, on an oblique grid, as from a 3 x 3 matrix for each voxel."""
    grid = rigid().matrix @ np.diag([2.0, 3.0, 1.5, 1.0])
    field = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    jacobian = np.zeros((*shape, 3, 3))
    in_voxels = np.einsum("ab,bijk->aijk", np.linalg.inv(grid[:3, :3]), field)
    for axis in range(3):
        if shape[axis] > 1:
            slope = np.gradient(in_voxels, axis=axis + 1)
            jacobian[..., axis] = np.moveaxis(slope, 0, -1)
    expected = float((np.linalg.det(jacobian + np.eye(3)) <= 0).mean())
    assert 0.01 < expected < 0.5
    matrix = np.diag([-1.0, 1, 1, 1]) if mirrored else np.eye(4)
    for voxels in (10**6, 60):
        monkeypatch.setattr("radloom.transforms.spatial._SLAB_VOXELS", voxels)
        share = Transform(matrix, field, grid).folded_share()
        assert share == pytest.approx(1 - expected if mirrored else expected, abs=1e-9)


def smooth_values(points: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(points, -1, 0)
    return 100 + 30 * np.sin(x / 15) * np.cos(y / 17) + 20 * np.sin(z / 19 + 0.3)


@pytest.mark.parametrize("moving_grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("fixed_grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("kind", ["rigid", "field"])
def test_resample_gives_what_the_moving_image_holds_at_the_mapped_points(
    moving_grid, fixed_grid, kind
):
    moving_grid, fixed_grid = as_stored(moving_grid), as_stored(fixed_grid)
    moving = make_volume(
        smooth_values(grid_points(moving_grid, SHAPE)),
        moving_grid,
        modality="MR",
        units="arbitrary",
    )
    transform = rigid(7.0, (3, -2, 1))
    if kind == "field":
        transform = Transform(transform.matrix, bump(fixed_grid), fixed_grid)
    warped = resample(moving, transform, fixed_grid, SHAPE, default=-1.0)
    at = transform.apply(grid_points(fixed_grid, SHAPE))
    index = apply_affine(np.linalg.inv(moving_grid), at)
    inside = ((index >= 0) & (index <= np.array(SHAPE) - 1)).all(-1)
    outside = ((index < -0.6) | (index > np.array(SHAPE) - 0.4)).any(-1)
    values = array_of(warped)[0]
    assert inside.mean() > 0.1
    assert np.abs(values - smooth_values(at))[inside].max() < 0.6  # linear in a sine of 15 mm
    assert (values[outside] == -1.0).all()
    np.testing.assert_array_equal(affine_of(warped), fixed_grid)


def test_resample_through_the_identity_changes_no_bit():
    values = np.random.default_rng(0).normal(size=(2, 9, 10, 11)).astype(np.float32)
    grid = as_stored(GRIDS["oblique"])
    volume = make_volume(values, grid, modality="CT", units="HU", series_uid="1.2")
    same = resample(volume, None, grid, (9, 10, 11))
    np.testing.assert_allclose(array_of(same), values, atol=1e-5)
    assert same.meta["units"] == "HU"
    assert same.meta["series_uid"] == "1.2"


def test_resample_agrees_with_simpleitk_in_lps():
    rng = np.random.default_rng(1)
    values = rng.normal(size=SHAPE).astype(np.float32)
    grid = as_stored(GRIDS["oblique"])
    volume = make_volume(values, grid, modality="MR", units="arbitrary")
    transform = rigid(9.0)
    mine = array_of(resample(volume, transform, GRIDS["LAS"], SHAPE))[0]

    flip = np.diag([-1.0, -1, 1])
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    image.SetOrigin((flip @ grid[:3, 3]).tolist())
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((flip @ grid[:3, :3] / spacing).ravel().tolist())
    itk_transform = sitk.AffineTransform(3)
    itk_transform.SetMatrix((flip @ transform.matrix[:3, :3] @ flip).ravel().tolist())
    itk_transform.SetTranslation((flip @ transform.matrix[:3, 3]).tolist())
    reference = sitk.Image(list(SHAPE), sitk.sitkFloat32)
    las = GRIDS["LAS"]
    reference.SetOrigin((flip @ las[:3, 3]).tolist())
    reference.SetSpacing((2.0, 2.0, 2.5))
    reference.SetDirection((flip @ (las[:3, :3] / [2, 2, 2.5])).ravel().tolist())
    theirs = sitk.Resample(image, reference, itk_transform, sitk.sitkLinear, 0.0)
    np.testing.assert_allclose(mine, sitk.GetArrayFromImage(theirs).transpose(2, 1, 0), atol=1e-4)


def test_resample_does_not_depend_on_threads():
    values = np.random.default_rng(2).normal(size=SHAPE)
    volume = make_volume(values, GRIDS["oblique"], modality="MR", units="arbitrary")
    transform = Transform(rigid().matrix, bump(GRIDS["LAS"]), GRIDS["LAS"])
    one, four = (resample(volume, transform, GRIDS["RAS"], SHAPE, n_threads=n) for n in (1, 4))
    assert torch.equal(one.as_tensor(), four.as_tensor())


def test_labels_stay_labels():
    values = np.zeros(SHAPE, np.int32)
    values[10:20, 10:20, 10:20] = 1000
    values[20:25, 10:20, 10:20] = 3
    label = make_label(values, GRIDS["RAS"])
    warped = resample(label, rigid(5.0, (1, 1, 1)), GRIDS["oblique"], SHAPE)
    assert warped.as_tensor().dtype == torch.uint16
    assert set(np.unique(array_of(warped))) == {0, 3, 1000}
    with pytest.raises(ConfigError, match="a label: expected interpolation 'nearest'"):
        resample(label, None, GRIDS["RAS"], SHAPE, interpolation="linear")


def test_outside_a_ct_is_air():
    values = np.full((4, 4, 4), 40.0)
    ct = make_volume(values, np.eye(4), modality="CT", units="HU")
    assert outside_value(ct) == -1024.0
    far = affine_from_parts((50, 0, 0), (1, 1, 1), np.eye(3))
    assert (array_of(resample(ct, None, far, (3, 3, 3))) == -1024.0).all()
    mr = make_volume(values, np.eye(4), modality="MR", units="arbitrary")
    assert (array_of(resample(mr, None, far, (3, 3, 3))) == 0.0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"matrix": np.zeros((4, 4))}, "invertible matrix, got a singular one"),
        ({"matrix": np.eye(3)}, r"finite 4x4 matrix, got shape \(3, 3\)"),
        ({"matrix": np.eye(4), "grid_affine": np.eye(4)}, "together, got one of them"),
        (
            {"matrix": np.eye(4), "grid_affine": np.eye(4), "displacement_mm": np.zeros((4, 4, 4))},
            r"displacement \(3, I, J, K\)",
        ),
        (
            {
                "matrix": np.eye(4),
                "grid_affine": np.eye(4),
                "displacement_mm": np.full((3, 2, 2, 2), np.nan),
            },
            "finite displacements",
        ),
    ],
)
def test_impossible_transforms_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Transform(**arguments)


def test_unknown_interpolation_is_refused():
    volume = make_volume(np.zeros((3, 3, 3)), np.eye(4), modality="MR", units="arbitrary")
    with pytest.raises(ConfigError, match="expected interpolation of"):
        resample(volume, None, np.eye(4), (3, 3, 3), interpolation="cubic")
