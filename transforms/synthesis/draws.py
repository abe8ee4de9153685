"""Random numbers for parameters: plain Python values drawn from a passed generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import torch

__all__ = ["Range", "chance", "choose", "log_uniform", "normal", "seed", "uniform"]

Range: TypeAlias = tuple[float, float]
"""Lowest and highest value of a parameter that is drawn."""

T = TypeVar("T")


def uniform(generator: torch.Generator, span: Range) -> float:
    """A number between the two ends of `span`."""
    low, high = span
    return low + (high - low) * _unit(generator)


def log_uniform(generator: torch.Generator, span: Range) -> float:
    """A number between the two positive ends of `span`, its logarithm uniform."""
    return math.exp(uniform(generator, (math.log(span[0]), math.log(span[1]))))


def normal(generator: torch.Generator, deviation: float, limit: float = 3.0) -> float:
    """A normal number of mean 0, cut at `limit` deviations."""
    value = float(torch.randn((), generator=generator, dtype=torch.float64))
    return deviation * min(max(value, -limit), limit)


def chance(generator: torch.Generator, probability: float) -> bool:
    """True with this probability; draws one number whatever it is."""
    return _unit(generator) < probability


def choose(generator: torch.Generator, options: Sequence[T]) -> T:
    """One of the options, each as likely."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def seed(generator: torch.Generator) -> int:
    """The seed of a random field, which `render` makes on its own device."""
    return int(torch.randint(2**53, (), generator=generator))


def _unit(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))
