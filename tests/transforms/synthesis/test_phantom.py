from __future__ import annotations

import numpy as np
import pytest
import torch

from radloom.errors import InputError
from radloom.geometry import apply_affine, flip_lps_ras
from radloom.shapes import affine_of, array_of, require_volume
from radloom.transforms.spatial import Transform
from radloom.transforms.synthesis.phantom import build_head, make_head, render_ct, render_mr
from radloom.transforms.synthesis.phantom_shape import HeadShape, draw_head_shape
from radloom.transforms.synthesis.tissues import PHANTOM_LABEL_NAMES

PAIRS = {2: 41, 3: 42, 4: 43, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54}
# mL at both ends of what adults have, a side where paired
PLAUSIBLE_ML = {
    2: (150, 300), 3: (150, 300), 4: (3, 30), 7: (8, 50), 8: (35, 90), 10: (4, 10),
    11: (2.5, 6), 12: (3, 7.5), 13: (0.8, 2.5), 17: (2, 6), 18: (1, 3),
    14: (0.4, 4), 15: (0.7, 4), 16: (15, 40), 24: (150, 550),
    506: (8, 22), 515: (250, 650), 516: (80, 400), 507: (400, 1300), 511: (200, 600),
}  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(head) -> np.ndarray:
    return array_of(head.labels)[0].astype(int)


def turned(degrees: float, shift: tuple[float, float, float]) -> Transform:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    matrix[:3, 3] = shift
    return Transform(matrix)


def mean_where(volume, head, label: int) -> float:
    return float(array_of(volume)[0][labels_of(head) == label].mean())


def test_every_structure_is_there_with_its_name(head):
    assert set(np.unique(labels_of(head))) == set(PHANTOM_LABEL_NAMES) == set(head.label_names)


def test_left_structures_lie_at_negative_x(head):
    labels = labels_of(head)
    for left, right in PAIRS.items():
        x_left, x_right = (
            apply_affine(head.affine, np.argwhere(labels == value)).mean(axis=0)[0]
            for value in (left, right)
        )
        assert x_left < -3, head.label_names[left]
        assert x_right > 3, head.label_names[right]


def test_volumes_are_those_of_an_adult(head):
    labels = labels_of(head)
    voxel_ml = abs(np.linalg.det(head.affine[:3, :3])) / 1000
    for label, (low, high) in PLAUSIBLE_ML.items():
        for value in (label, PAIRS.get(label, label)):
            assert low < (labels == value).sum() * voxel_ml < high, head.label_names[value]


def test_structures_lie_where_anatomy_puts_them(head):
    labels = labels_of(head)
    centre = {
        v: apply_affine(head.affine, np.argwhere(labels == v)).mean(axis=0)
        for v in head.label_names
    }
    assert centre[506][1] > centre[11][1] > centre[10][1] > centre[15][1] > centre[8][1] - 30
    assert abs(centre[12][0]) > abs(centre[13][0]) > abs(centre[10][0])
    assert centre[2][2] > centre[16][2] > centre[509][2] - 40


def test_the_brain_is_wrapped_in_fluid_and_bone(head):
    labels = labels_of(head)
    brain = np.isin(labels, [2, 41, 3, 42, 8, 47])
    outside = np.isin(labels, [0, 511, 507])
    touching = sum(
        int((brain & np.roll(outside, shift, axis)).sum()) for axis in range(3) for shift in (1, -1)
    )
    assert touching < 0.001 * brain.sum()


def test_one_seed_gives_one_head_and_another_another():
    shape = draw_head_shape(generator(5))
    assert shape == draw_head_shape(generator(5)) != draw_head_shape(generator(6))
    one, same, other = (make_head(generator(seed), spacing_mm=4) for seed in (5, 5, 6))
    assert torch.equal(one.share, same.share)
    assert torch.equal(one.labels.as_tensor().int(), same.labels.as_tensor().int())
    assert (labels_of(one) != labels_of(other)).mean() > 0.1
    picture = render_mr(one, "t1", generator=generator())
    assert torch.equal(picture, render_mr(same, "t1", generator=generator()))


def test_the_two_sides_differ(head):
    x = np.flatnonzero(np.abs(apply_affine(head.affine, [[0, 0, 0]])[0]) >= 0)
    assert x.size
    brain = np.isin(labels_of(head), [2, 41, 3, 42])
    mirrored = brain[::-1]
    dice = 2 * (brain & mirrored).sum() / (brain.sum() + mirrored.sum())
    assert 0.7 < dice < 0.98


def test_t1_has_white_matter_brightest_and_t2_fluid(head):
    t1 = render_mr(head, "t1", generator=generator())
    t2 = render_mr(head, "t2", generator=generator())
    flair = render_mr(head, "flair", generator=generator())
    white, grey, fluid = 2, 3, 4
    assert mean_where(t1, head, white) > 1.2 * mean_where(t1, head, grey)
    assert mean_where(t1, head, grey) > 1.2 * mean_where(t1, head, fluid)
    assert mean_where(t2, head, fluid) > 1.6 * mean_where(t2, head, grey)
    assert mean_where(t2, head, grey) > 1.1 * mean_where(t2, head, white)
    assert mean_where(flair, head, fluid) < 0.5 * mean_where(flair, head, white)
    assert mean_where(flair, head, grey) > mean_where(flair, head, white)


def test_ct_has_the_numbers_of_air_soft_tissue_and_bone(head):
    ct = require_volume(render_ct(head, generator=generator()))
    values = array_of(ct)[0]
    assert np.array_equal(values, np.round(values))
    assert values.min() >= -1024
    labels = labels_of(head)
    edge = [apply_affine(np.linalg.inv(head.affine), (x, 100, 80)) for x in (-80, 80)]
    air = [values[tuple(np.round(index).astype(int))] for index in edge]
    assert np.abs(np.asarray(air) + 1000).max() < 30
    assert 20 < values[labels == 2].mean() < 36 < values[labels == 3].mean() + 12
    assert 0 < values[labels == 4].mean() < 20
    assert values[labels == 515].mean() > 600
    assert 200 < values[labels == 516].mean() < 700


def test_a_moved_picture_brought_back_is_the_picture(head):
    move = turned(7, (5, -4, 3))
    still = array_of(render_mr(head, "t1", noise=0, bias=0, generator=generator()))[0]
    moved = render_mr(head, "t1", moving_from_fixed=move, noise=0, bias=0, generator=generator())
    index = np.stack(np.meshgrid(*[np.arange(n) for n in still.shape], indexing="ij"), -1)
    in_moved = apply_affine(
        np.linalg.inv(affine_of(moved)) @ move.matrix @ head.affine, index
    ).transpose(3, 0, 1, 2)
    from scipy.ndimage import map_coordinates

    back = map_coordinates(array_of(moved)[0], in_moved, order=1)
    inside = (labels_of(head) > 0) & (labels_of(head) < 100)
    right = np.corrcoef(back[inside], still[inside])[0, 1]
    wrong = np.corrcoef(array_of(moved)[0][inside], still[inside])[0, 1]
    assert right > 0.93 > wrong + 0.3


@pytest.mark.slow
def test_at_real_size_a_moved_picture_brought_back_is_the_picture():
    from scipy.ndimage import map_coordinates

    head = make_head(generator(1))
    move = turned(7, (5, -4, 3))
    still = array_of(render_mr(head, "t2", noise=0, bias=0, generator=generator()))[0]
    moved = render_mr(head, "t2", moving_from_fixed=move, noise=0, bias=0, generator=generator())
    index = np.argwhere((labels_of(head) > 0) & (labels_of(head) < 100))[::7]
    in_moved = apply_affine(np.linalg.inv(affine_of(moved)) @ move.matrix @ head.affine, index)
    back = map_coordinates(array_of(moved)[0], in_moved.T, order=3)
    assert np.corrcoef(back, still[tuple(index.T)])[0, 1] > 0.97


def test_a_picture_on_another_grid_shows_the_same_world(head):
    affine = flip_lps_ras(np.diag([2.0, 2.0, 6.0, 1.0]))
    affine[:3, 3] = (70, 80, -40)
    shape = (70, 90, 16)
    thick = array_of(
        render_ct(head, grid_affine=affine, grid_shape=shape, noise=0, generator=generator())
    )[0]
    own = array_of(render_ct(head, noise=0, generator=generator()))[0]
    for k in (3, 8, 12):
        # the middle of a 6 mm slice and the 2 mm slices round it
        centre = np.array([20, 30, k])
        slab = [
            own[tuple(np.round(index).astype(int))]
            for dz in (-1 / 3, 0, 1 / 3)
            for index in [
                apply_affine(np.linalg.inv(head.affine) @ affine, centre + np.array([0, 0, dz]))
            ]
        ]
        assert abs(thick[tuple(centre)] - np.mean(slab)) < 2


def test_thin_noise_is_rician_and_grows_as_asked(head):
    quiet = render_mr(head, "t1", noise=0, bias=0, generator=generator())
    loud = render_mr(head, "t1", noise=0.05, bias=0, generator=generator())
    white = labels_of(head) == 2
    residual = (array_of(loud) - array_of(quiet))[0]
    assert abs(residual[white].std() - 20) < 1
    air = array_of(loud)[0][:5, :5, -5:]
    assert abs(air.mean() - 20 * np.sqrt(np.pi / 2)) < 3


def test_what_cannot_be_made_is_refused(head):
    with pytest.raises(InputError, match="expected a sequence"):
        render_mr(head, "t3", generator=generator())
    with pytest.raises(InputError, match="phantom spacing"):
        build_head(HeadShape(seed=0), spacing_mm=9)
