from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.artefacts.motion import Movement, line_owners
from radloom.transforms.synthesis.artefacts.phase_encoding import encode
from radloom.transforms.synthesis.artefacts.undersampling import (
    UndersamplingParameters,
    line_weights,
)

SHAPE = (1, 12, 15, 18)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_whole_k_space_gives_the_head_back(axis):
    volume = torch.rand(SHAPE)
    seen = encode([volume], axis, 30.0, SHAPE[1 + axis])
    torch.testing.assert_close(seen, volume, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_it_is_what_masks_in_k_space_do(axis):
    poses = [torch.rand(SHAPE), torch.rand(SHAPE)]
    n = SHAPE[1 + axis]
    missing = UndersamplingParameters(2, 1.0, 0.5, 0.2, 0.8)
    movements = (Movement(0.3, (0.0,) * 3, (0.0,) * 3),)
    seen = encode(poses, axis, 30.0, n, undersampling=missing, movements=movements)
    frequency = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64).round()
    owners = line_owners(frequency, movements)
    spectrum = sum(
        torch.fft.fft(pose.double(), dim=1 + axis).movedim(1 + axis, -1)
        * (line_weights(frequency, missing) * (owners == number))
        for number, pose in enumerate(poses)
    )
    expected = torch.fft.ifft(spectrum).movedim(-1, 1 + axis).abs()
    torch.testing.assert_close(seen.double(), expected, atol=1e-5, rtol=0)


def test_half_the_lines_fold_a_copy_by_half_the_field():
    line = torch.zeros(1, 1, 64, 1)
    line[0, 0, 20] = 1
    seen = encode([line], 1, 64.0, 64, undersampling=UndersamplingParameters(2, 1.0, 0.3, 0.0))
    assert float(seen[0, 0, 20, 0]) == pytest.approx(0.85, abs=0.01)
    assert float(seen[0, 0, 52, 0]) == pytest.approx(0.15, abs=0.01)


def test_lines_beyond_those_measured_stay_empty():
    volume = torch.rand(1, 2, 32, 2)
    seen = encode([volume], 1, 32.0, 11)
    spectrum = torch.fft.fft(volume.double(), dim=2)
    spectrum[:, :, 6:-5] = 0
    expected = torch.fft.ifft(spectrum, dim=2).abs()
    torch.testing.assert_close(seen.double(), expected, atol=1e-5, rtol=0)
