"""NIfTI files (.nii, .nii.gz, .hdr with .img) read into volumes, and written as NIfTI-1.

Reading never guesses where the patient is:

- the sform counts where its code is above zero, else the qform; a file with neither is refused,
  for its left and right are unknown, as is an Analyze header, which has neither;
- a sform and a qform that claim the same space (same code) must put every corner within one voxel
  of each other, else the file is refused; with different codes they name different spaces (scanner
  and template, say) and the sform is taken, as the standard orders; but no change of space mirrors
  a head, so that two forms of opposite handedness are refused whatever their codes;
- lengths are millimetres where xyzt_units says so or says nothing, and are converted where it says
  metres or micrometres, unless the voxels would then be of no size that a scanner makes;
- maps of statistics, vectors, matrices, colours and complex numbers are not images of a body;
- NaN and infinity are refused, not replaced: a caller who knows what they stand for says so;
- compressed files are read to their end, so that a wrong checksum or a cut is noticed.

What is written has the same bytes for the same volume, on every machine and day.

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
    from radloom.shapes import LabelVolume, Volume

__all__ = [
    "NiftiHeader",
    "read_nifti",
    "read_nifti_header",
    "voxel_file",
    "write_array",
    "write_nifti",
]

INTENT_LABEL = 1002
"""NIFTI_INTENT_LABEL: the values are indices into a list of structures."""

LABEL_INTENTS = (INTENT_LABEL, 1003)
"""Labels, and NIFTI_INTENT_NEURONAME: indices into a fixed list of brain structures."""

IMAGE_INTENTS = (0, 1001, *LABEL_INTENTS, 1011, 2001)
"""None, estimate, labels, dimensionless, time series. All others are statistics (2 to 24), vectors,
matrices, meshes, colours, or warps and coefficients of other programs (2006 and above)."""

CODE_SCANNER = 1
"""NIFTI_XFORM_SCANNER_ANAT: the affine maps to the scanner's coordinates."""

UNITS_MM = 2
"""NIFTI_UNITS_MM for xyzt_units."""

LENGTHS_MM = {0: 1.0, 1: 1000.0, UNITS_MM: 1.0, 3: 0.001}
"""Code of xyzt_units & 7 -> millimetres: unknown (every tool takes millimetres), metre, millimetre,
micrometre."""

TIMES_S = {8: 1.0, 16: 1e-3, 24: 1e-6}
"""Code of xyzt_units & 56 -> seconds; hertz, ppm and radians are no time, 0 is unknown."""

VOXEL_MM = (2e-3, 50.0)
"""Voxels that a scanner makes: from two micrometres to the slice distance of a survey."""

COMPRESSION = 1
"""zlib level. Float volumes of noise hardly shrink further at 9, and take ten times as long."""

SHORT_TYPES = ("<i2", "<u2")
"""What a volume is stored as where its numbers are whole and small enough."""

PIECE = 1 << 20
"""Voxels handed to zlib at a time. Bytes do not depend on it."""

HEADER_BYTES = 352
"""The NIfTI-1 header and its four extension bytes; where the data start without extensions."""

FLAT = 1e-4
"""Volume of a voxel over that of a box with its edges, below which its axes lie in one plane."""

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
    """Whether the intent code says that the values are labels."""
    space: str = ""
    """Which form the affine is, and which space it claims: ``sform scanner``, ``qform MNI``."""
    time_step_s: float | None = None
    """Seconds from one volume to the next; None for 3D, and where the unit is not said."""
    unsaid: tuple[str, ...] = ()
    """Fields of the header that a complete file sets and this one does not."""


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
        path: .nii, .nii.gz, or the .hdr of a pair.
        label: True or False overrides what the file says.
        modality: NIfTI holds none.
        units: as in `radloom.shapes.UNITS`; NIfTI holds none.
        series_uid: goes into the volume's meta.
        reasons: go into the volume's meta.
        nan_to: replaces NaN and infinity; None refuses them.

    Raises:
        SeriesRefused: truncated, not NIfTI, no certain geometry, colour or complex numbers, or NaN.
    """
    from radloom.shapes import make_volume

    path = Path(path)
    content = _content(path)
    header = _header_of(content[:540], path)
    known = _interpret(header, path)
    voxels = voxel_file(path)
    if voxels is None:
        values = _values(content, header, known.shape, path)
    else:
        values = _values(_content(voxels), header, known.shape, voxels, is_pair=True)
    if known.is_label if label is None else label:
        return _label(_scaled(values, header), known.affine, series_uid, path)
    array = _finite(_scaled(values, header).astype(np.float32), nan_to, path)
    return make_volume(
        np.moveaxis(array, -1, 0) if array.ndim == 4 else array,
        known.affine,
        modality=modality,
        units=units,
        series_uid=series_uid,
        reasons=reasons,
    )


def voxel_file(path: Path) -> Path | None:
    """Where the voxels of a pair's header lie; None for files that hold their own.

    Raises:
        SeriesRefused: a header without its voxels, or with two candidates for them.
    """
    name = path.name.lower()
    ending = next((e for e in (".hdr", ".hdr.gz") if name.endswith(e)), "")
    if not ending:
        return None
    stem = path.name[: -len(ending)]
    found = [path.with_name(stem + e) for e in (".img", ".img.gz", ".IMG")]
    found = [file for file in found if file.is_file()]
    if len(found) != 1:
        raise SeriesRefused(
            ReasonCode.TRUNCATED if not found else ReasonCode.UNREADABLE,
            f"<{path.name}>: expected its voxels in <{stem}.img>, got {len(found)} such files",
        )
    return found[0]


def _label(values: npt.NDArray[Any], affine: Affine, series_uid: str, path: Path) -> LabelVolume:
    from radloom.shapes import make_label

    try:
        return make_label(values, affine, series_uid=series_uid)
    except InputError as error:
        raise SeriesRefused(ReasonCode.NOT_AN_IMAGE, f"<{path.name}>: {error}") from error


def write_nifti(volume: Volume, path: Path) -> None:
    """A NIfTI-1 file of the volume: the same bytes for the same volume, on every machine and day.

    Volumes are stored as float32, or as 16-bit integers where that is the same numbers, as of most
    scanners: half the bytes, which shrink further. Label volumes keep their own integer type, with
    the label intent. Both sform and qform are set to the scanner's space; a sheared affine has a
    sform alone. No time stamp and no file name goes into the gzip header.

    Raises:
        InputError: the name ends in neither .nii nor .nii.gz.
    """
    from radloom.shapes import affine_of, array_of

    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"<{path.name}>: expected a name that ends in .nii or .nii.gz")
    array = array_of(volume)
    is_label = array.dtype.kind in "iu"
    write_array(array, affine_of(volume), path, is_label=is_label)


def write_array(
    array: npt.NDArray[Any], affine: Affine, path: Path, *, is_label: bool = False
) -> None:
    """As `write_nifti`, of (C, I, J, K) values whose affine is `radloom.geometry.as_stored`."""
    stored = array if is_label else array.astype(np.float32, copy=False)
    stored = stored[0] if stored.shape[0] == 1 else np.moveaxis(stored, 0, -1)
    stored = np.asfortranarray(stored, dtype=stored.dtype.newbyteorder("<"))
    flat = stored.reshape(-1, order="F")
    flat = flat if is_label else _shortened(flat)
    header = _make_header(flat.dtype, stored.shape, affine, is_label=is_label)
    with path.open("wb") as stream:
        if not path.name.endswith(".gz"):
            stream.write(header)
            stream.write(flat.data)
            return
        with gzip.GzipFile("", "wb", compresslevel=COMPRESSION, fileobj=stream, mtime=0) as packed:
            packed.write(header)
            for start in range(0, len(flat), PIECE):
                packed.write(flat[start : start + PIECE].data)


def _shortened(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """float32 values as 16-bit integers, if these are the same numbers to the last bit."""
    for dtype in SHORT_TYPES if values.size else ():
        limits = np.iinfo(dtype)
        if limits.min <= values.min() and values.max() <= limits.max:
            whole = values.astype(dtype)
            return whole if _same_bits(values, whole) else values
    return values


def _same_bits(values: npt.NDArray[Any], whole: npt.NDArray[Any]) -> bool:
    """Whether a read of `whole` gives `values`; minus zero is not zero here."""
    return all(
        np.array_equal(
            whole[start : start + PIECE].astype("<f4").view("<i4"),
            values[start : start + PIECE].view("<i4"),
        )
        for start in range(0, len(values), PIECE)
    )


def _make_header(
    dtype: np.dtype[Any], shape: tuple[int, ...], affine: Affine, *, is_label: bool
) -> bytes:
    import nibabel as nib

    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
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
    _require_magic(head, size, path)
    try:
        return kinds[size](head[:size])
    except (HeaderDataError, WrapStructError) as error:
        raise SeriesRefused(
            ReasonCode.UNREADABLE, f"<{path.name}>: not a valid NIfTI header: {error}"
        ) from error


def _require_magic(head: bytes, size: int, path: Path) -> None:
    """Nothing, if the header says that it is NIfTI, and of the kind that its name promises."""
    magic = head[344:348] if size == 348 else head[4:8]
    is_pair = path.name.lower().endswith((".hdr", ".hdr.gz"))
    if magic[:3] not in (b"ni1", b"ni2", b"n+1", b"n+2"):
        raise SeriesRefused(
            ReasonCode.MISSING_GEOMETRY,
            f"<{path.name}>: an Analyze header, whose left and right are unknown; export NIfTI",
        )
    if (magic[:2] == b"ni") != is_pair:
        kind = "voxels in another file" if magic[:2] == b"ni" else "voxels in the same file"
        raise SeriesRefused(
            ReasonCode.UNREADABLE,
            f"<{path.name}>: a header that says {kind}; give the file the ending that it had",
        )


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
    intent = int(header["intent_code"])
    if intent not in IMAGE_INTENTS:
        raise SeriesRefused(
            ReasonCode.NOT_AN_IMAGE,
            f"<{path.name}>: expected an image, got intent code {intent} (statistics, vectors, "
            "matrices, a mesh, colours or a warp)",
        )
    affine, space = _affine(header, (shape[0], shape[1], shape[2]), path)
    units = int(header["xyzt_units"])
    step = TIMES_S.get(units & 0x38, 0.0) * float(header["pixdim"][4])
    is_timed = len(shape) == 4 and np.isfinite(step) and step > 0
    unsaid = [] if units & 0x07 else ["spatial unit"]
    unsaid += ["time unit"] if len(shape) == 4 and not units & 0x38 else []
    return NiftiHeader(
        shape,
        affine,
        intent in LABEL_INTENTS,
        space,
        round(step, 9) if is_timed else None,
        tuple(unsaid),
    )


SPACES = {1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI", 5: "template"}
"""NIFTI_XFORM codes."""


def _affine(header: Any, shape: tuple[int, int, int], path: Path) -> tuple[Affine, str]:
    """The affine in mm, and which form of which space it is."""
    sform, sform_code = header.get_sform(coded=True)
    qform, qform_code = _qform(header, path)
    if not sform_code and not qform_code:
        raise SeriesRefused(
            ReasonCode.MISSING_GEOMETRY,
            f"<{path.name}>: expected a sform or qform code above zero, got neither: left and "
            "right are unknown; set the sform to the scanner's affine",
        )
    affine = np.asarray(sform if sform_code else qform, dtype=np.float64)
    box = float(np.prod(spacing_of(affine)))
    if not np.isfinite(affine).all() or not abs(np.linalg.det(affine[:3, :3])) > FLAT * box:
        raise SeriesRefused(
            ReasonCode.INVALID_AFFINE,
            f"<{path.name}>: expected a finite, invertible affine, got determinant "
            f"{np.linalg.det(affine[:3, :3]):g}",
        )
    if qform_code and sform_code:
        _require_one_handedness(affine, np.asarray(qform), path)
    if qform_code and int(sform_code) == int(qform_code):
        _require_agreement(affine, np.asarray(qform), shape, path)
    code = int(sform_code) or int(qform_code)
    space = f"{'sform' if sform_code else 'qform'} {SPACES.get(code, str(code))}"
    return as_stored(_in_mm(affine, int(header["xyzt_units"]), path)), space


def _in_mm(affine: Affine, units: int, path: Path) -> Affine:
    """The affine with its world in mm, as xyzt_units says."""
    scale = LENGTHS_MM.get(units & 0x07)
    if scale is None:
        raise SeriesRefused(
            ReasonCode.INVALID_AFFINE,
            f"<{path.name}>: xyzt_units: expected a length in m, mm or um, got code {units & 7}",
        )
    scaled: Affine = np.array(affine, dtype=np.float64)
    scaled[:3] *= scale
    spacing = spacing_of(scaled)
    if not (VOXEL_MM[0] <= spacing.min() and spacing.max() <= VOXEL_MM[1]):
        raise SeriesRefused(
            ReasonCode.INVALID_AFFINE,
            f"<{path.name}>: expected voxels of {VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm, got "
            f"{spacing.min():g} to {spacing.max():g} mm by the affine and the unit code "
            f"{units & 7} of xyzt_units; set both to what was scanned",
        )
    return scaled


def _require_one_handedness(sform: Affine, qform: Affine, path: Path) -> None:
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise SeriesRefused(
            ReasonCode.INVALID_AFFINE,
            f"<{path.name}>: sform and qform are mirror images of each other, so that left and "
            "right are unknown; set both to the right one",
        )


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


def _values(
    content: bytes, header: Any, shape: tuple[int, ...], path: Path, *, is_pair: bool = False
) -> npt.NDArray[Any]:
    dtype = header.get_data_dtype()
    said = float(header["vox_offset"])
    if not 0 <= said < np.inf:
        raise SeriesRefused(
            ReasonCode.UNREADABLE, f"<{path.name}>: vox_offset: expected bytes, got {said}"
        )
    offset = max(int(said), 0 if is_pair else int(header["sizeof_hdr"]))
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
