"""What a structure's name means in SNOMED CT, and its colour as DICOM writes it.

A name is looked up, its side taken off, in three places: our own table for the structures of
`docs/reference/labels.md` and of `radloom.models.segmentation.classes`; a few names that public
models use; the concepts of DICOM's own context groups for segmentations (PS3.16 CID 7166, 7159 and
7192), whose meaning must be the name word for word. A name that none of them knows is a segment of
(85756007, SCT, "Tissue"): true of whatever a model segments, and the name itself stands in
SegmentLabel. A code is never guessed.

Every code of the tables here is in pydicom's copy of PS3.16; a test holds them to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["NAMES", "Concept", "StructureCodes", "cielab_of", "codes_of", "rgb_of"]


@dataclass(frozen=True)
class Concept:
    """A coded concept."""

    value: str
    meaning: str
    scheme: str = "SCT"


ANATOMY = Concept("91723000", "Anatomical Structure")
TISSUE = Concept("85756007", "Tissue")
SUBSTANCE = Concept("91720002", "Body Substance")
ABNORMAL = Concept("49755003", "Morphologically Abnormal Structure")
"""Categories, PS3.16 CID 7150."""

SIDES: Mapping[str, Concept] = {
    "left": Concept("7771000", "Left"),
    "right": Concept("24028007", "Right"),
}
"""PS3.16 CID 244."""


@dataclass(frozen=True)
class StructureCodes:
    """How a segment is coded."""

    category: Concept
    """SegmentedPropertyCategoryCodeSequence (0062,0003)."""
    type: Concept
    """SegmentedPropertyTypeCodeSequence (0062,000F)."""
    side: Concept | None = None
    """SegmentedPropertyTypeModifierCodeSequence (0062,0011), where the name tells a side."""

    @property
    def is_known(self) -> bool:
        """Whether the name was found; else the codes say "tissue" and no more."""
        return self.type is not TISSUE


def _anatomy(value: str, meaning: str) -> tuple[Concept, Concept]:
    return ANATOMY, Concept(value, meaning)


def _tissue(value: str, meaning: str) -> tuple[Concept, Concept]:
    return TISSUE, Concept(value, meaning)


def _abnormal(value: str, meaning: str) -> tuple[Concept, Concept]:
    return ABNORMAL, Concept(value, meaning)


NAMES: Mapping[str, tuple[Concept, Concept]] = {
    # The brain, labels of FreeSurfer: PS3.16 CID 7140 and 7153
    "cerebral white matter": _anatomy("68523003", "Cerebral White Matter"),
    "cerebral cortex": _anatomy("40146001", "Cerebral cortex"),
    "lateral ventricle": _anatomy("66720007", "Lateral Ventricle"),
    "inferior lateral ventricle": _anatomy("53118009", "Inferior Horn of Lateral Ventricle"),
    "cerebellar white matter": _anatomy("33060004", "Cerebellar White Matter"),
    "cerebellar cortex": _anatomy("25991003", "Cerebellar Cortex"),
    "thalamus": _anatomy("42695009", "Thalamus"),
    "caudate": _anatomy("11000004", "Caudate Nucleus"),
    "putamen": _anatomy("89278009", "Putamen"),
    "pallidum": _anatomy("14738005", "Globus Pallidus"),
    "hippocampus": _anatomy("5366008", "Hippocampus"),
    "amygdala": _anatomy("4958002", "Amygdala"),
    "accumbens": _anatomy("427667007", "Nucleus Accumbens"),
    "ventral diencephalon": (ANATOMY, Concept("110700", "Ventral Diencephalon", "DCM")),
    "third ventricle": _anatomy("49841001", "Third ventricle"),
    "fourth ventricle": _anatomy("35918002", "Fourth Ventricle"),
    "fifth ventricle": _anatomy("74968005", "Cavum of septum pellucidum"),
    "brainstem": _anatomy("119238007", "Brain Stem"),
    "csf": (SUBSTANCE, Concept("65216001", "Cerebrospinal Fluid")),
    "csf and other intracranial": _anatomy("128319008", "Intracranial structure"),
    "white matter lesion": _abnormal("52988006", "Lesion"),
    "choroid plexus": _anatomy("80621003", "Structure of choroid plexus"),
    "inferior choroid plexus": _anatomy("80621003", "Structure of choroid plexus"),
    "optic chiasm": _anatomy("244453006", "Optic chiasm"),
    # The rest of the head
    "vessel": _tissue("59820001", "Blood Vessel"),
    "dura": _anatomy("18545000", "Dura mater"),
    "artery": _tissue("51114001", "Artery"),
    "venous sinus": _tissue("59820001", "Blood Vessel"),
    "eye": _anatomy("81745001", "Eye"),
    "eye muscle": _tissue("91727004", "Muscle"),
    "optic nerve": _anatomy("18234004", "optic nerve"),
    "spinal cord": _anatomy("2748008", "Spinal cord"),
    "muscle and other soft tissue": _tissue("87784001", "Soft tissue"),
    "soft tissue and skin": _tissue("87784001", "Soft tissue"),
    "nasal mucosa": _tissue("87784001", "Soft tissue"),
    "skin and scalp": _tissue("87784001", "Soft tissue"),
    "cortical bone": _tissue("3138006", "Bone"),
    "skull and other bone": _tissue("3138006", "Bone"),
    "marrow": _tissue("14016003", "Bone Marrow"),
    # Names of public models that differ from the standard's words
    "brain stem": _anatomy("119238007", "Brain Stem"),
    "caudate nucleus": _anatomy("11000004", "Caudate Nucleus"),
    "nucleus accumbens": _anatomy("427667007", "Nucleus Accumbens"),
    "white matter": _anatomy("389080008", "White Matter"),
    "gray matter": _anatomy("389081007", "Gray Matter"),
    "grey matter": _anatomy("389081007", "Gray Matter"),
    "urinary bladder": _anatomy("89837001", "Bladder"),
    "small bowel": _anatomy("30315005", "Small intestine"),
    "oesophagus": _anatomy("32849002", "Esophagus"),
    "thyroid gland": _anatomy("69748006", "Thyroid"),
    "lung upper lobe": _anatomy("45653009", "Upper lobe of lung"),
    "lung lower lobe": _anatomy("90572001", "Lower lobe of lung"),
    "clavicula": _anatomy("51299004", "Clavicle"),
    "tumor": _abnormal("108369006", "Neoplasm"),
    "tumour": _abnormal("108369006", "Neoplasm"),
    "whole tumor": _abnormal("108369006", "Neoplasm"),
    "oedema": _abnormal("79654002", "Edema"),
}  # fmt: skip
"""Name without its side, lower case, single blanks -> category and type.

Where SNOMED CT as DICOM holds it has no concept for a structure (venous sinus, eye muscle, nasal
mucosa, skin with what lies under it, cortical bone) the type is the tissue that it consists of.
"""


def codes_of(name: str) -> StructureCodes:
    """The codes of a structure's name, as a label table or a model gives it.

    >>> codes = codes_of("left cerebral cortex")
    >>> codes.type.value, codes.side.meaning, codes.is_known
    ('40146001', 'Left', True)
    >>> codes_of("kidney_right").type.meaning, codes_of("blob 7").type.meaning
    ('Kidney', 'Tissue')
    """
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    sides = [SIDES[word] for word in words if word in SIDES]
    whole = " ".join(words)
    bare = " ".join(word for word in words if word not in SIDES)
    side = sides[0] if len(sides) == 1 else None
    for known in (NAMES, _standard_names()):
        if whole in known:
            return StructureCodes(*known[whole])
        if side is not None and bare in known:
            return StructureCodes(*known[bare], side)
    return StructureCodes(TISSUE, TISSUE, side)


@lru_cache(maxsize=1)
def _standard_names() -> Mapping[str, tuple[Concept, Concept]]:
    """Meaning in lower case -> category and type, of DICOM's context groups for segmentations."""
    from pydicom.sr.codedict import codes

    groups = ((codes.cid7192, ANATOMY), (codes.cid7159, ABNORMAL), (codes.cid7166, TISSUE))
    found: dict[str, tuple[Concept, Concept]] = {}
    for group, category in groups:
        for code in group.concepts.values():
            name = re.sub(r"[^a-z0-9]+", " ", code.meaning.lower()).strip()
            found[name] = category, Concept(code.value, code.meaning, code.scheme_designator)
    return found


def rgb_of(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of ``#rrggbb``.

    >>> rgb_of("#ff8000")
    (255, 128, 0)
    """
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def cielab_of(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """An sRGB colour as RecommendedDisplayCIELabValue (0062,000D): L*, a*, b* to white point D50.

    sRGB (IEC 61966-2-1) to XYZ, adapted from D65 to D50 (Bradford), to CIELab, scaled to 16 bits as
    PS3.3 C.10.7.1.1 says.

    >>> cielab_of((255, 255, 255)), cielab_of((0, 0, 0))
    ((65535, 32896, 32896), (0, 32896, 32896))
    """
    coded = np.asarray(rgb, dtype=np.float64) / 255.0
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    ratio = _XYZ_D50 @ linear / _XYZ_D50.sum(axis=1)
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    light = 116 * root[1] - 16
    green_red, blue_yellow = 500 * (root[0] - root[1]), 200 * (root[1] - root[2])
    return (
        round(light * 65535 / 100),
        round((green_red + 128) * 65535 / 255),
        round((blue_yellow + 128) * 65535 / 255),
    )


_XYZ_D50 = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
"""Linear sRGB -> XYZ relative to D50."""
