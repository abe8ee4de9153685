"""The table that says which structure a label's value is, in which colour."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

import numpy as np

from radloom.pipelines.export.tsv import join_lines
from radloom.shapes import LabelVolume, array_of

__all__ = ["colour_of", "lookup_tsv"]

GOLDEN_RATIO = 0.6180339887498949
"""Steps of this share of the colour circle never come close to one taken before."""


def colour_of(value: int) -> str:
    """``#rrggbb`` for a label value: black for 0, and far from its neighbours' for the others.

    >>> colour_of(0), colour_of(1) != colour_of(2)
    ('#000000', True)
    """
    if value == 0:
        return "#000000"
    hue = value * GOLDEN_RATIO % 1.0
    brightness = (1.0, 0.8, 0.62)[value % 3]
    rgb = colorsys.hsv_to_rgb(hue, 0.75, brightness)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def lookup_tsv(label: LabelVolume, names: Mapping[int, str]) -> bytes:
    """The BIDS lookup table (index, name, color): every value named or present, in order."""
    present = {int(value) for value in np.unique(array_of(label))} - {0}
    named = {**{value: f"unnamed_{value}" for value in present}, **names}
    rows = [(str(v), " ".join(named[v].split()) or "n/a", colour_of(v)) for v in sorted(named)]
    return join_lines([("index", "name", "color"), *rows])
