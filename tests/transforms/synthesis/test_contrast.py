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


def test_double_inversion_agrees_with_relaxing_and_inverting():
    sequence = MRSequence("dir", "double_inversion", 9000, 0, ti_ms=3000, ti2_ms=450)
    for t1 in (900.0, 1500.0, 4300.0):
        m = 1 - math.exp(-(9000 - 3450) / t1)
        m = 1 - (1 + m) * math.exp(-3000 / t1)
        m = 1 - (1 + m) * math.exp(-450 / t1)
        assert mr_signal(Relaxation(t1, 100, 1.0), sequence) == pytest.approx(abs(m), abs=1e-12)


def test_gradient_echoes_agree_with_pulse_by_pulse_simulation():
    tissue, flip, tr = Relaxation(1000, 80, 1.0), math.radians(35), 12.0
    spoiled = balanced_z = 1.0
    balanced_x = 0.0
    for pulse in range(4000):
        sign = 1 if pulse % 2 == 0 else -1
        read_spoiled = spoiled * math.sin(flip)
        spoiled = 1 + (spoiled * math.cos(flip) - 1) * math.exp(-tr / 1000)
        x = balanced_x * math.cos(flip) + sign * balanced_z * math.sin(flip)
        z = balanced_z * math.cos(flip) - sign * balanced_x * math.sin(flip)
        read_balanced = abs(x)
        balanced_x, balanced_z = x * math.exp(-tr / 80), 1 + (z - 1) * math.exp(-tr / 1000)
    for kind, read in (("spoiled", read_spoiled), ("balanced", read_balanced)):
        sequence = MRSequence("t1", kind, tr, 0, flip_degrees=35)
        assert mr_signal(tissue, sequence) == pytest.approx(read, rel=1e-6)
