"""Wrong single points of k-space: stripes over the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.draws import Range, chance, choose, log_uniform, uniform

__all__ = ["Spike", "SpikeRecipe", "add_spikes", "draw_spikes"]


@dataclass(frozen=True)
class SpikeRecipe:
    """How often and how strong spikes are."""

    probability: float = 0.04
    n_spikes: int = 3
    """At most so many."""
    strength: Range = (0.01, 0.12)
    """Amplitude of the stripes over the 99th percentile of the signal, log-uniform."""
    frequency: Range = (0.02, 0.45)
    """Cycles a sample along each axis, either way."""


@dataclass(frozen=True)
class Spike:
    """One wave over the picture."""

    strength: float
    frequency: tuple[float, float, float]
    """Cycles a sample along each axis."""
    phase: float
    slice: float = 0.5
    """Which slice it hits, 0 to 1, where the picture is made of slices."""


def draw_spikes(generator: torch.Generator, recipe: SpikeRecipe) -> tuple[Spike, ...]:
    """Some spikes, mostly none."""
    if not chance(generator, recipe.probability):
        return ()
    return tuple(
        _spike(generator, recipe) for _ in range(choose(generator, range(1, recipe.n_spikes + 1)))
    )


def _spike(generator: torch.Generator, recipe: SpikeRecipe) -> Spike:
    i, j, k = (uniform(generator, recipe.frequency) * choose(generator, (-1, 1)) for _ in range(3))
    return Spike(
        log_uniform(generator, recipe.strength),
        (i, j, k),
        uniform(generator, (0.0, 2 * math.pi)),
        uniform(generator, (0.0, 1.0)),
    )


def add_spikes(
    signal: Tensor, spikes: tuple[Spike, ...], level: Tensor, slice_axis: int | None
) -> Tensor:
    """Magnitude of `signal` (1, L, M, N) with the waves of the spikes.

    Args:
        signal: not negative.
        spikes: the waves.
        level: what their strength is relative to.
        slice_axis: where slices are measured one by one; a spike then hits one of them.
    """
    if not spikes:
        return signal
    wave = torch.zeros((), dtype=torch.complex64, device=signal.device)
    for spike in spikes:
        i, j, k = _factors(spike, signal.shape[1:], slice_axis, signal.device)
        wave = wave + (level * i) * (j * k)
    return torch.hypot(signal + wave.real, wave.imag)


def _factors(
    spike: Spike, shape: torch.Size, slice_axis: int | None, device: torch.device
) -> list[Tensor]:
    """The wave along each axis, complex, so that their product is the wave in the volume."""
    factors = []
    for axis, (n, frequency) in enumerate(zip(shape, spike.frequency, strict=True)):
        angle = 2 * math.pi * frequency * torch.arange(n, dtype=torch.float64)
        wave = torch.polar(torch.ones_like(angle), angle)
        if axis == slice_axis:
            wave = (torch.arange(n) == math.floor(spike.slice * (n - 1) + 0.5)).to(wave.dtype)
        shape_along = [-1 if axis == d else 1 for d in range(3)]
        factors.append(wave.to(device, torch.complex64).reshape(shape_along))
    factors[0] = factors[0] * (
        spike.strength * complex(math.cos(spike.phase), math.sin(spike.phase))
    )
    return factors
