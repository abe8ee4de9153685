"""Dataclasses of drawn parameters and of recipes, to plain values and back."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from radloom.errors import ConfigError

__all__ = ["from_plain", "to_plain"]

T = TypeVar("T")


def to_plain(parameters: Any) -> dict[str, Any]:
    """A dataclass as nested dict, list and plain values, as JSON holds them."""
    return {key: _listed(value) for key, value in asdict(parameters).items()}


def from_plain(cls: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass that `to_plain` came from; what `values` leaves out keeps its default.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Noise:
    ...     level: tuple[float, float] = (0.0, 0.1)
    >>> from_plain(Noise, {"level": [0.01, 0.02]})
    Noise(level=(0.01, 0.02))

    Raises:
        ConfigError: a key that the dataclass does not have, or one missing without a default.
    """
    known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            f"{cls.__name__}: expected keys of {', '.join(sorted(known))}, got {', '.join(unknown)}"
        )
    hints = get_type_hints(cls)
    try:
        return cls(**{key: _value(hints[key], value) for key, value in values.items()})
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}: {error}") from error


def _value(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if is_dataclass(hint) and isinstance(value, Mapping):
        return from_plain(hint, value)  # type: ignore[arg-type]
    if get_origin(hint) in (Union, types.UnionType):
        inner = [item for item in get_args(hint) if item is not type(None)]
        return _value(inner[0], value) if len(inner) == 1 else value
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        inner = list(get_args(hint))
        each = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        if len(each) != len(value):
            raise TypeError(f"expected {len(each)} values, got {len(value)}")
        return tuple(_value(item, part) for item, part in zip(each, value, strict=True))
    return float(value) if hint is float and isinstance(value, int) else value


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value
