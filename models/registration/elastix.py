"""Registration by elastix: rigid, affine, deformable, and any elastix parameter file.

Klein et al., elastix: a toolbox for intensity-based medical image registration, IEEE Transactions
on Medical Imaging 2010, doi:10.1109/TMI.2009.2035616.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from radloom.errors import ConfigError
from radloom.models.registration.coarse import at_spacing, clipped, with_right_angles
from radloom.models.registration.foreground import head_mask
from radloom.models.registration.itk_elastix import (
    ParameterMap,
    displacement_transform,
    linear_transform,
    parse_parameters,
    run_elastix,
)
from radloom.models.registration.similarity import Similarity
from radloom.models.registration.start import Start, find_starts
from radloom.shapes import LabelVolume, Volume, affine_of, make_label, make_volume, spatial_shape
from radloom.transforms.itk_files import as_written
from radloom.transforms.spatial import Transform, resample

__all__ = ["TransformKind", "read_parameter_file", "register"]

TransformKind: TypeAlias = Literal["rigid", "affine", "deformable"]

CHAINS: Mapping[str, tuple[str, ...]] = {
    "rigid": ("rigid.txt",),
    "affine": ("rigid.txt", "affine.txt"),
    "deformable": ("rigid.txt", "affine.txt", "bspline.txt"),
}
"""Which of our parameter files make each kind of transform."""
SPACING_MM: Mapping[str, float] = {"rigid": 1.0, "affine": 2.0, "deformable": 2.0}
"""Working voxel size. A rigid map alone is for the same head, where 1 mm halves the error of 2 mm
(0.10 for 0.20 mm on rendered heads) for twice the time; between heads that would be lost."""
FAST_SPACING_MM = 3.0
MASK_SPACING_MM = 4.0
MASK_MARGIN_MM = 10.0
LIKELY = 0.7
"""Starts whose similarity exceeds 1 by more than this share of the best one's are refined too."""
LOSS_TOLERATED = 0.001
"""How much similarity, measured at points that no search saw, a step may lose and still count."""


def register(
    fixed: Volume,
    moving: Volume,
    *,
    transform: TransformKind = "rigid",
    parameter_files: Sequence[Path] = (),
    fixed_mask: LabelVolume | None = None,
    moving_mask: LabelVolume | None = None,
    n_threads: int = 1,
    seed: int = 0,
    fast: bool = False,
) -> Transform:
    """``moving_from_fixed``: the map that takes points of `fixed` to where `moving` shows the same.

    Rigid starts are found from many candidates at coarse resolution (see `start`); elastix refines
    the best, and what is nearly as good, in voxels of `SPACING_MM` (`fast`: 3 mm). A step that
    ends less alike than it began does not count, so that an affine map is never worse than the
    rigid one before it. With `parameter_files` those are run one after the other on the volumes as
    they are, from a start and with masks only where the files or the arguments ask for them.

    Args:
        fixed: (1, I, J, K), any grid; sheared ones are straightened first.
        moving: the same.
        transform: what the map may do; of no meaning where `parameter_files` are given.
        parameter_files: elastix parameter files, in order.
        fixed_mask: where samples may be drawn; the head and 10 mm round it unless given.
        moving_mask: where moving counts; everywhere unless given.
        n_threads: of resampling; elastix itself always cuts its work into `N_WORK_UNITS`.
        seed: of the random samples.
        fast: work on a coarser grid.

    Returns:
        A matrix, or for a deformable map a displacement on the fixed grid (its straightened form
        where it is sheared), exactly as a transform file gives it back.

    Raises:
        ConfigError: an unknown `transform`, or a parameter file that does not parse.
        StageFailed: elastix gave up, such as where the volumes do not overlap.
    """
    if transform not in CHAINS:
        raise ConfigError(f"expected transform of {sorted(CHAINS)}, got {transform!r}")
    straight = with_right_angles(fixed, n_threads=n_threads)
    if parameter_files:
        maps = [read_parameter_file(path) for path in parameter_files]
        other = with_right_angles(moving, n_threads=n_threads)
        stages = run_elastix(
            _first(straight),
            _first(other),
            maps,
            fixed_mask=_mask_on(fixed_mask, straight),
            moving_mask=_mask_on(moving_mask, other),
        )
        return _transform(stages, Transform.identity(), straight)
    masks = (fixed_mask, moving_mask)
    judge = Similarity.of(
        fixed,
        moving,
        spacing_mm=2.5,
        n_points=20_000,
        fixed_mask=fixed_mask,
        seed=seed + 1,
        between_voxels=True,
    )
    spacing = FAST_SPACING_MM if fast else SPACING_MM[transform]
    rigid, *rest = (_our_parameters(name, seed) for name in CHAINS[transform])
    likely = _likely(find_starts(fixed, moving, fixed_mask=fixed_mask, seed=seed))
    rigids = [
        _best([start, *_refined(straight, moving, start, [rigid], masks, spacing)], judge)
        for start in likely
    ]
    best = max(rigids, key=lambda found: judge.measure(found)[0])
    if rest:
        best = _best([best, *_refined(straight, moving, best, rest, masks, spacing)], judge)
    return best


def _likely(starts: Sequence[Start]) -> list[Transform]:
    """The best start, and the others that are nearly as much alike."""
    least = LIKELY * (starts[0].similarity - 1)
    return [s.moving_from_fixed for s in starts if s is starts[0] or s.similarity - 1 > least]


def _best(maps: Sequence[Transform], judge: Similarity) -> Transform:
    """The last map that is as much alike as the best before it, but for `LOSS_TOLERATED`."""
    best, best_value = maps[0], judge.measure(maps[0])[0]
    for candidate in maps[1:]:
        value = judge.measure(candidate)[0]
        if value >= best_value - LOSS_TOLERATED:
            best, best_value = candidate, value
    return best


def read_parameter_file(path: Path) -> ParameterMap:
    """The parameter map of an elastix parameter file.

    Raises:
        ConfigError: there is no such file, or it does not parse.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"<{path.name}>: expected an elastix parameter file: {error}") from error
    return parse_parameters(text, path.name)


def _our_parameters(name: str, seed: int) -> ParameterMap:
    text = resources.files("radloom.models.registration").joinpath(name).read_text("utf-8")
    return {**parse_parameters(text, name), "RandomSeed": (str(seed + 1),)}


def _refined(
    fixed: Volume,
    moving: Volume,
    start: Transform,
    maps: Sequence[ParameterMap],
    masks: tuple[LabelVolume | None, LabelVolume | None],
    spacing_mm: float,
) -> list[Transform]:
    """The map after each of elastix's stages, from a rigid start.

    The start moves only the header of moving: it goes into the affine, no voxel changes.
    """
    coarse = _first(clipped(at_spacing(fixed, spacing_mm)))
    other = _first(clipped(at_spacing(with_right_angles(moving), spacing_mm)))
    home = np.linalg.inv(start.matrix)
    carried = make_volume(
        other.as_tensor(), home @ affine_of(other), modality="MR", units="arbitrary"
    )
    moving_mask = _mask_on(masks[1], other)
    if moving_mask is not None:
        moving_mask = make_label(moving_mask.as_tensor(), affine_of(carried))
    fixed_mask = _mask_on(_head_label(fixed) if masks[0] is None else masks[0], coarse)
    stages = run_elastix(coarse, carried, maps, fixed_mask=fixed_mask, moving_mask=moving_mask)
    return [_transform(stages[:n], start, fixed) for n in range(1, len(stages) + 1)]


def _transform(stages: Sequence[ParameterMap], start: Transform, fixed: Volume) -> Transform:
    linear = linear_transform(stages)
    if linear is not None:
        return start @ linear
    field = displacement_transform(stages, affine_of(fixed), spatial_shape(fixed))
    return as_written(start @ field)


def _head_label(volume: Volume) -> LabelVolume:
    coarse = at_spacing(volume, MASK_SPACING_MM)
    mask = head_mask(coarse, margin_mm=MASK_MARGIN_MM)
    return make_label(mask.astype(np.uint8), affine_of(coarse))


def _mask_on(mask: LabelVolume | None, volume: Volume) -> LabelVolume | None:
    if mask is None:
        return None
    binary = make_label((mask.as_tensor() > 0).byte(), affine_of(mask))
    return resample(binary, None, affine_of(volume), spatial_shape(volume))


def _first(volume: Volume) -> Volume:
    """The first channel."""
    return volume[:1] if volume.shape[0] > 1 else volume
