"""Parallel-beam projections of a stack of axial slices on a coarse grid, and back.

Beam hardening, streaks and the spread of quantum noise are smooth enough for pixels of some
millimetres, so a whole head takes a fraction of a second. Angles lie evenly over half a turn in the
plane of I and J. Kak and Slaney 1988, doi:10.1137/1.9780898719277, chapter 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from radloom.transforms.synthesis.fields import Grid

__all__ = ["Projector"]


@dataclass(frozen=True)
class Projector:
    """The geometry of one scanner over one grid."""

    grid: Grid
    pixel_mm: float = 3.0
    """In the plane, of the coarse grid and of the detector."""
    slice_mm: float = 4.0
    n_angles: int = 90

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Of the grid, edge to edge."""
        i, j, k = (n * s for n, s in zip(self.grid.shape, self.grid.spacing_mm, strict=True))
        return i, j, k

    @property
    def coarse_shape(self) -> tuple[int, int, int]:
        """(I, J, K) of the coarse grid."""
        steps = (self.pixel_mm, self.pixel_mm, self.slice_mm)
        i, j, k = (
            min(n, max(1, round(extent / step)))
            for n, extent, step in zip(self.grid.shape, self.extent_mm, steps, strict=True)
        )
        return i, j, k

    @property
    def n_detectors(self) -> int:
        """Over the longer side of the slice."""
        return max(2, round(max(self.extent_mm[:2]) / self.pixel_mm))

    @property
    def detector_mm(self) -> float:
        """Size of one element."""
        return max(self.extent_mm[:2]) / self.n_detectors

    def coarse(self, volume: Tensor) -> Tensor:
        """(1, I, J, K) on the grid -> its means (K, I, J) on the coarse grid."""
        return functional.adaptive_avg_pool3d(volume, self.coarse_shape)[0].movedim(2, 0)

    def fine(self, stack: Tensor, n_slices: int | None = None) -> Tensor:
        """(K, I, J) on the coarse grid -> (1, I, J, K) on the grid, or with `n_slices` for K."""
        i, j, k = self.grid.shape
        volume = stack.movedim(0, 2)[None, None]
        size = (i, j, k if n_slices is None else n_slices)
        return functional.interpolate(volume, size, mode="trilinear", align_corners=False)[0]

    def project(self, stack: Tensor) -> Tensor:
        """(K, I, J) -> (angles, K, detectors) line integrals, in the stack's unit times mm."""
        angles, t = self._angles(stack.device), self._detectors(stack.device)
        cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
        x = t[:, None] * cos - t * sin
        y = t[:, None] * sin + t * cos
        points = torch.stack([2 * y / self.extent_mm[1], 2 * x / self.extent_mm[0]], -1)
        rays = functional.grid_sample(
            stack.expand(self.n_angles, *stack.shape), points, align_corners=False
        )
        return rays.sum(-1) * self.detector_mm

    def backproject(self, sinogram: Tensor) -> Tensor:
        """(angles, K, detectors) -> (K, I, J): the mean of the rays through each pixel."""
        i, j, _ = self.coarse_shape
        angles = self._angles(sinogram.device)
        x, y = (
            ((torch.arange(n, device=sinogram.device) + 0.5) / n - 0.5) * extent
            for n, extent in zip((i, j), self.extent_mm[:2], strict=True)
        )
        t = x[:, None] * angles.cos()[:, None, None] + y * angles.sin()[:, None, None]
        points = torch.stack([2 * t / max(self.extent_mm[:2]), torch.zeros_like(t)], -1)
        return functional.grid_sample(
            sinogram[:, :, None], points, padding_mode="border", align_corners=False
        ).mean(0)

    def reconstruct(self, sinogram: Tensor) -> Tensor:
        """(angles, K, detectors) line integrals -> (K, I, J): filtered back-projection.

        The ramp ends in a Hann window, which keeps the few angles from showing as lines.
        """
        n = 2 * sinogram.shape[-1]
        # the ramp made from its samples in space, which keeps the mean right
        offset = torch.fft.fftfreq(n, 1 / n, device=sinogram.device)
        kernel = torch.where(offset % 2 == 1, -1 / (math.pi * offset).square(), 0.0)
        kernel[0] = 0.25
        window = 0.5 + 0.5 * torch.cos(2 * math.pi * torch.fft.rfftfreq(n, device=sinogram.device))
        ramp = torch.fft.rfft(kernel).real * window / self.detector_mm
        spectrum = torch.fft.rfft(sinogram, n) * ramp
        filtered = torch.fft.irfft(spectrum, n)[..., : sinogram.shape[-1]]
        return self.backproject(filtered) * math.pi

    def _angles(self, device: torch.device) -> Tensor:
        return torch.arange(self.n_angles, device=device) * (math.pi / self.n_angles)

    def _detectors(self, device: torch.device) -> Tensor:
        n = self.n_detectors
        return ((torch.arange(n, device=device) + 0.5) / n - 0.5) * max(self.extent_mm[:2])
