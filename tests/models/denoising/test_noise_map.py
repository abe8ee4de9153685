"""Uneven noise is found where it is, and even noise is called even."""

import numpy as np
import pytest
from scipy import ndimage

from radloom.errors import InputError
from radloom.models.denoising.noise import estimate_noise
from radloom.models.denoising.noise_map import estimate_noise_map

SHAPE = (96, 80, 64)


@pytest.fixture(scope="module")
def truth():
    """Two tissues with folds between them, in air."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij", sparse=True)
    radius = np.sqrt(sum(g**2 for g in grid))
    folds = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(SHAPE), 3) > 0
    image = np.where(radius < 0.9, np.where(folds & (radius > 0.3), 600.0, 900.0), 0)
    return ndimage.gaussian_filter(image, 0.6), radius < 0.9


def noisy(truth, sigma, seed=0):
    noise = sigma * np.random.default_rng(seed).standard_normal((2, *SHAPE))
    return np.hypot(truth + noise[0], noise[1]).astype(np.float32)


@pytest.mark.parametrize("largest", [2.0, 3.0])
@pytest.mark.parametrize("level", [30, 90])
def test_follows_noise_that_grows_towards_one_side(truth, largest, level):
    image, head = truth
    ramp = np.linspace(1, largest, SHAPE[0])[:, None, None] * 2 / (1 + largest)
    sigma = np.broadcast_to(level * ramp, SHAPE)
    image = noisy(image, sigma)
    found = estimate_noise_map(image, (1, 1, 1), estimate_noise(image, "MR").sigma, rician=True)
    assert found.sigma.shape == SHAPE
    assert found.sigma.dtype == np.float32
    off = np.abs(np.log(found.sigma / sigma))[head]
    assert off.mean() < 0.1
    assert off.mean() < 0.6 * np.abs(np.log(level / sigma))[head].mean()
    low, high = np.percentile(sigma[head], (5, 95))
    assert found.unevenness == pytest.approx(high / low, rel=0.2)
    assert found.level == pytest.approx(level, rel=0.12)


@pytest.mark.parametrize("level", [30, 90])
def test_even_noise_is_even(truth, level):
    found = estimate_noise_map(noisy(truth[0], level), (1, 1, 1), level, rician=True)
    assert found.unevenness < 1.3
    assert np.median(found.sigma[truth[1]]) == pytest.approx(level, rel=0.05)


def test_scale_and_spacing_are_those_of_the_image(truth):
    image = noisy(truth[0], 40)
    one = estimate_noise_map(image, (1, 1, 1), 40, rician=True)
    thousand = estimate_noise_map(1000 * image, (1, 1, 1), 40_000, rician=True)
    np.testing.assert_allclose(thousand.sigma, 1000 * one.sigma, rtol=1e-3)
    wide = estimate_noise_map(image, (3, 3, 3), 40, rician=True)
    assert np.abs(np.gradient(wide.sigma)).mean() > np.abs(np.gradient(one.sigma)).mean()


@pytest.mark.parametrize("shape", [(4, 4, 4), (1, 64, 64), (40, 40, 5), (0, 3, 3)])
def test_small_images_give_a_finite_map(shape):
    image = np.random.default_rng(0).normal(100, 10, shape)
    found = estimate_noise_map(image, (1, 1, 4), 10.0, rician=False)
    assert found.sigma.shape == shape
    assert np.isfinite(found.sigma).all()
    assert (found.sigma > 0).all()


def test_no_noise_and_no_volume():
    found = estimate_noise_map(np.ones((20, 20, 20)), (1, 1, 1), 0.0, rician=True)
    assert not found.sigma.any()
    assert found.unevenness == 1
    with pytest.raises(InputError, match=r"\(I, J, K\)"):
        estimate_noise_map(np.ones((4, 4)), (1, 1, 1), 1.0, rician=True)
