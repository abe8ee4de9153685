"""A whole head made on the spot: anatomy drawn at random, seen by MR and CT, truth known.

No scan of anyone is in it. `draw_head_shape` draws the parameters, `build_head` makes the anatomy
from them, `render_mr` and `render_ct` take its picture on any grid, through any known transform:

    head = make_head(torch.Generator().manual_seed(0))
    t1 = render_mr(head, "t1", generator=torch.Generator().manual_seed(1))
"""

from __future__ import annotations

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
from radloom.transforms.synthesis.solids import Canvas, smooth_field
from radloom.transforms.synthesis.tissues import LABEL_NAMES, STRUCTURES, Code, Structure

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
_WHITE_LEVEL = 400.0
"""The number that white matter gets in an MR image."""


@dataclass(frozen=True)
class HeadShape:
    """What differs from one head to the next; the same shape and spacing give the same head."""

    seed: int
    """Of every random field: deformation, folding, thickness, texture."""
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Size along x, y, z."""
    deformation_mm: float = 2.2
    """Standard deviation of the smooth deformation of the whole head; it breaks the symmetry."""
    skull_thickness: float = 1.0
    """Relative to 6.3 mm in the vault."""
    fat: float = 1.0
    """Relative thickness of the scalp and the fat below the skin."""
    nose: float = 1.0
    """Relative length of the nose."""
    ventricles: float = 1.0
    """Millimetres of growth of the ventricles' walls; 1 is an adult's size."""
    atrophy: float = 1.0
    """Relative width of the subarachnoid space and of the sulci."""
    cortex_mm: float = 2.7
    """Mean thickness of the cortex."""
    fold_mm: float = 11.0
    """Mean distance between neighbouring sulci."""


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


def draw_head_shape(generator: torch.Generator) -> HeadShape:
    """The parameters of a random adult head."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    normal = torch.randn(9, generator=generator).clamp(-2, 2).tolist()
    size = 1 + 0.02 * normal[0]
    return HeadShape(
        seed=seed,
        scale=(size + 0.015 * normal[1], size + 0.015 * normal[2], size + 0.015 * normal[3]),
        skull_thickness=1 + 0.08 * normal[4],
        fat=1 + 0.15 * normal[5],
        nose=1 + 0.3 * normal[6],
        ventricles=1.2 + 0.45 * normal[7],
        atrophy=1 + 0.12 * (normal[7] + normal[8]),
        cortex_mm=2.7 + 0.1 * normal[8],
    )


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
    generator = torch.Generator().manual_seed(shape.seed)
    canvas = _blank_canvas(shape, spacing_mm, generator)
    hulls = skull_hulls(canvas, shape, generator)
    paint_head(canvas, shape, hulls, generator)
    paint_brain(canvas, shape, hulls, generator)
    fine, coarse = (smooth_field(canvas.axes, knot, generator) for knot in (3.5, 11.0))
    main = torch.where(canvas.share >= 0.5, canvas.top, canvas.under).long()
    sides = torch.tensor([s.label for s in STRUCTURES], dtype=torch.int32)
    labels = torch.where(canvas.points[0] < 0, sides[main, 0], sides[main, 1])
    return HeadPhantom(
        shape,
        make_label(labels, canvas.affine),
        LABEL_NAMES,
        canvas.top,
        canvas.under,
        canvas.share,
        0.75 * fine + 0.66 * coarse,
    )


def _blank_canvas(shape: HeadShape, spacing_mm: float, generator: torch.Generator) -> Canvas:
    size = [round((high - low) / spacing_mm) * 1 + 1 for low, high in _EXTENT_MM]
    affine = as_stored(np.diag([spacing_mm] * 3 + [1.0]))
    affine[:3, 3] = [low for low, _ in _EXTENT_MM]
    x, y, z = (
        torch.arange(n, dtype=torch.float32) * spacing_mm + low
        for n, (low, _) in zip(size, _EXTENT_MM, strict=True)
    )
    axes = (x, y, z)
    spread = (x[:, None, None], y[None, :, None], z[None, None, :])
    warped = [
        a / s + shape.deformation_mm * smooth_field(axes, 60, generator)
        for a, s in zip(spread, shape.scale, strict=True)
    ]
    return Canvas(affine, (size[0], size[1], size[2]), axes, (warped[0], warped[1], warped[2]))


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
    result = torch.zeros(head.grid_shape)
    for codes, share in ((head.top, head.share), (head.under, 1 - head.share)):
        index = codes.int()
        result += share * (means[index] + deviations[index] * head.texture)
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
    offsets = np.stack(
        np.meshgrid(*[(np.arange(n) + 0.5) / n - 0.5 for n in n_parts], indexing="ij"), -1
    ).reshape(-1, 3)
    result = torch.zeros(shape)
    inverse = np.linalg.inv(image_affine)
    for k in range(shape[2]):
        for offset in offsets:
            result[:, :, k] += _sample_plane(
                image, inverse, affine, shape, k, offset, moving_from_fixed
            )
    return result / len(offsets)


def _sample_plane(image, inverse, affine, shape, k, offset, moving_from_fixed):
    index = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), [k], indexing="ij"), -1)
    points = apply_affine(affine, index + offset)
    if moving_from_fixed is not None:
        points = _fixed_points(points, moving_from_fixed)
    voxels = apply_affine(inverse, points)
    size = np.asarray(image.shape)
    grid = torch.from_numpy((2 * voxels / (size - 1) - 1)[..., ::-1].astype(np.float32).copy())
    seen = torch.nn.functional.grid_sample(
        image[None, None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return seen[0, 0, :, :, 0]


def _fixed_points(points, moving_from_fixed: Transform):
    if moving_from_fixed.displacement_mm is None:
        return apply_affine(np.linalg.inv(moving_from_fixed.matrix), points)
    return moving_from_fixed.inverse().apply(points)
