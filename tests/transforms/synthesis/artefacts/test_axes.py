from __future__ import annotations

import math

import pytest
import torch

from radloom.transforms.synthesis.artefacts.axes import (
    along,
    fourier_resampling,
    gaussian_smoothing,
    linear_resampling,
    nearest_resampling,
    pixel_centres,
)
from radloom.transforms.synthesis.fields import blur


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_matrix_acts_along_one_axis(axis):
    volume, matrix = torch.rand(2, 4, 5, 6), torch.rand(3, (4, 5, 6)[axis])
    expected = torch.tensordot(volume, matrix, dims=([axis + 1], [1])).movedim(-1, axis + 1)
    torch.testing.assert_close(along(volume, matrix, axis), expected)


def test_no_matrix_leaves_the_volume_alone():
    volume = torch.rand(1, 2, 3, 4)
    assert along(volume, None, 1) is volume


def test_fourier_resampling_is_exact_for_what_it_holds():
    n, positions = 16, torch.tensor([0.3, 4.0, 11.75], dtype=torch.float64)

    def wave(x):
        return 2 + torch.cos(2 * math.pi * 3 * x / n) - torch.sin(2 * math.pi * 5 * x / n)

    matrix = fourier_resampling(positions, n, torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(matrix @ wave(torch.arange(n)).double(), wave(positions))


def test_fourier_resampling_weighs_frequencies():
    n = 12
    wave = torch.cos(2 * math.pi * 2 * torch.arange(n, dtype=torch.float64) / n)
    weights = torch.tensor([1.0, 1.0, 0.25, 1.0], dtype=torch.float64)
    matrix = fourier_resampling(torch.arange(n, dtype=torch.float64), n, weights)
    torch.testing.assert_close(matrix @ wave, 0.25 * wave)


def test_linear_and_nearest_resampling():
    positions = torch.tensor([-1.0, 0.25, 1.6, 9.0], dtype=torch.float64)
    samples = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    assert (linear_resampling(positions, 3) @ samples).tolist() == pytest.approx([1, 1.25, 3.2, 4])
    assert (nearest_resampling(positions, 3) @ samples).tolist() == [1, 1, 4, 4]


def test_pixels_fill_the_extent():
    centres = pixel_centres(12, 4)
    assert centres.tolist() == [1.0, 4.0, 7.0, 10.0]


def test_gaussian_smoothing_is_the_blur_of_the_generator_away_from_the_ends():
    volume = torch.rand(1, 40, 3, 2)
    smooth = along(volume, gaussian_smoothing(40, 1.5), 0)
    expected = blur(volume, (1.5, 0, 0))
    torch.testing.assert_close(smooth[:, 6:-6], expected[:, 6:-6], atol=3e-3, rtol=0)
    assert gaussian_smoothing(40, 0.0) is None
