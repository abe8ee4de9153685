from itertools import product

import numpy as np
import pytest

from radloom.errors import InputError
from radloom.transforms.denoising import nlm
from radloom.transforms.denoising.nlm import (
    NonLocalMeans,
    non_local_means,
    patch_radii,
    search_radii,
)


@pytest.fixture
def noisy():
    image = np.zeros((21, 12, 14), np.float32)
    image[6:15, 3:9, 4:] = 100
    return image + np.random.default_rng(0).normal(0, 5, image.shape).astype(np.float32)


def brute_force(image, sigma, patch, search, strength, rician):
    reach = [p + s for p, s in zip(patch, search, strict=True)]
    padded = np.pad(image.astype(np.float64), [(r, r) for r in reach], "reflect")

    def around(centre):
        return padded[tuple(slice(c - p, c + p + 1) for c, p in zip(centre, patch, strict=True))]

    result = np.empty(image.shape)
    for index in np.ndindex(image.shape):
        here = np.add(index, reach)
        total = weights = 0.0
        for shift in product(*(range(-s, s + 1) for s in search)):
            there = here + shift
            distance = np.mean((around(here) - around(there)) ** 2)
            weight = np.exp(-max(distance - 2 * sigma**2, 0) / (strength * sigma) ** 2)
            total += weight * padded[tuple(there)] ** (2 if rician else 1)
            weights += weight
        mean = total / weights
        result[index] = np.sqrt(max(mean - 2 * sigma**2, 0)) if rician else mean
    return result


@pytest.mark.parametrize("rician", [False, True])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 4), (4, 1, 1)])
def test_is_the_formula(noisy, spacing, rician):
    image = np.abs(noisy[:9, :6, :7])
    settings = NonLocalMeans(rician=rician)
    got = non_local_means(image, 5.0, spacing=spacing, settings=settings)
    want = brute_force(image, 5.0, patch_radii(1, spacing), search_radii(2, spacing), 0.9, rician)
    # where almost all of the mean square is noise, the root magnifies float32 rounding
    np.testing.assert_allclose(got, want, atol=0.05 if rician else 0.002)


@pytest.mark.parametrize("planes", [1, 3, 7, 100])
def test_threads_and_slabs_change_no_bit(noisy, monkeypatch, planes):
    whole = non_local_means(noisy, 5.0)
    monkeypatch.setattr(nlm, "SLAB_PLANES", planes)
    for n_threads in (1, 2, 3):
        assert np.array_equal(non_local_means(noisy, 5.0, n_threads=n_threads), whole)


def test_removes_noise_and_keeps_the_edge(noisy):
    clean = non_local_means(noisy, 5.0)
    assert clean[8:13, 5:7, 7:].std() < 0.3 * noisy[8:13, 5:7, 7:].std()
    assert clean[8:13, 5:7, 4:].min() > 85
    assert clean[8:13, 5:7, :4].max() < 15


def test_takes_off_the_rician_bias():
    rng = np.random.default_rng(1)
    magnitude = np.hypot(rng.normal(20, 10, (24, 24, 24)), rng.normal(0, 10, (24, 24, 24)))
    clean = non_local_means(magnitude, 10.0, settings=NonLocalMeans(rician=True))
    assert magnitude.mean() == pytest.approx(22.7, abs=0.3)
    assert clean.mean() == pytest.approx(20, abs=0.7)


def test_leaves_its_input_alone_and_works_on_foreign_memory_order(noisy):
    before = noisy.copy()
    turned = np.asfortranarray(noisy)
    assert np.array_equal(non_local_means(turned, 5.0), non_local_means(noisy, 5.0))
    assert np.array_equal(noisy, before)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 3), (1, 8, 8), (0, 4, 4)])
def test_tiny_images(shape):
    image = np.full(shape, 7.0, np.float32)
    assert np.array_equal(non_local_means(image, 1.0), image)


def test_no_noise_is_a_copy(noisy):
    same = non_local_means(noisy, 0.0)
    assert np.array_equal(same, noisy)
    assert not np.shares_memory(same, noisy)


def test_large_numbers_stay_finite(noisy):
    clean = non_local_means(np.abs(noisy) * 1e30, 5e30, settings=NonLocalMeans(rician=True))
    assert np.isfinite(clean).all()


@pytest.mark.parametrize("sigma", [-1.0, float("nan")])
def test_refuses_an_impossible_noise_level(noisy, sigma):
    with pytest.raises(InputError, match="finite noise level"):
        non_local_means(noisy, sigma)


def test_refuses_what_is_not_3d():
    with pytest.raises(InputError, match=r"\(I, J, K\)"):
        non_local_means(np.zeros((1, 4, 4, 4)), 1.0)
    with pytest.raises(InputError, match="search_radius"):
        NonLocalMeans(search_radius=0)


@pytest.mark.slow
def test_a_whole_head_at_1_mm():
    shape = (192, 256, 256)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    truth = np.where(sum(g**2 for g in grid) < 0.8, 100, 0).astype(np.float32)
    rng = np.random.default_rng(0)
    noisy = truth + 8 * rng.standard_normal(shape, dtype=np.float32)
    clean = non_local_means(noisy, 8.0, n_threads=2)
    assert np.sqrt(np.mean((clean - truth) ** 2)) < 1.5
