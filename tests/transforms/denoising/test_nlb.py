"""Non-local Bayes, against groups found and estimated one by one with NumPy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from radloom.errors import InputError
from radloom.transforms.denoising import nlb
from radloom.transforms.denoising.nlb import BLOCK, GROUP, SEARCH, non_local_bayes
from radloom.transforms.denoising.shrinkage import cosine_shrinkage


def volume(shape=(14, 13, 9), seed=0):
    """Two flat parts and noise of deviation 1."""
    truth = np.zeros(shape, np.float32)
    truth[shape[0] // 2 :] = 8
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return truth, truth + noise


def group_by_group(noisy, clean):
    total, number = np.zeros(noisy.shape), np.zeros(noisy.shape)
    ends = [n - b for n, b in zip(noisy.shape, BLOCK, strict=True)]
    places = [sorted({*range(0, e, b), e}) for e, b in zip(ends, BLOCK, strict=True)]
    for place in product(*places):
        near = [
            range(max(p - r, 0), min(p + r, e) + 1)
            for p, r, e in zip(place, SEARCH, ends, strict=True)
        ]
        boxes = [
            tuple(slice(a, a + b) for a, b in zip(start, BLOCK, strict=True))
            for start in product(*near)
        ]
        own = clean[tuple(slice(p, p + b) for p, b in zip(place, BLOCK, strict=True))]
        boxes.sort(key=lambda box: float(((clean[box] - own) ** 2).sum()))
        group = boxes[:GROUP]
        given = np.array([noisy[box].ravel() for box in group], float)
        signal = np.cov(np.array([clean[box].ravel() for box in group], float).T)
        gain = np.linalg.solve(signal + np.eye(len(signal)), signal)
        for box, block in zip(group, given.mean(0) + (given - given.mean(0)) @ gain, strict=True):
            total[box] += block.reshape(BLOCK)
            number[box] += 1
    return (total / number).astype(np.float32)


def test_each_group_is_a_sample_of_one_gaussian() -> None:
    _, noisy = volume()
    wanted = cosine_shrinkage(noisy, 1.0, wiener=False)
    for _ in range(nlb.PASSES):
        wanted = group_by_group(noisy, wanted)
    assert np.abs(non_local_bayes(noisy, 1.0) - wanted).max() < 1e-3


def test_flat_noise_falls_and_an_edge_stays() -> None:
    truth, noisy = volume((32, 32, 24))
    found = non_local_bayes(noisy, 1.0)
    assert np.sqrt(np.mean((found - truth) ** 2)) < 0.2
    assert np.abs((found - truth)[14:18].mean((1, 2))).max() < 0.1


def test_neither_tiles_nor_threads_matter(monkeypatch) -> None:
    _, noisy = volume((30, 26, 20))
    whole = non_local_bayes(noisy, 1.0)
    monkeypatch.setattr(nlb, "_TILE", (12, 8, 6))
    tiled = non_local_bayes(noisy, 1.0)
    assert np.abs(tiled - whole).max() < 1e-4
    assert np.array_equal(non_local_bayes(noisy, 1.0, n_threads=3), tiled)


def test_each_tile_takes_what_its_blocks_need(monkeypatch) -> None:
    """Memory follows the tile, not the volume."""
    largest = []
    bayes = nlb._bayes

    def seen(noisy, clean):
        largest.append(noisy.numel())
        return bayes(noisy, clean)

    monkeypatch.setattr(nlb, "_bayes", seen)
    monkeypatch.setattr(nlb, "_TILE", (8, 8, 4))
    non_local_bayes(volume((25, 18, 10))[1], 1.0)
    voxels = int(np.prod(BLOCK))
    assert max(largest) <= 3**3 * GROUP * voxels
    assert len(largest) >= 3 * 3 * 3


@pytest.mark.parametrize("thickest", [0, 1])
def test_short_blocks_lie_across_thick_slices(thickest) -> None:
    _, noisy = volume((16, 12, 10))
    spacing = [1.0, 1.0, 1.0]
    spacing[thickest] = 3.0
    turned = np.ascontiguousarray(noisy.swapaxes(thickest, 2))
    found = non_local_bayes(noisy, 1.0, spacing=spacing)
    assert np.array_equal(found.swapaxes(thickest, 2), non_local_bayes(turned, 1.0))
    assert not np.allclose(found, non_local_bayes(noisy, 1.0), atol=1e-3)


def test_the_unit_of_the_image_does_not_matter() -> None:
    _, noisy = volume()
    scaled = non_local_bayes(noisy * 1e-4, 1e-4) / 1e-4
    assert np.abs(scaled - non_local_bayes(noisy, 1.0)).max() < 1e-3


def test_the_bias_of_magnitudes_is_taken_off() -> None:
    noise = np.random.default_rng(0).standard_normal((2, 24, 24, 24))
    magnitude = np.hypot(3 + noise[0], noise[1])
    assert abs(non_local_bayes(magnitude, 1.0, rician=True).mean() - 3) < 0.05
    assert non_local_bayes(magnitude, 1.0).mean() > 3.1


@pytest.mark.parametrize("shape", [(20, 20, 1), (3, 1, 2), (1, 1, 1), (5, 40, 3)])
def test_single_slices_and_slivers_keep_their_shape(shape) -> None:
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before = noise.copy()
    found = non_local_bayes(noise, 1.0)
    assert found.shape == shape
    assert found.std() <= 0.5 * noise.std()
    assert np.array_equal(noise, before)


@pytest.mark.parametrize("sigma", [1e-9, 1e-6, 1e-4, 1e-2, 1.0, 1e3, 1e9])
def test_flat_parts_without_noise_and_any_level_of_it_do_no_harm(sigma) -> None:
    """Zeros round a skull-stripped head: all blocks there are equally near to each other."""
    image = np.zeros((52, 40, 24), np.float32)
    image[20:40] = 1000
    textured = image[24:36, 8:36, 6:20]
    textured += np.random.default_rng(0).normal(0, 300, textured.shape).astype(np.float32)
    found = non_local_bayes(image, sigma)
    assert np.isfinite(found).all()
    assert np.abs(found[:12]).max() < 1e-3
    assert np.abs(found - image).max() < max(8 * sigma, 0.05)


def test_refuses_what_is_no_volume_or_no_level() -> None:
    with pytest.raises(InputError, match=r"\(I, J, K\)"):
        non_local_bayes(np.ones((3, 3)), 1.0)
    with pytest.raises(InputError, match="noise level"):
        non_local_bayes(np.ones((3, 3, 3)), -1.0)
    image = np.random.default_rng(0).random((3, 1, 2)).astype(np.float32)
    assert np.array_equal(non_local_bayes(image, 0.0), image)
