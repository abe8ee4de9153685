from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from radloom.transforms.synthesis.artefacts.kernel import KernelParameters, transfer
from radloom.transforms.synthesis.artefacts.quantum_noise import (
    QuantumNoiseRecipe,
    draw_quantum_noise,
    fbp_noise,
    noise_map,
)
from radloom.transforms.synthesis.fields import Grid

GRID = Grid((64, 80, 300), (0.8, 0.8, 1.0))


@pytest.mark.parametrize(
    "kernel", [KernelParameters(0.8), KernelParameters(0.35, 0.6, 1.5)], ids=["soft", "sharp"]
)
def test_the_power_spectrum_is_a_ramp_under_the_kernel(kernel):
    noise = fbp_noise(GRID.shape, GRID, kernel, 1, torch.device("cpu"))[0]
    assert float(noise.std()) == pytest.approx(1, rel=0.01)
    power = torch.fft.fft2(noise.movedim(2, 0)).abs().square().mean(0) / (64 * 80)
    frequency = torch.hypot(torch.fft.fftfreq(64, 0.8)[:, None], torch.fft.fftfreq(80, 0.8))
    expected = frequency * transfer(frequency, kernel).square()
    rings = torch.linspace(0.1, 0.6, 11)
    seen, wanted = (
        torch.stack([p[(frequency > a) & (frequency <= b)].mean() for a, b in pairwise(rings)])
        for p in (power, expected / expected.mean())
    )
    # the floor at frequency 0 takes a little of the power elsewhere
    torch.testing.assert_close(seen, wanted, atol=0.01, rtol=0.08)
    # hardly any of the slowest wave: what sets this noise apart from blurred white noise
    assert float(power[0, 0]) < 0.15 * float(power.max())


def test_slices_are_independent():
    noise = fbp_noise(GRID.shape, GRID, KernelParameters(0.8), 1, torch.device("cpu"))[0]
    correlation = (noise[..., 1:] * noise[..., :-1]).mean()
    assert float(correlation) == pytest.approx(0, abs=0.01)


def test_noise_is_highest_in_the_middle_of_a_head_and_lowest_in_air(balls):
    deviation = noise_map(balls.hu, balls.structures, balls.grid, 56)[0]
    assert float(deviation[28:32, 30:34, 26:30].mean()) > float(deviation[10, 32, 28])
    assert float(deviation[10, 32, 28]) > float(deviation[1, 1, 28])
    rms = deviation[balls.structures > 0].square().mean().sqrt()
    assert float(rms) == pytest.approx(1, rel=0.05)


def test_the_map_has_the_slices_asked_for(balls):
    assert noise_map(balls.hu, balls.structures, balls.grid, 9).shape == (1, 60, 64, 9)


def test_it_can_be_off():
    assert draw_quantum_noise(torch.Generator(), QuantumNoiseRecipe(probability=0)) is None
