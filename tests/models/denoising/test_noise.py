import numpy as np
import pytest
from scipy import ndimage

from radloom.errors import InputError
from radloom.models.denoising.noise import CORRELATED, estimate_noise, high_pass, rician_correction

SHAPE = (96, 80, 64)


def ball(radius=0.8, shape=SHAPE):
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    return sum(g**2 for g in grid) < radius**2


@pytest.fixture(scope="module")
def truth():
    """Two tissues with smooth shading in air."""
    image = np.where(ball(), 600.0, 0) + np.where(ball(0.5), 300.0, 0)
    shading = 1 + 0.2 * np.linspace(-1, 1, SHAPE[0])[:, None, None]
    return ndimage.gaussian_filter(image * shading, 0.6)


def rician(truth, sigma, seed=0):
    rng = np.random.default_rng(seed)
    noise = sigma * rng.standard_normal((2, *truth.shape))
    return np.hypot(truth + noise[0], noise[1]).astype(np.float32)


@pytest.mark.parametrize("sigma", [9, 30, 60, 100, 150])
def test_mr_level_with_air(truth, sigma):
    estimate = estimate_noise(rician(truth, sigma), "MR")
    assert estimate.rule == "background+head"
    assert estimate.sigma == pytest.approx(sigma, rel=0.04)


@pytest.mark.parametrize("sigma", [9, 30, 60, 100, 150])
def test_mr_level_where_the_scanner_zeroed_air(truth, sigma):
    image = np.where(truth > 200, rician(truth, sigma), 0)
    estimate = estimate_noise(image, "MR")
    assert estimate.rule == "head"
    assert estimate.sigma == pytest.approx(sigma, rel=0.1)


def test_mr_level_ignores_air_that_is_not_rayleigh(truth):
    image = rician(truth, 30)
    image[truth < 20] = np.abs(image[truth < 20] - 30)
    assert estimate_noise(image, "MR").rule == "head"


def several_coils(truth, sigma, n_coils):
    rng = np.random.default_rng(0)
    in_phase = truth + sigma * rng.standard_normal(truth.shape)
    rest = sigma**2 * rng.chisquare(2 * n_coils - 1, truth.shape)
    return np.sqrt(in_phase**2 + rest).astype(np.float32)


@pytest.mark.parametrize("n_coils", [1, 2, 4, 8])
@pytest.mark.parametrize("sigma", [9, 30])
def test_air_tells_how_many_coils_were_added_up(truth, sigma, n_coils):
    image = several_coils(truth, sigma, n_coils)
    estimate = estimate_noise(image, "MR")
    assert estimate.n_coils == n_coils
    assert estimate.sigma == pytest.approx(sigma, rel=0.05)
    dark = np.zeros(SHAPE, bool)
    dark[:, :12] = True  # tissue that passes for air
    assert estimate_noise(np.where(dark, image + sigma, image), "MR").n_coils == n_coils


def test_air_that_does_not_agree_with_tissue_tells_nothing(truth):
    image = several_coils(truth, 30, 8)
    image[truth < 20] *= 2
    estimate = estimate_noise(image, "MR")
    assert (estimate.rule, estimate.n_coils) == ("head", 1)
    assert np.isnan(estimate.background)


def test_mr_level_of_interpolated_noise(truth):
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), (0.7, 0.7, 0.3))
    image = np.where(truth > 200, truth + 30 * noise / noise.std(), 0).astype(np.float32)
    neighbours_alone = 1.4826 * np.median(np.abs(high_pass(image)[truth > 800]))
    assert neighbours_alone < 9
    estimate = estimate_noise(image, "MR")
    assert 14 < estimate.sigma < 33
    assert estimate.correlation > CORRELATED


def test_white_noise_is_not_correlated(truth):
    assert estimate_noise(rician(truth, 30), "MR").correlation == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("sigma", [4, 12, 30])
def test_ct_level(sigma):
    hu = np.where(ball(), 40.0, -1000.0) + np.where(ball(0.8) & ~ball(0.7), 1000.0, 0)
    noise = np.random.default_rng(0).normal(0, sigma, SHAPE)
    image = np.clip(np.round(hu + noise), -1024, 3071).astype(np.float32)
    estimate = estimate_noise(image, "CT")
    assert estimate.rule == "soft tissue"
    assert estimate.sigma == pytest.approx(sigma, rel=0.05)


def test_ct_level_without_soft_tissue_and_of_other_modalities():
    image = np.random.default_rng(0).normal(500, 20, (24, 24, 24)).astype(np.float32)
    for modality in ("CT", "PT"):
        estimate = estimate_noise(image, modality)
        assert estimate.rule == "everywhere"
        assert estimate.sigma == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("modality", ["MR", "CT", "PT"])
@pytest.mark.parametrize("shape", [(8, 8, 8), (1, 1, 1), (1, 32, 32), (0, 3, 3)])
def test_a_constant_has_no_noise(modality, shape):
    assert estimate_noise(np.full(shape, 40, np.float32), modality).sigma == 0


@pytest.mark.parametrize("modality", ["MR", "CT", "PT"])
@pytest.mark.parametrize("shape", [(2, 1, 3), (1, 32, 32), (4, 4, 4)])
def test_small_images_give_a_finite_level(modality, shape):
    image = np.random.default_rng(0).uniform(0, 100, shape)
    assert np.isfinite(estimate_noise(image, modality).sigma)


def test_high_pass_keeps_white_noise_and_drops_planes():
    noise = np.random.default_rng(0).standard_normal((40, 40, 40))
    for stride in (1, 2):
        assert high_pass(noise, stride).std() == pytest.approx(1, rel=0.05)
    ramp = np.add.outer(np.add.outer(np.arange(20.0), 3 * np.arange(20.0)), 5 * np.arange(20.0))
    assert np.abs(high_pass(ramp)[2:-2, 2:-2, 2:-2]).max() < 1e-9


@pytest.mark.parametrize("signal", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_rician_correction_against_samples(signal):
    rng = np.random.default_rng(0)
    samples = np.hypot(signal + rng.standard_normal(10**6), rng.standard_normal(10**6))
    assert rician_correction(samples.std(), samples.mean()) == pytest.approx(1, rel=0.03)


def test_refuses_what_is_not_3d():
    with pytest.raises(InputError, match=r"\(I, J, K\)"):
        estimate_noise(np.zeros((1, 4, 4, 4)), "MR")
