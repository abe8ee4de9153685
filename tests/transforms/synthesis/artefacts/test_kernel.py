from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.artefacts.kernel import (
    KernelParameters,
    KernelRecipe,
    blurred,
    draw_kernel,
    transfer,
)
from radloom.transforms.synthesis.fields import Grid

GRID = Grid((64, 64, 2), (0.5, 0.5, 1.0))


@pytest.mark.parametrize(
    "kernel", [KernelParameters(0.9), KernelParameters(0.5, 0.6, 1.5)], ids=["soft", "sharp"]
)
def test_a_point_spreads_as_the_transfer_says(kernel):
    hu = torch.full((1, *GRID.shape), -1000.0)
    hu[0, 32, 32] = 0
    spread = (blurred(hu, GRID, kernel) + 1000)[0, :, :, 0]
    seen = torch.fft.rfft2(spread).abs() / 1000
    frequency = torch.hypot(torch.fft.fftfreq(64, 0.5)[:, None], torch.fft.rfftfreq(64, 0.5))
    # near half a cycle a voxel a sampled Gaussian is a little more than the true one
    torch.testing.assert_close(seen, transfer(frequency, kernel).abs(), atol=0.015, rtol=0)


def test_a_sharp_kernel_overshoots_and_a_soft_one_does_not():
    hu = torch.full((1, *GRID.shape), 0.0)
    hu[:, 32:] = 1000
    inner = slice(16, 48)
    soft = blurred(hu, GRID, KernelParameters(0.8))[:, inner, inner]
    sharp = blurred(hu, GRID, KernelParameters(0.4, 0.8, 1.5))[:, inner, inner]
    assert float(soft.max()) == pytest.approx(1000, abs=1)
    assert float(sharp.max()) > 1050
    assert float(sharp.min()) < -50


def test_slices_do_not_mix():
    hu = torch.full((1, *GRID.shape), -1000.0)
    hu[..., 0] = 40
    assert float(blurred(hu, GRID, KernelParameters(1.0))[..., 1].max()) == -1000


def test_no_width_is_no_blur():
    hu = torch.rand(1, *GRID.shape) * 100
    torch.testing.assert_close(blurred(hu, GRID, KernelParameters(0.0)), hu, atol=1e-3, rtol=0)
    assert float(transfer(torch.tensor(0.7), KernelParameters(0.0))) == 1


def test_soft_and_sharp_kernels_are_drawn():
    generator = torch.Generator().manual_seed(0)
    kernels = [draw_kernel(generator, KernelRecipe()) for _ in range(200)]
    assert sum(kernel.edge > 0 for kernel in kernels) / 200 == pytest.approx(0.35, abs=0.1)
