"""Spatial transforms and resampling, in RAS+ mm, in one interpolation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radloom.geometry import Affine

__all__ = ["Transform"]


@dataclass(frozen=True)
class Transform:
    r"""A point map named for its direction: ``moving_from_fixed`` maps points of fixed into moving.

    .. math:: x_{moving} = M \, (x_{fixed} + u(x_{fixed}))

    with world points in RAS+ mm. Resampling the moving image through it gives `warped_moving` on
    the fixed grid. `u` is zero where `displacement_mm` is None, and outside its grid.
    """

    matrix: Affine
    """(4, 4) float64 world -> world, RAS+ mm."""
    displacement_mm: npt.NDArray[np.float32] | None = None
    """(3, I, J, K) float32 displacement u in RAS+ mm at the voxel centres of `grid_affine`."""
    grid_affine: Affine | None = None
    """(4, 4) voxel -> RAS+ mm of the displacement's grid."""
