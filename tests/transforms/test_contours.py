"""Contours are closed, hold the area of their voxels, and give the labels back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon

from radloom.errors import InputError
from radloom.transforms.contours import contours_of, enclosed_voxels, label_boxes, rasterise

KEYHOLE = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1, 1, 1, 0],
        [0, 1, 0, 1, 0, 0, 0, 1, 0],
        [0, 1, 1, 1, 0, 1, 0, 1, 0],
        [0, 1, 1, 1, 0, 0, 0, 1, 0],
        [0, 1, 1, 1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    dtype=bool,
)
"""Two holes in one row, an island in the second."""


def noise(seed: int, shape: tuple[int, int, int], share: float) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def test_one_voxel_is_a_diamond_of_its_area():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    [contour] = contours_of(mask)
    assert contour.plane == 1
    assert np.allclose(np.ptp(contour.points, axis=0), (2**0.5, 2**0.5, 0))
    assert enclosed_voxels([contour]) == pytest.approx(1.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    share=st.floats(0.02, 0.98),
)
def test_any_mask_comes_back_with_its_volume(seed, shape, share, axis):
    mask = noise(seed, shape, share)
    contours = contours_of(mask, axis=axis)
    assert np.array_equal(rasterise(contours, shape, axis=axis), mask)
    assert enclosed_voxels(contours, axis=axis) == pytest.approx(mask.sum(), abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_contours_lie_in_planes_and_do_not_repeat_their_first_point(axis):
    for contour in contours_of(noise(1, (9, 8, 7), 0.6), axis=axis):
        assert set(contour.points[:, axis]) == {float(contour.plane)}
        assert len(contour.points) >= 4
        assert not np.array_equal(contour.points[0], contour.points[-1])


def test_vertices_keep_away_from_voxel_centres():
    for contour in contours_of(noise(2, (30, 30, 5), 0.5)):
        off = np.abs(contour.points[:, :2] - np.rint(contour.points[:, :2])).max(axis=1)
        assert off.min() > 0.2


def test_holes_are_joined_to_their_outline_and_islands_are_not():
    contours = contours_of(KEYHOLE[:, :, None])
    assert len(contours) == 2
    outer, island = sorted(contours, key=lambda c: len(c.points), reverse=True)
    assert enclosed_voxels([outer]) == pytest.approx(KEYHOLE.sum() - 1)
    assert enclosed_voxels([island]) == pytest.approx(1)
    rounded = [tuple(point) for point in np.round(outer.points, 6)]
    assert len(rounded) - len(set(rounded)) == 4, "two channels, there and back"


@pytest.mark.parametrize("rule", ["or", "xor"])
@pytest.mark.parametrize("seed", range(4))
def test_readers_that_unite_or_xor_contours_fill_alike(rule, seed):
    mask = noise(seed, (24, 20, 1), 0.75)
    centres = np.stack(np.meshgrid(np.arange(24), np.arange(20), indexing="ij"), -1).reshape(-1, 2)
    found = np.zeros(24 * 20, bool)
    for contour in contours_of(mask):
        inside = rasterise([contour], mask.shape)[:, :, 0].ravel()
        found = found | inside if rule == "or" else found ^ inside
        winding = Polygon(np.vstack([contour.points[:, :2], contour.points[:1, :2]]), closed=True)
        assert np.array_equal(winding.contains_points(centres), inside), "matplotlib fills alike"
    assert np.array_equal(found.reshape(24, 20), mask[:, :, 0])


@pytest.mark.parametrize("seed", range(12))
def test_no_contour_crosses_itself_or_another(seed):
    mask = noise(seed, (14, 14, 1), 0.35 + 0.05 * seed)
    polygons = [contour.points[:, :2] for contour in contours_of(mask)]
    start = np.concatenate(polygons)
    end = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    i, j = np.triu_indices(len(start), 1)

    def side(a, b, point):
        return np.round(np.cross(np.c_[b - a, a[:, :1] * 0], np.c_[point - a, a[:, :1] * 0]), 9)[
            :, 2
        ]

    apart = side(start[i], end[i], start[j]) * side(start[i], end[i], end[j]) < 0
    astride = side(start[j], end[j], start[i]) * side(start[j], end[j], end[i]) < 0
    assert not (apart & astride).any()


def test_offset_is_added():
    mask = np.ones((2, 2, 2), bool)
    [first, second] = contours_of(mask, offset=(10, 20, 30))
    assert (first.plane, second.plane) == (30, 31)
    assert np.allclose(first.points.mean(axis=0), (10.5, 20.5, 30))


def test_nothing_gives_nothing():
    assert contours_of(np.zeros((4, 4, 4), bool)) == []
    assert not rasterise([], (4, 4, 4)).any()


def test_contours_beside_the_grid_are_left_out():
    contours = contours_of(np.ones((3, 3, 3), bool), offset=(0, 0, 5))
    assert not rasterise(contours, (3, 3, 3)).any()
    moved = contours_of(np.ones((3, 3, 1), bool), offset=(-2, 0, 0))
    assert rasterise(moved, (3, 3, 1))[:, :, 0].sum() == 3


def test_a_mask_of_other_dimensions_is_refused():
    with pytest.raises(InputError, match="expected a mask"):
        contours_of(np.zeros((3, 3), bool))


def test_boxes_of_labels():
    labels = np.zeros((5, 5, 5), np.uint16)
    labels[1:3, 2, 4], labels[0, 0, 0] = 511, 2
    assert label_boxes(labels) == {
        2: (slice(0, 1), slice(0, 1), slice(0, 1)),
        511: (slice(1, 3), slice(2, 3), slice(4, 5)),
    }


def test_a_body_at_real_size():
    i, j = np.ogrid[-256:256, -256:256]
    radius = np.sqrt((i / 1.2) ** 2 + j**2)
    body = (radius < 190) & ~((radius > 60) & (radius < 110) & (i > 0))
    mask = np.repeat(body[:, :, None], 40, axis=2)
    contours = contours_of(mask)
    assert np.array_equal(rasterise(contours, mask.shape), mask)
    assert enclosed_voxels(contours) == pytest.approx(mask.sum())
    assert sum(len(c.points) for c in contours) < 40 * 2000
