"""MR signal of a tissue under a pulse sequence, from T1, T2 and proton density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from radloom.errors import InputError
from radloom.transforms.synthesis.tissues import Relaxation

__all__ = ["SEQUENCES", "MRSequence", "SequenceKind", "mr_signal"]

SequenceKind: TypeAlias = Literal[
    "spin_echo", "inversion_recovery", "double_inversion", "mprage", "spoiled", "balanced"
]


@dataclass(frozen=True)
class MRSequence:
    """The timing of one acquisition."""

    role: str
    """t1, t2, flair, ..."""
    kind: SequenceKind
    """Which equation holds."""
    tr_ms: float
    """Repetition time; for mprage from one inversion to the next."""
    te_ms: float
    """Echo time."""
    ti_ms: float = 0.0
    """Inversion time; for mprage up to the centre of the pulse train, for double_inversion from
    the first inversion to the second."""
    flip_degrees: float = 90.0
    """Flip angle of the excitation."""
    echo_spacing_ms: float = 0.0
    """mprage: from one excitation to the next."""
    n_pulses: int = 1
    """mprage: excitations after each inversion."""
    ti2_ms: float = 0.0
    """double_inversion: from the second inversion to the excitation."""


SEQUENCES = MappingProxyType(
    {
        "t1": MRSequence("t1", "mprage", 2300, 2.98, 900, 9, 7.1, 192),
        "t2": MRSequence("t2", "spin_echo", 6000, 100),
        "flair": MRSequence("flair", "inversion_recovery", 9000, 125, 2480),
    }
)
"""Common protocols of the head at 3 T, by role."""


def mr_signal(tissue: Relaxation, sequence: MRSequence) -> float:
    r"""The magnitude signal of a tissue, relative to fully relaxed water.

    Spin echo: :math:`\rho (1 - e^{-TR/T_1}) e^{-TE/T_2}`. Inversion recovery:
    :math:`\rho |1 - 2 e^{-TI/T_1} + e^{-TR/T_1}| e^{-TE/T_2}`. MPRAGE: the steady state of
    inversion, recovery, a train of low flip angles and recovery, read at the centre of the train
    (Marques et al. 2010, doi:10.1016/j.neuroimage.2009.10.002, with one train). Double inversion:
    :math:`\rho |1 - 2 e^{-TI_2/T_1} + 2 e^{-(TI_1 + TI_2)/T_1} - e^{-TR/T_1}| e^{-TE/T_2}`.
    Spoiled gradient echo: :math:`\rho \sin\alpha (1 - E_1) / (1 - E_1 \cos\alpha)\, e^{-TE/T_2}`
    with :math:`E_i = e^{-TR/T_i}`; balanced steady state: :math:`\rho \sin\alpha (1 - E_1) /
    (1 - (E_1 - E_2) \cos\alpha - E_1 E_2)\, e^{-TE/T_2}`. Where gradients make the echo (mprage,
    spoiled), the tissue's T2 is to be its T2*.

    Example:
        >>> white, csf = Relaxation(1084, 69, 0.7), Relaxation(4300, 1800, 1.0)
        >>> mr_signal(white, SEQUENCES["t1"]) > mr_signal(csf, SEQUENCES["t1"])
        True

    Raises:
        InputError: a pulse train that does not fit between inversions.
    """
    decay = tissue.density * math.exp(-sequence.te_ms / tissue.t2_ms)
    return decay * _MAGNETISATIONS[sequence.kind](tissue, sequence)


def _spin_echo(tissue: Relaxation, sequence: MRSequence) -> float:
    return 1 - math.exp(-sequence.tr_ms / tissue.t1_ms)


def _inversion_recovery(tissue: Relaxation, sequence: MRSequence) -> float:
    inverted = 2 * math.exp(-sequence.ti_ms / tissue.t1_ms)
    return abs(1 - inverted + math.exp(-sequence.tr_ms / tissue.t1_ms))


def _double_inversion(tissue: Relaxation, sequence: MRSequence) -> float:
    second = math.exp(-sequence.ti2_ms / tissue.t1_ms)
    first = math.exp(-sequence.ti_ms / tissue.t1_ms)
    return abs(1 - 2 * second + 2 * first * second - math.exp(-sequence.tr_ms / tissue.t1_ms))


def _spoiled(tissue: Relaxation, sequence: MRSequence) -> float:
    flip, left = math.radians(sequence.flip_degrees), math.exp(-sequence.tr_ms / tissue.t1_ms)
    return math.sin(flip) * (1 - left) / (1 - left * math.cos(flip))


def _balanced(tissue: Relaxation, sequence: MRSequence) -> float:
    flip = math.radians(sequence.flip_degrees)
    e1, e2 = (math.exp(-sequence.tr_ms / t) for t in (tissue.t1_ms, tissue.t2_ms))
    return math.sin(flip) * (1 - e1) / (1 - (e1 - e2) * math.cos(flip) - e1 * e2)


def _mprage(tissue: Relaxation, sequence: MRSequence) -> float:
    half = sequence.n_pulses // 2
    before = sequence.ti_ms - half * sequence.echo_spacing_ms
    after = sequence.tr_ms - sequence.ti_ms - half * sequence.echo_spacing_ms
    if before < 0 or after < 0:
        raise InputError("expected the pulse train to fit between two inversions; shorten it")
    flip = math.radians(sequence.flip_degrees)
    train = _pulses(tissue.t1_ms, sequence.echo_spacing_ms, flip, half)
    to_centre = _then(_wait(tissue.t1_ms, before), train)
    gain, offset = _then(_then(to_centre, train), _wait(tissue.t1_ms, after))
    inverted = -offset / (1 + gain)
    return math.sin(flip) * abs(to_centre[0] * inverted + to_centre[1])


def _wait(t1_ms: float, time_ms: float) -> tuple[float, float]:
    """Longitudinal relaxation as an affine map m -> gain m + offset."""
    left = math.exp(-time_ms / t1_ms)
    return left, 1 - left


def _pulses(t1_ms: float, spacing_ms: float, flip: float, n: int) -> tuple[float, float]:
    left = math.exp(-spacing_ms / t1_ms)
    one = math.cos(flip) * left
    gain = one**n
    return gain, (1 - left) * (1 - gain) / (1 - one)


def _then(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    return second[0] * first[0], second[0] * first[1] + second[1]


_MAGNETISATIONS = MappingProxyType(
    {
        "spin_echo": _spin_echo,
        "inversion_recovery": _inversion_recovery,
        "double_inversion": _double_inversion,
        "mprage": _mprage,
        "spoiled": _spoiled,
        "balanced": _balanced,
    }
)
"""Kind of sequence -> transverse magnetisation just after the excitation, relative to density."""
