"""Whether an image is what the network knows: the MR of a whole head. Needs no network.

Each number is one that a head in MR has within a known range, and that something else leaves: the
CT of a head, another part of the body, a head that the field of view cuts, noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.geometry import spacing_of
from radloom.models.registration.coarse import at_spacing
from radloom.models.registration.foreground import head_mask
from radloom.shapes import Volume, affine_of, array_of

__all__ = ["FITNESS_RANGES", "Fitness", "fitness_of"]

FITNESS_RANGES: Mapping[str, tuple[float | None, float | None]] = {
    "head_volume": (2000.0, 7500.0),
    "head_width": (115.0, 230.0),
    "head_length": (140.0, 260.0),
    "cut": (None, 0.55),
    "likeness_of_neighbours": (0.6, None),
    "negative_share": (None, 0.01),
    "grey_spread": (0.2, None),
}
"""Name -> lowest and highest value of the MR of a whole head; see `Fitness`.

Set by judgement, and looked at on phantoms (2 mm) and on 12 clinical scans of three patients, whose
upper border cuts 0.23 to 0.51 of the head's section, with a grey spread of 0.45 to 0.94 and volumes
from 2220 mL. A phantom's CT has a spread of 0.10 to 0.14, a skull-stripped brain 1830 mL. Infants'
heads lie below these ranges: no network of ours has seen one.
"""

COARSE_MM = 4.0


@dataclass(frozen=True)
class Fitness:
    """Numbers of one image."""

    head_volume: float
    """mL of the largest thing that stands out, filled: the head with what is seen of the neck."""
    head_width: float
    """mm from left to right of the middle 98 % of it."""
    head_length: float
    """mm from back to front."""
    cut: float
    """The largest section of it with a border of the image, the lower one left out, as a share of
    its largest section that is parallel; 0: the head lies within the field of view."""
    likeness_of_neighbours: float
    """Correlation of voxels 4 mm apart in the plane; 0: noise."""
    negative_share: float
    """Of the voxels below 0, which magnitudes never are."""
    grey_spread: float
    """Interquartile range of the grey values in it, over their median above the image's darkest:
    a CT shows most of a head within a few per cent."""


def fitness_of(volume: Volume) -> Fitness:
    """The numbers of a volume (1, I, J, K) on any grid."""
    coarse = at_spacing(volume, COARSE_MM)
    values, spacing = _turned(array_of(coarse)[0], affine_of(coarse))
    head, _ = _turned(_filled_head(coarse), affine_of(coarse))
    quartiles = np.percentile(values[head] - float(values.min()), (25, 50, 75))
    return Fitness(
        head_volume=float(head.sum() * np.prod(spacing) / 1000.0),
        head_width=_extent(head, 0, spacing[0]),
        head_length=_extent(head, 1, spacing[1]),
        cut=_cut(head),
        likeness_of_neighbours=_likeness(volume),
        negative_share=float((array_of(volume)[0] < -1e-3 * _top(volume)).mean()),
        grey_spread=float((quartiles[2] - quartiles[0]) / max(quartiles[1], 1e-6)),
    )


def _top(volume: Volume) -> float:
    values = array_of(volume)[0].ravel()
    return float(np.percentile(values[:: max(1, values.size // 200_000)], 99))


def _filled_head(volume: Volume) -> npt.NDArray[np.bool_]:
    """(I, J, K): the head with what MR does not show of it, bone and air."""
    from scipy import ndimage

    mask = head_mask(volume)
    closed = ndimage.binary_closing(np.pad(mask, 5), iterations=4)[5:-5, 5:-5, 5:-5]
    for axis in range(3):
        for n in range(mask.shape[axis]):
            plane = tuple(n if a == axis else slice(None) for a in range(3))
            closed[plane] = ndimage.binary_fill_holes(closed[plane])
    return np.asarray(closed if closed.any() else np.ones_like(closed), dtype=bool)


def _turned(
    values: npt.NDArray[Any], affine: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Axes from left to right, back to front, feet to head, as near as the grid lies to them."""
    from nibabel.orientations import apply_orientation, io_orientation

    orientation = io_orientation(affine)
    order = np.argsort(orientation[:, 0])
    return apply_orientation(values, orientation), np.asarray(spacing_of(affine))[order]


def _extent(mask: npt.NDArray[np.bool_], axis: int, spacing: float) -> float:
    """How far the first hundredth lies from the last, in mm."""
    others = tuple(a for a in range(3) if a != axis)
    total = np.cumsum(mask.sum(axis=others))
    low, high = np.searchsorted(total, [0.01 * total[-1], 0.99 * total[-1]])
    return float((high - low + 1) * spacing)


def _cut(mask: npt.NDArray[np.bool_]) -> float:
    shares = []
    for axis, ends in ((0, (0, -1)), (1, (0, -1)), (2, (-1,))):
        areas = mask.sum(axis=tuple(a for a in range(3) if a != axis))
        shares += [float(areas[end] / max(1, areas.max())) for end in ends]
    return max(shares)


def _likeness(volume: Volume) -> float:
    """Along the axis of the smallest voxels."""
    values = array_of(volume)[0].astype(np.float64)
    spacing = np.asarray(spacing_of(affine_of(volume)))
    axis = int(spacing.argmin())
    step = max(1, round(COARSE_MM / float(spacing[axis])))
    if values.shape[axis] <= step:
        return 0.0
    moved = np.moveaxis(values, axis, 0)
    first, second = moved[:-step].ravel(), moved[step:].ravel()
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
