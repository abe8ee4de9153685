"""What one network learns, said once for all the training needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from radloom.models.training.pictures import Picture

__all__ = ["Sample", "Task", "weighted_mean"]

Sample = Mapping[str, torch.Tensor]
"""Tensors (C, I, J, K) of one draw, by the names that `radloom.transforms.synthesis.sample` gives;
a batch has another axis in front."""


class Task(Protocol):
    """Sample -> input and targets -> loss, metrics, pictures."""

    pairs: bool
    """Whether a sample is a pair (``fixed_*``, ``moving_*``)."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """What it asks of a sample."""
        ...

    def prepare(self, sample: Sample, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """``image``, the network's input (C, I, J, K), and the targets, all on one grid."""
        ...

    def loss(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """Its parts, the same at each step, whose sum is minimised; `pred` is float32."""
        ...

    def metrics(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """Numbers that tell how good `pred` is; averaged over the cases that have them."""
        ...

    def pictures(self, pred: torch.Tensor, batch: Sample) -> list[Picture]:
        """The row of the sheet for the first of the batch."""
        ...


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The mean of `values` with `weights`; 0 where all weights are."""
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)
