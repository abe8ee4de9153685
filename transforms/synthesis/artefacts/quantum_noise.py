r"""Quantum noise of CT: the colour of filtered back-projection, the amount of the rays' loss.

Its power spectrum in the plane of a slice is :math:`|f| H(f)^2`: the ramp filter and the kernel
(Riederer et al. 1978, doi:10.1088/0031-9155/23/3/007; Kijewski and Judy 1987,
doi:10.1088/0031-9155/32/5/003). Its variance at a point is the mean, over the rays through it, of
the inverse of the photons that come through.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.artefacts.kernel import KernelParameters, transfer
from radloom.transforms.synthesis.artefacts.projection import Projector
from radloom.transforms.synthesis.draws import Range, chance, log_uniform, seed
from radloom.transforms.synthesis.fields import Grid, white_noise

__all__ = [
    "QuantumNoiseParameters",
    "QuantumNoiseRecipe",
    "draw_quantum_noise",
    "fbp_noise",
    "noise_map",
]

_PER_MM = 0.013
"""Attenuation of a mm of water, after the filter that evens out the edges of the fan."""
_RAMP_FLOOR = 0.01
"""Of the ramp's height, at frequency 0: what keeps slowly varying noise in real scans."""


@dataclass(frozen=True)
class QuantumNoiseRecipe:
    """How much noise."""

    probability: float = 0.9
    hu: Range = (1.5, 18.0)
    """Deviation within the head under smooth kernels, log-uniform."""
    sharp_hu: Range = (6.0, 50.0)
    """The same under sharp ones."""


@dataclass(frozen=True)
class QuantumNoiseParameters:
    """The noise of one scan."""

    hu: float
    """Root mean square of the deviation within the head."""
    seed: int


def draw_quantum_noise(
    generator: torch.Generator, recipe: QuantumNoiseRecipe, *, sharp: bool = False
) -> QuantumNoiseParameters | None:
    """The noise of one scan, or None; `sharp`: the kernel overshoots."""
    if not chance(generator, recipe.probability):
        return None
    hu = log_uniform(generator, recipe.sharp_hu if sharp else recipe.hu)
    return QuantumNoiseParameters(hu, seed(generator))


def fbp_noise(
    shape: tuple[int, int, int],
    grid: Grid,
    kernel: KernelParameters,
    seed: int,
    device: torch.device,
) -> Tensor:
    """(1, I, J, slices) noise of unit variance, correlated within each slice.

    Args:
        shape: (I, J, slices).
        grid: gives the size of the pixels.
        kernel: of the reconstruction.
        seed: of the white noise that is filtered.
        device: where it is made.
    """
    i, j, n_slices = shape
    amplitude = _amplitude(i, j, grid, kernel).to(device, torch.float32)
    white = white_noise((n_slices, i, j), seed, device)
    coloured = torch.fft.irfft2(torch.fft.rfft2(white).mul_(amplitude), (i, j))
    return coloured.movedim(0, 2).contiguous()[None]


def _amplitude(i: int, j: int, grid: Grid, kernel: KernelParameters) -> Tensor:
    """(I, J // 2 + 1) root of the power spectrum, its mean power 1."""
    fi = torch.fft.fftfreq(i, grid.spacing_mm[0], dtype=torch.float64)[:, None]
    fj = torch.fft.fftfreq(j, grid.spacing_mm[1], dtype=torch.float64)
    frequency = torch.hypot(fi, fj)
    power = (frequency + _RAMP_FLOOR * frequency.max()) * transfer(frequency, kernel).square()
    return (power / power.mean()).sqrt()[:, : j // 2 + 1]


def noise_map(hu: Tensor, structures: Tensor, grid: Grid, n_slices: int) -> Tensor:
    """(1, I, J, n_slices) deviation of the noise, of root mean square 1 within the head."""
    projector = Projector(grid, pixel_mm=6.0, slice_mm=6.0, n_angles=24)
    density = projector.coarse((hu + 1000).clamp_(0, 3500)) / 1000
    variance = projector.backproject(torch.exp(_PER_MM * projector.project(density)))
    head = projector.coarse((structures > 0).to(hu.dtype)[None])
    # in double precision, so that the number of threads does not show in single
    total, share = ((v * head).sum(dtype=torch.float64) for v in (variance, torch.ones_like(head)))
    mean = total / share.clamp_min(1e-3)
    return projector.fine((variance / mean.clamp_min(1e-3)).sqrt(), n_slices)
