"""The network's way from an image to an image: grids, units, windows, weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from radloom.errors import InputError, MissingWeights
from radloom.models.denoising.learned import (
    STRIDE,
    Denoiser,
    _windows_of,
    bundle_of,
    denoise_with_network,
    shipped_denoiser,
)
from radloom.models.denoising.network import FLOOR

EVEN = (1.0, 1.0, 1.0)


class Backbone(torch.nn.Module):
    """Gives the image less a tenth of the level, and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()
        self.factor = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, pair):
        self.shapes.add(tuple(pair.shape))
        return pair[:, :1] - self.factor * pair[:, 1:]


@pytest.mark.parametrize("shape", [(40, 36, 24), (17, 70, 5), (1, 9, 33)])
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_any_grid_comes_back_in_its_own_units(shape, modality):
    image = np.random.default_rng(0).normal(300, 50, shape).astype(np.float32)
    before = image.copy()
    network = Backbone()
    clean = denoise_with_network(
        image, 20.0, (1, 1, 3), Denoiser(network, window=(32, 32, 32)), modality=modality
    )
    assert clean.shape == shape
    assert clean.dtype == np.float32
    np.testing.assert_allclose(clean, image - 2.0, rtol=1e-5)
    assert np.array_equal(image, before)
    assert all(n % 8 == 0 and n <= 32 for s in network.shapes for n in s[2:])


@pytest.mark.parametrize("thickest", [0, 1, 2])
def test_the_network_sees_thick_slices_one_behind_the_other_along_the_last_axis(thickest):
    spacing = [4.0 if axis == thickest else 1.0 for axis in range(3)]
    shape = [8 if axis == thickest else 16 for axis in range(3)]
    image = np.random.default_rng(0).normal(300, 50, shape).astype(np.float32)
    level = np.random.default_rng(1).uniform(10, 20, shape).astype(np.float32)
    network = Backbone()
    clean = denoise_with_network(image, level, spacing, Denoiser(network), modality="CT")
    assert network.shapes == {(1, 2, 16, 16, 8)}
    np.testing.assert_allclose(clean, image - 0.1 * level, rtol=1e-5)


def test_the_noise_may_be_a_map_and_has_a_floor():
    image = np.full((16, 16, 16), 2.0, np.float32)
    level = np.zeros_like(image)
    level[8:] = 0.5
    clean = denoise_with_network(image, level, EVEN, Denoiser(Backbone()), modality="MR")
    np.testing.assert_allclose(clean[8:], 1.95, rtol=1e-6)
    np.testing.assert_allclose(clean[:8], 2.0 - 0.1 * FLOOR * 2.0, rtol=1e-6)
    unknown = denoise_with_network(image, 0.0, EVEN, Denoiser(Backbone()), modality="MR")
    assert np.array_equal(unknown, image)


def test_refuses_what_does_not_fit():
    image = np.ones((8, 8, 8), np.float32)
    with pytest.raises(InputError, match="noise level or a map"):
        denoise_with_network(image, np.ones((8, 8)), EVEN, Denoiser(Backbone()), modality="MR")
    with pytest.raises(MissingWeights, match="got 'PT'"):
        bundle_of("PT")


def test_weights_come_from_a_file_and_windows_from_the_inferer(tmp_path):
    inferer = SlidingWindowInferer(roi_size=(16, 24, 32), overlap=0.5)
    device = torch.device("cpu")
    absent = str(tmp_path / "models" / "model.pt")
    with pytest.raises(MissingWeights, match=r"models/model\.pt"):
        Denoiser.of_file(Backbone(), inferer, absent, device)
    path = tmp_path / "model.pt"
    torch.save({"factor": torch.tensor(0.3)}, path)
    denoiser = Denoiser.of_file(Backbone(), inferer, str(path), device)
    assert denoiser.window == (16, 24, 32)
    assert denoiser.overlap == 0.5
    assert float(denoiser.network.factor.detach()) == pytest.approx(0.3)


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_what_a_release_without_weights_says(modality):
    from radloom.models.bundles import find_bundle

    if (find_bundle(bundle_of(modality)) / "models" / "model.pt").is_file():
        assert shipped_denoiser(modality, torch.device("cpu")).window == (112, 112, 112)
    else:
        with pytest.raises(MissingWeights, match=bundle_of(modality)):
            shipped_denoiser(modality, torch.device("cpu"))


@pytest.mark.parametrize("size", [8, 13, 192, 193, 224, 300, 512])
def test_windows_cover_an_axis_and_are_no_larger_than_they_must_be(size):
    window, overlap = _windows_of(size, 192, 0.125)
    assert window % STRIDE == 0
    assert window <= 192
    n = 1 if window >= size else -(-(size - 24) // (window - 24))
    assert n == (1 if size <= 192 else -(-(size - 24) // 168))
    assert n * window - (n - 1) * 24 - size < n * STRIDE
    assert overlap == (0 if n == 1 else 24 / window)
