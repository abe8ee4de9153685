"""The actions of DICOM PS3.15 Table E.1-1 by tag, from ``actions.yaml`` beside this module."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, TypeAlias

__all__ = ["Action", "Options", "Profile", "load_profile", "methods_of"]

Action: TypeAlias = Literal[
    "remove", "empty", "dummy", "label", "characteristics", "words", "text", "binary"
]

SCHEME = "DCM"

PROFILE_CODES = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113111", "Retain Safe Private Option"),
)
"""DICOM PS3.16 CID 7050: what is done to every object."""

CHARACTERISTICS_CODE = ("113108", "Retain Patient Characteristics Option")


@dataclass(frozen=True)
class Options:
    """What the user decides about a de-identification."""

    keep_characteristics: bool = False
    """Sex, age, size and weight stay (PS3.15 E.3.4); PET needs the weight for SUV."""
    accept: frozenset[str] = field(default_factory=frozenset)
    """Modalities to take although their pixels tend to hold burned-in text."""


@dataclass(frozen=True)
class Profile:
    """The actions, by tag."""

    actions: Mapping[int, Action]
    dummies: Mapping[int, str]
    safe_private: Mapping[tuple[str, int], frozenset[int]]
    """Private creator and group -> last bytes of the elements that hold numbers alone."""
    vocabulary: frozenset[str]
    """Words, in lower case, that descriptions may keep."""
    sidecar_text: frozenset[str]
    """Keys of sidecars whose text stays."""


def methods_of(options: Options) -> tuple[tuple[str, str], ...]:
    """Code value and meaning of everything that is done, for (0012,0064)."""
    return PROFILE_CODES + ((CHARACTERISTICS_CODE,) if options.keep_characteristics else ())


@functools.cache
def load_profile() -> Profile:
    """The profile that ships with Radloom.

    Raises:
        KeyError: the file names an attribute that DICOM does not have.
    """
    import yaml
    from pydicom.datadict import tag_for_keyword

    file = resources.files("radloom.pipelines.deidentify").joinpath("actions.yaml")
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))

    def tag(keyword: str) -> int:
        found = tag_for_keyword(keyword)
        if found is None:
            raise KeyError(keyword)
        return int(found)

    actions: dict[int, Action] = {}
    plain: tuple[Action, ...] = ("remove", "empty", "label", "words", "text", "binary")
    for action in plain:
        actions |= {tag(keyword): action for keyword in content[action].split()}
    dummies = {tag(keyword): str(value) for keyword, value in content["dummy"].items()}
    actions |= dict.fromkeys(dummies, "dummy")
    actions |= {tag(keyword): "characteristics" for keyword in content["characteristics"].split()}
    return Profile(
        actions=actions,
        dummies=dummies,
        safe_private={
            (row["creator"], row["group"]): frozenset(row["elements"])
            for row in content["safe_private"]
        },
        vocabulary=frozenset(content["vocabulary"].split()),
        sidecar_text=frozenset(content["sidecar_text"].split()),
    )
