from __future__ import annotations

import math

import pytest
import torch
from scipy import special, stats

from radloom.transforms.synthesis.artefacts.noise import (
    NoiseParameters,
    NoiseRecipe,
    add_rician_noise,
    draw_noise,
    g_factor,
    magnitude_with_noise,
)

SHAPE = (1, 100, 100, 100)


def expected_moments(signal: float, sigma: float, n_coils: int) -> tuple[float, float]:
    """Mean and variance of the non-central chi magnitude (Constantinides et al. 1997)."""
    mean = (
        math.sqrt(2)
        * sigma
        * math.exp(special.gammaln(n_coils + 0.5) - special.gammaln(n_coils))
        * special.hyp1f1(-0.5, n_coils, -((signal / sigma) ** 2) / 2)
    )
    return mean, signal**2 + 2 * n_coils * sigma**2 - mean**2


def noisy(signal: float, sigma: float, n_coils: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    return magnitude_with_noise(torch.full(SHAPE, signal), sigma, first, second, n_coils)


@pytest.mark.parametrize("n_coils", [1, 2, 4, 8, 32])
@pytest.mark.parametrize("snr", [0.0, 1.0, 3.0, 20.0])
def test_mean_and_variance_are_those_of_the_non_central_chi(snr, n_coils):
    seen = noisy(0.05 * snr, 0.05, n_coils)
    mean, variance = expected_moments(0.05 * snr, 0.05, n_coils)
    # a million voxels: three standard errors, and the 0.3 % of the chi-square's approximation
    assert float(seen.mean()) == pytest.approx(mean, abs=3e-3 * math.sqrt(variance), rel=1e-3)
    assert float(seen.double().var()) == pytest.approx(variance, rel=8e-3)


@pytest.mark.parametrize("snr", [0.0, 2.0])
def test_one_coil_is_rician_to_the_last_percentile(snr):
    seen = noisy(snr, 1.0, 1).flatten()[:20000].double()
    assert stats.kstest(seen.numpy(), stats.rice(snr).cdf).pvalue > 0.01


def test_two_coils_are_chi_in_air():
    seen = noisy(0.0, 1.0, 2).flatten()[:20000].double()
    assert stats.kstest(seen.numpy(), stats.chi(4).cdf).pvalue > 0.01


def test_the_rician_noise_of_the_phantom_has_the_same_law():
    generator = torch.Generator().manual_seed(3)
    seen = add_rician_noise(torch.full(SHAPE, 0.1), 0.1, generator)
    mean, variance = expected_moments(0.1, 0.1, 1)
    assert float(seen.mean()) == pytest.approx(mean, rel=1e-3)
    assert float(seen.var()) == pytest.approx(variance, rel=5e-3)
    signal = torch.rand(1, 3, 3, 3)
    assert add_rician_noise(signal, 0.0, generator) is signal


def test_the_g_factor_is_one_in_the_mean_and_highest_inside():
    maps = torch.stack(
        [
            g_factor((40, 44, 36), NoiseParameters(0.1, 0, 1, 3.0, seed), "cpu")[0]
            for seed in range(8)
        ]
    )
    assert maps.mean((1, 2, 3)).tolist() == pytest.approx([1.0] * 8, abs=1e-5)
    ratios = maps.amax((1, 2, 3)) / maps.amin((1, 2, 3))
    assert float(ratios.max()) <= 3.0
    assert float(ratios.min()) > 1.3
    assert float(maps[:, 15:25, 17:27, 13:23].mean()) > 1.1


def test_draws_stay_below_the_ceiling_of_air():
    generator = torch.Generator().manual_seed(0)
    recipe = NoiseRecipe(probability=1, coils_probability=1)
    for _ in range(200):
        drawn = draw_noise(generator, recipe)
        assert drawn is not None
        assert 0 < drawn.level <= 0.15
        assert drawn.level * math.sqrt(2 * drawn.n_coils) <= 0.3 + 1e-9
    assert draw_noise(generator, NoiseRecipe(probability=0)) is None
