"""Between a volume's voxels and the array that a model's own reader would have given.

nnU-Net works in (c, z, y, x) with the spacing in the same order, z first. Its readers take voxels
as they lie in the file, or (``...WithReorient``) turned to RAS first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.geometry import Affine, spacing_of

__all__ = ["as_model", "from_model", "place_of", "to_model"]


def to_model(
    array: npt.NDArray[np.float32], affine: Affine, orientation: str = ""
) -> tuple[npt.NDArray[np.float32], list[float]]:
    """The array (c, z, y, x) and its spacing (z, y, x) in mm as nnU-Net's readers give them.

    The spacing is rounded to float32, as NIfTI stores it and the readers read it.

    Args:
        array: (C, I, J, K).
        affine: (4, 4) voxel -> RAS+ mm.
        orientation: what the reader turns the volume to, or empty.

    >>> data, spacing = to_model(np.zeros((1, 2, 3, 4), np.float32), np.diag([1.0, 2.0, 3.0, 1.0]))
    >>> data.shape, spacing
    ((1, 4, 3, 2), [3.0, 2.0, 1.0])
    """
    spacing = spacing_of(affine).astype(np.float32).astype(float)
    if orientation:
        turn = _turn(affine, orientation)
        array = np.stack([_apply(channel, turn) for channel in array])
        spacing = spacing[np.argsort(turn[:, 0])]
    return np.ascontiguousarray(array.transpose(0, 3, 2, 1)), spacing[::-1].tolist()


def from_model(labels: npt.NDArray[Any], affine: Affine, orientation: str = "") -> npt.NDArray[Any]:
    """Labels (z, y, x) of `to_model`'s array back as (I, J, K)."""
    import nibabel as nib

    array = labels.transpose(2, 1, 0)
    if orientation:
        own = nib.orientations.io_orientation(affine)
        array = _apply(array, nib.orientations.ornt_transform(_codes(orientation), own))
    return np.ascontiguousarray(array)


def _codes(orientation: str) -> npt.NDArray[Any]:
    import nibabel as nib

    return np.asarray(nib.orientations.axcodes2ornt(tuple(orientation)))


def _turn(affine: Affine, orientation: str) -> npt.NDArray[Any]:
    """(3, 2) nibabel's transform from the grid's own orientation to `orientation`."""
    import nibabel as nib

    own = nib.orientations.io_orientation(affine)
    return np.asarray(nib.orientations.ornt_transform(own, _codes(orientation)))


def _apply(array: npt.NDArray[Any], turn: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import nibabel as nib

    return np.asarray(nib.orientations.apply_orientation(array, turn))


def as_model(array: npt.NDArray[Any], affine: Affine, orientation: str = "") -> npt.NDArray[Any]:
    """A view (z, y, x) of an array (I, J, K): what is written into it stands in the array."""
    turned = _apply(array, _turn(affine, orientation)) if orientation else array
    return np.transpose(turned, (2, 1, 0))


def place_of(
    place: Sequence[slice],
    shape: Sequence[int],
    affine: Affine,
    order: Sequence[int],
    orientation: str = "",
) -> tuple[tuple[slice, ...], tuple[int, ...], tuple[int, ...]]:
    """Where a box of the model's grid lies in (I, J, K), and how its array is turned to lie there.

    Args:
        place: the box along the model's axes.
        shape: (I, J, K).
        affine: of the volume.
        order: the model's axes among the reader's, ``transpose_forward``.
        orientation: what the reader turns the volume to, or empty.

    Returns:
        the box along I, J, K; which of the box's axes is I, J, K; which of I, J, K then to flip.
    """
    turn = _turn(affine, orientation) if orientation else np.array([[0, 1], [1, 1], [2, 1]])
    found: list[slice] = []
    axes, flips = [], []
    for own in range(3):
        axis = list(order).index(2 - int(turn[own, 0]))
        box, n = place[axis], shape[own]
        axes.append(axis)
        if turn[own, 1] < 0:
            flips.append(own)
            box = slice(n - box.stop, n - box.start)
        found.append(box)
    return tuple(found), tuple(axes), tuple(flips)
