"""The volume contract: what every array between two stages looks like.

A `Volume` is a MONAI :class:`~monai.data.MetaTensor`, channel first (C, I, J, K), float32, with a
4x4 float64 affine from voxel indices to RAS+ mm. C is 1, or time, or the channels of a 4D series.
`meta` holds, besides what MONAI puts there:

- ``modality``: DICOM code: ``MR``, ``CT``, ``PT``, ... (0008,0060);
- ``units``: one of `UNITS`;
- ``series_uid``: SeriesInstanceUID (0020,000E), or empty;
- ``reasons``: tuple of reason codes (str) that ingestion attached.

A `LabelVolume` is the same with an integer dtype (uint8 or uint16), C = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from radloom.errors import GridMismatch, InputError
from radloom.geometry import Affine, as_stored, same_grid

__all__ = [
    "UNITS",
    "LabelVolume",
    "Volume",
    "affine_of",
    "array_of",
    "like",
    "make_label",
    "make_volume",
    "require_same_grid",
    "require_volume",
    "spatial_shape",
]

Volume: TypeAlias = MetaTensor
"""(C, I, J, K) float32, affine to RAS+ mm."""

LabelVolume: TypeAlias = MetaTensor
"""(1, I, J, K) uint8 or uint16, affine to RAS+ mm."""

UNITS = ("HU", "SUV", "Bq/mL", "1/cm", "arbitrary")
"""What the numbers of a volume mean."""


def make_volume(
    array: npt.ArrayLike | torch.Tensor,
    affine: npt.ArrayLike,
    *,
    modality: str,
    units: str,
    series_uid: str = "",
    reasons: tuple[str, ...] = (),
) -> Volume:
    """A volume of the contract from an array (I, J, K) or (C, I, J, K).

    The affine is rounded to what a NIfTI file stores (`radloom.geometry.as_stored`).

    Raises:
        InputError: the array is not 3D or 4D, or the affine is singular or not finite.
    """
    if units not in UNITS:
        raise InputError(f"expected units to be one of {UNITS}, got {units!r}")
    meta = {
        "modality": modality,
        "units": units,
        "series_uid": series_uid,
        "reasons": tuple(reasons),
    }
    return _make(array, affine, torch.float32, meta)


def make_label(
    array: npt.ArrayLike | torch.Tensor,
    affine: npt.ArrayLike,
    *,
    modality: str = "SEG",
    series_uid: str = "",
) -> LabelVolume:
    """A label volume (1, I, J, K) from an integer array; uint8 where its values fit, else uint16.

    Raises:
        InputError: values are negative, above 65535 or not whole numbers.
    """
    values = np.asarray(array.cpu() if isinstance(array, torch.Tensor) else array)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise InputError(f"expected labels within 0..65535, got {low:g}..{high:g}")
    if values.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
        raise InputError("expected whole numbers as labels, got fractions")
    dtype = torch.uint8 if high <= np.iinfo(np.uint8).max else torch.uint16
    meta = {"modality": modality, "units": "arbitrary", "series_uid": series_uid, "reasons": ()}
    return _make(values.astype(np.int32), affine, dtype, meta)


def _make(
    array: npt.ArrayLike | torch.Tensor,
    affine: npt.ArrayLike,
    dtype: torch.dtype,
    meta: Mapping[str, Any],
) -> MetaTensor:
    tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))
    tensor = (tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor).to(dtype)
    if tensor.ndim == 3:
        tensor = tensor[None]
    if tensor.ndim != 4:
        raise InputError(f"expected (I, J, K) or (C, I, J, K), got shape {tuple(tensor.shape)}")
    matrix = as_stored(affine)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError("expected a finite 4x4 affine")
    if abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise InputError("expected an invertible affine, got a singular one")
    return MetaTensor(
        tensor.contiguous(), affine=torch.from_numpy(matrix), meta={**meta, "space": "RAS"}
    )


def like(volume: Volume, array: npt.ArrayLike | torch.Tensor, **meta: Any) -> Volume:
    """New numbers on `volume`'s grid, with its meta except what `meta` replaces.

    `array` is (I, J, K) or (C, I, J, K) and keeps `volume`'s spatial shape.

    Raises:
        GridMismatch: the spatial shapes differ.
    """
    known = ("modality", "units", "series_uid", "reasons")
    kept = {key: volume.meta[key] for key in known} | meta
    result = make_volume(array, affine_of(volume), **cast("Any", kept))
    if result.shape[1:] != volume.shape[1:]:
        raise GridMismatch(
            f"expected spatial shape {tuple(volume.shape[1:])}, got {tuple(result.shape[1:])}"
        )
    return result


def affine_of(volume: MetaTensor) -> Affine:
    """A copy of the (4, 4) float64 affine as NumPy, voxel -> RAS+ mm."""
    return np.array(torch.as_tensor(volume.affine).cpu().numpy(), dtype=np.float64)


def array_of(volume: MetaTensor) -> npt.NDArray[Any]:
    """The (C, I, J, K) values as NumPy, without a copy where the volume lies in main memory."""
    return cast("npt.NDArray[Any]", volume.as_tensor().detach().cpu().numpy())


def spatial_shape(volume: MetaTensor) -> tuple[int, int, int]:
    """(I, J, K)."""
    _, i, j, k = volume.shape
    return int(i), int(j), int(k)


def require_volume(volume: MetaTensor, where: str = "volume") -> Volume:
    """`volume` itself, once it is known to keep the contract.

    Raises:
        InputError: it does not; the message says in what.
    """
    if not isinstance(volume, MetaTensor) or volume.ndim != 4:
        raise InputError(
            f"{where}: expected a MetaTensor (C, I, J, K), got {type(volume).__name__}"
        )
    if volume.as_tensor().dtype != torch.float32:
        raise InputError(f"{where}: expected float32, got {volume.as_tensor().dtype}")
    if volume.meta.get("units") not in UNITS:
        raise InputError(f"{where}: expected units of {UNITS}, got {volume.meta.get('units')!r}")
    if not bool(torch.isfinite(volume.as_tensor()).all()):
        raise InputError(f"{where}: expected finite values, got NaN or infinity")
    return volume


def require_same_grid(a: MetaTensor, b: MetaTensor, where: str = "") -> None:
    """Nothing, if `a` and `b` share (I, J, K) and affine.

    Raises:
        GridMismatch: they do not.
    """
    shape_a, shape_b = spatial_shape(a), spatial_shape(b)
    if not same_grid(affine_of(a), shape_a, affine_of(b), shape_b):
        raise GridMismatch(f"{where}: expected one grid, got {shape_a} and {shape_b}".lstrip(": "))
