"""What an acquisition gives: the picture, the picture without its noise, the noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

__all__ = ["Acquired", "level_of"]

_LEVEL_SHARE = 0.99
_LEVEL_STEP = 4


@dataclass(frozen=True)
class Acquired:
    """Three (1, I, J, K) float32 volumes on one grid."""

    image: torch.Tensor = field(repr=False)
    """What the scanner shows."""
    clean: torch.Tensor = field(repr=False)
    """The same without noise: every other artefact is still in it."""
    sigma: torch.Tensor = field(repr=False)
    """Deviation of the noise before a magnitude is taken; 0 where there is none."""


def level_of(signal: torch.Tensor) -> torch.Tensor:
    """The 99th percentile of `signal` (1, I, J, K), a tensor without axes.

    Every fourth voxel of long axes is looked at; no value leaves the device.
    """
    steps = [slice(None, None, _LEVEL_STEP if n >= 16 * _LEVEL_STEP else 1) for n in signal.shape]
    values = signal[tuple(steps)].flatten()
    rank = max(1, round(_LEVEL_SHARE * values.numel()))
    return values.kthvalue(rank).values
