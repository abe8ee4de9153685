from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.artefacts.motion import (
    MotionRecipe,
    Movement,
    draw_motion,
    line_owners,
    moved,
)
from radloom.transforms.synthesis.fields import Grid

GRID = Grid((30, 34, 26), (2.0, 1.5, 1.0))


def test_a_translation_shifts_by_its_mm():
    volume = torch.rand(1, *GRID.shape)
    seen = moved(volume, GRID, Movement(0.5, (0.0, 0.0, 0.0), (4.0, -3.0, 5.0)))
    torch.testing.assert_close(seen[:, 2:, :-2, 5:], volume[:, :-2, 2:, :-5], atol=1e-3, rtol=0)


def test_a_quarter_turn_about_z_takes_x_to_y():
    grid = Grid((21, 21, 5), (2.0, 2.0, 3.0))
    volume = torch.zeros(1, 21, 21, 5)
    volume[0, 16, 10, 2] = 1
    seen = moved(volume, grid, Movement(0.5, (0.0, 0.0, 90.0), (0.0, 0.0, 0.0)))
    assert float(seen[0, 10, 16, 2]) == pytest.approx(1, abs=1e-3)


def test_the_middle_of_k_space_stays_and_later_movements_hold_further_out():
    frequency = torch.fft.fftfreq(100, 1 / 100, dtype=torch.float64).round()
    still = ((0.0,) * 3, (0.0,) * 3)
    owners = line_owners(
        frequency, (Movement(0.8, *still), Movement(0.4, *still), Movement(-0.5, *still))
    )
    by_line = dict(zip(frequency.int().tolist(), owners.tolist(), strict=True))
    assert [by_line[k] for k in (0, 19, 20, 39, 40, 49)] == [0, 0, 2, 2, 1, 1]
    assert [by_line[k] for k in (-24, -25, -50)] == [0, 3, 3]


def test_draws_leave_the_middle_and_can_be_off():
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        movements = draw_motion(generator, MotionRecipe(probability=1))
        assert 1 <= len(movements) <= 2
        assert all(0.06 <= abs(movement.start) <= 0.7 for movement in movements)
    assert draw_motion(generator, MotionRecipe(probability=0)) == ()
