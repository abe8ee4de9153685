"""A head has two sides that are nearly mirror images, and a network may be asked about both.

nnU-Net averages over mirrored windows; a model whose classes have sides it cannot mirror, for left
and right would change places. Here they change back: a window and its mirror image are both
predicted, and of the mirror image each left class counts for its right one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from radloom.errors import ConfigError
from radloom.models.segmentation.windows import Predict

__all__ = ["Sides", "over_both_sides", "read_sides"]


@dataclass(frozen=True)
class Sides:
    """What changes in a mirror."""

    axis: int
    """Of the network's input (x, y, z), the one from side to side."""
    partners: tuple[int, ...]
    """Of each class the one on the other side; its own number where it has no side."""


def read_sides(content: Mapping[str, Any], class_names: Sequence[str]) -> Sides | None:
    """What a bundle's metadata say under ``sides``; None: nothing.

    Args:
        content: the metadata.
        class_names: of the network's channels, in order.

    Raises:
        ConfigError: no such axis, or a pair that is none of the model's classes.

    >>> read_sides({"sides": {"axis": 0, "pairs": [["l", "r"]]}}, ["background", "l", "r"])
    Sides(axis=0, partners=(0, 2, 1))
    """
    asked = content.get("sides")
    if asked is None:
        return None
    if not isinstance(asked, Mapping) or set(asked) != {"axis", "pairs"}:
        raise ConfigError(f"sides: expected axis and pairs, got {asked!r}")
    if asked["axis"] not in (0, 1, 2):
        raise ConfigError(f"sides: expected axis 0, 1 or 2, got {asked['axis']!r}")
    partners, seen = list(range(len(class_names))), set[str]()
    for pair in asked["pairs"]:
        if len(pair) != 2 or seen & set(pair) or not set(pair) <= set(class_names):
            raise ConfigError(
                f"sides: expected pairs of the model's structures, once each, got {pair!r}"
            )
        seen |= set(pair)
        left, right = map(class_names.index, pair)
        partners[left], partners[right] = right, left
    return Sides(asked["axis"], tuple(partners))


def over_both_sides(network: Predict, sides: Sides) -> Predict:
    """The mean of a network's scores for a window and for its mirror image."""

    def predict(windows: torch.Tensor) -> torch.Tensor:
        scores, mirrored = network(windows), network(windows.flip(sides.axis + 2))
        for own, partner in enumerate(sides.partners):
            scores[:, own] += mirrored[:, partner].flip(sides.axis + 1)
        return scores.div_(2)

    return predict
