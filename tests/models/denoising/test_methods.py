import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from radloom.errors import ConfigError, GridMismatch, InputError
from radloom.models.denoising.methods import Denoised, How, denoise_image


@pytest.fixture(scope="module")
def pair():
    truth = np.zeros((40, 40, 32), np.float32)
    truth[6:34, 6:34, 4:28] = 500
    truth[14:26, 14:26, 10:22] = 800
    rng = np.random.default_rng(0)
    noise = 40 * rng.standard_normal((2, *truth.shape))
    return truth, np.hypot(truth + noise[0], noise[1]).astype(np.float32)


@pytest.mark.parametrize("method", ["nlb", "dct", "nlm", "tv"])
@pytest.mark.parametrize("fast", [False, True])
def test_comes_nearer_to_the_truth(pair, method, fast):
    truth, noisy = pair
    clean, noise = denoise_image(noisy, (1, 1, 1), modality="MR", how=How(method, fast=fast))
    assert noise.sigma == pytest.approx(40, rel=0.1)
    assert np.mean((clean - truth) ** 2) < 0.3 * np.mean((noisy - truth) ** 2)


@pytest.mark.parametrize("method", ["nlb", "dct", "nlm", "tv", "network"])
def test_the_bias_of_several_coils_goes_with_their_noise(method):
    """Non-central chi: air of eight coils has four times the noise's deviation for a mean."""
    truth = np.zeros((44, 44, 32), np.float32)
    truth[10:34, 10:34, 4:28] = 120
    truth[14:30, 14:30, 8:24] = 600
    rng = np.random.default_rng(0)
    in_phase = truth + 30 * rng.standard_normal(truth.shape)
    noisy = np.sqrt(in_phase**2 + 900 * rng.chisquare(15, truth.shape)).astype(np.float32)
    clean, noise = denoise_image(noisy, (1, 1, 1), modality="MR", how=How(method))
    assert noise.n_coils == 8
    for part, before in (((slice(0, 6),), 100), ((slice(11, 13), slice(14, 30), slice(8, 24)), 40)):
        assert (noisy - truth)[part].mean() > before
        assert abs((clean - truth)[part].mean()) < 15
    one, _ = denoise_image(noisy, (1, 1, 1), modality="MR", how=How(method, sigma=noise.sigma))
    assert (one - truth)[:6].mean() > 80


@pytest.mark.parametrize("method", ["nlm", "tv"])
def test_fast_is_other_work(pair, method):
    slow, fast = (
        denoise_image(pair[1], (1, 1, 1), modality="MR", how=How(method, fast=f))[0]
        for f in (False, True)
    )
    assert not np.array_equal(slow, fast)


def test_refuses_unknown_methods_and_nan(pair):
    with pytest.raises(ConfigError, match="expected a denoising method"):
        denoise_image(pair[1], (1, 1, 1), modality="MR", how=How("median"))
    with pytest.raises(InputError, match="finite"):
        denoise_image(pair[1] * np.nan, (1, 1, 1), modality="MR")


def test_dictionary_transform_is_the_function_and_keeps_meta(pair):
    affine = torch.diag(torch.tensor([1.0, 1, 3, 1], dtype=torch.float64))
    image = MetaTensor(torch.from_numpy(pair[1])[None], affine=affine, meta={"note": "kept"})
    data = {"image": image, "other": 3}
    result = Denoised("image")(data)
    want = denoise_image(pair[1], (1, 1, 3), modality="MR")[0]
    assert np.array_equal(result["image"][0].numpy(), want)
    assert torch.equal(result["image"].affine, affine)
    assert result["image"].meta["note"] == "kept"
    assert data["image"] is image
    assert np.array_equal(image[0].numpy(), pair[1])


def test_a_given_level_is_taken_as_it_is(pair):
    how = How("tv", sigma=25.0)
    clean, noise = denoise_image(pair[1], (1, 1, 1), modality="MR", how=how)
    assert (noise.sigma, noise.rule) == (25.0, "given")
    other, _ = denoise_image(pair[1], (1, 1, 1), modality="MR", how=How("tv", sigma=60.0))
    assert not np.array_equal(clean, other)


def test_a_guide_is_for_the_deep_image_prior_and_on_the_grid(pair):
    with pytest.raises(ConfigError, match="guide with the method dip"):
        How("nlm", guide=pair[0])
    how = How("dip", guide=pair[0][1:])
    with pytest.raises(GridMismatch, match="register it"):
        denoise_image(pair[1], (1, 1, 1), modality="MR", how=how)
    with pytest.raises(ConfigError, match="finite noise level"):
        How("nlm", sigma=-1.0)


@pytest.fixture(scope="module")
def uneven():
    """Noise four times as strong on the right as on the left."""
    truth = np.zeros((96, 48, 48), np.float32)
    truth[6:90, 6:42, 6:42] = 500
    truth[14:82, 14:34, 14:34] = 800
    sigma = np.broadcast_to(np.linspace(15, 60, 96, dtype=np.float32)[:, None, None], truth.shape)
    noise = sigma * np.random.default_rng(0).standard_normal((2, *truth.shape))
    return truth, np.hypot(truth + noise[0], noise[1]).astype(np.float32), sigma


@pytest.mark.parametrize("method", ["nlb", "dct", "nlm", "tv"])
def test_a_map_of_uneven_noise_serves_better_than_one_level(uneven, method):
    truth, noisy, sigma = uneven

    def error(**how):
        clean, noise = denoise_image(noisy, (1, 1, 1), modality="MR", how=How(method, **how))
        return float(np.mean((clean - truth)[truth > 0] ** 2)), noise

    one, told = error(uneven=False)
    assert told.unevenness == 1
    given, told = error(sigma=sigma)
    assert given < 0.9 * one
    assert (told.rule, told.sigma) == ("given", pytest.approx(37.5, rel=0.02))
    found, told = error()
    assert found < 0.95 * one
    assert 2 < told.unevenness < 4
    assert told.sigma == pytest.approx(37.5, rel=0.15)


def test_even_noise_needs_no_map(pair):
    free, noise = denoise_image(pair[1], (1, 1, 1), modality="MR", how=How())
    one, _ = denoise_image(pair[1], (1, 1, 1), modality="MR", how=How(uneven=False))
    assert noise.unevenness == 1
    assert np.array_equal(free, one)


def test_the_network_is_told_the_map(uneven):
    from radloom.models.denoising.learned import Denoiser

    seen = {}

    class Network(torch.nn.Module):
        def forward(self, both):
            seen["level"] = both[0, 1].numpy()
            return both[:, :1]

    _, noisy, sigma = uneven
    how = How("network", sigma=sigma, denoiser=Denoiser(Network()))
    denoise_image(noisy, (1, 1, 1), modality="MR", how=how)
    np.testing.assert_allclose(seen["level"] * np.percentile(noisy, 99), sigma, rtol=1e-4)


def test_a_map_lies_on_the_grid_and_has_no_negative_levels(pair):
    with pytest.raises(GridMismatch, match="noise map of shape"):
        denoise_image(pair[1], (1, 1, 1), modality="MR", how=How(sigma=np.ones((3, 3, 3))))
    with pytest.raises(ConfigError, match="a map with others in it"):
        How(sigma=-np.ones((3, 3, 3)))
    nothing = How(sigma=np.zeros_like(pair[1]))
    assert np.array_equal(denoise_image(pair[1], (1, 1, 1), modality="MR", how=nothing)[0], pair[1])
