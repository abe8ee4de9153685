"""A volume on its way from files to a file, as NumPy: what ingestion makes without importing torch.

A folder that is only converted never needs a tensor, and importing torch and MONAI takes longer
than converting several series.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radloom.errors import InputError
from radloom.geometry import Affine, as_stored

if TYPE_CHECKING:
    from radloom.shapes import Volume

__all__ = ["Voxels"]


@dataclass(frozen=True, eq=False)
class Voxels:
    """Numbers, grid and meaning of one volume; `volume` gives it as the chain takes it.

    >>> voxels = Voxels(np.zeros((1, 4, 3, 2), np.float32), np.eye(4), "MR", "arbitrary")
    >>> voxels.shape
    (4, 3, 2)
    """

    array: npt.NDArray[np.float32]
    """(C, I, J, K), of any memory layout."""
    affine: Affine
    """(4, 4) voxel -> RAS+ mm, rounded here to what a NIfTI file stores."""
    modality: str
    """DICOM code (0008,0060)."""
    units: str
    """One of `radloom.shapes.UNITS`."""
    series_uid: str = ""
    reasons: tuple[str, ...] = ()
    """Reason codes that ingestion attached."""

    def __post_init__(self) -> None:
        """Rounds the affine.

        Raises:
            InputError: not (C, I, J, K) of float32, or an affine that is singular or not finite.
        """
        if self.array.ndim != 4 or self.array.dtype != np.float32:
            raise InputError(
                f"expected (C, I, J, K) of float32, got {self.array.shape} of {self.array.dtype}"
            )
        matrix = as_stored(self.affine)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise InputError("expected a finite 4x4 affine")
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
            raise InputError("expected an invertible affine, got a singular one")
        object.__setattr__(self, "affine", matrix)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(I, J, K)."""
        _, i, j, k = self.array.shape
        return i, j, k

    @property
    def meta(self) -> dict[str, Any]:
        """What a volume's meta says."""
        return {
            "modality": self.modality,
            "units": self.units,
            "series_uid": self.series_uid,
            "reasons": self.reasons,
        }

    def volume(self) -> Volume:
        """The same as a MetaTensor."""
        import torch

        from radloom.shapes import make_volume

        tensor = torch.from_numpy(np.ascontiguousarray(self.array))
        return make_volume(tensor, self.affine, **self.meta)
