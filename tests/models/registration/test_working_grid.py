"""The working grid covers the head on any grid, and fields come back from it in mm."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.spatial.transform import Rotation

from radloom.geometry import affine_from_parts
from radloom.models.registration.working_grid import WorkingGrid, field_on_grid, grid_round
from radloom.shapes import affine_of, make_label, make_volume, spatial_shape
from radloom.transforms.spatial import Transform, grid_points

OBLIQUE = Rotation.from_rotvec(np.radians([15, -20, 8])).as_matrix()
DIRECTIONS = {"RAS": np.eye(3), "LPS": np.diag([-1, -1, 1]), "oblique": OBLIQUE}


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=list(DIRECTIONS))
def test_the_grid_lies_round_the_head_whatever_the_scanners_axes(scene, direction):
    head = scene.picture("t1", spacing=(3, 3, 5), direction=direction, extent=(260, 280, 280))
    grid, inside = grid_round(head, spacing_mm=2.0)
    assert all(n % 16 == 0 for n in grid.shape)
    assert inside.shape == grid.shape
    points = grid_points(grid.affine, grid.shape)[inside.numpy()]
    # the head's radii are 78, 98 and 88 mm, its nose reaches to 124 mm in front
    assert points[:, 0].min() == pytest.approx(-86, abs=9)
    assert points[:, 0].max() == pytest.approx(86, abs=9)
    assert points[:, 1].max() == pytest.approx(132, abs=9)
    seen = grid.see(head, None)
    level = float(seen[tuple(n // 2 for n in grid.shape)])
    assert level > 100


def test_a_mask_takes_the_head_s_place(scene):
    head = scene.picture("t1")
    mask = np.zeros(spatial_shape(head), np.uint8)
    mask[20:30, 20:40, 20:30] = 1
    grid, inside = grid_round(head, mask=make_label(mask, affine_of(head)))
    assert 30 <= grid.shape[0] <= 48
    assert 27_000 * 2 * 0.8 < int(inside.sum()) < 27_000 * 2 * 1.2


def test_a_large_body_gets_larger_voxels():
    body = make_volume(np.ones((60, 60, 90)), np.diag([8.0, 8, 8, 1]), modality="CT", units="HU")
    grid, _ = grid_round(body, most_voxels=1_000_000)
    assert grid.spacing_mm > 4
    assert np.prod(grid.shape) < 1_600_000  # whole blocks of 16


def test_blocks_share_the_outer_corner():
    fine = WorkingGrid((16, 16, 16), 1.0, (3.0, 4.0, 5.0))
    coarse = fine.coarser(4)
    middle = fine.affine @ [1.5, 1.5, 1.5, 1]
    np.testing.assert_allclose(coarse.affine @ [0, 0, 0, 1], middle)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=list(DIRECTIONS))
def test_a_field_in_voxels_becomes_mm_on_any_grid(direction):
    grid = WorkingGrid((32, 32, 32), 2.0, (-32.0, -32.0, -32.0))
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij")
    hill = torch.exp(-4 * sum(axis**2 for axis in axes))
    ddf = torch.stack([2 * hill, -hill, 0.5 * hill])
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec([0.1, 0.2, -0.1]).as_matrix()
    turn[:3, 3] = 4, -3, 2
    wanted = affine_from_parts((-20, -22, -18), (2.5, 3.0, 4.0), direction)
    wanted[:3, 3] -= wanted[:3, :3] @ (np.array([7.5, 6, 4.5])) + wanted[:3, 3]
    shape = (16, 13, 10)
    field = field_on_grid(ddf, grid, np.eye(4), turn, wanted, shape)
    exact = Transform(turn, 2 * ddf.numpy(), grid.affine)
    points = grid_points(wanted, shape)
    expected = exact.apply(points) - points
    np.testing.assert_allclose(np.moveaxis(field, 0, -1), expected, atol=2e-4)


def test_simpleitk_moves_points_as_the_field_says():
    """The same through ITK's own displacement field, in LPS."""
    grid = WorkingGrid((16, 16, 16), 3.0, (-24.0, -24.0, -24.0))
    ddf = torch.zeros(3, 16, 16, 16)
    ddf[0], ddf[2] = 1.0, -0.5
    field = field_on_grid(ddf, grid, np.eye(4), np.eye(4), np.eye(4), (9, 9, 9))
    vectors = np.ascontiguousarray(field.transpose(3, 2, 1, 0) * [-1, -1, 1], dtype=np.float64)
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    moved = sitk.DisplacementFieldTransform(image).TransformPoint((-4.0, -4.0, 4.0))
    np.testing.assert_allclose(moved, (-7.0, -4.0, 2.5), atol=1e-5)
