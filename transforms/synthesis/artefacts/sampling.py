"""The voxels of the scanner between the signal and the grid: field of view, pixels and slices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from radloom.transforms.synthesis.artefacts.axes import along, fourier_resampling
from radloom.transforms.synthesis.artefacts.field_of_view import (
    FieldOfView,
    acquired_part,
    shown_part,
)
from radloom.transforms.synthesis.artefacts.resolution import (
    ResolutionParameters,
    k_space_filter,
    pixels_from_voxels,
    voxels_from_pixels,
)
from radloom.transforms.synthesis.artefacts.slices import (
    SliceParameters,
    slice_gains,
    slices_from_voxels,
    voxels_from_slices,
)
from radloom.transforms.synthesis.fields import Grid

__all__ = ["AxisSampling", "Sampling", "sampling_of"]


@dataclass(frozen=True)
class AxisSampling:
    """One axis of `n` voxels of the grid, seen by `m` samples of the scanner. None: nothing."""

    samples_from_voxels: Tensor | None = None
    """(m, n)."""
    samples_from_white: Tensor | None = None
    """(m, lines) what the scanner makes of white noise in k-space, of unit variance."""
    voxels_from_samples: Tensor | None = None
    """(n, m)."""

    def n_lines(self, n: int) -> int:
        """How many lines of k-space are measured where the grid has `n` voxels."""
        for matrix, side in ((self.samples_from_white, 1), (self.samples_from_voxels, 0)):
            if matrix is not None:
                return int(matrix.shape[side])
        return n

    @property
    def spread(self) -> Tensor | None:
        """(n,) deviation that noise of unit variance on the samples has on the voxels."""
        show = self.voxels_from_samples
        if show is None:
            return None
        if self.samples_from_white is not None:
            show = show @ self.samples_from_white
        return show.square().sum(1).sqrt()


@dataclass(frozen=True)
class Sampling:
    """The scanner's lattice; its samples lie along the axes of the grid."""

    axes: tuple[AxisSampling, AxisSampling, AxisSampling]

    def acquire(self, signal: Tensor) -> Tensor:
        """(..., I, J, K) on the grid -> (..., L, M, N) on the scanner's lattice."""
        return _along_all(signal, [axis.samples_from_voxels for axis in self.axes])

    def n_lines(self, grid: Grid) -> tuple[int, int, int]:
        """Lines of k-space, or slices, along each axis."""
        i, j, k = (axis.n_lines(n) for axis, n in zip(self.axes, grid.shape, strict=True))
        return i, j, k

    def shape_noise(self, white: Tensor) -> Tensor:
        """White noise (..., lines of each axis) -> (..., L, M, N), correlated, of unit variance."""
        return _along_all(white, [axis.samples_from_white for axis in self.axes])

    def show(self, samples: Tensor) -> Tensor:
        """(..., L, M, N) on the lattice -> (..., I, J, K) on the grid."""
        return _along_all(samples, [axis.voxels_from_samples for axis in self.axes])

    def show_deviation(self, sigma: Tensor, grid: Grid) -> Tensor:
        """Deviation of noise on the lattice -> (1, I, J, K) on the grid.

        Args:
            sigma: (1, L, M, N), varying slowly, or without axes where it is even.
            grid: the grid the samples are shown on.
        """
        shown = self.show(sigma) if sigma.ndim else sigma.reshape(1, 1, 1, 1)
        for n, axis in enumerate(self.axes):
            if axis.spread is not None:
                shape = [-1 if n == d else 1 for d in range(3)]
                shown = shown * axis.spread.to(shown).reshape(shape)
        return shown.expand(1, *grid.shape).contiguous()


def _along_all(volume: Tensor, matrices: list[Tensor | None]) -> Tensor:
    for axis in (2, 1, 0):
        volume = along(volume, matrices[axis], axis)
    return volume


def sampling_of(
    grid: Grid,
    views: tuple[FieldOfView | None, FieldOfView | None, FieldOfView | None] = (None,) * 3,
    resolution: ResolutionParameters | None = None,
    slices: SliceParameters | None = None,
) -> Sampling:
    """The lattice of a scanner over a grid; along the axis of the slices there is no k-space."""
    i, j, k = (_axis_sampling(grid, axis, views[axis], resolution, slices) for axis in range(3))
    return Sampling((i, j, k))


def _axis_sampling(
    grid: Grid,
    axis: int,
    view: FieldOfView | None,
    resolution: ResolutionParameters | None,
    slices: SliceParameters | None,
) -> AxisSampling:
    n, spacing = grid.shape[axis], grid.spacing_mm[axis]
    length = n if view is None else view.stop - view.start
    if slices is not None and slices.axis == axis:
        sampling = _sliced(length, spacing, slices)
    elif resolution is not None and resolution.coarseness[axis] > 1:
        sampling = _encoded(length, resolution.coarseness[axis], resolution)
    else:
        sampling = AxisSampling()
    return sampling if view is None else _viewed(n, view, sampling)


def _sliced(n: int, spacing_mm: float, slices: SliceParameters) -> AxisSampling:
    acquire = slices_from_voxels(n, spacing_mm, slices)
    gains = slice_gains(len(acquire), slices)
    return AxisSampling(gains[:, None] * acquire, None, voxels_from_slices(n, spacing_mm, slices))


def _encoded(n: int, coarseness: float, resolution: ResolutionParameters) -> AxisSampling:
    m = max(1, round(n / coarseness))
    apodisation = resolution.apodisation
    acquire, show = (
        pixels_from_voxels(n, m, apodisation),
        voxels_from_pixels(n, m, resolution.interpolation),
    )
    lines = torch.arange(m, dtype=torch.float64)
    filtered = fourier_resampling(lines, m, k_space_filter(m, apodisation))
    if resolution.interpolation == "fourier":
        # zeros are filled in before the magnitude is taken: the samples are the voxels
        return AxisSampling(show @ acquire, _of_unit_rows(show @ filtered))
    return AxisSampling(acquire, _of_unit_rows(filtered) if apodisation > 0 else None, show)


def _of_unit_rows(matrix: Tensor) -> Tensor:
    return matrix / matrix.square().sum(1, keepdim=True).sqrt()


def _viewed(n: int, view: FieldOfView, inner: AxisSampling) -> AxisSampling:
    acquire, show = acquired_part(n, view), shown_part(n, view)
    if inner.samples_from_voxels is not None:
        acquire = inner.samples_from_voxels @ acquire
    if inner.voxels_from_samples is not None:
        show = show @ inner.voxels_from_samples
    return AxisSampling(acquire, inner.samples_from_white, show)
