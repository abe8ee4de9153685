"""The deep image prior: nearer to the truth, stopped by what it measures, guided by a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from radloom.errors import GridMismatch, InputError
from radloom.models.denoising import prior
from radloom.models.denoising.prior import DeepPrior, _blocks, deep_image_prior
from radloom.transforms.denoising.nlm import non_local_means

SMALL = DeepPrior(max_steps=130, learning_rate=0.01, widths=(8, 16))


@pytest.fixture(scope="module")
def scene():
    """A block with a small bright body in it, and noise of a tenth."""
    truth = np.full((16, 32, 16), 100.0, np.float32)
    truth[3:13, 6:26, 3:13] = 500
    truth[5:10, 14:20, 5:10] = 900
    noise = 60 * np.random.default_rng(1).standard_normal((2, *truth.shape))
    return truth, np.hypot(truth + noise[0], noise[1]).astype(np.float32)


def error(image, truth):
    return float(np.mean((image - truth) ** 2))


@pytest.mark.slow
def test_comes_nearer_to_the_truth(scene):
    truth, noisy = scene
    clean = deep_image_prior(noisy, 60.0, rician=True, settings=SMALL)
    assert clean.dtype == np.float32
    assert error(clean, truth) < 0.5 * error(noisy, truth)


def test_is_the_same_again_and_follows_a_guide(scene):
    truth, noisy = scene
    short = DeepPrior(max_steps=2, widths=SMALL.widths)
    inverse = 1000 - truth  # another contrast of the same body, without noise
    first, second, guided = (
        deep_image_prior(noisy, 60.0, guide=guide, settings=short)
        for guide in (None, None, inverse)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, guided)


class Memory(torch.nn.Module):
    """Learns every voxel by itself, so nothing of those that it is not shown."""

    def __init__(self, shape) -> None:
        super().__init__()
        self.image = torch.nn.Parameter(torch.zeros(1, 1, *shape))
        self.steps = 0

    def forward(self, _):
        self.steps += 1
        return self.image


def test_stops_where_held_out_voxels_gain_no_more(scene, monkeypatch):
    _, noisy = scene
    network = Memory(noisy.shape)
    monkeypatch.setattr(prior, "_network", lambda *_: network)
    settings = DeepPrior(max_steps=500, patience=20)
    start = non_local_means(noisy, 60.0)
    clean = deep_image_prior(noisy, 60.0, settings=settings)
    assert network.steps == 21
    assert 0.9 * start.std() < clean.std() < 1.1 * start.std()  # before the noise was learned


def test_blocks_cover_the_grid_with_positive_weights():
    settings = DeepPrior(block=32, overlap=8)
    total = np.zeros((80, 20, 33))
    for block, weight in _blocks(total.shape, settings):
        assert weight.shape == total[block].shape
        assert weight.min() > 0
        total[block] += weight.numpy()
    assert total.min() > 0


def test_refuses_what_does_not_fit(scene):
    _, noisy = scene
    with pytest.raises(GridMismatch, match="guide on the grid"):
        deep_image_prior(noisy, 1.0, guide=noisy[1:])
    with pytest.raises(InputError, match=r"\(I, J, K\)"):
        deep_image_prior(noisy[0], 1.0)
    with pytest.raises(InputError, match="overlap"):
        DeepPrior(block=32, overlap=20)
    assert np.array_equal(deep_image_prior(noisy, 0.0), noisy)
