"""MR as the network expects it: the brightest common tissue near 1."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform

from radloom.models.translation.network import MISSING

__all__ = ["NormalisedMRd", "normalised_mr"]

_MOST_VALUES = 2**20
"""What a quantile is taken of."""


def normalised_mr(image: torch.Tensor) -> torch.Tensor:
    """(C, I, J, K), each channel over the 99th percentile of what is above 0 in it.

    A channel that is `MISSING` throughout, or nowhere above 0, stays as it is.
    """
    return torch.stack([_normalised(channel) for channel in image.float()])


def _normalised(channel: torch.Tensor) -> torch.Tensor:
    inside = channel[channel > 0]
    if not len(inside) or bool((channel == MISSING).all()):
        return channel
    step = max(1, len(inside) // _MOST_VALUES)
    return channel / torch.quantile(inside[::step], 0.99)


class NormalisedMRd(MapTransform):  # type: ignore[misc]  # MONAI is not typed here
    """`normalised_mr` of the MetaTensors of `keys`, their meta kept."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of `data` with the images normalised."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key].clone()
            image.copy_(normalised_mr(image.as_tensor()))
            result[key] = image
        return result
