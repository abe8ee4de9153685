"""Spatial transforms and resampling, in RAS+ mm, in one interpolation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from radloom.errors import ConfigError, InputError
from radloom.geometry import Affine, apply_affine, as_stored
from radloom.shapes import Volume, affine_of, array_of, make_label, make_volume

__all__ = ["Interpolation", "Transform", "grid_points", "outside_value", "resample"]

Interpolation: TypeAlias = Literal["linear", "nearest", "bspline"]

AIR_HU = -1024.0

_SLAB_VOXELS = 2_000_000
"""Of a field, looked at at once."""
"""What a CT holds where nothing was measured."""

Points: TypeAlias = npt.NDArray[np.float64]
"""(..., 3) world positions, RAS+ mm."""


@dataclass(frozen=True, eq=False)
class Transform:
    r"""A point map named for its direction: ``moving_from_fixed`` maps points of fixed into moving.

    .. math:: x_{moving} = M \, (x_{fixed} + u(x_{fixed}))

    with world points in RAS+ mm. Resampling the moving image through it gives `warped_moving` on
    the fixed grid. `u` is linear between the voxel centres of its grid, constant over the outer
    half of the border voxels, and zero outside or where `displacement_mm` is None: what ITK's
    DisplacementFieldTransform does, then an affine one.

    >>> shift = Transform(np.array([[1., 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    >>> shift.apply([[1, 2, 3]]).tolist()
    [[6.0, 2.0, 3.0]]
    >>> (shift.inverse() @ shift).matrix.tolist() == np.eye(4).tolist()
    True
    """

    matrix: Affine
    """(4, 4) float64 world -> world, RAS+ mm."""
    displacement_mm: npt.NDArray[np.float32] | None = None
    """(3, I, J, K) float32 displacement u in RAS+ mm at the voxel centres of `grid_affine`."""
    grid_affine: Affine | None = None
    """(4, 4) voxel -> RAS+ mm of the displacement's grid."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", _square(self.matrix, "matrix"))
        if (self.displacement_mm is None) != (self.grid_affine is None):
            raise InputError("expected displacement_mm and grid_affine together, got one of them")
        if self.displacement_mm is None:
            return
        field = np.ascontiguousarray(self.displacement_mm, dtype=np.float32)
        if field.ndim != 4 or field.shape[0] != 3:
            raise InputError(f"expected a displacement (3, I, J, K), got shape {field.shape}")
        if not np.isfinite(field).all():
            raise InputError("expected finite displacements, got NaN or infinity")
        object.__setattr__(self, "displacement_mm", field)
        object.__setattr__(self, "grid_affine", _square(self.grid_affine, "grid_affine"))

    @staticmethod
    def identity() -> Transform:
        """The map that leaves every point where it is."""
        return Transform(np.eye(4))

    @property
    def is_affine(self) -> bool:
        """Whether a matrix says it all."""
        return self.displacement_mm is None

    def displacement_at(self, points: npt.ArrayLike) -> Points:
        """(..., 3) displacement u in mm at (..., 3) world points in RAS+ mm."""
        points = np.asarray(points, dtype=np.float64)
        if self.displacement_mm is None or self.grid_affine is None:
            return np.zeros_like(points)
        index = apply_affine(np.linalg.inv(self.grid_affine), points)
        return _interpolate_vectors(self.displacement_mm, index)

    def apply(self, points: npt.ArrayLike) -> Points:
        """(..., 3) world points, RAS+ mm, mapped."""
        points = np.asarray(points, dtype=np.float64)
        return apply_affine(self.matrix, points + self.displacement_at(points))

    def inverse(self, *, n_iterations: int = 50, tolerance_mm: float = 1e-4) -> Transform:
        r"""The map back: exact for a matrix, by fixed-point iteration for a displacement.

        With g = M^-1 y the iteration x <- g - u(x) ends where x + u(x) = g; the inverse is
        M^-1 (y + v(y)) with v(M g) = -M u(x) (linear part of M), on the grid M @ `grid_affine`.
        It converges where u changes by less than 1 mm per mm (Chen et al., A simple fixed-point
        approach to invert a deformation field, Medical Physics 2008, doi:10.1118/1.2816107).
        """
        back = _inverse(self.matrix)
        if self.displacement_mm is None or self.grid_affine is None:
            return Transform(back)
        shape = self.displacement_mm.shape[1:]
        goal = grid_points(self.grid_affine, (shape[0], shape[1], shape[2]))
        moved = self._displacement_before(goal, n_iterations, tolerance_mm)
        field = -(moved @ self.matrix[:3, :3].T)
        return Transform(back, _channel_first(field), self.matrix @ self.grid_affine)

    def apply_inverse(
        self, points: npt.ArrayLike, *, n_iterations: int = 50, tolerance_mm: float = 1e-4
    ) -> Points:
        """(..., 3) world points, RAS+ mm, mapped back: found one by one, on no grid.

        `inverse` says how, and where it converges; a fold has no way back.
        """
        goal = apply_affine(_inverse(self.matrix), points)
        return goal - self._displacement_before(goal, n_iterations, tolerance_mm)

    def _displacement_before(self, goal: Points, n_iterations: int, tolerance_mm: float) -> Points:
        """(..., 3) u(x) of the points x that the displacement takes to `goal`."""
        moved = self.displacement_at(goal)
        for _ in range(n_iterations if moved.size else 0):
            before, moved = moved, self.displacement_at(goal - moved)
            if np.abs(moved - before).max() < tolerance_mm:
                break
        return moved

    def compose(self, first: Transform) -> Transform:
        """`first`, then this one: ``c_from_b.compose(b_from_a)`` is ``c_from_a``.

        Exact unless both hold a displacement: then the result lives on the grid of `first`, and
        what this one displaces outside that grid is lost.
        """
        matrix = self.matrix @ first.matrix
        if self.displacement_mm is None or self.grid_affine is None:
            return replace(first, matrix=matrix)
        back = _inverse(first.matrix)
        if first.displacement_mm is None or first.grid_affine is None:
            field = np.einsum("ab,bijk->aijk", back[:3, :3], self.displacement_mm)
            return Transform(matrix, field.astype(np.float32), back @ self.grid_affine)
        shape = first.displacement_mm.shape[1:]
        points = grid_points(first.grid_affine, (shape[0], shape[1], shape[2]))
        moved = np.moveaxis(first.displacement_mm, 0, -1).astype(np.float64)
        then = self.displacement_at(apply_affine(first.matrix, points + moved))
        field = moved + then @ back[:3, :3].T
        return Transform(matrix, _channel_first(field), first.grid_affine)

    def __matmul__(self, first: Transform) -> Transform:
        """``c_from_a = c_from_b @ b_from_a``."""
        return self.compose(first)

    def as_displacement(
        self, grid_affine: npt.ArrayLike, grid_shape: tuple[int, int, int]
    ) -> Transform:
        """The same map on a grid as a displacement alone, its matrix the identity.

        This is the form that a displacement file holds. Outside the grid it moves nothing.
        """
        points = grid_points(grid_affine, grid_shape)
        field = _channel_first(self.apply(points) - points)
        return Transform(np.eye(4), field, np.asarray(grid_affine, dtype=np.float64))

    def folded_share(self) -> float:
        """The share of voxels of the displacement's grid where the map turns space inside out.

        There the determinant of the Jacobian is not positive: tissue would pass through itself.
        """
        if self.displacement_mm is None or self.grid_affine is None:
            return float(np.linalg.det(self.matrix[:3, :3]) <= 0)
        into_voxels = np.linalg.inv(self.grid_affine[:3, :3]).astype(np.float32)
        side = np.sign(np.linalg.det(self.matrix[:3, :3])).astype(np.float32)
        n, *plane = self.displacement_mm.shape[1:]
        per_row = int(np.prod(plane))
        rows = max(1, _SLAB_VOXELS // per_row)
        folded = 0
        for start in range(0, n, rows):
            low = max(0, start - 1)
            slab = self.displacement_mm[:, low : start + rows + 1]
            determinant = _determinant(np.einsum("ab,bijk->aijk", into_voxels, slab))
            own = determinant[start - low : start - low + rows]
            folded += int((own * side <= 0).sum())
        return float(folded / (n * per_row))


def _determinant(field: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(I, J, K) of the Jacobian of ``x + field(x)``, (3, I, J, K) in voxels."""
    columns = []
    for axis, size in enumerate(field.shape[1:]):
        slope = np.gradient(field, axis=axis + 1) if size > 1 else np.zeros_like(field)
        slope[axis] += 1
        columns.append(slope)
    a, b, c = columns
    result = a[0] * (b[1] * c[2] - b[2] * c[1])
    result += a[1] * (b[2] * c[0] - b[0] * c[2])
    result += a[2] * (b[0] * c[1] - b[1] * c[0])
    return np.asarray(result)


def grid_points(grid_affine: npt.ArrayLike, grid_shape: tuple[int, int, int]) -> Points:
    """(I, J, K, 3) world positions of a grid's voxel centres, RAS+ mm."""
    affine = np.asarray(grid_affine, dtype=np.float64)
    i, j, k = (np.arange(n, dtype=np.float64) for n in grid_shape)
    points = i[:, None, None, None] * affine[:3, 0] + j[:, None, None] * affine[:3, 1]
    return np.asarray(points + k[:, None] * affine[:3, 2] + affine[:3, 3])


def outside_value(volume: Volume) -> float:
    """What lies outside the field of view of `volume`: air (-1024 HU) for a CT, else 0."""
    return AIR_HU if volume.meta.get("units") == "HU" else 0.0


def resample(
    volume: Volume,
    moving_from_fixed: Transform | None,
    grid_affine: npt.ArrayLike,
    grid_shape: tuple[int, int, int],
    *,
    interpolation: Interpolation | None = None,
    default: float | None = None,
    n_threads: int = 1,
) -> Volume:
    """`volume`, the moving one, on the fixed grid, in one interpolation.

    Each voxel of the fixed grid is mapped by `moving_from_fixed` to a place in `volume`; grids may
    be oblique and sheared. The result does not depend on `n_threads`.

    Args:
        volume: (C, I, J, K) float32, or an integer label.
        moving_from_fixed: world points of fixed into moving, RAS+ mm; None: the identity.
        grid_affine: (4, 4) voxel -> RAS+ mm of the fixed grid.
        grid_shape: (I, J, K) of the fixed grid.
        interpolation: linear unless given; labels are always nearest.
        default: the value outside `volume`; see `outside_value` (labels: 0).
        n_threads: for ITK.

    Raises:
        ConfigError: an interpolation other than nearest was asked for a label.
    """
    is_label = not volume.as_tensor().is_floating_point()
    if is_label and interpolation not in (None, "nearest"):
        raise ConfigError(f"a label: expected interpolation 'nearest', got {interpolation!r}")
    how = "nearest" if is_label else interpolation or "linear"
    value = outside_value(volume) if default is None else default
    affine = as_stored(grid_affine)
    mapping = _index_mapping(moving_from_fixed or Transform.identity(), affine, affine_of(volume))
    channels = [
        _resample_channel(channel, mapping, grid_shape, how, 0 if is_label else value, n_threads)
        for channel in array_of(volume)
    ]
    meta = {key: volume.meta[key] for key in ("modality", "series_uid")}
    if is_label:
        return make_label(channels[0], affine, **cast("Any", meta))
    meta |= {key: volume.meta[key] for key in ("units", "reasons")}
    return make_volume(np.stack(channels), affine, **cast("Any", meta))


def _index_mapping(moving_from_fixed: Transform, fixed: Affine, moving: Affine) -> Any:
    """A SimpleITK transform from voxel indices of the fixed grid to those of the moving grid.

    In index space no grid has a direction, so that sheared grids are as good as any other.
    """
    import SimpleITK as sitk

    to_moving = np.linalg.inv(moving) @ moving_from_fixed.matrix
    field, grid = moving_from_fixed.displacement_mm, moving_from_fixed.grid_affine
    if field is None or grid is None:
        return _index_affine(to_moving @ fixed)
    to_grid = np.linalg.inv(grid)
    in_voxels = np.einsum("ab,bijk->kjia", to_grid[:3, :3], field.astype(np.float64))
    image = sitk.GetImageFromArray(np.ascontiguousarray(in_voxels), isVector=True)
    parts = [
        _index_affine(to_moving @ grid),
        sitk.DisplacementFieldTransform(image),
        _index_affine(to_grid @ fixed),
    ]
    return sitk.CompositeTransform(parts)


def _index_affine(matrix: Affine) -> Any:
    import SimpleITK as sitk

    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def _resample_channel(
    channel: npt.NDArray[Any],
    mapping: Any,
    shape: tuple[int, int, int],
    interpolation: str,
    default: float,
    n_threads: int,
) -> npt.NDArray[Any]:
    import SimpleITK as sitk

    kinds = {
        "linear": sitk.sitkLinear,
        "nearest": sitk.sitkNearestNeighbor,
        "bspline": sitk.sitkBSpline,
    }
    if interpolation not in kinds:
        raise ConfigError(f"expected interpolation of {sorted(kinds)}, got {interpolation!r}")
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in shape])
    resampler.SetTransform(mapping)
    resampler.SetInterpolator(kinds[interpolation])
    resampler.SetDefaultPixelValue(float(default))
    resampler.SetNumberOfThreads(max(1, n_threads))
    image = sitk.GetImageFromArray(channel.transpose(2, 1, 0))
    return np.asarray(sitk.GetArrayFromImage(resampler.Execute(image)).transpose(2, 1, 0))


def _interpolate_vectors(field: npt.NDArray[np.float32], index: Points) -> Points:
    """(..., 3) values of a (3, I, J, K) field at (..., 3) indices; zero outside the voxels."""
    from scipy.ndimage import map_coordinates

    size = np.array(field.shape[1:], dtype=np.float64)
    inside = np.asarray((index >= -0.5) & (index <= size - 0.5)).all(axis=-1, keepdims=True)
    at = np.moveaxis(np.clip(index, 0, size - 1), -1, 0)
    values = [
        map_coordinates(part, at, order=1, mode="nearest", output=np.float64) for part in field
    ]
    return np.asarray(np.stack(values, axis=-1) * inside)


def _inverse(matrix: Affine) -> Affine:
    back = np.array(np.linalg.inv(matrix), dtype=np.float64)
    back[3] = 0.0, 0.0, 0.0, 1.0
    return back


def _channel_first(field: Points) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(np.moveaxis(field, -1, 0), dtype=np.float32)


def _square(matrix: npt.ArrayLike | None, where: str) -> Affine:
    checked = np.array(matrix, dtype=np.float64)
    if checked.shape != (4, 4) or not np.isfinite(checked).all():
        raise InputError(f"{where}: expected a finite 4x4 matrix, got shape {checked.shape}")
    if abs(np.linalg.det(checked[:3, :3])) < 1e-9:
        raise InputError(f"{where}: expected an invertible matrix, got a singular one")
    checked.flags.writeable = False
    return checked
