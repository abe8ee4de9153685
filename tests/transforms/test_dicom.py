from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radloom.errors import ReasonCode, SeriesRefused
from radloom.geometry import apply_affine
from radloom.transforms.dicom import (
    SlicePlane,
    group_by_orientation,
    group_by_position,
    mosaic_plane,
    slice_normal,
    stack_geometry,
)


def rotation(a: float, b: float, c: float) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate((a, b, c)):
        i, j = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def stack(depths, turn=None, lean=0.0, size=(6, 5), spacing=(0.9, 1.1)) -> list[SlicePlane]:
    """Slices at `depths` mm along the normal; `lean` mm sideways for each mm of depth."""
    turn = np.eye(3) if turn is None else turn
    row, column = turn[:, 0], turn[:, 1]
    normal = np.cross(row, column)
    start = np.array([-30.0, 20.0, 5.0])
    return [
        SlicePlane(
            tuple(start + depth * normal + lean * depth * column),
            (*row, *column),
            spacing,
            *size,
        )
        for depth in depths
    ]


def refused(planes, code, match=None):
    with pytest.raises(SeriesRefused, match=match) as caught:
        stack_geometry(planes)
    assert caught.value.code is code


angles = st.tuples(*[st.floats(-3.1, 3.1)] * 3)


@given(angles, st.floats(0.3, 6), st.integers(3, 9), st.randoms(use_true_random=False))
def test_any_order_and_direction_gives_the_grid_of_the_standards_formula(turn, step, n, random):
    planes = stack(step * np.arange(n), rotation(*turn))
    shuffled = list(planes)
    random.shuffle(shuffled)
    geometry = stack_geometry(shuffled)
    assert [shuffled[i] for i in geometry.order] == planes
    assert geometry.shape == (5, 6, n)
    np.testing.assert_allclose(geometry.spacing, (1.1, 0.9, step), rtol=1e-9)
    # DICOM PS3.3 C.7.6.2.1.1: column index along the row direction, row index along the column's.
    for k, plane in enumerate(planes):
        row, column = np.reshape(plane.orientation_lps, (2, 3))
        point_lps = np.array(plane.position_lps) + row * 1.1 * 3 + column * 0.9 * 2
        np.testing.assert_allclose(
            apply_affine(geometry.affine, (3, 2, k)), point_lps * (-1, -1, 1), atol=1e-9
        )
    assert np.linalg.det(geometry.affine) > 0


def test_a_missing_slice_is_named_by_its_position():
    depths = [0, 2, 4, 8, 10]
    refused(stack(depths), ReasonCode.MISSING_SLICE, r"got none at 11\.00 mm .*1 missing of 6")


def test_several_missing_slices_are_counted():
    refused(stack([0, 3, 12, 15, 18, 21]), ReasonCode.MISSING_SLICE, r"14\.00, 17|2 missing of 8")


@pytest.mark.parametrize("depths", [[0, 2, 4.5, 6.5, 8.5], [0, 1.1, 5.2, 12.6, 20]])
def test_uneven_distances_are_refused(depths):
    refused(stack(depths), ReasonCode.UNEVEN_SPACING, "even slice distances")


def test_a_drift_below_the_tolerance_of_each_step_is_refused_in_sum():
    steps = np.concatenate([np.full(40, 1.0), np.full(40, 1.009)])
    depths = np.concatenate([[0], np.cumsum(steps)])
    refused(stack(depths), ReasonCode.UNEVEN_SPACING, "off an even grid")


def test_rounded_headers_are_no_reason_to_refuse():
    depths = np.round(np.arange(30) * 1.2345678, 2)
    np.testing.assert_allclose(stack_geometry(stack(depths)).spacing[2], 1.2345678, atol=1e-3)


def test_tilt_is_told_in_degrees():
    lean = np.tan(np.radians(18.5))
    refused(stack(np.arange(10) * 5.0, lean=lean), ReasonCode.GANTRY_TILT, r"leans by 18\.5 deg")


def test_the_same_place_twice_is_refused():
    refused(stack([0, 2, 4, 4, 6]), ReasonCode.DUPLICATE_SLICE, "1 of 4 positions")


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_slices_are_refused(n):
    refused(stack(np.arange(n)), ReasonCode.TOO_FEW_SLICES, f"got {n}")


def test_mixed_orientation_size_and_spacing_are_refused():
    planes = stack([0, 2, 4])
    turned = stack([0, 2, 4], rotation(0, 0, 0.1))
    refused([*planes, *turned], ReasonCode.MIXED_ORIENTATION, "2 directions")
    refused([*planes, *stack([6], size=(7, 5))], ReasonCode.MIXED_SIZE, "Rows")
    refused([*planes, *stack([6], spacing=(0.9, 1.2))], ReasonCode.MIXED_SIZE, "PixelSpacing")


def test_directions_that_are_no_directions_are_refused():
    bent = [SlicePlane((0, 0, z), (1, 0, 0, 0.5, 1, 0), (1, 1), 4, 4) for z in range(3)]
    refused(bent, ReasonCode.MISSING_GEOMETRY, "perpendicular unit vectors")
    flat = [SlicePlane((0, 0, z), (1, 0, 0, 0, 1, 0), (0, 1), 4, 4) for z in range(3)]
    refused(flat, ReasonCode.MISSING_GEOMETRY, "positive millimetres")


def test_groups_keep_what_belongs_together():
    planes = [*stack([0, 2]), *stack([0, 2], rotation(0.5, 0, 0)), *stack([2])]
    assert group_by_orientation(planes) == [[0, 1, 4], [2, 3]]
    assert group_by_position([planes[0], planes[1], planes[4]]) == [[0], [1, 2]]
    assert group_by_position([]) == []


@given(angles)
def test_a_mosaics_tiles_share_the_centre_of_the_whole(turn):
    plane = stack([0], rotation(*turn), size=(96, 96))[0]
    geometry = mosaic_plane(plane, 9, 3.0)
    assert geometry.shape == (32, 32, 9)
    row, column = np.reshape(plane.orientation_lps, (2, 3))
    centre_lps = np.array(plane.position_lps) + 95 / 2 * (row * 1.1 + column * 0.9)
    found = apply_affine(geometry.affine, (31 / 2, 31 / 2, 0)) * (-1, -1, 1)
    np.testing.assert_allclose(found, centre_lps, atol=1e-9)
    normal = geometry.affine[:3, 2] * (-1, -1, 1) / 3.0
    np.testing.assert_allclose(normal, slice_normal(plane.orientation_lps), atol=1e-9)


def test_overlapping_and_wide_slices_are_named_with_their_positions():
    depths = [0, 4, 8, 12, 16, 17, 24, 31]
    refused(
        stack(depths),
        ReasonCode.UNEVEN_SPACING,
        r"overlap at 21\.00 and 22\.00 mm; others lie between 22\.00 and 29\.00, 29\.00 and 36\.00",
    )


def test_every_duplicate_is_named_up_to_five():
    depths = [*range(0, 20, 2), *range(0, 14, 2)]
    refused(
        stack(depths),
        ReasonCode.DUPLICATE_SLICE,
        r"7 of 10 positions, at 5\.00, 7\.00, 9\.00, 11\.00, 13\.00, \.\.\. mm",
    )


def test_scattered_slices_are_no_tilt():
    planes = stack(np.arange(6) * 2.0)
    moved = planes[3]
    planes[3] = SlicePlane((-30.0, 21.0, 11.0), moved.orientation_lps, moved.pixel_spacing, 6, 5)
    refused(planes, ReasonCode.GANTRY_TILT, "1.0 mm beside it; no shear explains that")


def test_distances_a_little_off_are_uneven_and_nothing_is_missing():
    refused(stack([0, 1, 2, 3, 4.06]), ReasonCode.UNEVEN_SPACING, "between 8.00 and 9.06 mm")
