from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.artefacts.beam_hardening import (
    BeamHardeningParameters,
    BeamHardeningRecipe,
    beam_hardening_error,
    draw_beam_hardening,
)
from radloom.transforms.synthesis.fields import Grid

GRID = Grid((96, 96, 8), (2.0, 2.0, 4.0))


def cylinders(*parts: tuple[float, float, float, float]) -> torch.Tensor:
    """(x, y, radius, HU) each, painted one after another in air."""
    x, y, _ = torch.meshgrid(*GRID.axes(), indexing="ij")
    hu = torch.full((1, *GRID.shape), -1000.0)
    for cx, cy, radius, value in parts:
        hu[0][torch.hypot(x - cx, y - cy) < radius] = value
    return hu


def at(volume: torch.Tensor, x: float, y: float) -> float:
    i, j = round(x / 2 + 47.5), round(y / 2 + 47.5)
    return float(volume[0, i - 1 : i + 2, j - 1 : j + 2].mean())


def test_a_dark_band_joins_two_dense_bones():
    hu = cylinders((0, 0, 75, 30), (-35, 0, 14, 1200), (35, 0, 14, 1200))
    error = beam_hardening_error(hu, GRID, BeamHardeningParameters(2e-3))
    assert at(error, 0, 0) < at(error, 0, 40) - 10
    assert at(error, 0, 0) < -5


def test_water_cups():
    hu = cylinders((0, 0, 80, 0))
    error = beam_hardening_error(hu, GRID, BeamHardeningParameters(0.0, cupping_per_mm=8e-5))
    assert at(error, 0, 0) < at(error, 60, 0) - 3
    assert abs(at(error, 0, 0)) < 20


def test_metal_throws_streaks_and_its_noise_follows_the_seed():
    hu = cylinders((0, 0, 75, 30), (-20, 0, 5, 3071), (20, 0, 5, 3071))
    smooth = beam_hardening_error(hu, GRID, BeamHardeningParameters(0.0, metal_mm=30.0))
    assert at(smooth, 0, 0) < -100
    one, two = (
        beam_hardening_error(hu, GRID, BeamHardeningParameters(0.0, 0.0, 30.0, 3.0, seed))
        for seed in (1, 2)
    )
    assert float((one - two).std()) > 5
    assert torch.equal(
        one, beam_hardening_error(hu, GRID, BeamHardeningParameters(0.0, 0.0, 30.0, 3.0, 1))
    )


def test_no_error_without_cause():
    hu = cylinders((0, 0, 75, 30))
    error = beam_hardening_error(hu, GRID, BeamHardeningParameters(3e-3, 0.0, 30.0, 3.0, 1))
    assert float(error.abs().max()) == pytest.approx(0, abs=1e-3)


def test_it_can_be_off():
    assert draw_beam_hardening(torch.Generator(), BeamHardeningRecipe(probability=0)) is None
