"""A whole head made on the spot: anatomy drawn at random, seen by MR and CT, truth known.

No scan of anyone is in it. `draw_head_shape` draws the parameters, `build_head` makes the anatomy
from them, `render_mr` and `render_ct` take its picture on any grid, through any known transform:

    head = make_head(torch.Generator().manual_seed(0))
    t1 = render_mr(head, "t1", generator=torch.Generator().manual_seed(1))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from radloom.errors import InputError
from radloom.geometry import Affine, apply_affine, as_stored, spacing_of
from radloom.shapes import LabelVolume, Volume, affine_of, make_label, make_volume, spatial_shape
from radloom.transforms.spatial import Transform
from radloom.transforms.synthesis.artefacts import add_rician_noise, bias_field
from radloom.transforms.synthesis.contrast import SEQUENCES, MRSequence, mr_signal
from radloom.transforms.synthesis.phantom_brain import paint_brain
from radloom.transforms.synthesis.phantom_head import paint_head, skull_hulls
from radloom.transforms.synthesis.phantom_shape import HeadShape, draw_head_shape
from radloom.transforms.synthesis.solids import Canvas, Points, smooth_field
from radloom.transforms.synthesis.tissues import PHANTOM_LABEL_NAMES, STRUCTURES, Code, Structure

__all__ = [
    "HeadPhantom",
    "HeadShape",
    "build_head",
    "draw_head_shape",
    "make_head",
    "render_ct",
    "render_mr",
]

_EXTENT_MM = ((-92.0, 92.0), (-118.0, 114.0), (-134.0, 92.0))
_SLAB = 8
_WHITE_LEVEL = 400.0
"""The number that white matter gets in an MR image."""


@dataclass(frozen=True)
class HeadPhantom:
    """One head on its own grid, RAS+, isotropic."""

    shape: HeadShape
    labels: LabelVolume
    """(1, I, J, K); values as FreeSurfer numbers them in the brain, see `label_names`."""
    label_names: Mapping[int, str]
    top: torch.Tensor = field(repr=False)
    """(I, J, K) uint8 `Code` of the main or latest structure in each voxel."""
    under: torch.Tensor = field(repr=False)
    """(I, J, K) uint8 `Code` of what fills the rest of the voxel."""
    share: torch.Tensor = field(repr=False)
    """(I, J, K) float32 share of `top`, 0 to 1."""
    texture: torch.Tensor = field(repr=False)
    """(I, J, K) float32 of mean 0 and deviation 1: the unevenness within tissues."""

    @property
    def affine(self) -> Affine:
        """(4, 4) voxel -> RAS+ mm of the head's own grid."""
        return affine_of(self.labels)

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """(I, J, K)."""
        return spatial_shape(self.labels)


def make_head(generator: torch.Generator, *, spacing_mm: float = 1.0) -> HeadPhantom:
    """A random head: `draw_head_shape`, then `build_head`."""
    return build_head(draw_head_shape(generator), spacing_mm=spacing_mm)


def build_head(shape: HeadShape, *, spacing_mm: float = 1.0) -> HeadPhantom:
    """The anatomy of a shape on an isotropic RAS+ grid that holds the head and part of the neck.

    Raises:
        InputError: a spacing outside 0.5 to 4 mm.
    """
    if not 0.5 <= spacing_mm <= 4:
        raise InputError(f"expected a phantom spacing within 0.5..4 mm, got {spacing_mm:g}")
    axes, affine = _grid(spacing_mm)
    slabs = (_build_slab(shape, (x, axes[1], axes[2]), affine) for x in axes[0].split(_SLAB))
    top, under, share, texture, labels = (torch.cat(part) for part in zip(*slabs, strict=True))
    return HeadPhantom(
        shape, make_label(labels, affine), PHANTOM_LABEL_NAMES, top, under, share, texture
    )


def _grid(spacing_mm: float) -> tuple[Points, Affine]:
    axes = [
        torch.arange(round((high - low) / spacing_mm) + 1, dtype=torch.float32) * spacing_mm + low
        for low, high in _EXTENT_MM
    ]
    affine = as_stored(np.diag([spacing_mm] * 3 + [1.0]))
    affine[:3, 3] = [low for low, _ in _EXTENT_MM]
    return (axes[0], axes[1], axes[2]), affine


def _build_slab(shape: HeadShape, axes: Points, affine: Affine) -> tuple[torch.Tensor, ...]:
    """Top, under, share, texture and labels of a slab; what is small stays in the cache."""
    spread = (axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :])
    x, y, z = (
        a / s + shape.deformation_mm * smooth_field(axes, 60, shape.stream(f"deformation {name}"))
        for a, s, name in zip(spread, shape.scale, "xyz", strict=True)
    )
    canvas = Canvas(float(affine[0, 0]), axes, (x, y, z))
    hulls = skull_hulls(canvas, shape)
    paint_head(canvas, shape, hulls)
    paint_brain(canvas, shape, hulls)
    texture = 0.75 * canvas.smooth(3.5, shape.stream("grain"))
    texture += 0.66 * canvas.smooth(11, shape.stream("patches"))
    main = torch.where(canvas.share >= 0.5, canvas.top, canvas.under).int()
    sides = torch.tensor([s.label for s in STRUCTURES], dtype=torch.int32)
    labels = torch.where(x < 0, sides[main, 0], sides[main, 1])
    return canvas.top, canvas.under, canvas.share, texture, labels


def render_mr(
    head: HeadPhantom,
    sequence: str | MRSequence,
    *,
    grid_affine: Affine | None = None,
    grid_shape: tuple[int, int, int] | None = None,
    moving_from_fixed: Transform | None = None,
    noise: float = 0.03,
    bias: float = 0.12,
    generator: torch.Generator,
) -> Volume:
    """The head in MR, (1, I, J, K) on the grid asked for (the head's own without one).

    Args:
        head: the anatomy; it lies in the fixed world.
        sequence: a key of `SEQUENCES`, or a timing.
        grid_affine: voxel -> RAS+ mm of the image, in the world after the patient moved.
        grid_shape: (I, J, K) of the image.
        moving_from_fixed: where a point of the head went; None: nobody moved.
        noise: deviation of the Rician noise as a share of the signal of white matter.
        bias: deviation of the logarithm of the coil shading.
        generator: draws shading and noise.

    Raises:
        InputError: an unknown sequence.
    """
    if isinstance(sequence, str):
        if sequence not in SEQUENCES:
            raise InputError(f"expected a sequence of {sorted(SEQUENCES)}, got {sequence!r}")
        sequence = SEQUENCES[sequence]
    timing = sequence
    scale = _WHITE_LEVEL / mr_signal(STRUCTURES[Code.WHITE].tissue.at_3t, timing)
    truth = _property_map(
        head,
        lambda s: scale * mr_signal(s.tissue.at_3t, timing),
        lambda s: scale * mr_signal(s.tissue.at_3t, timing) * s.tissue.texture,
    )
    affine = head.affine if grid_affine is None else as_stored(grid_affine)
    shape = head.grid_shape if grid_shape is None else grid_shape
    image = _sample(truth, head.affine, affine, shape, moving_from_fixed)
    image *= bias_field(affine, shape, bias, generator)
    image = add_rician_noise(image, noise * _WHITE_LEVEL, generator)
    return make_volume(image, affine, modality="MR", units="arbitrary")


def render_ct(
    head: HeadPhantom,
    *,
    grid_affine: Affine | None = None,
    grid_shape: tuple[int, int, int] | None = None,
    moving_from_fixed: Transform | None = None,
    noise: float = 6.0,
    generator: torch.Generator,
) -> Volume:
    """The head in CT, (1, I, J, K), whole HU; arguments as `render_mr`, `noise` in HU."""
    truth = _property_map(
        head, lambda s: s.tissue.hu + 1000.0, lambda s: s.tissue.texture_hu
    ).clamp_min_(0)
    affine = head.affine if grid_affine is None else as_stored(grid_affine)
    shape = head.grid_shape if grid_shape is None else grid_shape
    image = _sample(truth, head.affine, affine, shape, moving_from_fixed) - 1000
    image += noise * torch.randn(shape, generator=generator)
    return make_volume(image.round().clamp(-1024, 3071), affine, modality="CT", units="HU")


def _property_map(
    head: HeadPhantom, mean: Callable[[Structure], float], deviation: Callable[[Structure], float]
) -> torch.Tensor:
    """(I, J, K) of one physical property, mixed within voxels, with the texture of each tissue."""
    means = torch.tensor([mean(s) for s in STRUCTURES])
    deviations = torch.tensor([deviation(s) for s in STRUCTURES])
    result = torch.empty(head.grid_shape)
    for i in range(0, len(result), _SLAB):
        part = slice(i, i + _SLAB)
        share, texture = head.share[part], head.texture[part]
        top, under = (
            means[index] + deviations[index] * texture
            for index in (head.top[part].int(), head.under[part].int())
        )
        result[part] = torch.lerp(under, top, share)
    return result


def _sample(
    image: torch.Tensor,
    image_affine: Affine,
    affine: Affine,
    shape: tuple[int, int, int],
    moving_from_fixed: Transform | None,
) -> torch.Tensor:
    """`image` (I, J, K) seen on another grid; slices thicker than its voxels are averaged."""
    own = float(spacing_of(image_affine).min())
    n_parts = [max(1, int(np.ceil(s / own - 0.25))) for s in spacing_of(affine)]
    shifts = [(torch.arange(n) + 0.5) / n - 0.5 for n in n_parts]
    slabs = []
    for i in torch.arange(shape[0]).split(_SLAB):
        seen = torch.zeros((len(i), *shape[1:]))
        for shift in torch.cartesian_prod(*shifts).reshape(-1, 3):
            j, k = (torch.arange(n) + s for n, s in zip(shape[1:], shift[1:], strict=True))
            voxels = _seen_voxels((i + shift[0], j, k), affine, image_affine, moving_from_fixed)
            seen += _interpolate(image, voxels)
        slabs.append(seen / math.prod(n_parts))
    return torch.cat(slabs)


def _seen_voxels(
    index: Points, affine: Affine, image_affine: Affine, moving_from_fixed: Transform | None
) -> torch.Tensor:
    """(I, J, K, 3) voxel positions in the head of the voxels (i, j, k) of a picture."""
    to_voxels = np.linalg.inv(image_affine)
    if moving_from_fixed is not None and moving_from_fixed.displacement_mm is not None:
        grid = torch.stack(torch.meshgrid(*index, indexing="ij"), -1).double().numpy()
        points = moving_from_fixed.inverse().apply(apply_affine(affine, grid))
        return torch.from_numpy(apply_affine(to_voxels, points).astype(np.float32))
    if moving_from_fixed is not None:
        to_voxels = to_voxels @ np.linalg.inv(moving_from_fixed.matrix)
    matrix = torch.from_numpy(to_voxels @ affine).float()
    i, j, k = (
        a.float().reshape([-1 if n == axis else 1 for n in range(3)])
        for axis, a in enumerate(index)
    )
    return torch.stack([row[0] * i + row[1] * j + (row[2] * k + row[3]) for row in matrix[:3]], -1)


def _interpolate(image: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
    """Linear interpolation of `image` at (I, J, K, 3) voxel positions; zero outside."""
    last = torch.tensor(image.shape) - 1
    grid = (2 * voxels / last - 1).flip(-1)
    seen = torch.nn.functional.grid_sample(
        image[None, None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return seen[0, 0]
