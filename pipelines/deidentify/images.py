"""NIfTI, NRRD and MHA files without the text that their headers have room for; voxels unchanged."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from radloom.errors import ReasonCode, SeriesRefused
from radloom.transforms.nifti import read_nifti_header

__all__ = ["clean_itk", "clean_nifti"]

TEXT_FIELDS = ("descrip", "aux_file", "intent_name", "data_type", "db_name", "magic")
"""Fields of a NIfTI header that hold text (nifti1.h); a program may write anything into them."""

EXTENSION_BYTES = 4
"""The flag that extensions follow, which stands behind the header."""


def clean_nifti(source: Path, out: Path) -> None:
    """Writes a NIfTI file with the grid, scaling and voxels of `source`, and no text or extensions.

    Raises:
        SeriesRefused: not a NIfTI file, or a damaged one.
    """
    import nibabel as nib

    read_nifti_header(source)  # refuses what is not NIfTI, with its reason
    content = _unpacked(source)
    size = int.from_bytes(content[:4], "little")
    kind = (
        nib.Nifti1Header if 348 in (size, int.from_bytes(content[:4], "big")) else nib.Nifti2Header
    )
    header: Any = kind(content[: kind.sizeof_hdr])
    offset = max(int(header["vox_offset"]), kind.sizeof_hdr)
    for name in TEXT_FIELDS:
        if name in header.keys():  # noqa: SIM118  # a nibabel header is no mapping
            header[name] = b""
    header["magic"] = kind.single_magic
    start = kind.sizeof_hdr + EXTENSION_BYTES
    header["vox_offset"] = start
    packed = (
        bytes(header.binaryblock)
        + bytes(EXTENSION_BYTES)
        + content[offset : offset + _n_bytes(header)]
    )
    if not out.name.endswith(".gz"):
        out.write_bytes(packed)
        return
    with out.open("wb") as stream, gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as file:
        file.write(packed)


def clean_itk(source: Path, out: Path) -> None:
    """Writes an NRRD or MHA file with the grid and voxels of `source`, and none of its metadata.

    Raises:
        SeriesRefused: a file that ITK cannot read.
    """
    import SimpleITK as sitk

    try:
        image = sitk.ReadImage(str(source))
    except RuntimeError:
        raise SeriesRefused(
            ReasonCode.UNREADABLE, "not a valid image of its kind; check the file"
        ) from None
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    sitk.WriteImage(image, str(out), useCompression=True)


def _unpacked(path: Path) -> bytes:
    raw = path.read_bytes()
    try:
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise SeriesRefused(
            ReasonCode.TRUNCATED, f"the compressed data are damaged ({type(error).__name__})"
        ) from None


def _n_bytes(header: Any) -> int:
    """Bytes of the voxels; what a file has beyond them belongs to nothing."""
    count = 1
    for length in header.get_data_shape():
        count *= int(length)
    return count * int(header.get_data_dtype().itemsize)
