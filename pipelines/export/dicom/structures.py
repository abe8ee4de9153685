"""The structures of a label volume as segments and regions of interest: names, codes, colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radloom.geometry import Affine, apply_affine
from radloom.pipelines.export.dicom.codes import StructureCodes, codes_of, rgb_of
from radloom.pipelines.export.labels import colour_of
from radloom.transforms.contours import label_boxes

__all__ = ["Box", "Structure", "centroid_mm", "structures_of"]

Box = tuple[slice, slice, slice]

LONGEST_NAME = 64
"""Characters of a value of VR LO (PS3.5 6.2)."""


@dataclass(frozen=True)
class Structure:
    """One structure that a label volume holds."""

    label: int
    """Its value in the volume."""
    name: str
    """As the table of labels names it; ASCII, at most 64 characters."""
    codes: StructureCodes
    rgb: tuple[int, int, int]
    """The colour that the label's lookup table gives it."""
    box: Box
    """Its bounding box, voxels."""


def structures_of(
    labels: npt.NDArray[np.integer], names: Mapping[int, str]
) -> tuple[Structure, ...]:
    """Every structure of which a voxel is there, by rising label.

    A structure that is named and nowhere found is left out: an empty segment has no place and no
    centroid, and viewers jump to it.
    """
    return tuple(
        Structure(value, name, codes_of(name), rgb_of(colour_of(value)), box)
        for value, box in label_boxes(labels).items()
        for name in (_ascii(names.get(value, f"unnamed_{value}")),)
    )


def centroid_mm(labels: npt.NDArray[np.integer], structure: Structure, affine: Affine) -> Affine:
    """(3,) mean position of a structure's voxels in the world of `affine`, mm."""
    index = np.nonzero(labels[structure.box] == structure.label)
    first = [part.start for part in structure.box]
    middle = [start + float(axis.mean()) for start, axis in zip(first, index, strict=True)]
    return apply_affine(affine, np.asarray(middle))


def _ascii(name: str) -> str:
    text = " ".join(name.replace("\\", "/").split())
    return text.encode("ascii", "replace").decode()[:LONGEST_NAME] or "unnamed"
