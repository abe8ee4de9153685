from __future__ import annotations

import numpy as np
import pytest
import torch

from radloom.transforms.synthesis.artefacts.bias import (
    BiasParameters,
    BiasRecipe,
    bias_field,
    bias_gain,
    draw_bias,
)
from radloom.transforms.synthesis.fields import Grid

GRID = Grid((40, 44, 36), (5.0, 5.0, 5.0))


def test_the_logarithm_has_the_deviation_drawn():
    deviations = [
        float(bias_gain(GRID, BiasParameters(0.2, 50.0, seed), "cpu").log().square().mean().sqrt())
        for seed in range(24)
    ]
    assert np.mean(np.square(deviations)) == pytest.approx(0.04, rel=0.15)


def test_tilt_and_centre_are_what_they_say_at_100_mm():
    plain = BiasParameters(0.1, 80.0, 3)
    shaped = BiasParameters(0.1, 80.0, 3, (0.3, 0.0, 0.0), 0.4)
    change = (bias_gain(GRID, shaped, "cpu") / bias_gain(GRID, plain, "cpu")).log()[0]
    x, y, z = (axis / 100 for axis in GRID.axes())
    far = x[-1] ** 2 + y[22] ** 2 + z[18] ** 2
    assert float(change[-1, 22, 18]) == pytest.approx(float(0.3 * x[-1] - 0.4 * far), abs=1e-4)


def test_the_gain_is_smooth_and_positive():
    gain = bias_gain(GRID, BiasParameters(0.3, 60.0, 1), "cpu")
    assert gain.shape == (1, *GRID.shape)
    assert float(gain.min()) > 0
    assert float(gain.log().diff(dim=1).abs().max()) < 0.15


def test_probability_zero_draws_none():
    generator = torch.Generator().manual_seed(0)
    assert all(draw_bias(generator, BiasRecipe(probability=0)) is None for _ in range(20))


def test_the_field_of_the_phantom_is_the_same_for_one_generator_state():
    one, other = (
        bias_field(np.eye(4), (20, 20, 20), 0.1, torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(one, other)
    assert 0.7 < float(one.min()) < float(one.max()) < 1.4
