"""Where in a volume how much noise is: parallel imaging and corrected shading make it uneven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from radloom.errors import InputError
from radloom.models.denoising.noise import (
    MIN_VOXELS,
    head_mask,
    high_pass,
    rician_correction,
)

__all__ = ["NoiseMap", "estimate_noise_map"]

Floats = npt.NDArray[np.float32]

REACH_MM = 10.0
"""Deviation of the Gaussian within which noise counts as one: about 24 mm across."""

FLAT = 2.0
"""Slopes above this times that of noise alone are anatomy, and count for nothing."""


@dataclass(frozen=True, eq=False)
class NoiseMap:
    """A noise level for each voxel."""

    sigma: Floats
    """(I, J, K) standard deviation in the image's units; for MR that of each channel."""
    level: float
    """The median of `sigma` within the head."""
    unevenness: float
    """The 95th percentile of `sigma` within the head over its 5th; 1: even."""


def estimate_noise_map(
    image: npt.ArrayLike, spacing: Sequence[float], level: float, *, rician: bool
) -> NoiseMap:
    r"""The noise of an image (I, J, K) in each voxel, `level` where the head is flattest.

    The logarithm of :math:`|h|`, h the second differences of `high_pass`, has the mean
    :math:`\log \sigma - 0.635` under normal noise. It is averaged by a Gaussian of `REACH_MM` over
    those voxels of the head that no slope says to be anatomy; where there are none, in air, the
    map goes on from the nearest tissue. What a magnitude image loses of the deviation is put back
    by the mean signal around (`rician_correction`). The logarithm keeps the few voxels in which
    structure is left from deciding.

    Args:
        image: (I, J, K), finite.
        spacing: millimetres along I, J, K.
        level: the standard deviation in the flattest fifth of the head, which is where
            `estimate_noise` looks for it.
        rician: whether the image is a magnitude image.

    Raises:
        InputError: the image is not 3D.
    """
    from scipy import ndimage

    values = np.asarray(image, dtype=np.float32)
    if values.ndim != 3:
        raise InputError(f"expected an image (I, J, K), got shape {values.shape}")
    even = NoiseMap(np.full(values.shape, level, np.float32), level, 1.0)
    if level <= 0 or values.size < MIN_VOXELS:
        return even
    smooth = np.asarray(ndimage.uniform_filter(values, 3, mode="reflect"))
    head = head_mask(smooth)
    inside = np.asarray(ndimage.binary_erosion(head))
    if inside.sum() < MIN_VOXELS:
        return even
    reach = [REACH_MM / s for s in spacing]
    size = np.log(np.maximum(np.abs(high_pass(values)), np.float32(1e-3 * level)))
    slope = _slope(smooth)
    flattest = inside & (slope <= np.percentile(slope[inside], 20))
    local: Floats = np.full(values.shape, level, np.float32)
    for _ in range(2):
        flat = inside & (slope < FLAT * _slope_of_noise(values.shape) * local)
        if flat.sum() < MIN_VOXELS:
            return even
        found = np.exp(_mean_over(size, flat, reach) + np.float32(0.635))
        if rician:
            found = _corrected(found, _mean_over(smooth, flat, reach))
        local = found * np.float32(level / np.median(found[flattest]))
    low, middle, high = (float(p) for p in np.percentile(local[head], (5, 50, 95)))
    return NoiseMap(np.asarray(local, np.float32), middle, high / low)


def _slope(smooth: Floats) -> Floats:
    """Root of the summed squares of the central differences."""
    from scipy import ndimage

    square = np.zeros_like(smooth)
    for axis, size in enumerate(smooth.shape):
        if size >= 3:
            square += ndimage.correlate1d(smooth, [-1.0, 0.0, 1.0], axis=axis) ** 2
    return np.asarray(np.sqrt(square))


def _slope_of_noise(shape: tuple[int, ...]) -> float:
    """Root mean square of `_slope` in white noise of deviation 1 through a box of 3 x 3 x 3.

    Boxes two voxels apart share one plane of three: the variance of a difference is 4 / 81.
    """
    return float(np.sqrt(sum(4 / 81 for size in shape if size >= 3)))


def _mean_over(values: Floats, mask: npt.NDArray[np.bool_], reach: Sequence[float]) -> Floats:
    """The mean of the masked voxels around each voxel; far from all of them, that of the nearest.

    On every `stride`-th voxel, which a Gaussian so wide leaves room for.
    """
    from scipy import ndimage

    stride = [max(1, min(int(r / 2), n // 4)) for r, n in zip(reach, values.shape, strict=True)]
    share = _binned(mask.astype(np.float32), stride)
    total = _binned(np.where(mask, values, 0), stride)
    narrow = [r / s for r, s in zip(reach, stride, strict=True)]
    weight, mean = (
        np.asarray(ndimage.gaussian_filter(v, narrow, mode="constant")) for v in (share, total)
    )
    seen = weight > 0.02 * weight.max()
    mean = np.where(seen, mean / np.maximum(weight, 1e-12), 0)
    nearest = ndimage.distance_transform_edt(
        ~seen, narrow, return_distances=False, return_indices=True
    )
    mean = mean[tuple(nearest)]
    return _spread(mean, stride, values.shape)


def _binned(values: Floats, stride: Sequence[int]) -> Floats:
    """Means of blocks; the last block of an axis is filled up with zeros."""
    missing = [(0, -n % s) for n, s in zip(values.shape, stride, strict=True)]
    padded = np.pad(values, missing)
    (i, j, k), (a, b, c) = padded.shape, stride
    blocks = padded.reshape(i // a, a, j // b, b, k // c, c)
    return np.asarray(blocks.mean((1, 3, 5), dtype=np.float64), np.float32)


def _spread(coarse: Floats, stride: Sequence[int], shape: tuple[int, ...]) -> Floats:
    """Blocks back to voxels, linear in between."""
    for axis, (step, n) in enumerate(zip(stride, shape, strict=True)):
        place = np.clip((np.arange(n) + 0.5) / step - 0.5, 0, coarse.shape[axis] - 1)
        low = np.minimum(place.astype(int), max(coarse.shape[axis] - 2, 0))
        part = (place - low).astype(np.float32).reshape([-1 if axis == d else 1 for d in range(3)])
        high = np.minimum(low + 1, coarse.shape[axis] - 1)
        coarse = (1 - part) * coarse.take(low, axis) + part * coarse.take(high, axis)
    return np.asarray(coarse, np.float32)


def _corrected(deviation: Floats, mean: Floats) -> Floats:
    """`rician_correction` of every voxel, from a table over the ratio of mean and deviation."""
    ratios, factors = _table()
    return np.asarray(
        deviation * np.interp(mean / np.maximum(deviation, 1e-12), ratios, factors), np.float32
    )


@lru_cache(maxsize=1)
def _table() -> tuple[Floats, Floats]:
    ratios = np.linspace(1.9, 12.0, 200, dtype=np.float32)
    factors = [rician_correction(1.0, float(ratio)) for ratio in ratios]
    return ratios, np.asarray(factors, np.float32)
