"""The face of a head volume as a region of space, and the volume without it.

The face is what lies in front of and below the brain: beyond planes that touch the brain's convex
hull from the front and below, some millimetres off, as quickshear does with one plane (Schimke,
Kuehler, Hale, "Preserving Privacy in Structural Neuroimages", DBSec 2011,
doi:10.1007/978-3-642-22348-8_26). The planes hang in the frame of a head whose axes are known, so
that a head turned in the scanner loses its face and not its crown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radloom.geometry import apply_affine
from radloom.shapes import Volume, affine_of, array_of, make_volume, spatial_shape
from radloom.transforms.spatial import Transform

__all__ = ["MARGIN_MM", "FacePlanes", "face_planes", "remove_face"]

PITCHES_DEGREES = (25.0, 35.0)
"""How far the planes' normals point below straight ahead. Steeper ones would cut the cervical cord,
flatter ones the forehead's top."""

MARGIN_MM = 8.0
"""Between the brain and the planes: what an affine map of a template may miss a brain by."""

AIR_HU = -1024.0
"""What a CT holds where the face was."""


@dataclass(frozen=True)
class FacePlanes:
    """The face is where some normal . point > its offset, in the head's frame, RAS+ mm."""

    normals: npt.NDArray[np.float64]
    """(N, 3), of length one."""
    offsets_mm: npt.NDArray[np.float64]
    """(N,)."""


def face_planes(brain_points: npt.ArrayLike, *, margin_mm: float = MARGIN_MM) -> FacePlanes:
    """The planes that leave every point of a brain and `margin_mm` around it.

    Args:
        brain_points: (M, 3) positions of the brain, RAS+ mm in the frame of an upright head.
        margin_mm: least distance of the planes from those points.

    >>> planes = face_planes([[0, 60, 0], [0, -90, 0]], margin_mm=10)
    >>> planes.offsets_mm.round().tolist()
    [64.0, 59.0]
    """
    angles = np.radians(PITCHES_DEGREES)
    normals = np.stack([np.zeros_like(angles), np.cos(angles), -np.sin(angles)], axis=1)
    reach = (np.asarray(brain_points, dtype=np.float64) @ normals.T).max(axis=0)
    return FacePlanes(normals, reach + margin_mm)


def remove_face(
    volume: Volume, planes: FacePlanes, head_from_volume: Transform
) -> tuple[Volume, npt.NDArray[np.bool_]]:
    """The volume with air where the face was, and the mask (I, J, K) of what was removed.

    Args:
        volume: (C, I, J, K), a head on its own grid.
        planes: in the frame of a head with known axes.
        head_from_volume: maps points of the volume's world into that frame, RAS+ mm.
    """
    affine, shape = affine_of(volume), spatial_shape(volume)
    mask = np.empty(shape, dtype=bool)
    j, k = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
    for i in range(shape[0]):  # a slab at a time: points of a whole head are hundreds of megabytes
        index = np.stack([np.full_like(j, i), j, k], axis=-1)
        points = head_from_volume.apply(apply_affine(affine, index))
        mask[i] = (points @ planes.normals.T > planes.offsets_mm).any(axis=-1)
    values = array_of(volume).copy()
    values[:, mask] = AIR_HU if volume.meta["units"] == "HU" else 0.0
    known = {key: volume.meta[key] for key in ("modality", "units", "series_uid", "reasons")}
    return make_volume(values, affine, **known), mask
