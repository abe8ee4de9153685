"""NRRD, MHA and MHD images read into volumes through SimpleITK.

ITK fills in what a header leaves out: no direction becomes the identity, no origin zero, a space
that names no side of the patient is taken for LPS, and units are not looked at. Here the header's
own text is read first, and a file that leaves any of it open is refused. Sources: the NRRD format,
https://teem.sourceforge.net/nrrd/format.html, section "Space and orientation information";
MetaImage, https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

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
    is_label: bool = False
    """Whether it is a segmentation of 3D Slicer, which names its segments in the header."""


NRRD_SPACES = frozenset(
    f"{space}{time}"
    for space in (
        "right-anterior-superior",
        "left-anterior-superior",
        "left-posterior-superior",
        "ras",
        "las",
        "lps",
    )
    for time in ("", "-time", "t")
)
"""Spaces of NRRD that name the patient's sides; scanner-xyz and 3D-right-handed do not."""

META_FIELDS = (
    ("transformmatrix", "rotation", "orientation"),
    ("offset", "origin", "position"),
    ("elementspacing", "elementsize"),
)
"""Direction, origin and spacing of a MetaImage, each under the names that MetaIO knows."""

MILLIMETRES = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "")

HEADER_BYTES = 1 << 16
"""The text of a header ends well within."""


def read_itk_header(path: Path) -> ItkHeader:
    """The grid of an NRRD, MHA or MHD file, its voxels left unread.

    Raises:
        SeriesRefused: not such a file, not 3D, or with an affine that is singular or not finite.
    """
    import SimpleITK as sitk

    fields = _fields(path)
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
    _require_said(fields, path)
    affine = _affine(reader, path)
    return ItkHeader(tuple(int(n) for n in reader.GetSize()), affine, "segment0_id" in fields)


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


def _fields(path: Path) -> dict[str, str]:
    """What the text of a header says: names in lower case -> values."""
    with path.open("rb") as stream:
        text = stream.read(HEADER_BYTES)
    is_nrrd = text.startswith(b"NRRD")
    fields = {}
    for line in text.split(b"\n"):
        line = line.strip(b"\r")
        if is_nrrd and not line:
            break
        name, found, value = line.partition(b":" if is_nrrd else b"=")
        if found:
            fields[_word(name)] = value.decode("latin-1").strip().lstrip("=").strip()
        if _word(name) == "elementdatafile":
            break
    return fields


def _word(name: bytes) -> str:
    return name.decode("latin-1").strip().lower()


def _require_said(fields: dict[str, str], path: Path) -> None:
    """Nothing, if the header says where the image lies, in mm and by the patient's sides."""
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        missing = [name for name in ("space directions", "space origin") if name not in fields]
        space, units = fields.get("space", "").lower(), fields.get("space units", "")
        if space not in NRRD_SPACES:
            missing.insert(0, "a space such as left-posterior-superior")
    else:
        missing = [names[0] for names in META_FIELDS if not fields.keys() & set(names)]
        units = fields.get("distanceunits", "")
    if missing:
        raise SeriesRefused(
            ReasonCode.MISSING_GEOMETRY,
            f"<{path.name}>: expected {', '.join(missing)} in the header, got none: where the "
            "patient's sides are is unknown; export the file anew",
        )
    other = {word.strip('"').lower() for word in units.split()} - set(MILLIMETRES)
    if other:
        raise SeriesRefused(
            ReasonCode.INVALID_AFFINE,
            f"<{path.name}>: expected lengths in mm, got {min(other)}; convert the file",
        )


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
