"""Air, soft tissue and bone, as CT tells them apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["BOUNDS_HU", "CLASS_NAMES", "TYPICAL_HU", "classes_of_hu"]

BOUNDS_HU: tuple[float, float] = (-400.0, 250.0)
"""Where soft tissue begins and where bone begins: halfway between air and fat with some mucosa, and
above blood with contrast agent and calcified plexus of the usual kind."""

CLASS_NAMES: Mapping[int, str] = {0: "air", 1: "soft tissue", 2: "bone"}
"""Class -> name."""

TYPICAL_HU: tuple[float, float, float] = (-1000.0, 40.0, 700.0)
"""What a map of three classes puts for each: the mean of skull with its marrow for bone."""


def classes_of_hu(hu: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """0 air, 1 soft tissue, 2 bone, of the same shape.

    >>> classes_of_hu([-1000.0, -90.0, 35.0, 900.0]).tolist()
    [0, 1, 1, 2]
    """
    values = np.asarray(hu)
    soft, bone = BOUNDS_HU
    return (values >= soft).astype(np.uint8) + (values >= bone).astype(np.uint8)
