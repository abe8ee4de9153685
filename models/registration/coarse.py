"""Coarser copies of a volume, made without interpolation."""

from __future__ import annotations

import numpy as np
import torch

from radloom.geometry import affine_from_parts, corners, shifted_affine, spacing_of
from radloom.shapes import Volume, affine_of, array_of, make_volume, spatial_shape
from radloom.transforms.spatial import resample

__all__ = ["at_spacing", "block_mean", "clipped", "with_right_angles"]

CT_WINDOW_HU = (-500.0, 1500.0)
"""Air to cortical bone: a joint histogram over the full range puts all soft tissue in one bin."""
MR_QUANTILES = (0.001, 0.998)
"""A few bright vessels or fat voxels would otherwise take most bins of a histogram."""
_RIGHT_ANGLE = 1e-4


def block_mean(volume: Volume, factors: tuple[int, int, int]) -> Volume:
    """The means of blocks of `factors` voxels, on the grid of the blocks' centres.

    Voxels that fill no whole block at the far ends are left out.

    >>> values = np.arange(8.).reshape(2, 2, 2)
    >>> fine = make_volume(values, np.eye(4), modality="MR", units="arbitrary")
    >>> coarse = block_mean(fine, (2, 2, 2))
    >>> float(coarse[0, 0, 0, 0]), affine_of(coarse)[:3, 3].tolist()
    (3.5, [0.5, 0.5, 0.5])
    """
    if factors == (1, 1, 1):
        return volume
    means = torch.nn.functional.avg_pool3d(volume.as_tensor(), factors, stride=factors)
    affine = shifted_affine(affine_of(volume), (np.array(factors) - 1) / 2)
    affine[:3, :3] *= factors
    return make_volume(means, affine, modality=volume.meta["modality"], units=volume.meta["units"])


def at_spacing(volume: Volume, spacing_mm: float) -> Volume:
    """`volume` in blocks of about `spacing_mm` along each axis that is finer than that."""
    wanted = np.floor(spacing_mm / spacing_of(affine_of(volume)) + 0.25).astype(int)
    limit = np.maximum(1, np.array(spatial_shape(volume)) // 4)
    i, j, k = (int(n) for n in np.clip(wanted, 1, limit))
    return block_mean(volume, (i, j, k))


def with_right_angles(volume: Volume, *, n_threads: int = 1) -> Volume:
    """`volume`, resampled onto a grid of right angles that covers it if its own is sheared."""
    affine = affine_of(volume)
    spacing = spacing_of(affine)
    axes = affine[:3, :3] / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() < _RIGHT_ANGLE:
        return volume
    u, _, vt = np.linalg.svd(axes)
    straight = affine_from_parts(np.zeros(3), spacing, u @ vt)
    ends = corners(np.linalg.inv(straight) @ affine, spatial_shape(volume))
    low, high = ends.min(axis=0), ends.max(axis=0)
    i, j, k = (int(n) for n in np.ceil(high - low) + 1)
    return resample(volume, None, shifted_affine(straight, low), (i, j, k), n_threads=n_threads)


def clipped(volume: Volume) -> Volume:
    """`volume` within the range that carries anatomy: a CT window, or quantiles of an MR or PET."""
    if volume.meta["units"] == "HU":
        low, high = CT_WINDOW_HU
    else:
        values = array_of(volume).ravel()
        sample = np.sort(values[:: max(1, values.size // 200_000)])
        low, high = (float(sample[int(q * (sample.size - 1))]) for q in MR_QUANTILES)
    if high <= low:
        high = low + 1.0
    return make_volume(
        volume.as_tensor().clamp(low, high),
        affine_of(volume),
        modality=volume.meta["modality"],
        units=volume.meta["units"],
    )
