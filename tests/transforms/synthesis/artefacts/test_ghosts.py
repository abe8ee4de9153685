from __future__ import annotations

import math

import pytest
import torch

from radloom.transforms.synthesis.artefacts.ghosts import (
    GhostParameters,
    GhostRecipe,
    draw_ghosts,
    ghost_weights,
)
from radloom.transforms.synthesis.artefacts.phase_encoding import encode


def test_two_copies_of_half_the_strength_lie_a_shift_away():
    line = torch.zeros(1, 1, 100, 1)
    line[0, 0, 50] = 1
    ghosts = GhostParameters(strength=0.2, shift=0.2, phase=0.7)
    seen = encode([line], 1, 100.0, 100, ghosts=ghosts)[0, 0, :, 0]
    assert seen[[30, 70]].tolist() == pytest.approx([0.1, 0.1], abs=1e-4)
    assert float(seen[50]) == pytest.approx(1, abs=1e-4)
    assert float(seen.sum()) == pytest.approx(1.2, abs=1e-2)


def test_a_swing_moves_each_line_and_changes_no_amount():
    frequency = torch.fft.fftfreq(64, 1 / 64, dtype=torch.float64)
    weights = ghost_weights(frequency, 128.0, GhostParameters(0.0, 0.25, 0.0, displacement_mm=2.0))
    torch.testing.assert_close(weights.abs(), torch.ones(64, dtype=torch.float64))
    # line 4: cos(2 pi) of 2 mm over a field of 128 mm
    assert float(weights[4].angle()) == pytest.approx(-2 * math.pi * 4 * 2 / 128)


def test_it_can_be_off():
    assert draw_ghosts(torch.Generator(), GhostRecipe(probability=0)) is None
