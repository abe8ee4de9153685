"""CT: from the density of a head to the picture of a scanner, in whole HU."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from radloom.errors import InputError
from radloom.transforms.synthesis.artefacts.acquired import Acquired
from radloom.transforms.synthesis.artefacts.beam_hardening import (
    BeamHardeningParameters,
    BeamHardeningRecipe,
    beam_hardening_error,
    draw_beam_hardening,
)
from radloom.transforms.synthesis.artefacts.kernel import (
    KernelParameters,
    KernelRecipe,
    blurred,
    draw_kernel,
)
from radloom.transforms.synthesis.artefacts.quantum_noise import (
    QuantumNoiseParameters,
    QuantumNoiseRecipe,
    draw_quantum_noise,
    fbp_noise,
    noise_map,
)
from radloom.transforms.synthesis.artefacts.sampling import sampling_of
from radloom.transforms.synthesis.artefacts.slices import SliceParameters, SliceRecipe, draw_slices
from radloom.transforms.synthesis.artefacts.table import (
    TableParameters,
    TableRecipe,
    draw_table,
    with_table,
)
from radloom.transforms.synthesis.draws import Range, chance, choose, uniform
from radloom.transforms.synthesis.fields import Grid

__all__ = ["CTAcquisitionParameters", "CTAcquisitionRecipe", "acquire_ct", "draw_ct_acquisition"]

_AXIAL = 2
_LOWEST_HU, _HIGHEST_HU = -1024.0, 3071.0


@dataclass(frozen=True)
class CTAcquisitionRecipe:
    """How often and how strongly each effect comes."""

    table: TableRecipe = field(default_factory=TableRecipe)
    beam_hardening: BeamHardeningRecipe = field(default_factory=BeamHardeningRecipe)
    kernel: KernelRecipe = field(default_factory=KernelRecipe)
    kernel_probability: float = 1.0
    slices: SliceRecipe = field(
        default_factory=lambda: SliceRecipe(
            probability=0.6,
            thickness_mm=(1.2, 5.0),
            step=(0.6, 1.0),
            softness=(0.05, 0.4),
            uneven_probability=0.0,
        )
    )
    """Always axial."""
    noise: QuantumNoiseRecipe = field(default_factory=QuantumNoiseRecipe)
    padding_probability: float = 0.3
    padding_diameter: Range = (0.95, 1.25)
    """Of the round field of view, over the longer side of the slice."""
    padding_hu: tuple[float, ...] = (-1024.0, -2000.0)
    """What is stored outside it."""


@dataclass(frozen=True)
class CTAcquisitionParameters:
    """One acquisition; as it stands it only clips to what CT files hold and rounds to whole HU."""

    table: TableParameters | None = None
    beam_hardening: BeamHardeningParameters | None = None
    kernel: KernelParameters | None = None
    slices: SliceParameters | None = None
    noise: QuantumNoiseParameters | None = None
    padding_diameter: float = 0.0
    """Over the longer side of the slice; 0: none."""
    padding_hu: float = -1024.0


def draw_ct_acquisition(
    generator: torch.Generator, recipe: CTAcquisitionRecipe, grid: Grid
) -> CTAcquisitionParameters:
    """The parameters of one acquisition on a grid."""
    table = draw_table(generator, recipe.table)
    beam_hardening = draw_beam_hardening(generator, recipe.beam_hardening)
    kernel = draw_kernel(generator, recipe.kernel)
    blurs = chance(generator, recipe.kernel_probability)
    slices = draw_slices(generator, recipe.slices, axis=_AXIAL)
    if slices is not None and slices.step_mm <= grid.spacing_mm[_AXIAL]:
        slices = None
    noise = draw_quantum_noise(generator, recipe.noise, sharp=blurs and kernel.edge > 0)
    pads = chance(generator, recipe.padding_probability)
    diameter = uniform(generator, recipe.padding_diameter)
    return CTAcquisitionParameters(
        table,
        beam_hardening,
        kernel if blurs else None,
        slices,
        noise,
        diameter if pads else 0.0,
        choose(generator, recipe.padding_hu),
    )


def acquire_ct(
    hu: Tensor, structures: Tensor, grid: Grid, parameters: CTAcquisitionParameters
) -> Acquired:
    """The picture that a scanner makes of a density.

    Args:
        hu: (1, I, J, K) float32 HU, K along the head; left as it is.
        structures: (I, J, K) structure bytes on the same grid: where the head lies.
        grid: the grid of both.
        parameters: the acquisition.

    Raises:
        InputError: volume, structures and grid do not agree.
    """
    if hu.shape != (1, *grid.shape) or structures.shape != grid.shape:
        raise InputError(
            f"expected HU (1, I, J, K) and structures (I, J, K) on a grid {grid.shape}, "
            f"got {tuple(hu.shape)} and {tuple(structures.shape)}"
        )
    density = hu
    if parameters.table is not None:
        density = with_table(density, structures, grid, parameters.table)
    seen = density
    if parameters.beam_hardening is not None:
        seen = seen + beam_hardening_error(density, grid, parameters.beam_hardening)
    if parameters.kernel is not None:
        seen = blurred(seen, grid, parameters.kernel)
    sampling = sampling_of(grid, slices=parameters.slices)
    samples = sampling.acquire(seen)
    clean = sampling.show(samples)
    image, sigma = clean, torch.zeros_like(clean)
    if parameters.noise is not None:
        deviation = _deviation(density, structures, grid, samples.shape[-1], parameters.noise)
        image = sampling.show(samples + deviation * _noise(samples, grid, parameters))
        sigma = sampling.show_deviation(deviation, grid)
    return _stored(Acquired(image, clean, sigma), grid, parameters)


def _deviation(
    density: Tensor, structures: Tensor, grid: Grid, n_slices: int, noise: QuantumNoiseParameters
) -> Tensor:
    return noise.hu * noise_map(density, structures, grid, n_slices)


def _noise(samples: Tensor, grid: Grid, parameters: CTAcquisitionParameters) -> Tensor:
    assert parameters.noise is not None
    kernel = parameters.kernel or KernelParameters(0.0)
    _, i, j, n_slices = samples.shape
    return fbp_noise((i, j, n_slices), grid, kernel, parameters.noise.seed, samples.device)


def _stored(acquired: Acquired, grid: Grid, parameters: CTAcquisitionParameters) -> Acquired:
    image, clean = (
        volume.round().clamp_(_LOWEST_HU, _HIGHEST_HU)
        for volume in (acquired.image, acquired.clean)
    )
    sigma = acquired.sigma
    if parameters.padding_diameter > 0:
        inside = _inside(grid, parameters.padding_diameter, image.device)
        image, clean = (torch.where(inside, v, parameters.padding_hu) for v in (image, clean))
        sigma = sigma * inside
    return Acquired(image, clean, sigma)


def _inside(grid: Grid, diameter: float, device: torch.device) -> Tensor:
    """(I, J, 1) the round field of view."""
    side = max(n * step for n, step in zip(grid.shape[:2], grid.spacing_mm[:2], strict=True))
    x, y = (
        axis - middle
        for axis, middle in zip(grid.axes(device)[:2], grid.centre_mm[:2], strict=True)
    )
    return (torch.hypot(x[:, None], y) <= diameter * side / 2)[..., None]
