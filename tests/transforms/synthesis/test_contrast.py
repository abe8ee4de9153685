from __future__ import annotations

import math

import pytest

from radloom.errors import InputError
from radloom.transforms.synthesis.contrast import SEQUENCES, MRSequence, mr_signal
from radloom.transforms.synthesis.tissues import Relaxation

WATER = Relaxation(4300, 1800, 1.0)


def test_spin_echo_is_density_once_relaxed_and_unrefocused():
    sequence = MRSequence("pd", "spin_echo", tr_ms=1e6, te_ms=0)
    assert mr_signal(Relaxation(1000, 80, 0.7), sequence) == pytest.approx(0.7)


def test_inversion_recovery_nulls_at_its_null_point():
    tr = 9000.0
    null = WATER.t1_ms * math.log(2 / (1 + math.exp(-tr / WATER.t1_ms)))
    sequence = MRSequence("flair", "inversion_recovery", tr, 120, null)
    assert mr_signal(WATER, sequence) == pytest.approx(0, abs=1e-12)


def test_mprage_agrees_with_pulse_by_pulse_simulation():
    tissue, sequence = Relaxation(1084, 69, 0.7), SEQUENCES["t1"]
    flip, half = math.radians(sequence.flip_degrees), sequence.n_pulses // 2
    before = sequence.ti_ms - half * sequence.echo_spacing_ms
    after = sequence.tr_ms - sequence.ti_ms - half * sequence.echo_spacing_ms

    def relax(m: float, time: float) -> float:
        return 1 + (m - 1) * math.exp(-time / tissue.t1_ms)

    m, read = 1.0, 0.0
    for _ in range(30):
        m = relax(-m, before)
        for pulse in range(2 * half):
            if pulse == half:
                read = abs(m) * math.sin(flip)
            m = relax(m * math.cos(flip), sequence.echo_spacing_ms)
        m = relax(m, after)
    expected = 0.7 * read * math.exp(-sequence.te_ms / tissue.t2_ms)
    assert mr_signal(tissue, sequence) == pytest.approx(expected, rel=1e-9)


def test_a_train_longer_than_the_pause_is_refused():
    with pytest.raises(InputError, match="pulse train"):
        mr_signal(WATER, MRSequence("t1", "mprage", 1000, 3, 200, 9, 7, 200))
