"""What any segmentation model gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from radloom.shapes import LabelVolume

__all__ = ["Prediction"]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    label: LabelVolume
    """(1, I, J, K) on the image's grid."""
    doubt: Mapping[int, float]
    """Label -> mean entropy where it was given, as a share of the largest possible; empty where
    the model's probabilities are not known."""
