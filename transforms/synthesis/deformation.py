r"""Random diffeomorphic deformations of a head, with their inverse.

A point :math:`x` of the sample world lies at :math:`M \exp(w)(x)` in the anatomy's world. :math:`M`
undoes rotation, scaling, shear, translation and a left-right flip; :math:`w` is a stationary
velocity field in mm, sums of smooth noise at several scales and a push of the ventricles' walls.
:math:`\exp` is by scaling and squaring (Arsigny et al. 2006, doi:10.1007/11866565_113), so that
:math:`\exp(-w)` undoes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from radloom.errors import InputError
from radloom.geometry import Affine
from radloom.transforms.synthesis import draws
from radloom.transforms.synthesis.anatomy import Anatomy, code_of
from radloom.transforms.synthesis.draws import Range
from radloom.transforms.synthesis.fields import Grid, blur, smooth_noise
from radloom.transforms.synthesis.lattice import Lattice, exponential, on_device
from radloom.transforms.synthesis.rotations import rotation_matrix
from radloom.transforms.synthesis.tissues import Code

__all__ = [
    "Deformation",
    "DeformationParameters",
    "DeformationRecipe",
    "build_deformation",
    "draw_deformation",
    "moving_from_fixed",
    "sample_volume",
    "warp",
]

_KNOT_SPACING_MM = 4.0
"""Of the lattice that holds velocity and displacement."""
_MARGIN_MM = 32.0
"""Around the head, where the velocity falls to zero."""
_DISPLACEMENT_SPACING_MM = 2.0
"""Between two draws it is computed this far apart."""
_STEEPEST = 1.0
"""No velocity component changes by more than this in mm a mm: beyond it det J > 0 is at risk."""
_VENTRICLES = (Code.VENTRICLE, Code.TEMPORAL_HORN, Code.THIRD_VENTRICLE)
_PUSH_REACH_MM = (7.0, 16.0)


@dataclass(frozen=True)
class DeformationRecipe:
    """From what deformations are drawn; zero ranges and probabilities switch a part off."""

    rotation_degrees: Range = (-20.0, 20.0)
    """About each axis of the sample world."""
    scaling: Range = (0.85, 1.15)
    """Size of the head in the sample, drawn once for the head."""
    stretching: Range = (0.94, 1.06)
    """On top, drawn for each axis."""
    shear: Range = (-0.06, 0.06)
    """Off-diagonal elements, drawn for each pair of axes."""
    translation_mm: Range = (-12.0, 12.0)
    """Along each axis."""
    flip_probability: float = 0.5
    """Of left and right swapped."""
    knots_mm: tuple[float, ...] = (80.0, 40.0, 20.0, 12.0)
    """Scales of the velocity: distances of the knots of its noise."""
    amplitudes_mm: tuple[float, ...] = (5.0, 3.5, 1.6, 0.5)
    """Largest standard deviation of the velocity at each scale; drawn between zero and it."""
    ventricle_probability: float = 0.5
    """Of a push of the ventricles' walls."""
    ventricle_mm: Range = (-2.5, 6.0)
    """Outwards (larger ventricles) where positive."""
    extreme_probability: float = 0.05
    """Of a draw with everything but the flip enlarged by `extreme_factor`."""
    extreme_factor: float = 1.8


@dataclass(frozen=True)
class DeformationParameters:
    """One drawn deformation; the defaults change nothing."""

    rotation_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the head about x, then y, then z."""
    scaling: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Size of the head in the sample relative to the anatomy."""
    shear: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of x by y, x by z, y by z."""
    translation_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where the anatomy's origin goes to in the sample world."""
    flip: bool = False
    """Left and right swapped."""
    knots_mm: tuple[float, ...] = ()
    amplitudes_mm: tuple[float, ...] = ()
    """Standard deviation of the velocity at each scale."""
    ventricle_mm: float = 0.0
    """Speed of the ventricles' walls, outwards where positive."""
    seed: int = 0
    """Of the velocity's noise."""

    def __post_init__(self) -> None:
        if len(self.knots_mm) != len(self.amplitudes_mm):
            raise InputError(
                f"expected an amplitude for each distance of knots, got {self.amplitudes_mm} for "
                f"{self.knots_mm}"
            )


def draw_deformation(
    generator: torch.Generator, recipe: DeformationRecipe
) -> DeformationParameters:
    """One deformation of the recipe.

    >>> draw_deformation(torch.Generator().manual_seed(0), DeformationRecipe()).ventricle_mm > -4.5
    True
    """
    extreme = draws.chance(generator, recipe.extreme_probability)
    factor = recipe.extreme_factor if extreme else 1.0
    rotation = [factor * draws.uniform(generator, recipe.rotation_degrees) for _ in range(3)]
    size = draws.uniform(generator, recipe.scaling)
    scaling = [(size * draws.uniform(generator, recipe.stretching)) ** factor for _ in range(3)]
    shear = [factor * draws.uniform(generator, recipe.shear) for _ in range(3)]
    translation = [factor * draws.uniform(generator, recipe.translation_mm) for _ in range(3)]
    pushed = draws.chance(generator, recipe.ventricle_probability)
    push = factor * draws.uniform(generator, recipe.ventricle_mm)
    return DeformationParameters(
        rotation_degrees=(rotation[0], rotation[1], rotation[2]),
        scaling=(scaling[0], scaling[1], scaling[2]),
        shear=(shear[0], shear[1], shear[2]),
        translation_mm=(translation[0], translation[1], translation[2]),
        flip=draws.chance(generator, recipe.flip_probability),
        knots_mm=recipe.knots_mm,
        amplitudes_mm=tuple(
            factor * draws.uniform(generator, (0.0, most)) for most in recipe.amplitudes_mm
        ),
        ventricle_mm=push if pushed else 0.0,
        seed=draws.seed(generator),
    )


@dataclass(frozen=True)
class Deformation:
    """A map from points of the sample world to points of the anatomy's world, and back."""

    anatomy_from_sample: Affine
    """(4, 4) the affine part M, in mm."""
    lattice: Lattice = field(repr=False)
    displacement_mm: torch.Tensor = field(repr=False)
    """(3, I, J, K) on the lattice: exp(w)(x) - x."""
    velocity_mm: torch.Tensor = field(repr=False)
    """(3, I, J, K) on the lattice: w."""

    @cached_property
    def inverse_mm(self) -> torch.Tensor:
        """(3, I, J, K) on the lattice: exp(-w)(x) - x; made when first asked for."""
        return exponential(-self.velocity_mm, self.lattice)

    @property
    def flips(self) -> bool:
        """Whether left and right are swapped, and the sides of labels with them."""
        return bool(np.linalg.det(self.anatomy_from_sample[:3, :3]) < 0)

    def to_anatomy(self, points: torch.Tensor) -> torch.Tensor:
        """`points` (..., 3) of the sample world in mm -> (..., 3) of the anatomy's world."""
        moved = points + self.lattice.interpolate(self.displacement_mm, points)
        return _apply(self.anatomy_from_sample, moved)

    def from_anatomy(self, points: torch.Tensor) -> torch.Tensor:
        """`points` (..., 3) of the anatomy's world in mm -> (..., 3) of the sample world.

        What interpolation leaves of exp(-w)(exp(w)(x)) - x is taken off once.
        """
        straight = _apply(_inverse(self.anatomy_from_sample), points)
        back = self._step_back(straight)
        again = back + self.lattice.interpolate(self.displacement_mm, back)
        return 2 * back - self._step_back(again)

    def _step_back(self, points: torch.Tensor) -> torch.Tensor:
        return points + self.lattice.interpolate(self.inverse_mm, points)

    def sampling_grid(self, grid: Grid, anatomy: Anatomy) -> torch.Tensor:
        """Where the voxels of `grid` lie in the anatomy, for `grid_sample` with align_corners.

        Returns:
            (1, I, J, K, 3) from -1 to 1, last axis of the anatomy first.
        """
        matrix = (_normalised(anatomy.grid) @ self.anatomy_from_sample)[[2, 1, 0]]
        device = self.displacement_mm.device
        linear = on_device(device, matrix[:, :3])
        turned = torch.tensordot(linear, self.displacement_mm, dims=([1], [0]))
        result = self.lattice.resample(turned, grid)
        for row, channel in enumerate(result):
            for axis, positions in enumerate(grid.axes(device)):
                offset = matrix[row, 3] if axis == 0 else 0.0
                line = float(matrix[row, axis]) * positions + float(offset)
                channel.add_(line.reshape([-1 if a == axis else 1 for a in range(3)]))
        return result.movedim(0, -1)[None]


def build_deformation(
    parameters: DeformationParameters, anatomy: Anatomy, device: torch.device | str
) -> Deformation:
    """The deformation that the parameters say, for one anatomy (which lies on `device`)."""
    affine = _anatomy_from_sample(parameters)
    lattice = _lattice_over(anatomy.grid, affine)
    velocity = _random_velocity(parameters, lattice, device)
    if parameters.ventricle_mm:
        velocity += _ventricle_velocity(parameters.ventricle_mm, anatomy, affine, lattice, device)
    velocity = _bounded(velocity * _window(lattice, device))
    return Deformation(affine, lattice, exponential(velocity, lattice), velocity)


def moving_from_fixed(fixed: Deformation, moving: Deformation, grid: Grid) -> torch.Tensor:
    """How far the points of one draw lie from the same points of the anatomy in another draw.

    Args:
        fixed: one draw of an anatomy.
        moving: another of the same anatomy, with the same flip.
        grid: of the fixed draw.

    Returns:
        (3, I, J, K) displacement in RAS mm on `grid`: x + displacement(x) is the point in the
        moving draw. Computed every 2 mm, and linear between.
    """
    coarse = _coarser(grid)
    axes = coarse.axes(fixed.displacement_mm.device)
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    moved = moving.from_anatomy(fixed.to_anatomy(points))
    displacement = (moved - points).movedim(-1, 0)
    if coarse != grid:
        origin = (
            float(coarse.affine[0, 3]),
            float(coarse.affine[1, 3]),
            float(coarse.affine[2, 3]),
        )
        displacement = Lattice(origin, coarse.shape, coarse.spacing_mm).resample(displacement, grid)
    return displacement.contiguous()


def _coarser(grid: Grid) -> Grid:
    """Over the same box, with voxels of 2 mm where they are smaller."""
    shape, spacing = [], []
    for n, size in zip(grid.shape, grid.spacing_mm, strict=True):
        steps = max(math.ceil((n - 1) * size / _DISPLACEMENT_SPACING_MM), 1)
        coarser = steps + 1 < n
        shape.append(steps + 1 if coarser else n)
        spacing.append((n - 1) * size / steps if coarser else size)
    return Grid(
        (shape[0], shape[1], shape[2]), (spacing[0], spacing[1], spacing[2]), grid.centre_mm
    )


def warp(
    volume: torch.Tensor,
    deformation: Deformation,
    anatomy: Anatomy,
    grid: Grid,
    *,
    mode: Literal["linear", "nearest"] = "linear",
) -> torch.Tensor:
    """A volume on the anatomy's grid as the sample has it; its border voxels go on outside.

    Args:
        volume: (C, I, J, K) float or uint8, on `anatomy.grid`.
        deformation: of this anatomy.
        anatomy: whose grid `volume` is on.
        grid: of the sample.
        mode: how to interpolate; bytes are labels, and take "nearest" whatever it says.

    Returns:
        (C, I, J, K) on `grid`, of the type of `volume`.
    """
    return sample_volume(volume, deformation.sampling_grid(grid, anatomy), mode=mode)


def sample_volume(
    volume: torch.Tensor,
    sampling_grid: torch.Tensor,
    *,
    mode: Literal["linear", "nearest"] = "linear",
    outside: Literal["border", "zeros"] = "border",
) -> torch.Tensor:
    """As `warp`, with a sampling grid made once for several volumes; `outside`: what is there."""
    nearest = mode == "nearest" or not volume.is_floating_point()
    sampled = functional.grid_sample(
        volume[None].float(),
        sampling_grid,
        mode="nearest" if nearest else "bilinear",
        padding_mode=outside,
        align_corners=True,
    )
    return sampled[0].to(volume.dtype)


def _anatomy_from_sample(parameters: DeformationParameters) -> Affine:
    turn = rotation_matrix(parameters.rotation_degrees)
    shear = np.eye(3)
    shear[[0, 0, 1], [1, 2, 2]] = parameters.shear
    mirror = np.diag([-1.0 if parameters.flip else 1.0, 1.0, 1.0])
    sample_from_anatomy: Affine = np.eye(4)
    sample_from_anatomy[:3, :3] = turn @ shear @ np.diag(parameters.scaling) @ mirror
    sample_from_anatomy[:3, 3] = parameters.translation_mm
    return _inverse(sample_from_anatomy)


def _inverse(affine: Affine) -> Affine:
    return np.linalg.inv(affine).astype(np.float64)


def _apply(affine: Affine, points: torch.Tensor) -> torch.Tensor:
    """By sums, not by a matrix product, which a GPU may be told to round to 10 bits."""
    columns = on_device(points.device, affine[:3].T)
    result = points[..., :1] * columns[0] + columns[3]
    for axis in (1, 2):
        result.addcmul_(points[..., axis : axis + 1], columns[axis])
    return result


def _normalised(grid: Grid) -> Affine:
    """(4, 4) world -> -1 to 1 between the outer voxel centres of the grid."""
    half = [s * max(n - 1, 1) / 2 for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    matrix = np.diag([*[1 / h for h in half], 1.0])
    matrix[:3, 3] = [-c / h for c, h in zip(grid.centre_mm, half, strict=True)]
    return matrix


def _lattice_over(grid: Grid, anatomy_from_sample: Affine) -> Lattice:
    """Knots over the ellipsoid that fills the anatomy's box, in the sample world, and a margin."""
    half = np.array([s * (n - 1) / 2 for n, s in zip(grid.shape, grid.spacing_mm, strict=True)])
    sample_from_anatomy = _inverse(anatomy_from_sample)
    reach = np.sqrt(((sample_from_anatomy[:3, :3] * half) ** 2).sum(1)) + _MARGIN_MM
    low = sample_from_anatomy[:3, 3] - reach
    i, j, k = (math.ceil(2 * extent / _KNOT_SPACING_MM) + 1 for extent in reach)
    origin = (float(low[0]), float(low[1]), float(low[2]))
    return Lattice(origin, (i, j, k), (_KNOT_SPACING_MM,) * 3)


def _random_velocity(
    parameters: DeformationParameters, lattice: Lattice, device: torch.device | str
) -> torch.Tensor:
    """(3, I, J, K) in mm: the sum of the scales."""
    velocity = torch.zeros((3, *lattice.shape), device=device)
    scales = zip(parameters.knots_mm, parameters.amplitudes_mm, strict=True)
    for number, (knots_mm, amplitude_mm) in enumerate(scales):
        if amplitude_mm <= 0:
            continue
        knots = (knots_mm / _KNOT_SPACING_MM,) * 3
        seed = parameters.seed + number
        noise = smooth_noise(lattice.shape, knots, seed, device, channels=3)
        velocity.add_(noise, alpha=amplitude_mm)
    return velocity


def _ventricle_velocity(
    speed_mm: float,
    anatomy: Anatomy,
    anatomy_from_sample: Affine,
    lattice: Lattice,
    device: torch.device | str,
) -> torch.Tensor:
    """(3, I, J, K) in mm: along gradients of the blurred ventricles, `speed_mm` at their walls."""
    code = code_of(anatomy.structures)
    mask = torch.zeros_like(code, dtype=torch.bool)
    for ventricle in _VENTRICLES:
        mask |= code == int(ventricle)
    points = _apply(anatomy_from_sample, lattice.points(device))
    coarse = functional.avg_pool3d(mask[None].float(), 2)
    share = _at_points(coarse, anatomy.grid, points)
    wall = _gradient(blur(share, (1.0,) * 3)[0])
    velocity = torch.zeros_like(wall)
    for reach_mm in _PUSH_REACH_MM:
        slope = _gradient(blur(share, (reach_mm / _KNOT_SPACING_MM,) * 3)[0])
        velocity += slope / _speed(slope, wall) / len(_PUSH_REACH_MM)
    return speed_mm * velocity


def _speed(velocity: torch.Tensor, wall: torch.Tensor) -> torch.Tensor:
    """Mean of the velocity across the walls, weighted with how sharp they are; above zero."""
    sharpness = wall.norm(dim=0)
    across = (velocity * wall).sum(0)
    return (across.sum() / sharpness.sum().clamp_min(1e-6)).clamp_min(1e-3)


def _at_points(coarse: torch.Tensor, grid: Grid, points: torch.Tensor) -> torch.Tensor:
    """A field (1, i, j, k) with a voxel for each 2 x 2 x 2 of `grid`, at points of its world."""
    half = [s * (n - n % 2) / 2 for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    off = [-s * (n % 2) / 2 for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    normal = (points - on_device(points.device, off)) / on_device(points.device, half)
    return functional.grid_sample(coarse[None], normal.flip(-1)[None], align_corners=False)[0]


def _gradient(smooth: torch.Tensor) -> torch.Tensor:
    """(I, J, K) -> (3, I, J, K) per knot, central differences, zero at the border."""
    result = torch.zeros((3, *smooth.shape), device=smooth.device)
    for axis, n in enumerate(smooth.shape):
        ahead, behind = smooth.narrow(axis, 2, n - 2), smooth.narrow(axis, 0, n - 2)
        result[axis].narrow(axis, 1, n - 2).copy_((ahead - behind) / 2)
    return result


def _window(lattice: Lattice, device: torch.device | str) -> torch.Tensor:
    """(I, J, K) one over the head, smoothly zero at the ends of the margin."""
    result = torch.ones((), device=device)
    for axis, n in enumerate(lattice.shape):
        knots = torch.arange(n, device=device, dtype=torch.float32)
        to_end = torch.minimum(knots, n - 1 - knots) * _KNOT_SPACING_MM / _MARGIN_MM
        ramp = to_end.clamp(0, 1)
        ramp = ramp * ramp * (3 - 2 * ramp)
        result = result * ramp.reshape([-1 if a == axis else 1 for a in range(3)])
    return result


def _bounded(velocity: torch.Tensor) -> torch.Tensor:
    """Scaled down as a whole where it would change too steeply."""
    steepest = torch.stack([velocity.diff(dim=axis).abs().amax() for axis in (1, 2, 3)]).amax() / (
        _KNOT_SPACING_MM
    )
    return velocity * (_STEEPEST / steepest.clamp_min(_STEEPEST))
