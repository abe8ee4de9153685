"""What the network says, in physical units and as images of their own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

__all__ = ["HU_RANGE", "AirBeyondd", "PartedCTd", "PhysicalUnitsd", "in_physical_units"]

AIR_HU = -1000.0

HU_RANGE = (-1024.0, 3071.0)
"""What twelve bits hold."""


def in_physical_units(answer: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """(5, I, J, K): HU, shares of air, soft tissue, bone, and the expected error in HU.

    Args:
        answer: (5, I, J, K) of `HounsfieldNetwork`: HU, three scores, logarithm of the scale.
        temperature: what the network's scale is multiplied by; that of a bundle makes the expected
            error the mean absolute error on heads of the validation.
    """
    hu, scores, scale = answer.float().split([1, 3, 1])
    parts = [hu.clamp(*HU_RANGE), scores.softmax(0), temperature * scale.exp()]
    return torch.cat(parts)


class PhysicalUnitsd(MapTransform):  # type: ignore[misc]  # MONAI is not typed here
    """`in_physical_units` of the MetaTensors of `keys`, their meta kept."""

    def __init__(self, keys: KeysCollection, temperature: float = 1.0) -> None:
        super().__init__(keys)
        self.temperature = temperature

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of `data`, before anything is resampled."""
        result = dict(data)
        for key in self.key_iterator(result):
            answer = result[key].clone()
            answer.copy_(in_physical_units(answer.as_tensor(), self.temperature))
            result[key] = answer
        return result


class AirBeyondd(MapTransform):  # type: ignore[misc]  # MONAI is not typed here
    """Air where a crop that was inverted left 0 in all channels, in the MetaTensors of `keys`.

    What the three shares lack to 1 is the part of a voxel that no window saw.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of `data`; (5, I, J, K) as `in_physical_units` gives them, resampled or not."""
        result = dict(data)
        for key in self.key_iterator(result):
            pred = result[key].clone()
            plain = pred.as_tensor()
            beyond = (1 - plain[1:4].sum(0)).clamp_(0, 1)
            plain[0] += AIR_HU * beyond
            plain[1] += beyond
            result[key] = pred
        return result


class PartedCTd(MapTransform):  # type: ignore[misc]  # MONAI is not typed here
    """``pseudoct`` (whole HU), ``classes`` and ``uncertainty`` (HU) beside ``pred``, for files."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of `data` with the three images."""
        result = dict(data)
        for key in self.key_iterator(result):
            pred = result[key]
            plain = pred.as_tensor()
            parts = {
                "pseudoct": plain[:1].round(),
                "classes": plain[1:4].argmax(0, keepdim=True).float(),
                "uncertainty": plain[4:5],
            }
            for name, part in parts.items():
                result[name] = MetaTensor(part, meta=dict(pred.meta))
        return result
