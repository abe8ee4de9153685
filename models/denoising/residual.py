"""How much anatomy a denoiser took away together with the noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radloom.errors import GridMismatch
from radloom.models.denoising.noise import MIN_VOXELS, head_mask

__all__ = ["ResidualStructure", "residual_structure"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ResidualStructure:
    """What noise alone would leave near zero, within the head; zeros where nothing was removed."""

    autocorrelation: float
    """Correlation of the residual with itself two voxels on, the mean over I, J and K."""
    edge_correlation: float
    """Correlation of the residual's size with the edges of the denoised image."""


def residual_structure(before: npt.ArrayLike, after: npt.ArrayLike) -> ResidualStructure:
    """The structure left in `before` - `after`, both (I, J, K) on one grid.

    Oversmoothing moves edges into the residual: its size then follows the edges of the image, and
    neighbours in it resemble each other. The autocorrelation looks two voxels on, because
    interpolation by the scanner already ties direct neighbours.

    Raises:
        GridMismatch: the shapes differ.
    """
    from scipy import ndimage

    noisy, clean = np.asarray(before, np.float32), np.asarray(after, np.float32)
    if noisy.shape != clean.shape:
        raise GridMismatch(f"expected one grid, got {noisy.shape} and {clean.shape}")
    mask = head_mask(np.asarray(ndimage.uniform_filter(noisy, 3))) if noisy.size else noisy > 0
    if mask.sum() < MIN_VOXELS or np.array_equal(noisy, clean):
        return ResidualStructure(0.0, 0.0)
    residual = noisy - clean
    residual -= ndimage.uniform_filter(residual, 9) if min(noisy.shape) >= 9 else residual.mean()
    lags = [
        _autocorrelation(residual, mask, axis) for axis, size in enumerate(noisy.shape) if size >= 5
    ]
    return ResidualStructure(
        autocorrelation=float(np.mean(lags)) if lags else 0.0,
        edge_correlation=_correlation(np.abs(residual)[mask], _edges(clean)[mask]),
    )


def _autocorrelation(residual: Floats, mask: npt.NDArray[np.bool_], axis: int) -> float:
    here, there = np.moveaxis(residual, axis, 0)[:-2], np.moveaxis(residual, axis, 0)[2:]
    inside = np.moveaxis(mask, axis, 0)
    both = inside[:-2] & inside[2:]
    return _correlation(here[both], there[both])


def _edges(image: Floats) -> Floats:
    """The gradient's magnitude per voxel."""
    from scipy import ndimage

    square = np.zeros_like(image)
    for axis, size in enumerate(image.shape):
        if size >= 3:
            square += ndimage.correlate1d(image, [-0.5, 0.0, 0.5], axis=axis) ** 2
    return np.asarray(np.sqrt(square))


def _correlation(a: Floats, b: Floats) -> float:
    """Pearson's; zero where one of the two is constant."""
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
