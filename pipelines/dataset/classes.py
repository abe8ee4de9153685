"""From the values of the user's labels to nnU-Net's classes, which count 0, 1, 2, ..."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from radloom.errors import ConfigError, InputError

__all__ = ["Classes", "make_classes", "read_names"]

IGNORE = "ignore"
"""nnU-Net's name for what counts neither way; it wants the highest value."""


@dataclass(frozen=True)
class Classes:
    """What each value of the labels becomes."""

    names: tuple[str, ...]
    """Of each class, the background first."""
    of_value: Mapping[int, int]
    """Value in the user's labels -> class."""

    def labels(self) -> dict[str, int]:
        """As dataset.json has them."""
        return {name: index for index, name in enumerate(self.names)}

    def apply(self, values: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
        """The class of each voxel.

        Raises:
            InputError: a value that has no name.
        """
        unknown = sorted(set(np.unique(values).tolist()) - set(self.of_value))
        if unknown:
            raise InputError(
                f"the label holds {', '.join(map(str, unknown[:5]))}, which --names does not name"
            )
        table = np.zeros(max(self.of_value) + 1, dtype=np.uint8)
        for value, index in self.of_value.items():
            table[value] = index
        return table[values]


def make_classes(values: Collection[int], names: Mapping[int, str] | None) -> Classes:
    """The classes of all labels of a data set.

    Values of one name are one class; ``ignore`` comes last, as nnU-Net wants it.

    Args:
        values: all that occur.
        names: value -> structure; None: each value is its own structure.

    Raises:
        ConfigError: nothing but background, or more classes than fit into uint8.

    >>> make_classes([0, 2, 41, 7], {2: "white", 41: "white", 7: "cerebellum"}).of_value
    {0: 0, 2: 1, 41: 1, 7: 2}
    """
    given = names if names is not None else {v: f"label_{v}" for v in sorted(values)}
    named = {value: name for value, name in given.items() if value != 0}
    ordered = [name for name in dict.fromkeys(named.values()) if name != IGNORE]
    ordered += [IGNORE] if IGNORE in named.values() else []
    if not ordered or ordered == [IGNORE]:
        raise ConfigError("expected labels with at least one value above 0, got background alone")
    if len(ordered) > np.iinfo(np.uint8).max or "background" in ordered:
        raise ConfigError(
            f"expected at most 255 structures, none of them named background, got {len(ordered)}"
        )
    classes = {name: index for index, name in enumerate(ordered, start=1)}
    return Classes(
        ("background", *ordered), {0: 0, **{v: classes[name] for v, name in named.items()}}
    )


def read_names(path: Path) -> dict[int, str]:
    """Value -> structure from a file.

    Args:
        path: a table (.tsv) with the columns ``index`` and ``name``, as Radloom writes one beside
            its labels; or JSON, name -> value, as in nnU-Net's dataset.json, or that file itself.

    Raises:
        ConfigError: neither.
    """
    wrong = (
        f"<{path.name}>: expected a .tsv with the columns index and name, or a .json of name -> "
        "value, as in nnU-Net's dataset.json"
    )
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            content = json.loads(text)
            names = {int(v): str(n) for n, v in content.get("labels", content).items()}
        else:
            rows = csv.DictReader(text.splitlines(), delimiter="\t")
            names = {int(row["index"]): " ".join(row["name"].split()) for row in rows}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(wrong) from error
    if not names or min(names) < 0:
        raise ConfigError(wrong)
    return names
