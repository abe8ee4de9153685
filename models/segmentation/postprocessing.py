"""Labels cleaned up as a model asks: the largest component of a structure, its holes filled.

Off unless the model's metadata ask for it, by structure::

    "postprocessing": {"largest_component": ["brainstem"], "fill_holes": ["skull and other bone"]}

nnU-Net keeps such decisions in ``postprocessing.pkl``, which can run code; told plainly in
``postprocessing.json`` they are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.errors import ConfigError

__all__ = ["POSTPROCESSING_FILE", "Postprocessing", "postprocess", "read_postprocessing"]

POSTPROCESSING_FILE = "postprocessing.json"
"""In an nnU-Net results folder."""


@dataclass(frozen=True)
class Postprocessing:
    """What is done to which structures; nothing by default."""

    largest_component: tuple[str, ...] = ()
    """Structures of which the largest connected part stays, and the rest becomes background."""
    fill_holes: tuple[str, ...] = ()
    """Structures whose holes become theirs, where they are background: other structures stay."""


def read_postprocessing(
    content: Mapping[str, Any] | Path, label_names: Mapping[int, str]
) -> Postprocessing:
    """What a model asks for.

    Args:
        content: a bundle's metadata, or a results folder that may hold ``postprocessing.json``.
        label_names: value -> structure of the model.

    Raises:
        ConfigError: a step that is not known, or a structure that the model does not have.

    >>> read_postprocessing({"name": "a bundle that asks for nothing"}, {1: "one"})
    Postprocessing(largest_component=(), fill_holes=())
    """
    if isinstance(content, Path):
        file = content / POSTPROCESSING_FILE
        asked = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    else:
        asked = content.get("postprocessing", {})
    if not isinstance(asked, Mapping):
        raise ConfigError(f"postprocessing: expected steps with structures, got {asked!r}")
    steps = {name: _names(name, given, label_names) for name, given in asked.items()}
    unknown = sorted(set(steps) - {"largest_component", "fill_holes"})
    if unknown:
        raise ConfigError(
            f"postprocessing: expected largest_component or fill_holes, got {', '.join(unknown)}"
        )
    return Postprocessing(**steps)


def postprocess(
    labels: npt.NDArray[Any], label_names: Mapping[int, str], what: Postprocessing
) -> npt.NDArray[Any]:
    """The labels (I, J, K) after what was asked for; the same array where that is nothing.

    Voxels hang together by their faces. Of two parts of one size the first in the order of voxels
    stays. A hole is background that no way through faces leads out of; one that reaches the border
    of the volume is none. The largest component comes before the holes.
    """
    if what == Postprocessing():
        return labels
    result: npt.NDArray[Any] = labels.copy()
    values = {name: value for value, name in label_names.items()}
    for name in what.largest_component:
        mask = result == values[name]
        result[mask & ~_largest(mask)] = 0
    for name in what.fill_holes:
        _fill(result, values[name])
    return result


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    from scipy import ndimage

    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: npt.NDArray[np.bool_] = (parts == sizes.argmax()) & mask
    return largest


def _fill(labels: npt.NDArray[Any], value: int) -> None:
    """Background that the structure shuts in takes its value."""
    from scipy import ndimage

    inside = ndimage.binary_fill_holes(labels == value)
    labels[inside & (labels == 0)] = value


def _names(step: str, given: Any, label_names: Mapping[int, str]) -> tuple[str, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ConfigError(f"postprocessing: expected a list of structures for {step}")
    unknown = sorted(set(map(str, given)) - set(label_names.values()))
    if unknown:
        raise ConfigError(
            f"postprocessing: expected structures of the model for {step}, got {unknown[0]!r}"
        )
    return tuple(map(str, given))
