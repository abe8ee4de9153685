"""NRRD, MHA and MHD images read into volumes through SimpleITK."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radloom.errors import ReasonCode, SeriesRefused
from radloom.geometry import Affine, affine_from_parts, as_stored, flip_lps_ras

if TYPE_CHECKING:
    from radloom.shapes import Volume

__all__ = ["ITK_SUFFIXES", "ItkHeader", "read_itk_header", "read_itk_image"]

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
"""Endings of the files that are read here."""


@dataclass(frozen=True)
class ItkHeader:
    """The grid of a file, known without its voxels."""

    shape: tuple[int, ...]
    """(I, J, K)."""
    affine: Affine
    """(4, 4) voxel -> RAS+ mm."""


def read_itk_header(path: Path) -> ItkHeader:
    """The grid of an NRRD, MHA or MHD file, its voxels left unread.

    Raises:
        SeriesRefused: not such a file, not 3D, or with an affine that is singular or not finite.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path) from error
    if reader.GetDimension() != 3:
        raise SeriesRefused(
            ReasonCode.NOT_AN_IMAGE,
            f"<{path.name}>: expected three axes, got {reader.GetDimension()}",
        )
    if reader.GetNumberOfComponents() != 1:
        raise SeriesRefused(
            ReasonCode.COLOUR,
            f"<{path.name}>: expected one number a voxel, got {reader.GetNumberOfComponents()}",
        )
    affine = _affine(reader, path)
    return ItkHeader(tuple(int(n) for n in reader.GetSize()), affine)


def read_itk_image(
    path: Path, *, modality: str = "MR", units: str = "arbitrary", series_uid: str = ""
) -> Volume:
    """The volume (1, I, J, K) of an NRRD, MHA or MHD file, on the file's own grid.

    Raises:
        SeriesRefused: as `read_itk_header`; truncated, or with NaN.
    """
    import SimpleITK as sitk

    from radloom.shapes import make_volume

    header = read_itk_header(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise SeriesRefused(
            ReasonCode.TRUNCATED, f"<{path.name}>: the voxels are cut or damaged; copy it anew"
        ) from error
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float32)
    if not np.isfinite(array).all():
        raise SeriesRefused(
            ReasonCode.NOT_FINITE,
            f"<{path.name}>: expected finite values, got NaN or infinity; replace them by what "
            "they stand for",
        )
    return make_volume(array, header.affine, modality=modality, units=units, series_uid=series_uid)


def _affine(reader: Any, path: Path) -> Affine:
    affine = affine_from_parts(reader.GetOrigin(), reader.GetSpacing(), reader.GetDirection())
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise SeriesRefused(
            ReasonCode.INVALID_AFFINE, f"<{path.name}>: expected a finite, invertible affine"
        )
    return as_stored(flip_lps_ras(affine))


def _unreadable(path: Path) -> SeriesRefused:
    if path.stat().st_size == 0:
        return SeriesRefused(ReasonCode.TRUNCATED, f"<{path.name}>: the file is empty")
    return SeriesRefused(
        ReasonCode.UNREADABLE, f"<{path.name}>: not a valid image of its kind; check the file"
    )
