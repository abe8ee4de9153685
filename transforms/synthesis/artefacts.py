"""What a scanner adds to the truth: coil shading and thermal noise."""

from __future__ import annotations

import torch

from radloom.geometry import Affine, spacing_of
from radloom.transforms.synthesis.solids import smooth_field

__all__ = ["add_rician_noise", "bias_field"]


def bias_field(
    affine: Affine, shape: tuple[int, int, int], strength: float, generator: torch.Generator
) -> torch.Tensor:
    """A smooth positive gain (I, J, K) round 1 whose logarithm has the deviation `strength`."""
    x, y, z = (
        (torch.arange(n) - (n - 1) / 2) * float(step)
        for n, step in zip(shape, spacing_of(affine), strict=True)
    )
    return torch.exp(strength * smooth_field((x, y, z), 110, generator, reach_mm=220))


def add_rician_noise(
    signal: torch.Tensor, deviation: float, generator: torch.Generator
) -> torch.Tensor:
    r"""The magnitude :math:`\sqrt{(s + n_1)^2 + n_2^2}` with normal noise in both channels.

    Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618.
    """
    if deviation <= 0:
        return signal
    real = signal + deviation * torch.randn(signal.shape, generator=generator)
    return torch.hypot(real, deviation * torch.randn(signal.shape, generator=generator))
