"""Values as JSON can hold them, and JSON as the same bytes each time."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

__all__ = ["from_json", "is_numpy", "plain", "to_json"]


def plain(value: Any) -> Any:
    """`value` in dict, list, str, int, float, bool and None only.

    Paths keep their last part (the rest belongs to one machine), numbers that JSON has no word for
    become strings (``nan``, ``inf``), keys become strings.

    >>> import numpy as np
    >>> plain({1: (np.float32(0.5), float("inf"))})
    {'1': [0.5, 'inf']}
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if is_numpy(value):
        return plain(value.tolist())
    if isinstance(value, PurePath):
        return value.name
    return _plain_container(value)


def is_numpy(value: Any) -> bool:
    """Whether it is an array or a scalar of NumPy, which whoever made one has imported."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray))


def _plain_container(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    return type(value).__name__


def to_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys, two spaces of indent and a newline at the end."""
    text = json.dumps(plain(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def from_json(content: bytes) -> Any:
    """What `to_json` wrote.

    Raises:
        ValueError: it is not JSON.
    """
    return json.loads(content.decode())
