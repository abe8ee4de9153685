"""The classes of `bundles/brain_mr_segmentation`, from the labels of the generator's table.

FreeSurfer's numbers stand for the 32 structures of the brain; four classes more hold the rest of
the head, so that intracranial, skull, skin, eye and head masks follow from one result (`mask_of`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["CLASSES", "MASKS", "SegmentationClass", "class_of_label", "mask_of"]


@dataclass(frozen=True)
class SegmentationClass:
    """One class: its number in results, its name, and the labels of the table that it gathers."""

    label: int
    name: str
    merged: tuple[int, ...] = ()


_PAIRED = (
    (2, "cerebral white matter", (25,)),
    (3, "cerebral cortex", ()),
    (4, "lateral ventricle", (136,)),
    (5, "inferior lateral ventricle", (137,)),
    (7, "cerebellar white matter", ()),
    (8, "cerebellar cortex", ()),
    (10, "thalamus", ()),
    (11, "caudate", ()),
    (12, "putamen", (30,)),
    (13, "pallidum", ()),
    (17, "hippocampus", ()),
    (18, "amygdala", ()),
    (26, "accumbens", ()),
    (28, "ventral diencephalon", ()),
)
"""Label on the left, name, other labels on the left."""

_RIGHT = {
    2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54,
    25: 57, 26: 58, 28: 60, 30: 62, 136: 163, 137: 164,
}  # fmt: skip

_MIDDLE = (
    SegmentationClass(14, "third ventricle"),
    SegmentationClass(15, "fourth ventricle"),
    SegmentationClass(16, "brainstem"),
    SegmentationClass(24, "CSF and other intracranial", (72, 85, 500, 514)),
)
_HEAD = (
    SegmentationClass(506, "eye"),
    SegmentationClass(507, "muscle and other soft tissue", (502, 508, 509, 512, 530)),
    SegmentationClass(511, "skin and scalp"),
    SegmentationClass(515, "skull and other bone", (516,)),
)


def _classes() -> tuple[SegmentationClass, ...]:
    left = [SegmentationClass(label, f"left {name}", more) for label, name, more in _PAIRED]
    right = [
        SegmentationClass(_RIGHT[label], f"right {name}", tuple(_RIGHT[m] for m in more))
        for label, name, more in _PAIRED
    ]
    brain = sorted([*left, *right, *_MIDDLE], key=lambda item: item.label)
    return (SegmentationClass(0, "background"), *brain, *_HEAD)


CLASSES = _classes()
"""Indexed by the network's channel."""


MASKS: Mapping[str, tuple[int, ...]] = {
    "intracranial": tuple(item.label for item in CLASSES if 0 < item.label < 500),
    "skull": (515,),
    "skin": (511,),
    "eye": (506,),
    "head": tuple(item.label for item in CLASSES if item.label),
}
"""What other stages need of a head -> the numbers in results that are part of it."""


def mask_of(labels: npt.NDArray[Any], name: str) -> npt.NDArray[np.bool_]:
    """Where labels (I, J, K) as results number them show one of `MASKS`.

    >>> mask_of(np.array([0, 2, 511]), "head").tolist()
    [False, True, True]
    """
    table = np.zeros(1 + max(int(labels.max(initial=0)), *MASKS["head"]), bool)
    table[list(MASKS[name])] = True
    found: npt.NDArray[np.bool_] = table[labels]
    return found


def class_of_label(
    label: torch.Tensor, classes: Sequence[SegmentationClass] = CLASSES
) -> torch.Tensor:
    """The class of each voxel, uint8; labels that no class names are background."""
    table = torch.zeros(1024, dtype=torch.uint8)
    for index, item in enumerate(classes):
        table[[item.label, *item.merged]] = index
    return table.to(label.device)[label.int().clamp(0, 1023)]
