"""T1, T2, T2* and proton density of every structure at 1.5 and 3 T, for the generator's MR.

Times in ms; density relative to water. At 3 T the values are those of `tissues`, but for blood,
whose flow `mr` treats apart. At 1.5 T:

- white and grey matter, muscle, blood, optic nerve, spinal cord: Stanisz et al. 2005,
  doi:10.1002/mrm.20605
- fat, marrow, T1: de Bazelaire et al. 2004, doi:10.1148/radiol.2303021331; T2 of fat as long as
  echo trains make it (Pai et al. 2008, doi:10.1016/j.mri.2008.02.017, up to 143 ms)
- CSF: T1 as at 3 T (Rooney et al. 2007, doi:10.1002/mrm.21122); T2 set
- grey nuclei and other brain: carried linearly between Stanisz's white and grey matter
- the rest: T1 21 % shorter than at 3 T as de Bazelaire et al. found on the mean of their tissues,
  T2 8 % longer (set)

T2* at 3 T: white and grey matter, putamen from Peters et al. 2007, doi:10.1016/j.mri.2007.02.014;
the rest set. What it has beyond T2 is taken as proportional to the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from radloom.errors import InputError
from radloom.transforms.synthesis.tissues import STRUCTURES, Code, Relaxation

__all__ = ["FIELDS_T", "KIN", "TISSUES_MR", "TissueMR", "relaxation_of"]

FIELDS_T = (1.5, 3.0)
"""The field strengths that there are values for."""


@dataclass(frozen=True)
class TissueMR:
    """What MR sees of a structure."""

    at_3t: Relaxation
    at_1_5t: Relaxation
    r2_prime_3t: float
    """What 1/T2* has beyond 1/T2 at 3 T, in 1/s; half of it at 1.5 T."""
    fat: float = 0.0
    """Share of the signal that is fat's: what a perfect fat suppression takes."""
    uptake: float = 0.0
    """Contrast agent some minutes after the injection, relative to blood."""
    solid: float = 0.0
    """Effect of magnetisation transfer relative to white matter; set."""


_BLOOD = Relaxation(1932, 275, 0.85)
_MEASURED_1_5T = {
    Code.WHITE: Relaxation(884, 72, 0.70),
    Code.CORTEX: Relaxation(1124, 95, 0.84),
    Code.MUSCLE: Relaxation(1008, 44, 0.80),
    Code.NERVE: Relaxation(815, 77, 0.72),
    Code.CORD: Relaxation(745, 74, 0.72),
    Code.FAT: Relaxation(343, 95, 0.80),
    Code.MARROW: Relaxation(549, 49, 0.45),
    Code.CSF: Relaxation(4300, 2000, 1.0),
    Code.ARTERY: Relaxation(1441, 290, 0.85),
}
KIN: Mapping[Code, Code] = {
    Code.CEREBELLAR_WHITE: Code.WHITE,
    Code.EYE_MUSCLE: Code.MUSCLE,
    Code.CHIASM: Code.NERVE,
    Code.OPTIC_NERVE: Code.NERVE,
    Code.SINUS: Code.ARTERY,
    Code.VESSEL: Code.ARTERY,
    Code.VENTRICLE: Code.CSF,
    Code.TEMPORAL_HORN: Code.CSF,
    Code.THIRD_VENTRICLE: Code.CSF,
    Code.FOURTH_VENTRICLE: Code.CSF,
    Code.FIFTH_VENTRICLE: Code.CSF,
    Code.TEMPORAL_CHOROID: Code.CHOROID,
}
"""Structures of the same tissue as another."""
_BRAIN = (
    *range(Code.THALAMUS, Code.CEREBELLAR_CORTEX + 1),
    Code.LESION,
)
_NERVOUS = (
    *_BRAIN,
    Code.WHITE,
    Code.CORTEX,
    Code.CEREBELLAR_WHITE,
    Code.CHIASM,
    Code.CORD,
    Code.NERVE,
    Code.OPTIC_NERVE,
)
_R2_PRIME_3T = {
    Code.WHITE: 4.3,
    Code.CEREBELLAR_WHITE: 4.3,
    Code.CORTEX: 5.1,
    Code.CEREBELLAR_CORTEX: 5.5,
    Code.PUTAMEN: 19.5,
    Code.CAUDATE: 13.0,
    Code.ACCUMBENS: 9.0,
    Code.PALLIDUM: 30.0,
    Code.THALAMUS: 6.0,
    Code.VENTRAL_DC: 14.0,
    Code.SINUS: 30.0,
    Code.MARROW: 60.0,
    Code.FAT: 14.0,
    Code.SKIN: 30.0,
    Code.MUSCLE: 14.0,
    Code.MUCOSA: 30.0,
    Code.CHOROID: 14.0,
    Code.TEMPORAL_CHOROID: 14.0,
}
_CALM = {Code.CSF, Code.VENTRICLE, Code.TEMPORAL_HORN, Code.VITREOUS, Code.FIFTH_VENTRICLE}
_FAT = {Code.FAT: 1.0, Code.MARROW: 0.7, Code.SKIN: 0.15, Code.GLAND: 0.3}
_UPTAKE = {
    Code.ARTERY: 1.0,
    Code.SINUS: 1.0,
    Code.VESSEL: 1.0,
    Code.MUCOSA: 0.6,
    Code.CHOROID: 0.7,
    Code.TEMPORAL_CHOROID: 0.7,
    Code.DURA: 0.5,
    Code.GLAND: 0.5,
    Code.EYE_MUSCLE: 0.45,
    Code.MUSCLE: 0.15,
    Code.SKIN: 0.2,
    Code.SCLERA: 0.25,
    Code.MARROW: 0.12,
    Code.FAT: 0.03,
    Code.CORTEX: 0.02,
    Code.WHITE: 0.01,
}


def _at_3t(code: Code) -> Relaxation:
    return _BLOOD if KIN.get(code, code) == Code.ARTERY else STRUCTURES[code].tissue.at_3t


def _at_1_5t(code: Code) -> Relaxation:
    if (like := KIN.get(code, code)) in _MEASURED_1_5T:
        return _MEASURED_1_5T[like]
    at_3t = STRUCTURES[code].tissue.at_3t
    if code not in _BRAIN:
        return Relaxation(at_3t.t1_ms / 1.21, at_3t.t2_ms / 0.92, at_3t.density)
    low, high = _MEASURED_1_5T[Code.WHITE], _MEASURED_1_5T[Code.CORTEX]
    white, grey = STRUCTURES[Code.WHITE].tissue.at_3t, STRUCTURES[Code.CORTEX].tissue.at_3t
    t1_share = (at_3t.t1_ms - white.t1_ms) / (grey.t1_ms - white.t1_ms)
    t2_share = (at_3t.t2_ms - white.t2_ms) / (grey.t2_ms - white.t2_ms)
    return Relaxation(
        low.t1_ms + t1_share * (high.t1_ms - low.t1_ms),
        low.t2_ms + t2_share * (high.t2_ms - low.t2_ms),
        at_3t.density,
    )


def _solid(code: Code) -> float:
    """1 in white matter, 0.5 in cortex, between them by T1."""
    if code not in _NERVOUS:
        return 0.0
    t1_ms = STRUCTURES[code].tissue.at_3t.t1_ms
    white, grey = (STRUCTURES[c].tissue.at_3t.t1_ms for c in (Code.WHITE, Code.CORTEX))
    return min(1.0, 1 - 0.5 * (t1_ms - white) / (grey - white))


TISSUES_MR: tuple[TissueMR, ...] = tuple(
    TissueMR(
        _at_3t(code),
        _at_1_5t(code),
        _R2_PRIME_3T.get(code, 1.0 if code in _CALM else 5.0),
        _FAT.get(code, 0.0),
        _UPTAKE.get(code, 0.0),
        _solid(code),
    )
    for code in Code
)
"""Indexed by `Code`."""


def relaxation_of(code: int, field_t: float, *, gradient_echo: bool) -> Relaxation:
    """T1, T2 and density of a structure at a field strength; T2* in T2's place for gradient echoes.

    Example:
        >>> relaxation_of(Code.WHITE, 3.0, gradient_echo=True).t2_ms  # doctest: +ELLIPSIS
        53.2...

    Raises:
        InputError: a field strength without values.
    """
    if field_t not in FIELDS_T:
        raise InputError(f"expected a field strength of {FIELDS_T} T, got {field_t:g}")
    tissue = TISSUES_MR[code]
    values = tissue.at_3t if field_t == FIELDS_T[1] else tissue.at_1_5t
    if not gradient_echo:
        return values
    rate = 1 / values.t2_ms + tissue.r2_prime_3t * field_t / FIELDS_T[1] / 1000
    return Relaxation(values.t1_ms, 1 / rate, values.density)
