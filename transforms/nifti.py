"""NIfTI-1 files (.nii, .nii.gz) read into volumes and written from them, the same bytes each time.

Reading never guesses where the patient is:

- the sform counts where its code is above zero, else the qform; a file with neither is refused,
  for its left and right are unknown;
- a sform and a qform that claim the same space (same code) must put every corner within one voxel
  of each other, else the file is refused; with different codes they name different spaces (scanner
  and template, say) and the sform is taken, as the standard orders;
- NaN and infinity are refused, not replaced: a caller who knows what they stand for says so;
- compressed files are read to their end, so that a wrong checksum or a cut is noticed.

Source: the header nifti1.h, https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radloom.errors import InputError, ReasonCode, SeriesRefused
from radloom.geometry import Affine, as_stored, corners, parts_from_affine, spacing_of

if TYPE_CHECKING:
    from radloom.shapes import Volume

__all__ = ["NiftiHeader", "read_nifti", "read_nifti_header", "write_nifti"]

INTENT_LABEL = 1002
"""NIFTI_INTENT_LABEL: the values are indices into a list of structures."""

CODE_SCANNER = 1
"""NIFTI_XFORM_SCANNER_ANAT: the affine maps to the scanner's coordinates."""

UNITS_MM = 2
"""NIFTI_UNITS_MM for xyzt_units."""

COMPRESSION = 1
"""zlib level. Float volumes of noise hardly shrink further at 9, and take ten times as long."""

HEADER_BYTES = 352
"""The NIfTI-1 header and its four extension bytes; where the data start without extensions."""

SHEAR_TOLERANCE = 1e-4
"""Off-diagonal dot product of unit axes above which a quaternion cannot hold the affine."""


@dataclass(frozen=True)
class NiftiHeader:
    """What a NIfTI file says about its grid, known without its voxels."""

    shape: tuple[int, ...]
    """(I, J, K) or (I, J, K, T); trailing axes of length one are dropped."""
    affine: Affine
    """(4, 4) voxel -> RAS+ mm."""
    is_label: bool
    """Whether intent code and dtype say that the values are labels."""


def read_nifti_header(path: Path) -> NiftiHeader:
    """Grid and kind of a NIfTI file, its voxels left unread.

    Raises:
        SeriesRefused: the header is cut or foreign, or the file has no certain geometry.
    """
    path = Path(path)
    if path.stat().st_size == 0:
        raise SeriesRefused(ReasonCode.TRUNCATED, f"<{path.name}>: the file is empty; copy it anew")
    try:
        with gzip.open(path) if _is_gzip(path) else path.open("rb") as stream:
            head = stream.read(540)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _cut(path, error) from error
    return _interpret(_header_of(head, path), path)


def read_nifti(
    path: Path,
    *,
    label: bool | None = None,
    modality: str = "MR",
    units: str = "arbitrary",
    series_uid: str = "",
    reasons: tuple[str, ...] = (),
    nan_to: float | None = None,
) -> Volume:
    """The volume (C, I, J, K) of a NIfTI file, on the file's own grid and axis order.

    A file is a label volume where it carries the label intent and whole numbers (as `write_nifti`
    writes them), or where `label` says so; otherwise values become float32 with the file's scaling.

    Args:
        path: .nii or .nii.gz.
        label: True or False overrides what the file says.
        modality: NIfTI holds none.
        units: as in `radloom.shapes.UNITS`; NIfTI holds none.
        series_uid: goes into the volume's meta.
        reasons: go into the volume's meta.
        nan_to: replaces NaN and infinity; None refuses them.

    Raises:
        SeriesRefused: truncated, not NIfTI, no certain geometry, colour or complex numbers, or NaN.
    """
    from radloom.shapes import make_label, make_volume

    path = Path(path)
    content = _content(path)
    header = _header_of(content[:540], path)
    known = _interpret(header, path)
    values = _values(content, header, known.shape, path)
    if known.is_label if label is None else label:
        return make_label(_scaled(values, header), known.affine, series_uid=series_uid)
    array = _finite(_scaled(values, header).astype(np.float32), nan_to, path)
    return make_volume(
        np.moveaxis(array, -1, 0) if array.ndim == 4 else array,
        known.affine,
        modality=modality,
        units=units,
        series_uid=series_uid,
        reasons=reasons,
    )


def write_nifti(volume: Volume, path: Path) -> None:
    """A NIfTI-1 file of the volume: the same bytes for the same volume, on every machine and day.

    Volumes are stored as float32, label volumes in their own integer type with the label intent.
    Both sform and qform are set to the scanner's space; a sheared affine has a sform alone. No
    time stamp and no file name goes into the gzip header.

    Raises:
        InputError: the name ends in neither .nii nor .nii.gz.
    """
    from radloom.shapes import affine_of, array_of

    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"<{path.name}>: expected a name that ends in .nii or .nii.gz")
    array = array_of(volume)
    is_label = array.dtype.kind in "iu"
    stored = array if is_label else array.astype(np.float32, copy=False)
    stored = stored[0] if stored.shape[0] == 1 else np.moveaxis(stored, 0, -1)
    header = _make_header(stored, affine_of(volume), is_label=is_label)
    voxels = np.asarray(stored, dtype=stored.dtype.newbyteorder("<")).tobytes(order="F")
    with path.open("wb") as stream:
        if not path.name.endswith(".gz"):
            stream.write(header + voxels)
            return
        with gzip.GzipFile("", "wb", compresslevel=COMPRESSION, fileobj=stream, mtime=0) as packed:
            packed.write(header)
            packed.write(voxels)


def _make_header(stored: npt.NDArray[Any], affine: Affine, *, is_label: bool) -> bytes:
    import nibabel as nib

    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header.set_sform(affine, CODE_SCANNER)
    if _is_sheared(affine):
        header["pixdim"][1:4] = spacing_of(affine)
    else:
        header.set_qform(affine, CODE_SCANNER)
    header["xyzt_units"] = UNITS_MM
    header["intent_code"] = INTENT_LABEL if is_label else 0
    header["vox_offset"] = HEADER_BYTES
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["magic"] = b"n+1"
    return bytes(header.binaryblock) + bytes(4)


def _is_sheared(affine: Affine) -> bool:
    _, _, axes = parts_from_affine(affine)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR_TOLERANCE)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _content(path: Path) -> bytes:
    """The whole file, unpacked; reading to the end is what checks the gzip checksum."""
    raw = path.read_bytes()
    if not raw:
        raise SeriesRefused(ReasonCode.TRUNCATED, f"<{path.name}>: the file is empty; copy it anew")
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _cut(path, error) from error


def _cut(path: Path, error: Exception) -> SeriesRefused:
    return SeriesRefused(
        ReasonCode.TRUNCATED,
        f"<{path.name}>: the compressed data are cut or damaged ({type(error).__name__}); "
        "copy the file anew",
    )


def _header_of(head: bytes, path: Path) -> Any:
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    kinds = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
    size = next(
        (s for s in kinds for order in ("little", "big") if head[:4] == s.to_bytes(4, order)), 0
    )
    if not size:
        raise SeriesRefused(
            ReasonCode.UNREADABLE,
            f"<{path.name}>: expected a NIfTI header of 348 or 540 bytes, got something else",
        )
    if len(head) < size:
        raise SeriesRefused(
            ReasonCode.TRUNCATED, f"<{path.name}>: expected {size} bytes of header, got {len(head)}"
        )
    if head[344:347] == b"ni1":
        raise SeriesRefused(
            ReasonCode.UNREADABLE,
            f"<{path.name}>: a header whose voxels lie in another file; convert the pair to .nii",
        )
    try:
        return kinds[size](head[:size])
    except (HeaderDataError, WrapStructError) as error:
        raise SeriesRefused(
            ReasonCode.UNREADABLE, f"<{path.name}>: not a valid NIfTI header: {error}"
        ) from error


def _interpret(header: Any, path: Path) -> NiftiHeader:
    from nibabel.spatialimages import HeaderDataError

    try:
        shape = tuple(int(n) for n in header.get_data_shape())
        dtype = header.get_data_dtype()
    except HeaderDataError as error:
        raise SeriesRefused(ReasonCode.UNREADABLE, f"<{path.name}>: {error}") from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise SeriesRefused(
            ReasonCode.NOT_AN_IMAGE,
            f"<{path.name}>: expected three or four axes, got shape {shape}",
        )
    if dtype.kind not in "iuf":
        code = ReasonCode.COLOUR if dtype.kind == "V" else ReasonCode.NOT_AN_IMAGE
        raise SeriesRefused(code, f"<{path.name}>: expected one real number a voxel, got {dtype}")
    is_label = int(header["intent_code"]) == INTENT_LABEL and dtype.kind in "iu"
    affine = _affine(header, (shape[0], shape[1], shape[2]), path)
    return NiftiHeader(shape, affine, is_label)


def _affine(header: Any, shape: tuple[int, int, int], path: Path) -> Affine:
    sform, sform_code = header.get_sform(coded=True)
    qform, qform_code = _qform(header, path)
    if not sform_code and not qform_code:
        raise SeriesRefused(
            ReasonCode.MISSING_GEOMETRY,
            f"<{path.name}>: expected a sform or qform code above zero, got neither: left and "
            "right are unknown; set the sform to the scanner's affine",
        )
    affine = np.asarray(sform if sform_code else qform, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise SeriesRefused(
            ReasonCode.INVALID_AFFINE,
            f"<{path.name}>: expected a finite, invertible affine, got determinant "
            f"{np.linalg.det(affine[:3, :3]):g}",
        )
    if qform_code and int(sform_code) == int(qform_code):
        _require_agreement(affine, np.asarray(qform), shape, path)
    return as_stored(affine)


def _qform(header: Any, path: Path) -> tuple[Any, int]:
    from nibabel.spatialimages import HeaderDataError

    try:
        qform, code = header.get_qform(coded=True)
    except HeaderDataError as error:
        raise SeriesRefused(
            ReasonCode.INVALID_AFFINE, f"<{path.name}>: the qform is no rotation: {error}"
        ) from error
    return qform, int(code)


def _require_agreement(
    sform: Affine, qform: Affine, shape: tuple[int, int, int], path: Path
) -> None:
    apart = np.linalg.norm(corners(sform, shape) - corners(qform, shape), axis=1).max()
    voxel = float(spacing_of(sform).min())
    if not apart <= voxel:
        raise SeriesRefused(
            ReasonCode.INVALID_AFFINE,
            f"<{path.name}>: sform and qform claim the same space and lie {apart:.2f} mm apart at "
            f"a corner, more than a voxel ({voxel:.2f} mm); set both to the right one",
        )


def _values(content: bytes, header: Any, shape: tuple[int, ...], path: Path) -> npt.NDArray[Any]:
    dtype = header.get_data_dtype()
    offset = max(int(header["vox_offset"]), int(header["sizeof_hdr"]))
    needed = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(content) - offset < needed:
        raise SeriesRefused(
            ReasonCode.TRUNCATED,
            f"<{path.name}>: expected {needed} bytes of voxels, got "
            f"{max(len(content) - offset, 0)}; copy the file anew",
        )
    flat = np.frombuffer(content, dtype, count=needed // dtype.itemsize, offset=offset)
    return flat.reshape(shape, order="F")


def _scaled(values: npt.NDArray[Any], header: Any) -> npt.NDArray[Any]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope) or (slope, intercept) == (1.0, 0.0):
        return values
    return values.astype(np.float64) * slope + intercept


def _finite(
    array: npt.NDArray[np.float32], nan_to: float | None, path: Path
) -> npt.NDArray[np.float32]:
    wrong = ~np.isfinite(array)
    count = int(wrong.sum())
    if not count:
        return array
    if nan_to is None:
        raise SeriesRefused(
            ReasonCode.NOT_FINITE,
            f"<{path.name}>: expected finite values, got {count} voxels of NaN or infinity; "
            "replace them by what they stand for",
        )
    return np.where(wrong, np.float32(nan_to), array)
