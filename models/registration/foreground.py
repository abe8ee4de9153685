"""Where the head is, found simply; good enough to place samples and starts, not to segment."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.geometry import spacing_of
from radloom.shapes import Volume, affine_of, array_of

__all__ = ["head_mask"]

BODY_HU = -300.0
"""Halfway between air and fat: skin and all within is denser."""
OPENING_MM = 6.0
"""Table tops and head holders are thinner than this, or hang on by less."""


def head_mask(volume: Volume, *, margin_mm: float = 0.0) -> npt.NDArray[np.bool_]:
    """(I, J, K) bool: the largest connected bright thing, filled, grown by `margin_mm`.

    The threshold is -300 HU in a CT, else half of Otsu's (1979, doi:10.1109/TSMC.1979.4310076):
    dark brain on FLAIR still counts. Everything, where nothing stands out.
    """
    from scipy import ndimage

    values = array_of(volume)[0]
    spacing = spacing_of(affine_of(volume))
    threshold = BODY_HU if volume.meta["units"] == "HU" else 0.5 * _otsu(values)
    bright = values > threshold
    opened = _near(~_near(~bright, spacing, OPENING_MM / 2), spacing, OPENING_MM / 2)
    parts, count = ndimage.label(opened)
    if count == 0:
        return np.ones(values.shape, dtype=bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    mask = ndimage.binary_fill_holes(parts == sizes.argmax())
    return np.asarray(_near(mask, spacing, margin_mm), dtype=bool)


def _near(mask: Any, spacing: Any, distance_mm: float) -> Any:
    """Every voxel within `distance_mm` of `mask`."""
    from scipy import ndimage

    if distance_mm <= 0 or not mask.any():
        return mask
    return ndimage.distance_transform_edt(~mask, sampling=spacing) <= distance_mm


def _otsu(values: npt.NDArray[Any]) -> float:
    from skimage.filters import threshold_otsu

    low, high = np.quantile(values, (0.0, 0.99))
    if high <= low:
        return float(low)
    return float(threshold_otsu(np.clip(values, low, high)))
