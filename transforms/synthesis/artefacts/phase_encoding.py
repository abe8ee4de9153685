"""The axis whose lines are read one after another: what goes wrong there happens along it alone.

Every line of k-space gets a complex factor and a pose of the head. For one pose that is a circulant
matrix along the axis, so undersampling, ghosts and movements together cost two passes a pose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from radloom.transforms.synthesis.artefacts.axes import along
from radloom.transforms.synthesis.artefacts.ghosts import GhostParameters, ghost_weights
from radloom.transforms.synthesis.artefacts.motion import Movement, line_owners
from radloom.transforms.synthesis.artefacts.undersampling import (
    UndersamplingParameters,
    line_weights,
)

__all__ = ["encode"]


def encode(
    poses: list[Tensor],
    axis: int,
    extent_mm: float,
    n_lines: int,
    *,
    undersampling: UndersamplingParameters | None = None,
    ghosts: GhostParameters | None = None,
    movements: tuple[Movement, ...] = (),
) -> Tensor:
    """(1, L, M, N) magnitude of what is put together from lines of several poses.

    Args:
        poses: the head in its place, then after each movement, (1, L, M, N) each.
        axis: of the phase encoding.
        extent_mm: the field of view along it.
        n_lines: how many lines are measured; zeros fill the rest.
        undersampling: lines that are missing.
        ghosts: what repeats from line to line.
        movements: which lines belong to which pose.
    """
    frequency = torch.fft.fftfreq(n_lines, 1 / n_lines, dtype=torch.float64).round()
    factors = torch.ones(n_lines, dtype=torch.complex128)
    if undersampling is not None:
        factors = factors * line_weights(frequency, undersampling)
    if ghosts is not None:
        factors = factors * ghost_weights(frequency, extent_mm, ghosts)
    owners = line_owners(frequency, movements)
    real = imaginary = torch.zeros((), device=poses[0].device)
    for number, pose in enumerate(poses):
        filled = torch.zeros(pose.shape[1 + axis], dtype=torch.complex128)
        filled[frequency.long()] = factors * (owners == number)
        matrix = _circulant(filled)
        real = real + along(pose, matrix.real, axis)
        imaginary = imaginary + along(pose, matrix.imag, axis)
    return torch.hypot(real, imaginary)


def _circulant(factors: Tensor) -> Tensor:
    """(m, m) complex: transform, multiply each frequency, transform back."""
    m = len(factors)
    index = torch.arange(m)
    return torch.fft.ifft(factors)[(index[:, None] - index) % m]
