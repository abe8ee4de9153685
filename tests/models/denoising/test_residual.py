import numpy as np
import pytest
from scipy import ndimage

from radloom.errors import GridMismatch
from radloom.models.denoising.residual import residual_structure


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.standard_normal((48, 48, 48)), 3) > 0
    image = np.zeros((64, 64, 64))
    image[8:56, 8:56, 8:56] = np.where(blobs, 900, 600)
    return image


def test_noise_alone_is_structureless(truth):
    noise = np.random.default_rng(1).normal(0, 30, truth.shape)
    structure = residual_structure(truth + noise, truth)
    assert abs(structure.autocorrelation) < 0.02
    assert abs(structure.edge_correlation) < 0.02


def test_blur_shows(truth):
    noisy = truth + np.random.default_rng(1).normal(0, 30, truth.shape)
    structure = residual_structure(noisy, ndimage.gaussian_filter(noisy, 1.5))
    assert structure.autocorrelation > 0.06
    assert structure.edge_correlation > 0.2


def test_nothing_removed(truth):
    structure = residual_structure(truth, truth)
    assert (structure.autocorrelation, structure.edge_correlation) == (0, 0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 32, 32), (3, 40, 40), (0, 2, 2)])
def test_small_volumes_are_finite(shape):
    image = np.random.default_rng(0).uniform(0, 100, shape)
    structure = residual_structure(image, image * 0.9)
    assert np.isfinite([structure.autocorrelation, structure.edge_correlation]).all()


def test_refuses_two_grids():
    with pytest.raises(GridMismatch, match="one grid"):
        residual_structure(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))
