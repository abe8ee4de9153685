"""Where an image holds nothing: one value from its border inwards, as masks leave it.

Skull-stripped, defaced and resampled scans are one number outside what is kept, and no structure
lies there, whatever a network makes of the edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["blank"]

LEAST_OF_BORDER = 0.5
"""Share of the voxels on the faces of the image that must have the value."""

THICKEST_MM = 4.0
"""Dark sheets that reach the border and are no thicker, such as bone cut off by the edge, are not
blank."""


def blank(image: npt.NDArray[Any], spacing: Sequence[float]) -> npt.NDArray[np.bool_] | None:
    """(I, J, K) What hangs together with the border and has its value, exactly.

    None: nothing does, or all of the image.

    Args:
        image: (I, J, K).
        spacing: millimetres along I, J, K.
    """
    value = _value_of_border(image)
    if value is None:
        return None
    same = (image == value).astype(np.uint8)
    size = [2 * max(1, round(THICKEST_MM / 2 / mm)) + 1 for mm in spacing]
    size = [min(n, 2 * (length // 2) - 1) if length > 2 else 1
            for n, length in zip(size, image.shape, strict=True)]  # fmt: skip
    core = ndimage.minimum_filter(same, size, mode="nearest")
    pieces, _ = ndimage.label(core)
    touching = np.unique(np.concatenate([face.ravel() for face in _faces(pieces)]))
    kept = np.isin(pieces, touching[touching > 0]).astype(np.uint8)
    found: npt.NDArray[np.bool_] = (ndimage.maximum_filter(kept, size) & same).astype(bool)
    return found if found.any() and not found.all() else None


def _value_of_border(image: npt.NDArray[Any]) -> Any:
    values = np.concatenate([face.ravel() for face in _faces(image)])
    found, counts = np.unique(values, return_counts=True)
    most = counts.argmax()
    return found[most] if counts[most] > LEAST_OF_BORDER * values.size else None


def _faces(image: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    return [np.take(image, at, axis) for axis in range(3) for at in (0, -1)]
