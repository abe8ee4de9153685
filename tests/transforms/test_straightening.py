from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from radloom.errors import ReasonCode, SeriesRefused
from radloom.geometry import apply_affine
from radloom.transforms.dicom import Repairs, SlicePlane, stack_geometry
from radloom.transforms.straightening import plan_straightening, straightened

BOTH = Repairs(tilt=True, spacing=True)
ROWS, COLUMNS = 7, 9
SPACING = (0.9, 1.1)
START = np.array([-30.0, 20.0, 5.0])


def rotation(a: float, b: float, c: float) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate((a, b, c)):
        i, j = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


LEANS = st.floats(-0.4, 0.4).filter(lambda lean: lean == 0 or abs(lean) > 0.05)
"""Sideways mm for each mm of depth; what leans less is within the tolerance and left alone."""


def leaning(depths, turn=None, lean=(0.0, 0.0)) -> list[SlicePlane]:
    """Slices at `depths` mm along the normal, `lean` mm along row and column for each of them."""
    turn = np.eye(3) if turn is None else turn
    row, column, normal = turn[:, 0], turn[:, 1], np.cross(turn[:, 0], turn[:, 1])
    return [
        SlicePlane(
            tuple(START + d * (normal + lean[0] * row + lean[1] * column)),
            (*row, *column),
            SPACING,
            ROWS,
            COLUMNS,
        )
        for d in depths
    ]


def ramp(points_ras: np.ndarray) -> np.ndarray:
    """A value that is linear in space, so that linear interpolation must give it exactly."""
    return points_ras @ (3.0, -2.0, 5.0) + 400.0


def sampled(plane: SlicePlane) -> np.ndarray:
    """(I, J) values of the ramp where the slice lies, by the formula of PS3.3 C.7.6.2.1.1."""
    row, column = np.reshape(plane.orientation_lps, (2, 3))
    i, j = np.meshgrid(np.arange(COLUMNS), np.arange(ROWS), indexing="ij")
    points = (
        np.array(plane.position_lps)
        + i[..., None] * SPACING[1] * row
        + j[..., None] * SPACING[0] * column
    )
    return ramp(points * (-1, -1, 1))


def resampled(planes) -> tuple[np.ndarray, object]:
    geometry = stack_geometry(planes, repairs=BOTH)
    ordered = (sampled(planes[i]) for i in geometry.order)
    array, _ = straightened(ordered, geometry.straightening)
    return array, geometry


@settings(deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    lean=st.tuples(LEANS, LEANS),
    # below twice each other, where a slice would be missing
    steps=st.lists(st.floats(0.82, 1.55), min_size=4, max_size=7),
    random=st.randoms(use_true_random=False),
)
def test_a_linear_scene_comes_back_exactly_from_any_lean_and_any_distances(
    angles, lean, steps, random
):
    depths = np.concatenate([[0.0], np.cumsum(steps)])
    planes = leaning(depths, rotation(*angles), lean)
    random.shuffle(planes)
    geometry = stack_geometry(planes, repairs=BOTH)
    assume(geometry.straightening is not None)
    ordered = (sampled(planes[i]) for i in geometry.order)
    array, padding = straightened(ordered, geometry.straightening)
    assert array.shape == geometry.shape
    index = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), axis=-1)
    expected = ramp(apply_affine(geometry.affine, index))
    held = array != np.float32(padding)
    np.testing.assert_allclose(array[held], expected[held], atol=1e-3)
    # Every voxel that two neighbouring slices cover is there: at least the middle of the stack.
    assert held.mean() > 0.1
    # The grid is straight and right-handed, and reaches from the first slice to the last.
    axes = geometry.affine[:3, :3] / geometry.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert np.linalg.det(geometry.affine) > 0
    assert (array.shape[2] - 1) * geometry.spacing[2] == pytest.approx(depths[-1])


@pytest.mark.parametrize("degrees", [-25.0, -5.0, 18.5, 30.0])
def test_tilt_alone_moves_slices_and_interpolates_none(degrees):
    lean = (0.0, np.tan(np.radians(degrees)))
    planes = leaning(np.arange(6) * 4.0, lean=lean)
    array, geometry = resampled(planes)
    plan = geometry.straightening
    assert plan.tilt_degrees == pytest.approx(abs(degrees))
    assert not plan.is_uneven
    assert plan.depths_vox == tuple(range(6))
    assert geometry.shape[0] == COLUMNS  # no shift where the stack does not lean
    assert geometry.shape[1] == ROWS + int(np.ceil(abs(lean[1]) * 20 / SPACING[0]))
    # The first pixels stay where the scanner put them, to within the interpolation.
    centre = array[:, :, 0].shape[1] // 2
    point = apply_affine(geometry.affine, (4, centre, 3))
    if array[4, centre, 3] != array.min():
        assert array[4, centre, 3] == pytest.approx(ramp(point), abs=1e-3)


def test_uneven_distances_get_at_most_twice_the_slices_as_dcm2niix_does():
    depths = [0, 1.08, 5.08, 12.08, 19.08, 26.08]
    geometry = stack_geometry(leaning(depths), repairs=BOTH)
    assert geometry.shape[2] == 12
    assert geometry.spacing[2] == pytest.approx(26.08 / 11)
    geometry = stack_geometry(leaning([0, 2, 4.5, 7, 9.5]), repairs=BOTH)
    assert geometry.shape[2] == 6  # ceil(9.5 / 2) + 1: no coarser than the smallest distance
    assert geometry.straightening.tilt_degrees == 0
    assert geometry.shape[:2] == (COLUMNS, ROWS)


def test_slices_on_the_grid_are_taken_as_they_are():
    noise = np.random.default_rng(0).normal(size=(4, COLUMNS, ROWS)).astype(np.float32)
    plan = plan_straightening(
        [0, 1, 2, 4], np.zeros((4, 2)), (1, 1), (COLUMNS, ROWS), even_step=None
    )
    array, padding = straightened(iter(noise), plan)
    assert padding == noise.min()
    for k, number in ((0, 0), (1, 1), (2, 2), (4, 3)):
        np.testing.assert_array_equal(array[:, :, k], noise[number])
    np.testing.assert_allclose(array[:, :, 3], (noise[2] + noise[3]) / 2, rtol=1e-5, atol=1e-6)


def test_a_constant_stays_that_constant_and_fills_the_corners():
    plan = stack_geometry(leaning([0, 1, 3.3], lean=(0.2, 0.3)), repairs=BOTH).straightening
    array, padding = straightened((np.full((COLUMNS, ROWS), -1500.0) for _ in range(3)), plan)
    assert padding == -1500
    assert np.unique(array).tolist() == [-1500]


def test_each_repair_is_done_only_where_it_is_allowed():
    tilted = leaning(np.arange(5) * 2.0, lean=(0, 0.3))
    uneven = leaning([0, 2, 4.5, 7, 9.5])
    both = leaning([0, 2, 4.5, 7, 9.5], lean=(0, 0.3))
    for planes, repairs, code in (
        (tilted, Repairs(spacing=True), ReasonCode.GANTRY_TILT),
        (uneven, Repairs(tilt=True), ReasonCode.UNEVEN_SPACING),
        (both, Repairs(tilt=True), ReasonCode.UNEVEN_SPACING),
        (both, Repairs(spacing=True), ReasonCode.GANTRY_TILT),
    ):
        with pytest.raises(SeriesRefused) as caught:
            stack_geometry(planes, repairs=repairs)
        assert caught.value.code is code
    straight = leaning(np.arange(5) * 2.0)
    assert stack_geometry(straight, repairs=BOTH).straightening is None


@pytest.mark.parametrize(
    ("planes", "code", "match"),
    [
        (leaning([0, 2, 4, 8, 10]), ReasonCode.MISSING_SLICE, "none at 11.00 mm"),
        (leaning([0, 2, 2, 4, 6]), ReasonCode.DUPLICATE_SLICE, "at 7.00 mm along the normal"),
        (leaning(np.arange(5) * 2.0, lean=(0, 1.5)), ReasonCode.GANTRY_TILT, "no gantry leans"),
        (leaning([0, 1e150, 2.5e150]), ReasonCode.MISSING_GEOMETRY, "at most 3000 mm"),
        (leaning([0, 40, 90], lean=(0.5, 0.5)), ReasonCode.MISSING_GEOMETRY, "times its area"),
        (
            [*leaning([0, 2]), *leaning([4], lean=(0, 0.2)), *leaning([6, 8])],
            ReasonCode.GANTRY_TILT,
            "lie 0.8 mm beside it; no shear explains that",
        ),
    ],
)
def test_what_no_repair_may_touch_stays_refused(planes, code, match):
    with pytest.raises(SeriesRefused, match=match) as caught:
        stack_geometry(planes, repairs=BOTH)
    assert caught.value.code is code
