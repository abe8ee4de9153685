"""The mean of magnitudes against samples, and the way back."""

import numpy as np
import pytest

from radloom.transforms.denoising.rician import mean_magnitude, signal_of_mean


@pytest.mark.parametrize("signal", [0.0, 1.0, 4.0, 30.0, 500.0])
def test_mean_against_samples(signal):
    rng = np.random.default_rng(0)
    noise = 4 * rng.standard_normal((2, 10**6))
    samples = np.hypot(signal + noise[0], noise[1])
    assert float(mean_magnitude(signal, 4.0)) == pytest.approx(samples.mean(), abs=0.02)


def test_there_and_back():
    signal = np.concatenate([np.linspace(0, 60, 200), np.linspace(60, 5000, 50)]).reshape(10, 25)
    back = signal_of_mean(mean_magnitude(signal, 4.0), 4.0)
    assert back.shape == signal.shape
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, signal, atol=0.03, rtol=1e-4)


def test_nothing_below_air_and_nothing_without_noise():
    assert np.array_equal(signal_of_mean(np.array([0.0, 4.9, 5.0]), 4.0), [0, 0, 0])
    assert np.array_equal(signal_of_mean(np.array([3.0, 0.0]), 0.0), [3, 0])


def test_a_map_of_levels():
    level = np.array([1.0, 2.0, 4.0])
    one_by_one = [float(mean_magnitude(3.0, sigma)) for sigma in level]
    np.testing.assert_allclose(mean_magnitude(3.0, level), one_by_one, rtol=1e-6)


@pytest.mark.parametrize("n_coils", [2, 4, 16, 32])
@pytest.mark.parametrize("signal", [0.0, 4.0, 30.0, 500.0])
def test_several_coils_against_samples_and_back(n_coils, signal):
    rng = np.random.default_rng(0)
    in_phase = signal + 4 * rng.standard_normal(10**6)
    samples = np.sqrt(in_phase**2 + 16 * rng.chisquare(2 * n_coils - 1, 10**6))
    mean = mean_magnitude(signal, 4.0, n_coils)
    assert float(mean) == pytest.approx(samples.mean(), abs=0.02)
    assert float(signal_of_mean(mean, 4.0, n_coils)) == pytest.approx(signal, abs=0.1)


def test_one_coil_is_rician():
    from scipy.special import gammaln, hyp1f1

    x = np.linspace(0, 20, 50)
    chi = np.sqrt(2) * np.exp(gammaln(1.5) - gammaln(1.0)) * hyp1f1(-0.5, 1, -(x**2) / 2)
    np.testing.assert_allclose(mean_magnitude(x, 1.0), chi, rtol=1e-5)
