"""The grid that a deformable registration works on: cubes along the world's axes round a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from radloom.geometry import Affine, apply_affine, spacing_of
from radloom.models.registration.coarse import at_spacing
from radloom.models.registration.foreground import head_mask
from radloom.shapes import LabelVolume, Volume, affine_of, spatial_shape
from radloom.transforms.spatial import Transform, grid_points, resample

__all__ = ["WorkingGrid", "field_on_blocks", "field_on_grid", "grid_round"]

MASK_SPACING_MM = 4.0
SLAB_VOXELS = 2_000_000
"""How many points are mapped at once."""


@dataclass(frozen=True)
class WorkingGrid:
    """Voxels along R, A and S, the same size along each axis."""

    shape: tuple[int, int, int]
    spacing_mm: float
    corner_mm: tuple[float, float, float]
    """The outer corner of the first voxel."""

    @property
    def affine(self) -> Affine:
        """(4, 4) voxel -> RAS+ mm."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = np.array(self.corner_mm) + self.spacing_mm / 2
        return affine

    def coarser(self, factor: int) -> WorkingGrid:
        """The grid of blocks of `factor` voxels."""
        i, j, k = (n // factor for n in self.shape)
        return WorkingGrid((i, j, k), factor * self.spacing_mm, self.corner_mm)

    def see(
        self, volume: Volume, grid_to_volume: Transform | None, *, n_threads: int = 1
    ) -> torch.Tensor:
        """(I, J, K) float32: the first channel of `volume`, from blocks no larger than a voxel."""
        smooth = at_spacing(volume[:1], self.spacing_mm)
        seen = resample(smooth, grid_to_volume, self.affine, self.shape, n_threads=n_threads)
        return seen.as_tensor()[0]

    def covered(self, volume: Volume, grid_to_volume: Transform) -> torch.Tensor:
        """(I, J, K) bool: which voxels lie in the field of view of `volume`, at a quarter."""
        coarse = self.coarser(4)
        points = grid_to_volume.apply(grid_points(coarse.affine, coarse.shape))
        index = apply_affine(np.linalg.inv(affine_of(volume)), points)
        last = np.array(spatial_shape(volume)) - 0.5
        within = torch.from_numpy(((index >= -0.5) & (index <= last)).all(axis=-1))
        return _enlarged(within, self.shape)


def grid_round(
    volume: Volume,
    *,
    mask: LabelVolume | None = None,
    margin_mm: float = 8.0,
    spacing_mm: float = 1.0,
    multiple: int = 16,
    most_voxels: int = 16_000_000,
) -> tuple[WorkingGrid, torch.Tensor]:
    """A grid round the head in `volume`, and (I, J, K) bool: the head and `margin_mm` round it.

    Args:
        volume: (1, I, J, K), any grid.
        mask: what to take in place of the head, as it is.
        margin_mm: of air that counts.
        spacing_mm: of the voxels, larger where the grid would have more than `most_voxels`.
        multiple: of which the grid's shape is.
        most_voxels: of the grid.
    """
    inside, affine = _inside(volume, mask, margin_mm)
    points = apply_affine(affine, np.argwhere(inside))
    reach = spacing_of(affine).max() / 2
    low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
    spacing = max(spacing_mm, float(np.prod(high - low) / most_voxels) ** (1 / 3))
    i, j, k = (multiple * max(1, round(n)) for n in np.ceil((high - low) / spacing / multiple))
    corner = (low + high) / 2 - spacing * np.array([i, j, k]) / 2
    x, y, z = (float(value) for value in np.round(corner, 3))
    grid = WorkingGrid((i, j, k), spacing, (x, y, z))
    coarse = grid.coarser(4)
    index = apply_affine(np.linalg.inv(affine), grid_points(coarse.affine, coarse.shape))
    nearest = np.clip(np.rint(index).astype(int), 0, np.array(inside.shape) - 1)
    within = (np.abs(index - nearest) <= 1).all(axis=-1)
    on_grid = torch.from_numpy(inside[tuple(np.moveaxis(nearest, -1, 0))] & within)
    return grid, _enlarged(on_grid, grid.shape)


def field_on_grid(
    ddf: torch.Tensor,
    grid: WorkingGrid,
    before: Affine,
    after: Affine,
    grid_affine: Affine,
    shape: tuple[int, int, int],
) -> npt.NDArray[np.float32]:
    """(3, I, J, K) float32 displacement in RAS+ mm of `before`, then `ddf`, then `after`.

    Args:
        ddf: (3, i, j, k) in voxels of `grid`; outside of it the border goes on.
        grid: where it lives.
        before: (4, 4) world -> world, the map of a point into `grid`.
        after: (4, 4) world -> world, the map of the displaced point.
        grid_affine: voxel -> RAS+ mm of the grid wanted.
        shape: of the grid wanted.
    """
    last = np.array(grid.shape, dtype=np.float64)[:, None] - 1
    into = 2 * (np.linalg.inv(grid.affine) @ before @ grid_affine)[:3] / last
    into[:, 3] -= 1
    still = (after @ before @ grid_affine - grid_affine)[:3]
    linear = (after @ grid.affine)[:3, :3].tolist()
    carried = torch.stack([a * ddf[0] + b * ddf[1] + c * ddf[2] for a, b, c in linear])[None]
    field = np.empty((3, *shape), dtype=np.float32)
    rows = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    i, j, k = (torch.arange(n, dtype=torch.float32, device=ddf.device) for n in shape)
    for start in range(0, shape[0], rows):
        axes = (i[start : start + rows], j, k)
        places = torch.stack(_over(into[::-1], axes), dim=-1)[None]
        moved = functional.grid_sample(
            carried, places, mode="bilinear", padding_mode="border", align_corners=True
        )[0]
        for row, part in zip(moved, _over(still, axes), strict=True):
            row += part
        field[:, start : start + rows] = moved.cpu().numpy()
    return field


def field_on_blocks(field: torch.Tensor, grid: WorkingGrid, wanted: WorkingGrid) -> torch.Tensor:
    """(3, I, J, K) a field of `grid` at the voxels of another grid, its values as they are.

    Outside of `grid` the border goes on.
    """
    into = np.linalg.inv(grid.affine) @ wanted.affine
    axes = [
        float(into[axis, axis]) * torch.arange(n, dtype=torch.float32) + float(into[axis, 3])
        for axis, n in enumerate(wanted.shape)
    ]
    last = torch.tensor(grid.shape) - 1
    places = 2 * torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) / last - 1
    return functional.grid_sample(
        field[None],
        places.flip(-1)[None].to(field),
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )[0]


def _inside(
    volume: Volume, mask: LabelVolume | None, margin_mm: float
) -> tuple[npt.NDArray[np.bool_], Affine]:
    if mask is not None:
        given = np.asarray(mask.as_tensor()[0].numpy() > 0)
        if given.any():
            return given, affine_of(mask)
    coarse = at_spacing(volume[:1], MASK_SPACING_MM)
    return head_mask(coarse, margin_mm=margin_mm), affine_of(coarse)


def _enlarged(mask: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    for axis, size in enumerate(shape):
        mask = mask.repeat_interleave(size // mask.shape[axis], dim=axis)
    return mask


def _over(rows: npt.NDArray[np.float64], axes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """(I, J, K) float32 of each row of an affine map, over the indices along three axes."""
    i, j, k = axes
    return [(a * i + d)[:, None, None] + (b * j)[:, None] + c * k for a, b, c, d in rows.tolist()]
