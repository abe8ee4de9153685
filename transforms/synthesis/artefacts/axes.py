"""Operators along one axis of a volume: what separable effects are made of.

A scanner's sampling, its k-space filter and the interpolation of its display act along each axis by
itself. Each is a small matrix, made in double precision on the CPU from plain parameters, so that
effects are composed by multiplying matrices and cost one pass an axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "along",
    "fourier_resampling",
    "gaussian_smoothing",
    "linear_resampling",
    "nearest_resampling",
    "pixel_centres",
]


def along(volume: Tensor, matrix: Tensor | None, axis: int) -> Tensor:
    """`matrix` (m, n) applied along one axis of `volume` (..., I, J, K); None leaves it alone.

    Args:
        volume: any number of leading axes.
        matrix: float, brought to the volume's device and type.
        axis: 0, 1 or 2: I, J or K.

    Example:
        >>> along(torch.ones(2, 3, 4), torch.ones(1, 3), axis=1)[0, 0]
        tensor([3., 3., 3., 3.])
    """
    if matrix is None:
        return volume
    matrix = matrix.to(volume)
    if axis == 2:
        return volume @ matrix.T
    if axis == 1:
        return torch.matmul(matrix, volume)
    *lead, n, j, k = volume.shape
    return torch.matmul(matrix, volume.reshape(*lead, n, j * k)).reshape(*lead, -1, j, k)


def pixel_centres(n: int, m: int) -> Tensor:
    """(m,) where the centres of `m` pixels lie that fill the extent of `n` voxels, in voxels."""
    return (torch.arange(m, dtype=torch.float64) + 0.5) * (n / m) - 0.5


def fourier_resampling(positions: Tensor, n: int, weights: Tensor) -> Tensor:
    """(p, n) values at `positions` of the trigonometric series through `n` periodic samples.

    Args:
        positions: (p,) in samples.
        n: how many samples make a period.
        weights: (K + 1,) factor of each frequency 0 to K cycles a period, K < n / 2.
    """
    frequency = 2 * math.pi / n * torch.arange(len(weights), dtype=torch.float64)
    scale = 2 * weights / n
    scale[0] /= 2
    there, here = positions[:, None] * frequency, torch.arange(n)[:, None] * frequency
    return (there.cos() * scale) @ here.cos().T + (there.sin() * scale) @ here.sin().T


def linear_resampling(positions: Tensor, n: int) -> Tensor:
    """(p, n) linear interpolation at `positions` (p,) in samples; the ends are repeated."""
    distance = positions.clamp(0, n - 1)[:, None] - torch.arange(n)
    return (1 - distance.abs()).clamp_min(0)


def nearest_resampling(positions: Tensor, n: int) -> Tensor:
    """(p, n) the nearest sample at `positions` (p,)."""
    nearest = positions.clamp(0, n - 1).round().long()
    return torch.eye(n, dtype=torch.float64)[nearest]


def gaussian_smoothing(n: int, sigma_vox: float) -> Tensor | None:
    """(n, n) convolution with a Gaussian, nothing beyond the ends; None for no blur."""
    if sigma_vox <= 0:
        return None
    index = torch.arange(n, dtype=torch.float64)
    tap = torch.arange(-4 * n, 4 * n + 1, dtype=torch.float64)
    total = torch.exp(-0.5 * (tap / sigma_vox) ** 2).sum()
    return torch.exp(-0.5 * ((index[:, None] - index) / sigma_vox) ** 2) / total
