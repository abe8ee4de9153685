"""Transforms as the files that ITK, SimpleITK, ANTs and 3D Slicer read.

Inside the files the world is LPS+; a transform maps points of fixed into moving, as everywhere.

- A matrix is ITK's text format, ``.tfm``: an AffineTransform with its centre at the origin and
  every number in its shortest form that reads back to the same float64.
- A displacement is a NIfTI vector image, ``.nii.gz``, float32, shape (I, J, K, 1, 3) with intent
  1007 (vector). ITK hands such vectors on as they stand, so they hold LPS components (what ANTs
  writes); with intent 1006 (displacement vector) ITK would turn them from RAS.

Files hold no times and no names, so that equal transforms make equal bytes.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np

from radloom.errors import InputError
from radloom.geometry import as_stored, flip_transform_lps_ras, spacing_of
from radloom.transforms.spatial import Transform

__all__ = ["as_written", "read_transform", "transform_suffix", "write_transform"]

NIFTI_VECTOR = 1007
"""NIFTI_INTENT_VECTOR: the components are handed on as they stand, here LPS."""
NIFTI_DISPLACEMENT = 1006
"""NIFTI_INTENT_DISPVECT: ITK takes the components for RAS and turns them."""
_LPS = np.array([-1.0, -1.0, 1.0])
_ORTHOGONAL = 1e-4
"""Largest cosine between two axes of a grid that still counts as a right angle."""


def transform_suffix(transform: Transform) -> str:
    """``.tfm`` for a matrix, ``.nii.gz`` where there is a displacement."""
    return ".tfm" if transform.is_affine else ".nii.gz"


def as_written(transform: Transform) -> Transform:
    """The transform exactly as a read of its file gives it back.

    A matrix keeps every bit. Matrix and displacement become one float32 displacement on a grid
    whose affine float32 holds; outside that grid the file moves nothing.

    Raises:
        InputError: the displacement's grid is sheared, which no file of ITK's can say.
    """
    if transform.displacement_mm is None or transform.grid_affine is None:
        return transform
    axes = transform.grid_affine[:3, :3] / spacing_of(transform.grid_affine)
    if np.abs(axes.T @ axes - np.eye(3)).max() > _ORTHOGONAL:
        raise InputError(
            "a displacement file: expected a grid of right angles, got a sheared one; "
            "resample with Transform.as_displacement first"
        )
    grid = as_stored(transform.grid_affine)
    pure = np.array_equal(transform.matrix, np.eye(4)) and np.array_equal(
        grid, transform.grid_affine
    )
    if pure:
        return transform
    i, j, k = transform.displacement_mm.shape[1:]
    return transform.as_displacement(grid, (i, j, k))


def write_transform(transform: Transform, path: Path) -> Path:
    """Where the transform was written: `path`, with the suffix that its kind demands.

    Args:
        transform: any; see `as_written` for what the file will say.
        path: ``.tfm`` or ``.nii.gz`` or without a suffix.

    Raises:
        InputError: a displacement on a sheared grid.
    """
    suffix = transform_suffix(transform)
    stem = path.name
    for known in (".tfm", ".nii.gz", ".nii", ".txt"):
        stem = stem.removesuffix(known)
    path = path.with_name(stem + suffix)
    written = as_written(transform)
    path.write_bytes(_affine_text(written) if written.is_affine else _displacement_bytes(written))
    return path


def read_transform(path: Path) -> Transform:
    """The transform in a file of ITK's: text, MATLAB or HDF5, or a NIfTI vector image.

    Raises:
        InputError: the file is missing, unreadable or holds another kind of transform.
    """
    if not path.is_file():
        raise InputError(f"<{path.name}>: expected a transform file, got no such file")
    if path.name.endswith((".nii", ".nii.gz")):
        return _read_displacement(path)
    return _read_linear(path)


def _affine_text(transform: Transform) -> bytes:
    matrix = flip_transform_lps_ras(transform.matrix) + 0.0
    numbers = [*matrix[:3, :3].ravel().tolist(), *matrix[:3, 3].tolist()]
    lines = (
        "#Insight Transform File V1.0",
        "#Transform 0",
        "Transform: AffineTransform_double_3_3",
        "Parameters: " + " ".join(repr(float(number)) for number in numbers),
        "FixedParameters: 0 0 0",
        "",
    )
    return "\n".join(lines).encode("ascii")


def _displacement_bytes(transform: Transform) -> bytes:
    import nibabel as nib

    assert transform.displacement_mm is not None
    field = np.moveaxis(transform.displacement_mm, 0, -1) * _LPS.astype(np.float32)
    image = nib.Nifti1Image(field[:, :, :, None, :], transform.grid_affine)
    image.header.set_intent(NIFTI_VECTOR)
    image.header.set_xyzt_units("mm")
    image.set_sform(transform.grid_affine, code=1)
    image.set_qform(transform.grid_affine, code=1)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=6) as file:
        file.write(image.to_bytes())
    return buffer.getvalue()


def _read_displacement(path: Path) -> Transform:
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nib.load(path)
        field = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, ValueError, ImageFileError) as error:
        raise InputError(f"<{path.name}>: expected a NIfTI displacement: {error}") from error
    if field.ndim != 5 or field.shape[3:] != (1, 3):
        raise InputError(
            f"<{path.name}>: expected a vector image (I, J, K, 1, 3), got shape {field.shape}"
        )
    in_ras = int(image.header["intent_code"]) == NIFTI_DISPLACEMENT
    signs = np.ones(3, np.float32) if in_ras else _LPS.astype(np.float32)
    vectors = np.moveaxis(field[:, :, :, 0] * signs, -1, 0)
    return Transform(np.eye(4), vectors, np.asarray(image.affine, dtype=np.float64))


def _read_linear(path: Path) -> Transform:
    import SimpleITK as sitk

    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(
            f"<{path.name}>: expected a transform file that SimpleITK reads"
        ) from error
    return Transform(flip_transform_lps_ras(_matrix_lps(transform.Downcast(), path.name)) + 0.0)


def _matrix_lps(transform: Any, where: str) -> Any:
    """(4, 4) matrix of a linear SimpleITK transform; every bit of it where it is a plain one."""
    if not transform.IsLinear():
        name = transform.GetName()
        raise InputError(f"<{where}>: expected a linear transform, got {name}")
    matrix = np.eye(4)
    if not hasattr(transform, "GetMatrix"):
        # A chain, a translation, or a MatrixOffsetTransformBase (as c3d writes it), which
        # SimpleITK wraps in a chain that holds itself: asked at four points instead.
        origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        ends = [transform.TransformPoint(axis) for axis in np.eye(3).tolist()]
        matrix[:3, :3] = np.array(ends).T - origin[:, None]
        matrix[:3, 3] = origin
        return matrix
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    centre = np.array(transform.GetCenter())
    shift = np.array(transform.GetTranslation())
    matrix[:3, 3] = shift + (centre - matrix[:3, :3] @ centre)
    return matrix
