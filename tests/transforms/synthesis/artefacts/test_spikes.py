from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.artefacts.spikes import (
    Spike,
    SpikeRecipe,
    add_spikes,
    draw_spikes,
)

LEVEL = torch.tensor(2.0)


def test_a_spike_is_one_wave_of_its_strength():
    signal = torch.full((1, 16, 16, 16), 100.0)
    seen = add_spikes(signal, (Spike(0.1, (0.25, -0.125, 0.0), 0.3),), LEVEL, None)
    spectrum = torch.fft.fftn(seen[0] - 100).abs() / seen.numel()
    # over a strong signal the magnitude shows the wave's real part: half in each of two lines
    assert float(spectrum[4, -2, 0]) == pytest.approx(0.1, rel=0.01)
    assert float(spectrum[-4, 2, 0]) == pytest.approx(0.1, rel=0.01)


def test_a_single_spike_lifts_the_air_evenly():
    seen = add_spikes(torch.zeros(1, 4, 5, 6), (Spike(0.1, (0.2, 0.1, 0.3), 1.0),), LEVEL, None)
    torch.testing.assert_close(seen, torch.full((1, 4, 5, 6), 0.2))


def test_a_spike_hits_one_slice():
    signal = torch.ones(1, 8, 8, 5)
    seen = add_spikes(signal, (Spike(0.1, (0.2, 0.1, 0.3), 1.0, slice=0.75),), LEVEL, 2)
    changed = (seen != signal).flatten(0, 2).any(0)
    assert changed.tolist() == [False, False, False, True, False]


def test_none_is_none():
    signal = torch.ones(1, 2, 2, 2)
    assert add_spikes(signal, (), LEVEL, None) is signal
    assert draw_spikes(torch.Generator(), SpikeRecipe(probability=0)) == ()
    assert len(draw_spikes(torch.Generator(), SpikeRecipe(probability=1))) >= 1
