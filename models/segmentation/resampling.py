"""Resampling as nnU-Net's default does it, along one axis after the other, exact and cheap.

nnU-Net resizes with skimage: spline interpolation with the voxels' outer edges laid on each other,
values beyond the edge as at the edge. Such a resize is a product of one operator for each axis. So
an image takes three multiplications by banded matrices in float64 rather than 64 terms a voxel,
and the scores of a model two neighbours along each axis, wherever in the volume they are needed.

Where spacings differ by more than a factor of three, nnU-Net resamples the coarse axis apart, by
the nearest plane; `coarse_axis` says which.

Source: nnunetv2, ``preprocessing/resampling/default_resampling.py``; M. Unser, Splines: a perfect
fit for signal and image processing, IEEE Signal Processing Magazine 1999, doi:10.1109/79.799930.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Neighbours", "coarse_axis", "linear", "nearest", "resample_image", "spline_operator"]

_BLOCK = 64
"""Rows of an operator that are applied at once: enough for a matrix product, within its band."""

_NOTHING = 1e-17
"""Weights below this change no float64 of the size of one."""

_ANISOTROPY = 3.0
"""nnU-Net's ANISO_THRESHOLD."""


@dataclass(frozen=True)
class Neighbours:
    """For each place of a new axis, the two places of the old one that it lies between."""

    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]
    """Of `high`; that of `low` is the rest to one."""


def linear(n_old: int, n_new: int) -> Neighbours:
    """Linear interpolation.

    >>> linear(2, 4).weight.tolist()
    [0.0, 0.25, 0.75, 0.0]
    """
    at = np.clip((np.arange(n_new) + 0.5) * (n_old / n_new) - 0.5, 0, n_old - 1)
    low = np.floor(at).astype(np.int64)
    return Neighbours(low, np.minimum(low + 1, n_old - 1), at - low)


def nearest(n_old: int, n_new: int) -> Neighbours:
    """The nearest place, the higher one of two that are as near.

    >>> nearest(2, 4).low.tolist()
    [0, 0, 1, 1]
    """
    at = (n_old / n_new) * (np.arange(n_new) + 0.5) - 0.5
    low = np.clip(np.floor(at + 0.5), 0, n_old - 1).astype(np.int64)
    return Neighbours(low, low, np.zeros(n_new))


def coarse_axis(
    spacing: Sequence[float], other: Sequence[float], *, separate: bool | None
) -> int | None:
    """The axis that nnU-Net resamples apart, if any.

    Args:
        spacing: of what is resampled, in mm.
        other: of the result.
        separate: ``force_separate_z`` of the plans; None: where the spacings differ enough.
    """
    for mm in (spacing, other):
        ratios = np.max(mm) / np.asarray(mm)
        if separate or (separate is None and ratios.max() > _ANISOTROPY):
            coarse = np.flatnonzero(ratios == 1)
            return int(coarse[0]) if len(coarse) == 1 else None
    return None


def spline_operator(n_old: int, n_new: int, order: int) -> npt.NDArray[np.float64]:
    """(n_new, n_old) What resizing an axis does, as a matrix.

    >>> spline_operator(2, 4, 1)[:2].tolist()
    [[1.0, 0.0], [0.75, 0.25]]
    """
    from scipy.ndimage import zoom

    kwargs = {"order": order, "mode": "nearest", "grid_mode": True}
    return np.stack([zoom(row, n_new / n_old, **kwargs) for row in np.eye(n_old)], axis=1)


def resample_image(
    image: npt.NDArray[np.float32], shape: Sequence[int], *, apart: int | None, order: int = 3
) -> npt.NDArray[np.float32]:
    """An image (X, Y, Z) on a grid of `shape`, within the range of its values.

    Args:
        image: not changed.
        shape: of the result.
        apart: the axis along which the nearest plane is taken; None: none.
        order: of the spline.
    """
    if image.shape == tuple(shape):
        return image
    moved = image if apart is None else np.moveaxis(image, apart, 0)
    target = list(shape) if apart is None else [shape[apart], *np.delete(shape, apart)]
    result = _in_planes(moved, target[1:], order, clip=apart is not None)
    if apart is not None:
        result = result[nearest(result.shape[0], target[0]).low]
        return np.ascontiguousarray(np.moveaxis(result, 0, apart), np.float32)
    return _along_first(result, target[0], order, image.min(), image.max())


def _in_planes(
    image: npt.NDArray[np.float32], shape: Sequence[int], order: int, *, clip: bool
) -> npt.NDArray[np.float64]:
    """Each plane of the first axis resized."""
    rows = _bands(spline_operator(image.shape[1], shape[0], order))
    columns = _bands(spline_operator(image.shape[2], shape[1], order))
    result = np.empty((image.shape[0], *shape))
    half = np.empty((image.shape[1], shape[1]))
    for plane, out in zip(image, result, strict=True):
        wide = plane.astype(np.float64)
        for (begin, end), span, weights in columns:
            np.matmul(wide[:, span[0] : span[1]], weights.T, out=half[:, begin:end])
        for (begin, end), span, weights in rows:
            np.matmul(weights, half[span[0] : span[1]], out=out[begin:end])
        if clip:
            np.clip(out, plane.min(), plane.max(), out=out)
    return result


def _along_first(
    image: npt.NDArray[np.float64], n_new: int, order: int, low: float, high: float
) -> npt.NDArray[np.float32]:
    bands = _bands(spline_operator(image.shape[0], n_new, order))
    result = np.empty((n_new, *image.shape[1:]), np.float32)
    for row in range(image.shape[1]):
        wide = np.ascontiguousarray(image[:, row])
        for (begin, end), span, weights in bands:
            product = weights @ wide[span[0] : span[1]]
            result[begin:end, row] = np.clip(product, low, high, out=product)
    return result


def _bands(
    operator: npt.NDArray[np.float64],
) -> list[tuple[tuple[int, int], tuple[int, int], npt.NDArray[np.float64]]]:
    """Blocks of rows: which rows, which columns they need, and the weights between them."""
    found = []
    for begin in range(0, len(operator), _BLOCK):
        block = operator[begin : begin + _BLOCK]
        used = np.flatnonzero((np.abs(block) > _NOTHING).any(axis=0))
        span = int(used[0]), int(used[-1]) + 1
        weights = np.ascontiguousarray(block[:, span[0] : span[1]])
        found.append(((begin, begin + len(block)), span, weights))
    return found
