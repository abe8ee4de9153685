from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.artefacts.resolution import (
    ResolutionRecipe,
    draw_resolution,
    k_space_filter,
    pixels_from_voxels,
    voxels_from_pixels,
)


@pytest.mark.parametrize("interpolation", ["fourier", "linear", "nearest"])
@pytest.mark.parametrize("apodisation", [0.0, 1.0])
def test_even_brightness_stays(interpolation, apodisation):
    seen = voxels_from_pixels(50, 31, interpolation) @ pixels_from_voxels(50, 31, apodisation)
    torch.testing.assert_close(seen.sum(1), torch.ones(50, dtype=torch.float64))


def test_k_space_beyond_the_lines_is_empty():
    line = torch.rand(64, dtype=torch.float64)
    seen = voxels_from_pixels(64, 32, "fourier") @ pixels_from_voxels(64, 32, 0.0) @ line
    kept, was = torch.fft.rfft(seen), torch.fft.rfft(line)
    torch.testing.assert_close(kept[:16], was[:16])
    assert float(kept[16:].abs().max()) < 1e-10


def test_an_edge_rings_by_nine_percent_and_not_under_a_hann_window():
    edge = torch.zeros(256, dtype=torch.float64)
    edge[64:192] = 1

    def overshoot(apodisation):
        seen = voxels_from_pixels(256, 64, "fourier") @ pixels_from_voxels(256, 64, apodisation)
        return float((seen @ edge).max()) - 1

    # Wilbraham and Gibbs: 8.95 % of the step
    assert overshoot(0.0) == pytest.approx(0.0895, abs=0.01)
    assert overshoot(1.0) < 0.01


def test_the_filter_falls_from_one():
    weights = k_space_filter(20, 1.0)
    assert len(weights) == 10
    assert float(weights[0]) == 1
    assert (weights.diff() < 0).all()
    assert k_space_filter(21, 0.0).tolist() == [1.0] * 11


def test_draws_stay_in_their_ranges_and_can_be_off():
    generator = torch.Generator().manual_seed(1)
    recipe = ResolutionRecipe(probability=1)
    for _ in range(50):
        drawn = draw_resolution(generator, recipe)
        assert drawn is not None
        assert all(1.05 <= c <= 2.2 for c in drawn.coarseness)
        assert drawn.interpolation in {"fourier", "linear", "nearest"}
    assert draw_resolution(generator, ResolutionRecipe(probability=0)) is None
