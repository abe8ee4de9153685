from __future__ import annotations

import math

import torch

from radloom.transforms.synthesis.solids import (
    Canvas,
    ball,
    ellipsoid,
    smooth_field,
    smooth_min,
    tube,
    wave_sheets,
)


def points(step: float = 1.0, half: float = 20.0):
    axis = torch.arange(-half, half + step / 2, step)
    return (axis, axis, axis), tuple(torch.meshgrid(axis, axis, axis, indexing="ij"))


def canvas(step: float = 1.0) -> Canvas:
    axes, spread = points(step)
    return Canvas(step, axes, spread)


def test_an_ellipsoid_of_equal_radii_is_a_ball():
    _, p = points()
    assert torch.allclose(ellipsoid(p, (1, 2, 3), (9, 9, 9)), ball(p, (1, 2, 3), 9), atol=1e-3)


def test_a_tube_is_round_about_its_axis():
    p = tuple(torch.tensor([v]) for v in (0.0, 5.0, 7.0))
    assert torch.allclose(tube(p, [(-9, 0, 7), (9, 0, 7)], [2, 2]), torch.tensor([3.0]))


def test_smooth_min_is_the_minimum_away_from_the_seam():
    a, b = torch.tensor([0.0, 1.0]), torch.tensor([5.0, 1.0])
    assert smooth_min(a, b, 2).tolist() == [0.0, 0.5]


def test_painted_volume_is_the_volume_of_the_solid():
    board = canvas()
    board.draw(3, ((-9, 9),) * 3, lambda p: ball(p, (0.3, 0.2, 0.1), 8.4))
    filled = torch.where(board.top == 3, board.share, (1 - board.share) * (board.under == 3))
    assert abs(float(filled.sum()) / (4 / 3 * math.pi * 8.4**3) - 1) < 0.01


def test_painting_twice_changes_nothing_and_a_later_layer_covers():
    board = canvas()
    for _ in range(2):
        board.draw(3, ((-9, 9),) * 3, lambda p: ball(p, (0, 0, 0), 8.4))
    once = canvas()
    once.draw(3, ((-9, 9),) * 3, lambda p: ball(p, (0, 0, 0), 8.4))
    assert torch.equal(board.share, once.share)
    board.draw(5, ((-4, 4),) * 3, lambda p: ball(p, (0, 0, 0), 3))
    assert board.top[20, 20, 20] == 5
    assert board.top[26, 20, 20] == 3


def test_a_pair_is_its_own_mirror_image():
    board = canvas()
    board.draw_pair(2, ((4, 16), (-6, 6), (-6, 6)), lambda p: ball(p, (10, 0, 0), 5))
    assert torch.equal(board.top, board.top.flip(0))
    assert board.top[30, 20, 20] == board.top[10, 20, 20] == 2


def test_a_smooth_field_is_the_same_in_the_world_whatever_the_grid():
    fine, _ = points(1.0)
    coarse, _ = points(2.0)
    one = smooth_field(fine, 8, torch.Generator().manual_seed(1))
    other = smooth_field(coarse, 8, torch.Generator().manual_seed(1))
    assert torch.allclose(one[::2, ::2, ::2], other, atol=1e-4)


def test_a_smooth_field_has_mean_zero_and_variance_one():
    axis = torch.linspace(-140, 140, 90)
    values = smooth_field((axis, axis, axis), 6, torch.Generator().manual_seed(1))
    assert abs(float(values.mean())) < 0.02
    assert abs(float(values.std()) - 1) < 0.05


def test_wave_sheets_are_half_a_wavelength_apart():
    axis = torch.arange(0, 600, 0.25)
    line = (axis, torch.zeros_like(axis), torch.zeros_like(axis))
    total = 0
    for seed in range(20):
        near = wave_sheets(line, 20, torch.Generator().manual_seed(seed)) < 0.5
        total += int((near[1:] & ~near[:-1]).sum())
    # a line meets the sheets of an isotropic field at 1/sqrt(3) of the rate of a plane wave
    assert 0.7 < total / 20 / (600 / 10 / math.sqrt(3)) < 1.2
