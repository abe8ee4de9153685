"""MR: from the signal of a head to the picture of a scanner.

In the order of the physics: the curve of the contrast, the gain of the coils, the lattice of the
scanner (field of view, pixels, slices), k-space read line by line (movements, ghosts, missing
lines), spikes, noise on that lattice, its magnitude; then the picture on the grid, masks, and the
numbers as stored. Slices lie along the axes of the grid: a head turned in it is cut obliquely.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from radloom.errors import InputError
from radloom.transforms.synthesis.artefacts.acquired import Acquired, level_of
from radloom.transforms.synthesis.artefacts.bias import (
    BiasParameters,
    BiasRecipe,
    bias_gain,
    draw_bias,
)
from radloom.transforms.synthesis.artefacts.field_of_view import (
    FieldOfView,
    FieldOfViewRecipe,
    draw_fields_of_view,
)
from radloom.transforms.synthesis.artefacts.ghosts import GhostParameters, GhostRecipe, draw_ghosts
from radloom.transforms.synthesis.artefacts.grey_levels import (
    GreyLevelParameters,
    GreyLevelRecipe,
    curved,
    draw_grey_levels,
    stored,
)
from radloom.transforms.synthesis.artefacts.masking import (
    MaskParameters,
    MaskRecipe,
    draw_mask,
    kept_part,
)
from radloom.transforms.synthesis.artefacts.motion import (
    MotionRecipe,
    Movement,
    draw_motion,
    moved,
)
from radloom.transforms.synthesis.artefacts.noise import (
    NoiseParameters,
    NoiseRecipe,
    draw_noise,
    g_factor,
    magnitude_with_noise,
)
from radloom.transforms.synthesis.artefacts.phase_encoding import encode
from radloom.transforms.synthesis.artefacts.resolution import (
    ResolutionParameters,
    ResolutionRecipe,
    draw_resolution,
)
from radloom.transforms.synthesis.artefacts.sampling import Sampling, sampling_of
from radloom.transforms.synthesis.artefacts.slices import SliceParameters, SliceRecipe, draw_slices
from radloom.transforms.synthesis.artefacts.spikes import (
    Spike,
    SpikeRecipe,
    add_spikes,
    draw_spikes,
)
from radloom.transforms.synthesis.artefacts.undersampling import (
    UndersamplingParameters,
    UndersamplingRecipe,
    draw_undersampling,
)
from radloom.transforms.synthesis.draws import chance, choose
from radloom.transforms.synthesis.fields import Grid, white_noise

__all__ = ["MRAcquisitionParameters", "MRAcquisitionRecipe", "acquire_mr", "draw_mr_acquisition"]


@dataclass(frozen=True)
class MRAcquisitionRecipe:
    """How often and how strongly each effect comes; each has a recipe of its own."""

    nearly_clean: float = 0.33
    """How often only shading and weak noise are left of all effects."""
    bias: BiasRecipe = field(default_factory=BiasRecipe)
    field_of_view: FieldOfViewRecipe = field(default_factory=FieldOfViewRecipe)
    resolution: ResolutionRecipe = field(default_factory=ResolutionRecipe)
    slices: SliceRecipe = field(default_factory=SliceRecipe)
    undersampling: UndersamplingRecipe = field(default_factory=UndersamplingRecipe)
    ghosts: GhostRecipe = field(default_factory=GhostRecipe)
    motion: MotionRecipe = field(default_factory=MotionRecipe)
    spikes: SpikeRecipe = field(default_factory=SpikeRecipe)
    noise: NoiseRecipe = field(default_factory=NoiseRecipe)
    mask: MaskRecipe = field(default_factory=MaskRecipe)
    grey_levels: GreyLevelRecipe = field(default_factory=GreyLevelRecipe)


@dataclass(frozen=True)
class MRAcquisitionParameters:
    """One acquisition; as it stands it changes nothing."""

    phase_axis: int = 1
    """Axis of the grid along which lines are read one after another."""
    bias: BiasParameters | None = None
    fields_of_view: tuple[FieldOfView | None, FieldOfView | None, FieldOfView | None] = (
        None,
        None,
        None,
    )
    resolution: ResolutionParameters | None = None
    slices: SliceParameters | None = None
    undersampling: UndersamplingParameters | None = None
    ghosts: GhostParameters | None = None
    movements: tuple[Movement, ...] = ()
    spikes: tuple[Spike, ...] = ()
    noise: NoiseParameters | None = None
    mask: MaskParameters | None = None
    grey_levels: GreyLevelParameters | None = None


def draw_mr_acquisition(
    generator: torch.Generator, recipe: MRAcquisitionRecipe, grid: Grid
) -> MRAcquisitionParameters:
    """The parameters of one acquisition on a grid."""
    nearly_clean = chance(generator, recipe.nearly_clean)
    bias = draw_bias(generator, recipe.bias)
    noise = draw_noise(generator, recipe.noise, weak=nearly_clean)
    slices = draw_slices(generator, recipe.slices)
    phase_axis = choose(generator, [a for a in range(3) if slices is None or a != slices.axis])
    full = MRAcquisitionParameters(
        phase_axis,
        bias,
        draw_fields_of_view(generator, recipe.field_of_view, grid, phase_axis),
        draw_resolution(generator, recipe.resolution),
        slices,
        draw_undersampling(generator, recipe.undersampling),
        draw_ghosts(generator, recipe.ghosts),
        draw_motion(generator, recipe.motion),
        draw_spikes(generator, recipe.spikes),
        noise,
        draw_mask(generator, recipe.mask),
        draw_grey_levels(generator, recipe.grey_levels),
    )
    return MRAcquisitionParameters(bias=bias, noise=noise) if nearly_clean else full


def acquire_mr(
    signal: Tensor, structures: Tensor, grid: Grid, parameters: MRAcquisitionParameters
) -> Acquired:
    """The picture that a scanner makes of a signal.

    Args:
        signal: (1, I, J, K) float32, not negative; left as it is.
        structures: (I, J, K) structure bytes on the same grid, which masks follow.
        grid: the grid of both.
        parameters: the acquisition.

    Raises:
        InputError: signal, structures and grid do not agree.
    """
    if signal.shape != (1, *grid.shape) or structures.shape != grid.shape:
        raise InputError(
            f"expected a signal (1, I, J, K) and structures (I, J, K) on a grid {grid.shape}, "
            f"got {tuple(signal.shape)} and {tuple(structures.shape)}"
        )
    signal = _shaded(signal, grid, parameters)
    sampling = sampling_of(
        grid, parameters.fields_of_view, parameters.resolution, parameters.slices
    )
    level = level_of(signal)
    samples = add_spikes(
        _encoded(signal, sampling, grid, parameters),
        parameters.spikes,
        level,
        None if parameters.slices is None else parameters.slices.axis,
    )
    clean = sampling.show(samples)
    if parameters.noise is None:
        image, sigma = clean, torch.zeros_like(clean)
    else:
        noisy, deviation = _with_noise(samples, sampling, grid, level, parameters.noise)
        image, sigma = sampling.show(noisy), sampling.show_deviation(deviation, grid)
    return _stored(Acquired(image, clean, sigma), structures, grid, level, parameters)


def _shaded(signal: Tensor, grid: Grid, parameters: MRAcquisitionParameters) -> Tensor:
    if parameters.grey_levels is not None:
        signal = curved(signal, level_of(signal), parameters.grey_levels)
    if parameters.bias is not None:
        signal = bias_gain(grid, parameters.bias, signal.device).mul_(signal)
    return signal


def _encoded(
    signal: Tensor, sampling: Sampling, grid: Grid, parameters: MRAcquisitionParameters
) -> Tensor:
    """(1, L, M, N) magnitude on the scanner's lattice, without noise."""
    poses = [sampling.acquire(signal)]
    poses += [sampling.acquire(moved(signal, grid, m)) for m in parameters.movements]
    axis = parameters.phase_axis
    if not (parameters.undersampling or parameters.ghosts or parameters.movements):
        return poses[0] if poses[0] is signal else poses[0].abs()
    view = parameters.fields_of_view[axis]
    n_voxels = grid.shape[axis] if view is None else view.stop - view.start
    n_lines = min(sampling.n_lines(grid)[axis], poses[0].shape[1 + axis])
    return encode(
        poses,
        axis,
        n_voxels * grid.spacing_mm[axis],
        n_lines,
        undersampling=parameters.undersampling,
        ghosts=parameters.ghosts,
        movements=parameters.movements,
    )


def _with_noise(
    samples: Tensor, sampling: Sampling, grid: Grid, level: Tensor, noise: NoiseParameters
) -> tuple[Tensor, Tensor]:
    """The noisy magnitude on the lattice and the deviation of the noise there."""
    deviation = noise.level * level
    if noise.g_maximum > 1:
        _, i, j, k = samples.shape
        deviation = deviation * g_factor((i, j, k), noise, samples.device)
    white = white_noise((2, *sampling.n_lines(grid)), noise.seed, samples.device)
    first, second = sampling.shape_noise(white).split(1)
    return magnitude_with_noise(samples, deviation, first, second, noise.n_coils), deviation


def _stored(
    acquired: Acquired,
    structures: Tensor,
    grid: Grid,
    level: Tensor,
    parameters: MRAcquisitionParameters,
) -> Acquired:
    image, clean, sigma = acquired.image, acquired.clean, acquired.sigma
    if parameters.grey_levels is not None:
        image = stored(image, level, parameters.grey_levels)
        clean = stored(clean, level, parameters.grey_levels)
    if parameters.mask is not None:
        kept = kept_part(structures, grid, parameters.mask)
        image, clean, sigma = image * kept, clean * kept, sigma * kept
    return Acquired(image, clean, sigma)
