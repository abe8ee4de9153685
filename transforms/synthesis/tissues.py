"""The structures of a head, from label maps or the phantom, and what each looks like in MR and CT.

MR: T1, T2 in ms and proton density relative to water, at 3 T. Where one of these sources measured
a tissue its value is taken (rounded); the rest (marked "set") are chosen within what such tissues
show, and no measurement is claimed for them.

- white and grey matter, muscle, optic nerve, spinal cord, blood: Stanisz et al. 2005,
  doi:10.1002/mrm.20605
- deep grey nuclei, T1: Gelman et al. 2001,
  doi:10.1002/1522-2594(200101)45:1<71::AID-MRM1011>3.0.CO;2-2, carried linearly from that paper's
  white matter and cortex (847, 1763) to Stanisz's (1084, 1820)
- CSF: Rooney et al. 2007, doi:10.1002/mrm.21122
- fat, marrow: de Bazelaire et al. 2004, doi:10.1148/radiol.2303021331

CT: HU near 120 kVp, after the compositions of Schneider et al. 2000,
doi:10.1088/0031-9155/45/2/314, rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

__all__ = [
    "CODES",
    "LABEL_NAMES",
    "PHANTOM_LABEL_NAMES",
    "STRUCTURES",
    "Code",
    "Relaxation",
    "Structure",
    "Tissue",
]


class Code(IntEnum):
    """What a voxel holds; indices of `STRUCTURES`, all below 64."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    MUCOSA = 4
    CAVITY = 5
    """Air inside the head."""
    BONE = 6
    MARROW = 7
    TOOTH = 8
    SCLERA = 9
    VITREOUS = 10
    LENS = 11
    NERVE = 12
    GLAND = 13
    DISC = 14
    DURA = 15
    ARTERY = 16
    SINUS = 17
    CSF = 18
    CORTEX = 19
    WHITE = 20
    VENTRICLE = 21
    TEMPORAL_HORN = 22
    THIRD_VENTRICLE = 23
    FOURTH_VENTRICLE = 24
    THALAMUS = 25
    CAUDATE = 26
    PUTAMEN = 27
    PALLIDUM = 28
    HIPPOCAMPUS = 29
    AMYGDALA = 30
    ACCUMBENS = 31
    VENTRAL_DC = 32
    BRAINSTEM = 33
    CEREBELLAR_CORTEX = 34
    CEREBELLAR_WHITE = 35
    CHIASM = 36
    CORD = 37
    LESION = 38
    """White matter that ageing or disease has changed."""
    VESSEL = 39
    """Small vessels between the basal ganglia."""
    FIFTH_VENTRICLE = 40
    CHOROID = 41
    """Choroid plexus in the body of the lateral ventricle."""
    TEMPORAL_CHOROID = 42
    EYE_MUSCLE = 43
    OPTIC_NERVE = 44


@dataclass(frozen=True)
class Relaxation:
    """What the signal equations need of a tissue."""

    t1_ms: float
    t2_ms: float
    density: float
    """Protons that give signal, relative to water."""


@dataclass(frozen=True)
class Tissue:
    """One tissue in MR and CT."""

    at_3t: Relaxation
    hu: float
    texture: float = 0.02
    """Standard deviation of the signal within the tissue, relative to its mean."""
    texture_hu: float = 2.0
    """Standard deviation of the CT number within the tissue."""


@dataclass(frozen=True)
class Structure:
    """One structure: its labels left and right, its name, its tissue."""

    label: tuple[int, int]
    name: str
    tissue: Tissue


_AIR = Tissue(Relaxation(1.0, 1.0, 0.0), -1000, 0, 0)
_SKIN = Tissue(Relaxation(900, 32, 0.72), 50, 0.05, 6)  # set
_FAT = Tissue(Relaxation(382, 95, 0.80), -95, 0.05, 8)  # T2 set: echo trains keep fat bright
_MUSCLE = Tissue(Relaxation(1412, 50, 0.80), 50, 0.06, 6)
_MUCOSA = Tissue(Relaxation(1500, 85, 0.82), 35, 0.06, 8)  # set
_BONE = Tissue(Relaxation(400, 0.6, 0.20), 1150, 0.1, 120)  # T2 set: below any echo time here
_MARROW = Tissue(Relaxation(586, 49, 0.45), 380, 0.12, 110)
_TOOTH = Tissue(Relaxation(400, 0.4, 0.10), 1900, 0.05, 200)  # set
_SCLERA = Tissue(Relaxation(1100, 35, 0.70), 55, 0.02, 2)  # set
_VITREOUS = Tissue(Relaxation(4000, 1400, 0.99), 8, 0.005, 1)  # set
_LENS = Tissue(Relaxation(1100, 28, 0.70), 80, 0.01, 2)  # set
_NERVE = Tissue(Relaxation(1083, 78, 0.72), 35, 0.02, 2)
_GLAND = Tissue(Relaxation(1100, 75, 0.80), 20, 0.08, 12)  # set
_DISC = Tissue(Relaxation(1200, 90, 0.75), 80, 0.04, 8)  # set
_DURA = Tissue(Relaxation(1000, 40, 0.60), 65, 0.02, 3)  # set
_ARTERY = Tissue(Relaxation(1932, 12, 0.45), 45, 0.02, 2)  # T2 set: outflow takes the echo
_SINUS = Tissue(Relaxation(1932, 60, 0.75), 55, 0.03, 2)  # T2 set: venous blood, slow flow
_CSF = Tissue(Relaxation(4300, 1800, 1.0), 6, 0.004, 1)  # T2 set
_GREY = Tissue(Relaxation(1820, 99, 0.84), 38, 0.018, 1.5)
_WHITE = Tissue(Relaxation(1084, 69, 0.70), 28, 0.014, 1.5)
_THALAMUS = Tissue(Relaxation(1382, 82, 0.78), 35, 0.02, 1.5)
_CAUDATE = Tissue(Relaxation(1595, 88, 0.82), 38, 0.018, 1.5)
_PUTAMEN = Tissue(Relaxation(1478, 82, 0.81), 38, 0.018, 1.5)
_PALLIDUM = Tissue(Relaxation(1241, 62, 0.74), 37, 0.02, 1.5)
_LIMBIC = Tissue(Relaxation(1720, 96, 0.84), 37, 0.02, 1.5)  # set
_DIENCEPHALON = Tissue(Relaxation(1180, 75, 0.75), 32, 0.02, 1.5)  # set
_STEM = Tissue(Relaxation(1120, 75, 0.74), 30, 0.02, 1.5)  # set
_CORD = Tissue(Relaxation(993, 78, 0.72), 32, 0.02, 1.5)
_FOLIA = Tissue(Relaxation(1700, 97, 0.84), 38, 0.02, 1.5)  # set
_LESION = Tissue(Relaxation(1500, 135, 0.82), 24, 0.04, 2)  # set
_PLEXUS = Tissue(Relaxation(1900, 140, 0.88), 40, 0.08, 8)  # set

STRUCTURES: tuple[Structure, ...] = (
    Structure((0, 0), "background", _AIR),
    Structure((511, 511), "skin and scalp", _SKIN),
    Structure((507, 507), "muscle and other soft tissue", _FAT),
    Structure((507, 507), "muscle and other soft tissue", _MUSCLE),
    Structure((509, 509), "nasal mucosa", _MUCOSA),
    Structure((0, 0), "background", _AIR),
    Structure((515, 515), "cortical bone", _BONE),
    Structure((516, 516), "marrow", _MARROW),
    Structure((515, 515), "cortical bone", _TOOTH),
    Structure((506, 506), "eye", _SCLERA),
    Structure((506, 506), "eye", _VITREOUS),
    Structure((506, 506), "eye", _LENS),
    Structure((507, 507), "muscle and other soft tissue", _NERVE),
    Structure((507, 507), "muscle and other soft tissue", _GLAND),
    Structure((507, 507), "muscle and other soft tissue", _DISC),
    Structure((500, 500), "dura", _DURA),
    Structure((502, 502), "artery", _ARTERY),
    Structure((514, 514), "venous sinus", _SINUS),
    Structure((24, 24), "CSF", _CSF),
    Structure((3, 42), "cerebral cortex", _GREY),
    Structure((2, 41), "cerebral white matter", _WHITE),
    Structure((4, 43), "lateral ventricle", _CSF),
    Structure((5, 44), "inferior lateral ventricle", _CSF),
    Structure((14, 14), "third ventricle", _CSF),
    Structure((15, 15), "fourth ventricle", _CSF),
    Structure((10, 49), "thalamus", _THALAMUS),
    Structure((11, 50), "caudate", _CAUDATE),
    Structure((12, 51), "putamen", _PUTAMEN),
    Structure((13, 52), "pallidum", _PALLIDUM),
    Structure((17, 53), "hippocampus", _LIMBIC),
    Structure((18, 54), "amygdala", _LIMBIC),
    Structure((26, 58), "accumbens", _CAUDATE),
    Structure((28, 60), "ventral diencephalon", _DIENCEPHALON),
    Structure((16, 16), "brainstem", _STEM),
    Structure((8, 47), "cerebellar cortex", _FOLIA),
    Structure((7, 46), "cerebellar white matter", _WHITE),
    Structure((85, 85), "optic chiasm", _NERVE),
    Structure((512, 512), "spinal cord", _CORD),
    Structure((25, 57), "white matter lesion", _LESION),
    Structure((30, 62), "vessel", _ARTERY),
    Structure((72, 72), "fifth ventricle", _CSF),
    Structure((136, 163), "choroid plexus", _PLEXUS),
    Structure((137, 164), "inferior choroid plexus", _PLEXUS),
    Structure((508, 508), "eye muscle", _MUSCLE),
    Structure((530, 530), "optic nerve", _NERVE),
)
"""Indexed by `Code`."""

CODES = len(STRUCTURES)
"""How many there are."""


def _label_names(structures: Iterable[Structure]) -> Mapping[int, str]:
    names: dict[int, str] = {}
    for structure in structures:
        left, right = structure.label
        paired = left != right
        names[left] = f"left {structure.name}" if paired else structure.name
        names[right] = f"right {structure.name}" if paired else structure.name
    return MappingProxyType(dict(sorted(names.items())))


LABEL_NAMES = _label_names(STRUCTURES)
"""Label value -> structure."""

PHANTOM_LABEL_NAMES = _label_names(STRUCTURES[: Code.CORD + 1])
"""Those of them that the phantom has."""
