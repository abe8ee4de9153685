"""Three anatomical planes cut out of a volume in world space, so that pictures cannot lie.

A plane is sampled at world points on a square raster of millimetres: voxels of any spacing are
shown in true proportion and grids of any orientation, oblique ones too, lie where the patient lay.
Only the points of the three planes are computed; the volume is never resampled.

The pictures follow the radiological convention: the patient is seen from the feet in axial planes
and from the front in coronal ones, so that the patient's right is on the left of the picture;
sagittal planes face left. Superior and, in axial planes, anterior are up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.geometry import Affine, apply_affine, corners, spacing_of

__all__ = [
    "PLANES",
    "Plane",
    "View",
    "field_of_view",
    "foreground",
    "head_view",
    "sample_planes",
    "snapped",
]

_COARSE_MM = 4.0
"""The head is looked for on about this grid: fine enough to centre a picture, and quick."""

_MARGIN_MM = 14.0
"""Kept round the head: about the width of the letters that name the directions."""

_HEAD_MM = 200.0
"""Shown from the vertex down: the brain, the skull base and the face down to the upper jaw."""

_MIDBRAIN_MM = 75.0
"""Skin of the vertex to the lateral ventricles and the basal ganglia of an adult, about."""

_ABOVE_NOSE_MM = 100.0
"""Of the head below its vertex, what neither nose nor ears nor neck make lopsided."""

_BODY_MM = 320.0
"""Foreground taller than this is no head with neck; it is shown whole."""

_AIR_HU = -200.0
"""Halfway between air in foam and soft tissue: everything above belongs to the patient or table."""


@dataclass(frozen=True)
class Plane:
    """How a plane is laid out: world axis of columns and rows, both run from plus to minus."""

    columns: int
    """World axis (0 x, 1 y, 2 z) that falls from the left of the picture to its right."""
    rows: int
    """World axis that falls from the top of the picture to its bottom."""
    letters: str
    """The directions at the left, right, top and bottom edge."""

    @property
    def across(self) -> int:
        """The world axis that the plane is perpendicular to."""
        return 3 - self.columns - self.rows


PLANES: Mapping[str, Plane] = MappingProxyType(
    {
        "axial": Plane(0, 1, "RLAP"),
        "coronal": Plane(0, 2, "RLSI"),
        "sagittal": Plane(1, 2, "APSI"),
    }
)
"""The planes of every picture, from left to right."""


@dataclass(frozen=True)
class View:
    """Where the planes are cut and how much of them is shown; RAS+ mm."""

    centre: tuple[float, float, float]
    """The point that all three planes pass through."""
    low: tuple[float, float, float]
    """The corner of the box shown with the smallest x, y, z."""
    high: tuple[float, float, float]
    """The corner of the box shown with the largest x, y, z."""
    pixel_mm: float
    """Edge of a square picture element."""

    def size(self, plane: Plane) -> tuple[int, int]:
        """(rows, columns) of the picture of `plane`."""
        extent = np.ceil((np.subtract(self.high, self.low)) / self.pixel_mm - 1e-6).astype(int)
        return max(1, int(extent[plane.rows])), max(1, int(extent[plane.columns]))

    def points(self, plane: Plane) -> npt.NDArray[np.float64]:
        """(rows, columns, 3) world positions of the picture elements of `plane`."""
        n_rows, n_columns = self.size(plane)
        points = np.empty((n_rows, n_columns, 3))
        points[..., plane.across] = self.centre[plane.across]
        for axis, count, shape in (
            (plane.columns, n_columns, (1, -1)),
            (plane.rows, n_rows, (-1, 1)),
        ):
            steps = self.high[axis] - (np.arange(count) + 0.5) * self.pixel_mm
            points[..., axis] = steps.reshape(shape)
        return points


def foreground(
    array: npt.NDArray[Any], affine: Affine, *, modality: str
) -> tuple[npt.NDArray[np.bool_], Affine, npt.NDArray[Any]]:
    """Where the patient is, on a coarse sub-grid: mask, its affine, and the values there.

    Args:
        array: (I, J, K), any real dtype.
        affine: (4, 4) voxel -> RAS+ mm.
        modality: DICOM code; CT has an absolute threshold, all else one above the mean.

    Returns:
        (i, j, k) mask of the largest connected part above the threshold, the sub-grid's affine, and
        the (i, j, k) values. The mask is all true where nothing stands out.
    """
    from scipy import ndimage

    stride = np.maximum(1, np.round(_COARSE_MM / spacing_of(affine)).astype(int))
    coarse = array[:: stride[0], :: stride[1], :: stride[2]]
    coarse_affine = affine @ np.diag([*stride.astype(float), 1.0])
    if modality == "CT":
        mask = coarse > _AIR_HU
    else:
        low, high = np.percentile(coarse, (0.5, 99.5))
        mask = coarse > np.clip(coarse, low, high).mean()
    opened = ndimage.binary_opening(mask)
    parts, n_parts = ndimage.label(opened if opened.any() else mask)
    if n_parts == 0:
        return np.ones(coarse.shape, dtype=np.bool_), coarse_affine, coarse
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(parts == largest), coarse_affine, coarse


def head_view(mask: npt.NDArray[np.bool_], affine: Affine, *, max_pixels: int = 260) -> View:
    """Planes through the centre of the head, and the box round it; the neck is left out.

    Args:
        mask: (i, j, k) foreground.
        affine: (4, 4) voxel -> RAS+ mm of the mask.
        max_pixels: a picture element grows beyond 1 mm where an edge would be longer than this.
    """
    points = apply_affine(affine, np.argwhere(mask))
    low, high = np.percentile(points, (0.25, 99.75), axis=0)
    centre = points.mean(axis=0)
    if high[2] - low[2] <= _BODY_MM:
        upper = points[points[:, 2] > high[2] - _ABOVE_NOSE_MM]
        centre = np.percentile(upper, (1, 99), axis=0).mean(axis=0)
        centre[2] = max(high[2] - _MIDBRAIN_MM, (low[2] + high[2]) / 2)
        low[2] = max(low[2], high[2] - _HEAD_MM)
    return _view(centre, low - _MARGIN_MM, high + _MARGIN_MM, max_pixels)


def field_of_view(
    affine: Affine,
    shape: tuple[int, int, int],
    centre: tuple[float, float, float],
    *,
    max_pixels: int = 260,
) -> View:
    """Planes through `centre` that show all of a grid (I, J, K)."""
    half_voxel = np.abs(affine[:3, :3]).sum(axis=1) / 2
    points = corners(affine, shape)
    return _view(
        np.asarray(centre), points.min(axis=0) - half_voxel, points.max(axis=0) + half_voxel,
        max_pixels,
    )  # fmt: skip


def near_centre(affine: Affine, shape: tuple[int, ...], view: View) -> npt.NDArray[np.bool_]:
    """(i, j, k) mask of the ellipsoid that fills 60% of the view's box about its centre.

    In a head that is the brain: windows are taken there, where neither fat nor air outshines it.
    """
    index = np.moveaxis(np.indices(shape), 0, -1)
    half = np.subtract(view.high, view.low) / 2
    half[2] = min(half[2], _MIDBRAIN_MM)
    distance = (apply_affine(affine, index) - np.asarray(view.centre)) / (0.6 * half)
    return np.asarray((distance**2).sum(axis=-1) <= 1.0)


def snapped(view: View, affine: Affine) -> View:
    """`view` moved by less than a voxel so that, on upright grids, it passes through voxel centres.

    Noise is then shown as it is, not smoothed by interpolation between voxels. Oblique grids leave
    the view as it was.
    """
    matrix = affine[:3, :3]
    if np.count_nonzero(np.abs(matrix) > 1e-3 * spacing_of(affine)) != matrix.shape[0]:
        return view
    step, origin = matrix.sum(axis=1), affine[:3, 3]
    half = view.pixel_mm / 2

    def snap(point: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(origin + np.round((np.asarray(point) - origin) / step) * step)

    high = snap(np.asarray(view.high) - half) + half
    low = np.asarray(view.low) + high - np.asarray(view.high)
    return View(_xyz(snap(view.centre)), _xyz(low), _xyz(high), view.pixel_mm)


def _view(
    centre: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    max_pixels: int,
) -> View:
    pixel_mm = max(1.0, float((high - low).max()) / max_pixels)
    return View(_xyz(centre), _xyz(low), _xyz(high), pixel_mm)


def _xyz(point: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 3) for value in point)
    return x, y, z


def sample_planes(
    array: npt.NDArray[Any], affine: Affine, view: View, *, order: int = 1
) -> dict[str, npt.NDArray[np.float32]]:
    """The planes of `view` through a volume, by name; (rows, columns) float32, NaN outside.

    Args:
        array: (I, J, K), any real dtype.
        affine: (4, 4) voxel -> RAS+ mm.
        view: where to cut.
        order: 1 linear, 0 nearest (labels).

    >>> view = View((0, 0, 0), (-2, -1, -1), (2, 1, 1), 1.0)
    >>> left_half = np.zeros((4, 2, 2)); left_half[:2] = 7  # x falls towards the patient's left
    >>> affine = np.eye(4); affine[:3, 3] = -1.5, -0.5, -0.5
    >>> sample_planes(left_half, affine, view, order=0)["axial"][0].tolist()
    [0.0, 0.0, 7.0, 7.0]
    """
    from scipy import ndimage

    voxel_from_world = np.linalg.inv(affine)
    last = np.asarray(array.shape) - 1
    planes = {}
    for name, plane in PLANES.items():
        index = apply_affine(voxel_from_world, view.points(plane))
        outside = ((index < -0.5) | (index > last + 0.5)).any(axis=-1)
        values = ndimage.map_coordinates(
            array, np.moveaxis(index, -1, 0), order=order, mode="nearest", output=np.float32
        )
        values[outside] = np.nan
        planes[name] = values
    return planes
