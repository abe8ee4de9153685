"""Shrinkage of cosine coefficients, against blocks transformed one by one by SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from radloom.errors import InputError
from radloom.transforms.denoising import shrinkage
from radloom.transforms.denoising.shrinkage import BLOCK, cosine_shrinkage, shrunk


def volume(shape=(9, 8, 7), seed=0):
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))


def block_by_block(image, sigma, pilot=None):
    total, weights = np.zeros_like(image), np.zeros_like(image)
    starts = [n - size + 1 for n, size in zip(image.shape, BLOCK, strict=True)]
    for start in np.ndindex(*starts):
        box = tuple(slice(s, s + size) for s, size in zip(start, BLOCK, strict=True))
        found = dctn(image[box], norm="ortho")
        if pilot is None:
            gain = (np.abs(found) > 2.7 * sigma).astype(float)
        else:
            power = dctn(pilot[box], norm="ortho") ** 2
            gain = power / (power + sigma**2)
        gain[0, 0, 0] = 1
        weight = 1 / (gain**2).sum()
        total[box] += weight * idctn(gain * found, norm="ortho")
        weights[box] += weight
    return total / weights


def test_each_block_s_coefficients_are_shrunk_and_all_blocks_averaged() -> None:
    image, sigma = volume(), 0.15
    padded = np.pad(image[0, 0].numpy().astype(float), [(n - 1, n - 1) for n in BLOCK], mode="edge")
    wanted = block_by_block(padded, sigma, pilot=block_by_block(padded, sigma))
    found = shrunk(image, torch.full_like(image, sigma))[0, 0].numpy()
    assert np.abs(found - wanted[4:-4, 4:-4, 2:-2]).max() < 1e-5


def test_without_noise_nothing_is_taken() -> None:
    image = volume()
    assert torch.allclose(shrunk(image, torch.zeros_like(image)), image, atol=1e-5)


def test_flat_noise_falls_and_an_edge_stays() -> None:
    noise = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    step = torch.zeros_like(noise)
    step[..., 16:] = 20
    found = shrunk(step + noise, torch.ones_like(noise))
    assert float((found - step).square().mean().sqrt()) < 0.35
    assert float((found - step)[..., 14:18].mean(dim=(0, 1, 2, 3)).abs().max()) < 0.1


@pytest.mark.parametrize("wiener", [True, False])
def test_a_voxel_depends_on_one_or_two_blocks_reach_alone(wiener) -> None:
    image = volume((20, 20, 20))
    sigma = torch.full_like(image, 0.1)
    other = image.clone()
    other[..., 10, 10, 10] += 1
    before, after = (shrunk(one, sigma, wiener=wiener) for one in (image, other))
    changed = (after - before).abs()[0, 0] > 1e-6
    reached = (changed.nonzero() - 10).abs().amax(0).tolist()
    assert bool(changed[10, 10, 10])
    assert all(r <= (2 if wiener else 1) * (n - 1) for r, n in zip(reached, BLOCK, strict=True))


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("wiener", [True, False])
def test_tiles_have_no_seams(monkeypatch, n_threads, wiener) -> None:
    image = volume((30, 26, 20))[0, 0].numpy()
    whole = cosine_shrinkage(image, 0.1, wiener=wiener)
    monkeypatch.setattr(shrinkage, "_TILE", (12, 10, 6))
    tiled = cosine_shrinkage(image, 0.1, n_threads=n_threads, wiener=wiener)
    assert np.array_equal(tiled, whole)


@pytest.mark.parametrize("thickest", [0, 1])
def test_short_blocks_lie_across_thick_slices(thickest) -> None:
    image = volume((16, 12, 10))[0, 0].numpy()
    spacing = [1.0, 1.0, 1.0]
    spacing[thickest] = 3.0
    turned = np.ascontiguousarray(image.swapaxes(thickest, 2))
    found = cosine_shrinkage(image, 0.1, spacing=spacing)
    assert np.array_equal(found.swapaxes(thickest, 2), cosine_shrinkage(turned, 0.1))
    assert not np.allclose(found, cosine_shrinkage(image, 0.1), atol=1e-3)


def test_the_bias_of_magnitudes_is_taken_off() -> None:
    noise = np.random.default_rng(0).standard_normal((2, 24, 24, 24))
    magnitude = np.hypot(3 + noise[0], noise[1])
    assert abs(cosine_shrinkage(magnitude, 1.0, rician=True).mean() - 3) < 0.05
    assert cosine_shrinkage(magnitude, 1.0).mean() > 3.1


def test_refuses_what_is_no_volume_or_no_level() -> None:
    with pytest.raises(InputError, match=r"\(I, J, K\)"):
        cosine_shrinkage(np.ones((3, 3)), 1.0)
    with pytest.raises(InputError, match="noise level"):
        cosine_shrinkage(np.ones((3, 3, 3)), -1.0)
    image = np.random.default_rng(0).random((3, 1, 2)).astype(np.float32)
    assert np.array_equal(cosine_shrinkage(image, 0.0), image)
    assert cosine_shrinkage(image, 0.5).shape == image.shape
