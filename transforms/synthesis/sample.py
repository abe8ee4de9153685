"""One draw of the generator: a head deformed, edited, seen by MR and by CT, with all its truths.

::

    anatomy ── edits ──┬─ codes ─> MR signal ─┐ linear warp  ┌─ acquire_mr ─> image, clean, sigma
                       │           HU ────────┴─ anomalies ──┴─ acquire_ct ─> ct, ct_clean, ...
                       └─ nearest warp ─> structures, label     ct_hu, anomaly

`draw_sample` draws plain parameters, `render_sample` makes tensors of them: the same parameters
give the same bytes on the same device, whatever else is asked for. A pair is two draws of one
anatomy and the displacement between them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from radloom.errors import ConfigError
from radloom.transforms.synthesis import draws
from radloom.transforms.synthesis.anatomy import Anatomy, code_of, labels_of, mirrored
from radloom.transforms.synthesis.anomalies import (
    AnomalyParameters,
    AnomalyRecipe,
    Box,
    anomaly_map,
    anomaly_shares,
    draw_anomalies,
    paint_anomalies,
)
from radloom.transforms.synthesis.artefacts import (
    CTAcquisitionParameters,
    CTAcquisitionRecipe,
    MRAcquisitionParameters,
    MRAcquisitionRecipe,
    acquire_ct,
    acquire_mr,
    draw_ct_acquisition,
    draw_mr_acquisition,
)
from radloom.transforms.synthesis.composition import (
    CompositionParameters,
    CompositionRecipe,
    compose,
    draw_composition,
)
from radloom.transforms.synthesis.ct import HU_LIMITS, CTParameters, CTRecipe, draw_ct, render_hu
from radloom.transforms.synthesis.deformation import (
    Deformation,
    DeformationParameters,
    DeformationRecipe,
    build_deformation,
    draw_deformation,
    moving_from_fixed,
    sample_volume,
)
from radloom.transforms.synthesis.draws import Range
from radloom.transforms.synthesis.edits import EditParameters, EditRecipe, apply_edits, draw_edits
from radloom.transforms.synthesis.fields import Grid, blur
from radloom.transforms.synthesis.mr import MRParameters, MRRecipe, draw_mr, render_mr_signal

__all__ = [
    "TENSORS",
    "GridRecipe",
    "PairParameters",
    "PairRecipe",
    "SampleParameters",
    "SampleRecipe",
    "draw_grid",
    "draw_pair",
    "draw_sample",
    "render_batch",
    "render_look",
    "render_pair",
    "render_sample",
]

TENSORS = (
    "image",
    "clean",
    "sigma",
    "ct",
    "ct_clean",
    "ct_sigma",
    "ct_hu",
    "label",
    "structures",
    "anomaly",
)
"""What `render_sample` can give; each (1, I, J, K)."""

_MR = frozenset(("image", "clean", "sigma"))
_CT = frozenset(("ct", "ct_clean", "ct_sigma", "ct_hu"))
_FWHM = 2 * math.sqrt(2 * math.log(2))


@dataclass(frozen=True)
class GridRecipe:
    """The voxels of samples: one shape for all of a batch, spacing and place drawn."""

    shape: tuple[int, int, int] = (128, 128, 128)
    spacing_mm: Range = (1.0, 1.0)
    """In the plane, or of all axes."""
    slice_probability: float = 0.0
    """Of slices thicker than the pixels are wide, along a random axis."""
    slice_mm: Range = (2.0, 6.0)
    """Their spacing."""
    offset: float = 1.0
    """How far the middle of the grid goes from that of the head, 1: as far as the grid still lies
    within the head's box."""


@dataclass(frozen=True)
class SampleRecipe:
    """From what one sample is drawn."""

    grid: GridRecipe = field(default_factory=GridRecipe)
    deformation: DeformationRecipe = field(default_factory=DeformationRecipe)
    edits: EditRecipe = field(default_factory=EditRecipe)
    composition: CompositionRecipe = field(default_factory=CompositionRecipe)
    anomalies: AnomalyRecipe = field(default_factory=AnomalyRecipe)
    mr: MRRecipe = field(default_factory=MRRecipe)
    ct: CTRecipe = field(default_factory=CTRecipe)
    mr_acquisition: MRAcquisitionRecipe = field(default_factory=MRAcquisitionRecipe)
    ct_acquisition: CTAcquisitionRecipe = field(default_factory=CTAcquisitionRecipe)


@dataclass(frozen=True)
class SampleParameters:
    """One drawn sample, in plain values; `parameters.to_plain` makes JSON of it."""

    anatomy: str
    """Name of the anatomy that it was drawn for."""
    grid: Grid
    deformation: DeformationParameters
    edits: EditParameters
    composition: CompositionParameters
    anomalies: tuple[AnomalyParameters, ...]
    mr: MRParameters
    ct: CTParameters
    mr_acquisition: MRAcquisitionParameters
    ct_acquisition: CTAcquisitionParameters


@dataclass(frozen=True)
class PairRecipe:
    """From what two looks at one anatomy are drawn."""

    sample: SampleRecipe = field(default_factory=SampleRecipe)
    same_contrast_probability: float = 0.2
    """Of both looks having one MR contrast (a follow-up); else each has its own."""
    ct_probability: float = 0.15
    """Of the fixed, or the moving, look being the CT."""


@dataclass(frozen=True)
class PairParameters:
    """Two drawn samples of one anatomy, on the same grid."""

    fixed: SampleParameters
    moving: SampleParameters
    fixed_is_ct: bool = False
    moving_is_ct: bool = False


def draw_grid(generator: torch.Generator, recipe: GridRecipe, anatomy: Anatomy) -> Grid:
    """A grid within the box of the head, or round it where the grid is larger."""
    spacing = [draws.uniform(generator, recipe.spacing_mm)] * 3
    axis = draws.choose(generator, (0, 1, 2))
    thickness = draws.uniform(generator, recipe.slice_mm)
    if draws.chance(generator, recipe.slice_probability):
        spacing[axis] = max(thickness, spacing[axis])
    centre = []
    own = anatomy.grid
    for n, size, own_n, own_size in zip(
        recipe.shape, spacing, own.shape, own.spacing_mm, strict=True
    ):
        reach = recipe.offset * max(0.0, (own_n * own_size - n * size) / 2)
        centre.append(draws.uniform(generator, (-reach, reach)))
    return Grid(
        recipe.shape,
        (spacing[0], spacing[1], spacing[2]),
        (centre[0], centre[1], centre[2]),
    )


def draw_sample(
    anatomy: Anatomy, recipe: SampleRecipe, generator: torch.Generator
) -> SampleParameters:
    """The parameters of one sample of an anatomy.

    Args:
        anatomy: only its name and size are read.
        recipe: ranges and probabilities.
        generator: on the CPU.
    """
    grid = draw_grid(generator, recipe.grid, anatomy)
    head = _Head(
        draw_deformation(generator, recipe.deformation),
        draw_edits(generator, recipe.edits),
        draw_composition(generator, recipe.composition),
    )
    return _draw_looks(anatomy, recipe, generator, grid, head)


def draw_pair(anatomy: Anatomy, recipe: PairRecipe, generator: torch.Generator) -> PairParameters:
    """The parameters of two looks at one anatomy: one flip, edits, composition; the rest apart."""
    fixed = draw_sample(anatomy, recipe.sample, generator)
    deformation = replace(
        draw_deformation(generator, recipe.sample.deformation), flip=fixed.deformation.flip
    )
    head = _Head(deformation, fixed.edits, fixed.composition)
    moving = _draw_looks(anatomy, recipe.sample, generator, fixed.grid, head)
    if draws.chance(generator, recipe.same_contrast_probability):
        moving = replace(moving, mr=fixed.mr, anomalies=())
    has_ct = draws.chance(generator, recipe.ct_probability)
    fixed_is_ct = has_ct and draws.chance(generator, 0.5)
    return PairParameters(fixed, moving, fixed_is_ct, has_ct and not fixed_is_ct)


@dataclass(frozen=True)
class _Head:
    """What is drawn of the anatomy itself."""

    deformation: DeformationParameters
    edits: EditParameters
    composition: CompositionParameters


def _draw_looks(
    anatomy: Anatomy, recipe: SampleRecipe, generator: torch.Generator, grid: Grid, head: _Head
) -> SampleParameters:
    anomalies = draw_anomalies(generator, recipe.anomalies, grid)
    return SampleParameters(
        anatomy=anatomy.name,
        grid=grid,
        deformation=head.deformation,
        edits=head.edits,
        composition=head.composition,
        anomalies=anomalies,
        mr=draw_mr(generator, recipe.mr, anomalies),
        ct=draw_ct(generator, recipe.ct, anomalies),
        mr_acquisition=draw_mr_acquisition(generator, recipe.mr_acquisition, grid),
        ct_acquisition=draw_ct_acquisition(generator, recipe.ct_acquisition, grid),
    )


def render_batch(
    anatomies: Sequence[Anatomy],
    parameters: Sequence[SampleParameters],
    wanted: Collection[str] = TENSORS,
) -> dict[str, torch.Tensor]:
    """Samples of one grid shape, stacked: each tensor (B, 1, I, J, K), each as rendered alone."""
    samples = [render_sample(a, p, wanted) for a, p in zip(anatomies, parameters, strict=True)]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def render_sample(
    anatomy: Anatomy, parameters: SampleParameters, wanted: Collection[str] = TENSORS
) -> dict[str, torch.Tensor]:
    """The tensors of one sample, on the anatomy's device.

    Args:
        anatomy: the one that the parameters were drawn for.
        parameters: from `draw_sample`.
        wanted: names of `TENSORS`; what nobody wants is not computed.

    Returns:
        By name, each (1, I, J, K) on the grid of the parameters:
        ``image`` acquired MR, ``clean`` the same without noise, ``sigma`` its noise deviation (MR
        in arbitrary units, about 1 at the 99th percentile); ``ct`` acquired CT, ``ct_clean``,
        ``ct_sigma`` and ``ct_hu`` the head's true HU; ``label`` int16 of the label table;
        ``structures`` uint8 structure bytes; ``anomaly`` uint8, 0 where there is none.

    Raises:
        ConfigError: parameters of another anatomy, or an unknown name in `wanted`.
    """
    _check(anatomy, parameters, wanted)
    with torch.no_grad():
        deformation = build_deformation(parameters.deformation, anatomy, anatomy.structures.device)
        return _render(anatomy, parameters, deformation, wanted)


def render_pair(
    anatomy: Anatomy, parameters: PairParameters, wanted: Collection[str] = ("image", "label")
) -> dict[str, torch.Tensor]:
    """Two looks at one anatomy and what lies between them.

    Returns:
        ``fixed_<name>`` and ``moving_<name>`` for each name wanted, as `render_sample` gives them
        (``image`` is the CT, scaled from -1000..1500 HU to 0..1, where the pair says so), and
        ``displacement_mm`` (3, I, J, K), RAS: x + displacement(x) is where a point x of the fixed
        grid lies in the moving image; ``inverse_mm`` the other way, on the moving grid.
    """
    fixed, moving = parameters.fixed, parameters.moving
    device = anatomy.structures.device
    with torch.no_grad():
        to_fixed, to_moving = (
            build_deformation(look.deformation, anatomy, device) for look in (fixed, moving)
        )
        looks = (
            ("fixed", fixed, to_fixed, parameters.fixed_is_ct),
            ("moving", moving, to_moving, parameters.moving_is_ct),
        )
        result = {
            f"{side}_{name}": tensor
            for side, look, deformation, is_ct in looks
            for name, tensor in _look(anatomy, look, deformation, wanted, is_ct=is_ct).items()
        }
        result["displacement_mm"] = moving_from_fixed(to_fixed, to_moving, fixed.grid)
        result["inverse_mm"] = moving_from_fixed(to_moving, to_fixed, moving.grid)
    return result


def render_look(
    anatomy: Anatomy,
    parameters: SampleParameters,
    wanted: Collection[str] = ("image", "label"),
    *,
    is_ct: bool,
) -> dict[str, torch.Tensor]:
    """One side of a pair, as `render_pair` gives it; the names without the side."""
    with torch.no_grad():
        deformation = build_deformation(parameters.deformation, anatomy, anatomy.structures.device)
        return _look(anatomy, parameters, deformation, wanted, is_ct=is_ct)


def _look(
    anatomy: Anatomy,
    parameters: SampleParameters,
    deformation: Deformation,
    wanted: Collection[str],
    *,
    is_ct: bool,
) -> dict[str, torch.Tensor]:
    """One side of a pair; where it is the CT, ``image`` is the CT from 0 to 1."""
    names = {"ct" if is_ct and name == "image" else name for name in wanted}
    _check(anatomy, parameters, names)
    rendered = _render(anatomy, parameters, deformation, names)
    if is_ct and "image" in wanted:
        rendered["image"] = ((rendered["ct"] + 1000) / 2500).clamp(0, 1)
    return {name: rendered[name] for name in wanted}


def _check(anatomy: Anatomy, parameters: SampleParameters, wanted: Collection[str]) -> None:
    if parameters.anatomy != anatomy.name:
        raise ConfigError(
            f"expected the anatomy {parameters.anatomy!r} that the parameters were drawn for, got "
            f"{anatomy.name!r}"
        )
    if unknown := sorted(set(wanted) - set(TENSORS)):
        raise ConfigError(f"expected names of {', '.join(TENSORS)}, got {', '.join(unknown)}")


def _render(
    anatomy: Anatomy,
    parameters: SampleParameters,
    deformation: Deformation,
    wanted: Collection[str],
) -> dict[str, torch.Tensor]:
    grid = parameters.grid
    edited = apply_edits(anatomy.structures, parameters.edits, anatomy.grid)
    sampling_grid = deformation.sampling_grid(grid, anatomy)
    structures = sample_volume(edited[None], sampling_grid)
    if deformation.flips:
        structures = mirrored(structures)
    shares = anomaly_shares(parameters.anomalies, grid, structures.device, structures[0])
    paint = partial(_paint, shares=shares, anomalies=parameters.anomalies)
    result = {"structures": structures}
    if "label" in wanted:
        result["label"] = labels_of(structures)
    if "anomaly" in wanted:
        result["anomaly"] = anomaly_map(shares, grid, structures.device)[None]
    if not (_MR | _CT) & set(wanted):
        return {name: result[name] for name in TENSORS if name in wanted}
    codes = code_of(edited)
    mix = compose(codes, parameters.composition, spacing_mm=anatomy.spacing_mm)
    if _MR & set(wanted):
        signal = render_mr_signal(codes, parameters.mr, mix, spacing_mm=anatomy.spacing_mm)
        signal = _seen(signal[None], anatomy, grid, sampling_grid)
        signal = paint(signal, parameters.mr.anomaly_means, parameters.mr.anomaly_deviations)
        seen = acquire_mr(signal, structures[0], grid, parameters.mr_acquisition)
        result |= {"image": seen.image, "clean": seen.clean, "sigma": seen.sigma}
    if _CT & set(wanted):
        hu = render_hu(codes, parameters.ct, mix, spacing_mm=anatomy.spacing_mm)
        hu = _seen(hu[None], anatomy, grid, sampling_grid)
        hu = paint(hu, parameters.ct.anomaly_means, parameters.ct.anomaly_deviations)
        result["ct_hu"] = hu.clamp_(*HU_LIMITS)
        if {"ct", "ct_clean", "ct_sigma"} & set(wanted):
            seen = acquire_ct(hu, structures[0], grid, parameters.ct_acquisition)
            result |= {"ct": seen.image, "ct_clean": seen.clean, "ct_sigma": seen.sigma}
    return {name: result[name] for name in TENSORS if name in wanted}


def _paint(
    volume: torch.Tensor,
    means: Sequence[float],
    deviations: Sequence[float],
    *,
    shares: Sequence[tuple[Box, torch.Tensor]],
    anomalies: Sequence[AnomalyParameters],
) -> torch.Tensor:
    return paint_anomalies(
        volume,
        shares,
        [(mean,) for mean in means],
        [(deviation,) for deviation in deviations],
        [one.seed for one in anomalies],
    )


def _seen(
    volume: torch.Tensor, anatomy: Anatomy, grid: Grid, sampling_grid: torch.Tensor
) -> torch.Tensor:
    """`volume` (1, I, J, K) of the anatomy on the sample's grid, averaged over larger voxels."""
    ratios = [s / anatomy.spacing_mm for s in grid.spacing_mm]
    sigma = tuple(math.sqrt(max(r**2 - 1, 0)) / _FWHM for r in ratios)
    smooth = blur(volume, sigma) if max(ratios) > 1.2 else volume
    return sample_volume(smooth, sampling_grid)
