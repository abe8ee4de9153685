"""World and voxel coordinates; the only place that knows LPS from RAS.

Inside Radloom an `affine` is a 4x4 float64 array that maps voxel indices (i, j, k), zero-based and
counted from the centre of the first voxel, to world millimetres, RAS+ (x to the patient's right,
y to anterior, z to superior). DICOM and ITK use LPS+: the first two axes negated. Names that end
in `_lps` hold LPS; nothing outside this module and the file readers and writers does.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "AFFINE_TOLERANCE_MM",
    "Affine",
    "affine_from_parts",
    "apply_affine",
    "as_stored",
    "corners",
    "flip_lps_ras",
    "flip_transform_lps_ras",
    "orientation_of",
    "parts_from_affine",
    "same_grid",
    "shifted_affine",
    "spacing_of",
    "voxel_volume_ml",
]

Affine: TypeAlias = npt.NDArray[np.float64]
"""(4, 4) float64."""

AFFINE_TOLERANCE_MM = 1e-3
"""Two grids are one when no corner of theirs lies further apart than this.

A NIfTI sform is float32: near 300 mm from the origin its last place is 3e-5 mm, and a product of a
direction and an index up to 512 adds another digit. A thousandth of a millimetre is above both and
far below anything a voxel can show.
"""

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


def flip_lps_ras(affine: npt.ArrayLike) -> Affine:
    """The affine (voxel -> world) with its world side turned from LPS to RAS, or back.

    >>> flip_lps_ras(np.eye(4)).diagonal().tolist()
    [-1.0, -1.0, 1.0, 1.0]
    """
    return np.asarray(_FLIP @ np.asarray(affine, dtype=np.float64))


def flip_transform_lps_ras(matrix: npt.ArrayLike) -> Affine:
    """A world -> world matrix (4, 4) in mm turned from LPS to RAS on both sides, or back.

    >>> shift_lps = np.eye(4); shift_lps[:3, 3] = 1, 2, 3
    >>> flip_transform_lps_ras(shift_lps)[:3, 3].tolist()
    [-1.0, -2.0, 3.0]
    """
    return np.asarray(_FLIP @ np.asarray(matrix, dtype=np.float64) @ _FLIP)


def as_stored(affine: npt.ArrayLike) -> Affine:
    """The affine as a NIfTI file gives it back: float64 values that float32 holds exactly.

    Volumes carry affines of this kind from ingestion on, so that a stage that reads its input from
    a file after a crash computes the same bytes as one that got it in memory.
    """
    return np.asarray(affine, dtype=np.float32).astype(np.float64)


def spacing_of(affine: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(3,) distances between neighbouring voxels along I, J, K in mm."""
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    return np.asarray(np.sqrt((matrix**2).sum(axis=0)), dtype=np.float64)


def voxel_volume_ml(affine: npt.ArrayLike) -> float:
    """The volume of one voxel in mL, right for sheared grids too."""
    return float(abs(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3])) / 1000.0)


def orientation_of(affine: npt.ArrayLike) -> str:
    """Three letters that name where I, J and K point, such as ``RAS``.

    >>> orientation_of(np.diag([-1, -1, 2, 1]))
    'LPS'
    """
    import nibabel as nib

    return "".join(str(c) for c in nib.orientations.aff2axcodes(np.asarray(affine)))


def affine_from_parts(
    origin: npt.ArrayLike, spacing: npt.ArrayLike, direction: npt.ArrayLike
) -> Affine:
    """The affine of a grid given as ITK gives it: (3,) origin, (3,) spacing, (3, 3) direction."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(direction, dtype=np.float64).reshape(3, 3) * np.asarray(
        spacing, dtype=np.float64
    )
    affine[:3, 3] = np.asarray(origin, dtype=np.float64)
    return affine


def parts_from_affine(
    affine: npt.ArrayLike,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(3,) origin, (3,) spacing and (3, 3) direction, columns of unit length, of an affine."""
    affine = np.asarray(affine, dtype=np.float64)
    spacing = spacing_of(affine)
    return affine[:3, 3].copy(), spacing, affine[:3, :3] / spacing


def apply_affine(affine: npt.ArrayLike, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(..., 3) points mapped by a 4x4 matrix."""
    affine = np.asarray(affine, dtype=np.float64)
    turned = np.asarray(points, dtype=np.float64) @ affine[:3, :3].T
    return np.asarray(turned + affine[:3, 3])


def shifted_affine(affine: npt.ArrayLike, start: npt.ArrayLike) -> Affine:
    """The affine of the sub-grid whose first voxel is `start` (i, j, k) of the grid given."""
    affine = np.array(affine, dtype=np.float64)
    affine[:3, 3] = apply_affine(affine, start)
    return affine


def corners(affine: npt.ArrayLike, shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """(8, 3) world positions of the centres of a grid's corner voxels."""
    index = np.stack(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), axis=-1)
    return apply_affine(affine, index.reshape(8, 3))


def same_grid(
    affine_a: npt.ArrayLike,
    shape_a: tuple[int, ...],
    affine_b: npt.ArrayLike,
    shape_b: tuple[int, ...],
    *,
    tolerance_mm: float = AFFINE_TOLERANCE_MM,
) -> bool:
    """Whether two grids have the same (I, J, K) and put no voxel further apart than tolerated."""
    a, b = tuple(shape_a)[-3:], tuple(shape_b)[-3:]
    if a != b:
        return False
    shape = (a[0], a[1], a[2])
    distance: npt.NDArray[np.float64] = np.abs(corners(affine_a, shape) - corners(affine_b, shape))
    return bool(distance.max() <= tolerance_mm)
