from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.artefacts.undersampling import (
    UndersamplingParameters,
    UndersamplingRecipe,
    draw_undersampling,
    line_weights,
)

LINES = torch.fft.fftfreq(128, 1 / 128, dtype=torch.float64).round()


def test_every_line_measured_weighs_one():
    assert line_weights(LINES, UndersamplingParameters()).tolist() == [1.0] * 128


def test_every_third_line_and_the_centre_are_measured():
    weights = line_weights(LINES, UndersamplingParameters(3, 1.0, 0.4, 0.125))
    centre = LINES.abs() <= 8
    assert (weights[centre] == 1).all()
    assert (weights[~centre & (LINES % 3 == 0)] == 1).all()
    torch.testing.assert_close(
        weights[~centre & (LINES % 3 != 0)].unique(), torch.tensor([0.6], dtype=torch.float64)
    )


def test_the_share_of_random_lines_is_as_drawn():
    shares = [
        float(
            (line_weights(LINES, UndersamplingParameters(1, 0.4, 1.0, 0.0, seed=seed)) > 0)
            .double()
            .mean()
        )
        for seed in range(40)
    ]
    assert sum(shares) / 40 == pytest.approx(0.4, abs=0.03)


def test_partial_fourier_keeps_the_share_of_lines_and_the_centre():
    weights = line_weights(LINES, UndersamplingParameters(partial=0.75))
    assert float(weights.mean()) == pytest.approx(0.75, abs=0.01)
    assert (weights[LINES >= 0] == 1).all()


def test_it_can_be_off():
    recipe = UndersamplingRecipe(0, random_probability=0, partial_probability=0)
    assert draw_undersampling(torch.Generator(), recipe) is None
