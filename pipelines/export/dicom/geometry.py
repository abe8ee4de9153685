"""Where a volume's slices lie, as the attributes of the Image Plane module, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radloom.errors import GridMismatch
from radloom.geometry import Affine, affine_from_parts, flip_lps_ras, parts_from_affine, same_grid
from radloom.pipelines.export.dicom.source import SourceSeries
from radloom.shapes import Volume, affine_of, spatial_shape

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["affine_of_slices", "decimals", "require_grid_of", "slice_plane"]

_COPIED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def require_grid_of(volume: Volume, source: SourceSeries, where: str) -> None:
    """Nothing, if `volume` lies on the grid of `source`'s slices.

    Raises:
        GridMismatch: it does not.
    """
    shape = spatial_shape(volume)
    if not same_grid(affine_of(volume), shape, source.affine, source.shape):
        raise GridMismatch(
            f"{where}: expected the grid of its source images {source.shape}, got {shape} or "
            "another affine"
        )


def slice_plane(source: SourceSeries, k: int) -> dict[str, Any]:
    """Keyword -> value of the Image Plane module (PS3.3 C.7.6.2) for slice `k`.

    Where the slice is a classic source image, position, orientation and spacing are its own, digit
    by digit, so that viewers lay one over the other.
    """
    origin, spacing, direction = parts_from_affine(flip_lps_ras(source.affine))
    position = origin + direction[:, 2] * spacing[2] * k
    dataset, _ = source.slice_source(k)
    if source.has_slices and not source.is_multiframe and all(key in dataset for key in _COPIED):
        plane = {key: dataset[key].value for key in _COPIED}
    else:
        plane = {
            "ImagePositionPatient": decimals(position),
            "ImageOrientationPatient": decimals(direction[:, :2].T.ravel()),
            "PixelSpacing": decimals((spacing[1], spacing[0])),
        }
    return {
        **plane,
        "SliceThickness": decimals(spacing[2])[0],
        "SpacingBetweenSlices": decimals(spacing[2])[0],
        "SliceLocation": decimals(position @ direction[:, 2])[0],
    }


def affine_of_slices(datasets: Sequence[Dataset]) -> Affine:
    """(4, 4) voxel -> RAS+ mm of classic slices in the order given, from their headers alone."""
    first, last = datasets[0], datasets[-1]
    row, column = np.reshape(_numbers(first.ImageOrientationPatient), (2, 3))
    start, end = _numbers(first.ImagePositionPatient), _numbers(last.ImagePositionPatient)
    n_steps = max(1, len(datasets) - 1)
    step = (end - start) / n_steps if len(datasets) > 1 else np.cross(row, column)
    between_rows, between_columns = _numbers(first.PixelSpacing)
    length = float(np.linalg.norm(step))
    direction = np.column_stack([row, column, step / length])
    return flip_lps_ras(
        affine_from_parts(start, (between_columns, between_rows, length), direction)
    )


def decimals(values: npt.ArrayLike) -> list[Any]:
    """Numbers as DS of at most 16 characters (PS3.5 6.2)."""
    from pydicom.valuerep import DS

    clean = np.round(np.atleast_1d(np.asarray(values, dtype=np.float64)), 12) + 0.0
    return [DS(float(value), auto_format=True) for value in clean]


def _numbers(values: Any) -> npt.NDArray[np.float64]:
    return np.asarray([float(value) for value in values], dtype=np.float64)
