"""Protocols of head MR as clinics and studies run them, and the timing drawn from one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from radloom.transforms.synthesis.contrast import MRSequence, SequenceKind
from radloom.transforms.synthesis.draws import Range, log_uniform, uniform
from radloom.transforms.synthesis.relaxation import relaxation_of
from radloom.transforms.synthesis.tissues import Code

__all__ = ["GRADIENT_ECHOES", "PROTOCOLS", "Protocol", "draw_sequence"]

GRADIENT_ECHOES = frozenset({"mprage", "spoiled"})
"""Kinds whose echo decays with T2*."""


@dataclass(frozen=True)
class Protocol:
    """The ranges of one protocol; fields as in `MRSequence`."""

    kind: SequenceKind
    tr_ms: Range
    te_ms: Range
    ti_ms: Range = (0.0, 0.0)
    flip_degrees: Range = (90.0, 90.0)
    echo_spacing_ms: Range = (0.0, 0.0)
    n_pulses: Range = (1.0, 1.0)
    ti2_ms: Range = (0.0, 0.0)
    nulls: Code | None = None
    """The tissue whose signal the (first) inversion time takes away, but for `null_error`."""
    null_error: Range = (0.94, 1.03)
    """The inversion time in parts of the one that nulls."""


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "t1_spin_echo": Protocol("spin_echo", (350, 650), (7, 16)),
        "t1_mprage": Protocol(
            "mprage", (1900, 2500), (2.0, 4.5), (850, 1100), (7, 12), (6.0, 8.2), (120, 176)
        ),
        "t1_spoiled": Protocol("spoiled", (8, 30), (2.0, 5.0), flip_degrees=(20, 35)),
        "t1_spoiled_2d": Protocol("spoiled", (150, 300), (2.3, 5.0), flip_degrees=(60, 85)),
        "pd_spin_echo": Protocol("spin_echo", (2200, 5000), (8, 35)),
        "pd_spoiled": Protocol("spoiled", (20, 40), (2.0, 6.0), flip_degrees=(4, 7)),
        "t2_spin_echo": Protocol("spin_echo", (3000, 8000), (75, 125)),
        "t2_balanced": Protocol("balanced", (4, 8), (2, 4), flip_degrees=(35, 65)),
        "flair": Protocol("inversion_recovery", (7500, 11500), (90, 145), nulls=Code.CSF),
        "t1_inversion_recovery": Protocol("inversion_recovery", (1800, 3000), (8, 25), (700, 950)),
        "stir": Protocol(
            "inversion_recovery", (3000, 6000), (25, 70), nulls=Code.FAT, null_error=(0.93, 1.07)
        ),
        "double_inversion": Protocol(
            "double_inversion", (7000, 11000), (20, 60), ti2_ms=(370, 460), nulls=Code.CSF
        ),
        "t2star": Protocol("spoiled", (400, 900), (15, 28), flip_degrees=(15, 25)),
        "susceptibility": Protocol("spoiled", (32, 55), (18, 28), flip_degrees=(10, 18)),
    }
)
"""By name. Inversion times follow the field strength through what they null."""


def draw_sequence(generator: torch.Generator, name: str, field_t: float) -> MRSequence:
    """A timing of the protocol `name` of `PROTOCOLS` at a field strength in T."""
    p = PROTOCOLS[name]
    tr, te = log_uniform(generator, p.tr_ms), log_uniform(generator, p.te_ms)
    ti, ti2 = uniform(generator, p.ti_ms), uniform(generator, p.ti2_ms)
    error = uniform(generator, p.null_error)
    if p.nulls is not None:
        t1 = relaxation_of(p.nulls, field_t, gradient_echo=False).t1_ms
        ti = error * _nulling_ms(t1, tr, ti2)
    return MRSequence(
        role=name,
        kind=p.kind,
        tr_ms=tr,
        te_ms=te,
        ti_ms=ti,
        flip_degrees=uniform(generator, p.flip_degrees),
        echo_spacing_ms=uniform(generator, p.echo_spacing_ms),
        n_pulses=round(uniform(generator, p.n_pulses)),
        ti2_ms=ti2,
    )


def _nulling_ms(t1_ms: float, tr_ms: float, ti2_ms: float) -> float:
    """The (first) inversion time that leaves nothing of a tissue, one inversion where ti2 is 0."""
    left = math.exp(-tr_ms / t1_ms)
    if ti2_ms == 0:
        return t1_ms * math.log(2 / (1 + left))
    second = math.exp(-ti2_ms / t1_ms)
    return -t1_ms * math.log((2 * second + left - 1) / (2 * second))
