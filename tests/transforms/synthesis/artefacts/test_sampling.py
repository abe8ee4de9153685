from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.artefacts.field_of_view import FieldOfView
from radloom.transforms.synthesis.artefacts.resolution import ResolutionParameters
from radloom.transforms.synthesis.artefacts.sampling import sampling_of
from radloom.transforms.synthesis.artefacts.slices import SliceParameters
from radloom.transforms.synthesis.fields import Grid

GRID = Grid((24, 20, 30))
VIEWS = (None, FieldOfView(3, 18), None)
SLICES = SliceParameters(axis=2, thickness_mm=3.0, step_mm=3.5)


def test_nothing_asked_changes_nothing():
    volume = torch.rand(1, *GRID.shape)
    sampling = sampling_of(GRID)
    assert sampling.show(sampling.acquire(volume)) is volume
    assert sampling.n_lines(GRID) == GRID.shape


@pytest.mark.parametrize("interpolation", ["fourier", "linear", "nearest"])
@pytest.mark.parametrize("apodisation", [0.0, 0.7])
def test_the_deviation_shown_is_that_of_noise_sent_through(interpolation, apodisation):
    pixels = ResolutionParameters((1.5, 1.3, 1.0), apodisation, interpolation)
    sampling = sampling_of(GRID, VIEWS, pixels, SLICES)
    white = torch.randn(1500, *sampling.n_lines(GRID), generator=torch.Generator().manual_seed(1))
    shaped = sampling.shape_noise(white)
    assert float(shaped.std()) == pytest.approx(1, rel=0.01)
    seen = sampling.show(shaped).std(0)
    expected = sampling.show_deviation(torch.tensor(0.5), GRID)[0] / 0.5
    ratio = seen[:, 3:18] / expected[:, 3:18]
    assert float(ratio.mean()) == pytest.approx(1, abs=0.01)
    assert float((ratio - 1).abs().max()) < 0.12
    assert not expected[:, :3].any()


def test_an_uneven_deviation_is_carried_along():
    sampling = sampling_of(GRID, (None,) * 3, None, SLICES)
    ramp = torch.linspace(1, 2, 24).reshape(1, 24, 1, 1).expand(1, 24, 20, 9)
    even = sampling.show_deviation(torch.tensor(1.0), GRID)
    torch.testing.assert_close(
        sampling.show_deviation(ramp, GRID)[0, :, 4], even[0, :, 4] * ramp[0, :, 4, :1]
    )


def test_thick_slices_are_few_and_their_noise_is_shared_by_their_voxels():
    sampling = sampling_of(
        GRID, (None,) * 3, None, SliceParameters(2, 5.0, 5.0, interpolation="nearest")
    )
    assert sampling.n_lines(GRID) == (24, 20, 6)
    seen = sampling.show(torch.randn(1, 24, 20, 6))
    assert torch.equal(seen[..., 0:5], seen[..., :1].expand(1, 24, 20, 5))


def test_no_k_space_runs_along_the_slices():
    pixels = ResolutionParameters((1.5, 1.5, 1.5))
    assert sampling_of(GRID, (None,) * 3, pixels, SLICES).axes[2].n_lines(30) == 9
