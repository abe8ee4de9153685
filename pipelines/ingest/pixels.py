"""The voxels of one series: decoded, rescaled, and on the grid that its headers promised."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.errors import InputError, ReasonCode, SeriesRefused
from radloom.geometry import Affine, corners, flip_lps_ras, spacing_of
from radloom.pipelines.ingest.dcm2niix import convert_with_dcm2niix
from radloom.pipelines.ingest.headers import (
    PARSE_ERRORS,
    SliceHeader,
    quiet_pydicom,
    read_headers,
)
from radloom.pipelines.ingest.names import redact_paths
from radloom.pipelines.ingest.units import units_of
from radloom.pipelines.ingest.verdicts import Part, file_order, parts_of_series
from radloom.pipelines.study import SeriesRecord, StudyRecord
from radloom.shapes import Volume, make_volume
from radloom.transforms.dicom import (
    ORIENTATION_TOLERANCE,
    SPACING_TOLERANCE,
    SPACING_TOLERANCE_MM,
    TILT_TOLERANCE_MM,
)

__all__ = ["open_image", "part_of_record", "read_series"]

DECODERS = {
    "1.2.840.10008.1.2.5": "pydicom",  # RLE Lossless
    "1.2.840.10008.1.2.4.50": "gdcm",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51": "gdcm",  # JPEG Extended
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70": "gdcm",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": "gdcm",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81": "gdcm",  # JPEG-LS Near-Lossless
    "1.2.840.10008.1.2.4.90": "gdcm",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": "gdcm",  # JPEG 2000
}
"""Transfer syntax -> the pydicom plugin that decodes it, named so that the same input gives the
same bytes whatever else is installed (lossy decoders differ in the last place)."""

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
"""JPEG Extended (Process 2 and 4): lossy, 8 or 12 bits."""

SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
"""Modality -> the class of its classic images, for files that de-identification stripped of it."""

GRID_TOLERANCE_MM = 1.5 * TILT_TOLERANCE_MM
"""How far a decoder's corners may lie from those that the headers promise: what the tolerances of
`radloom.transforms.dicom` let pass, and a little for float32."""


def read_series(record: StudyRecord, series: SeriesRecord) -> Volume:
    """The volume (C, I, J, K) of one accepted or split series; C is time or direction for 4D.

    I runs along the columns, J along the rows, K along the slice normal: the grid of acquisition,
    never reoriented.

    Raises:
        SeriesRefused: it was rejected at discovery, its files changed since, or its pixels cannot
            be read whole.
    """
    if series.status == "rejected":
        raise SeriesRefused(ReasonCode(series.reason), series.detail)
    if series.reader in ("nifti", "itk"):
        return _read_file(record.root / series.files[0], series)
    part = part_of_record(record.root, series)
    files = [record.root / path for path in series.files]
    if series.reader == "dcm2niix":
        array, affine = _by_dcm2niix(part, files)
    else:
        array, affine = _by_highdicom(part, files)
    if not np.isfinite(array).all():
        raise SeriesRefused(ReasonCode.NOT_FINITE, "expected finite values, got NaN or infinity")
    return make_volume(
        array,
        affine,
        modality=series.modality,
        units=units_of(part.slices),
        series_uid=series.series_uid,
        reasons=(series.reason,) if series.reason else (),
    )


def part_of_record(root: Path, series: SeriesRecord) -> Part:
    """The part of a DICOM series that a record stands for, its headers read anew.

    Raises:
        SeriesRefused: the files are not what they were at discovery.
    """
    seen: dict[tuple[str, str, int], SliceHeader] = {}
    for path in series.files:
        for header in read_headers(root / path, path):
            seen.setdefault((header.series_uid, header.sop_uid or path, header.frame), header)
    parts = parts_of_series(list(seen.values()))
    entities = dict(series.entities)
    for part in parts:
        wanted = {key: entities.get(key) for key in part.entities}
        if part.code is None and wanted == dict(part.entities):
            if series.shape == (0, 0, 0) or part.geometry is None:
                return part
            if part.geometry.shape == series.shape and file_order(part.slices) == series.files:
                return part
    identifiers = {word for header in seen.values() for word in header.identifiers}
    for part in parts:
        if part.code is not None:
            raise SeriesRefused(part.code, redact_paths(part.detail, identifiers))
    raise SeriesRefused(
        ReasonCode.UNREADABLE, "the files are not what they were at discovery; run again"
    )


def open_image(file: Path) -> Any:
    """A pydicom dataset whose pixels decode through the plugin that `DECODERS` names.

    Raises:
        SeriesRefused: damaged, or no decoder for its transfer syntax is installed.
    """
    import pydicom
    from pydicom.pixels import get_decoder

    try:
        with quiet_pydicom():
            dataset = pydicom.dcmread(file, force=True)
    except PARSE_ERRORS as error:
        raise SeriesRefused(
            ReasonCode.UNREADABLE, f"a damaged file ({type(error).__name__}); copy it anew"
        ) from error
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if syntax is None:
        return dataset
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if not syntax.is_encapsulated and decoder is not None:
        return dataset
    plugins = decoder.available_plugins if decoder is not None else ()
    wanted = DECODERS.get(str(syntax), plugins[0] if plugins else "")
    # GDCM decodes no 12-bit lossy JPEG, nor does any other decoder of permissive licence.
    if not plugins or (str(syntax) == JPEG_EXTENDED and int(dataset.get("BitsStored", 0)) > 8):
        raise SeriesRefused(
            ReasonCode.CODEC_MISSING,
            f"TransferSyntaxUID (0002,0010): no installed decoder for {syntax.name}",
        )
    dataset.pixel_array_options(decoding_plugin=wanted if wanted in plugins else plugins[0])
    return dataset


def _read_file(path: Path, series: SeriesRecord) -> Volume:
    reasons = (series.reason,) if series.reason else ()
    if series.reader == "itk":
        from radloom.transforms.itk_images import read_itk_image

        volume = read_itk_image(path, modality=series.modality, series_uid=series.series_uid)
    else:
        from radloom.transforms.nifti import read_nifti

        volume = read_nifti(
            path, label=False, modality=series.modality, series_uid=series.series_uid
        )
    units = "arbitrary"
    if series.modality == "CT":
        units = "HU"
        if float(volume.min()) > AIR_HU:
            raise SeriesRefused(
                ReasonCode.AMBIGUOUS_UNITS,
                f"expected CT numbers with air below {AIR_HU} HU, got a minimum of "
                f"{float(volume.min()):g}",
            )
    volume.meta["units"] = units
    volume.meta["reasons"] = reasons
    return volume


AIR_HU = -200.0
"""A CT in HU holds air, in the paranasal sinuses if nowhere else; a file that was shifted to
positive numbers, or windowed, does not."""


def _by_highdicom(part: Part, files: Sequence[Path]) -> tuple[npt.NDArray[np.float32], Affine]:
    assert part.geometry is not None
    try:
        is_multiframe = any(header.n_frames > 1 for header in part.slices)
        array = _frames(part, files) if is_multiframe else _stack(part, files)
    except SeriesRefused as refusal:
        if refusal.code is not ReasonCode.CODEC_MISSING:
            raise
        return _by_dcm2niix(part, files)
    return array, part.geometry.affine


def _stack(part: Part, files: Sequence[Path]) -> npt.NDArray[np.float32]:
    """(I, J, K) from classic files, one slice each."""
    import highdicom

    assert part.geometry is not None
    datasets = [open_image(file) for file in files]
    _require_whole(datasets)
    first = datasets[0]
    for dataset in datasets:
        # Rounding noise, already held to a tolerance: highdicom wants them equal to the last digit.
        dataset.ImageOrientationPatient = first.ImageOrientationPatient
        dataset.PixelSpacing = first.PixelSpacing
        dataset.SeriesInstanceUID = part.slices[0].series_uid
        dataset.SOPClassUID = part.slices[0].sop_class or SOP_CLASSES[part.slices[0].modality]
        dataset.FrameOfReferenceUID = part.slices[0].frame_of_reference or "2.25.1"
    step = part.geometry.spacing[2]
    try:
        with quiet_pydicom():
            volume = highdicom.get_volume_from_series(
                datasets,
                dtype=np.float32,
                apply_real_world_transform=False,
                apply_modality_transform=None,
                apply_voi_transform=False,
                apply_presentation_lut=False,
                apply_palette_color_lut=False,
                apply_icc_profile=False,
                atol=2 * max(SPACING_TOLERANCE * step, SPACING_TOLERANCE_MM),
                orientation_tol=ORIENTATION_TOLERANCE,
            )
    except PARSE_ERRORS as error:
        raise _undecodable(error) from error
    affine = flip_lps_ras(volume.affine[:, [2, 1, 0, 3]])
    array, _ = _onto(np.asarray(volume.array).transpose(2, 1, 0), affine, part.geometry.affine)
    return array


def _require_whole(datasets: Sequence[Any]) -> None:
    bare = sum("PixelData" not in dataset for dataset in datasets)
    if bare:
        raise SeriesRefused(
            ReasonCode.TRUNCATED, f"expected pixels in every file, got none in {bare}; copy anew"
        )


def _frames(part: Part, files: Sequence[Path]) -> npt.NDArray[np.float32]:
    """(I, J, K) or (T, I, J, K) from the frames of multi-frame files.

    highdicom's Image stops at private tags in the dimension index (Philips), and dcm2niix mixes the
    frames of some diffusion series; a frame needs no more than its own place, slope and intercept.
    """
    where = dict(zip(file_order(part.slices), files, strict=True))
    stored = {path: _decoded(file) for path, file in where.items()}
    array = np.empty((part.n_volumes, *_shape_of(part)), dtype=np.float32)
    for number, header in enumerate(part.slices):
        k, t = divmod(number, part.n_volumes)
        slope, intercept = header.rescale or (1.0, 0.0)
        array[t, :, :, k] = (stored[header.path][header.frame] * np.float64(slope) + intercept).T
    return array[0] if part.n_volumes == 1 else array


def _decoded(file: Path) -> npt.NDArray[Any]:
    """(frame, row, column) stored values of one file."""
    dataset = open_image(file)
    try:
        with quiet_pydicom():
            stored = np.asarray(dataset.pixel_array)
    except PARSE_ERRORS as error:
        raise _undecodable(error) from error
    return stored if stored.ndim == 3 else stored[None]


def _shape_of(part: Part) -> tuple[int, int, int]:
    assert part.geometry is not None
    return part.geometry.shape


def _undecodable(error: Exception) -> SeriesRefused:
    return SeriesRefused(
        ReasonCode.UNREADABLE, f"the pixels cannot be decoded ({type(error).__name__}); copy anew"
    )


def _by_dcm2niix(part: Part, files: Sequence[Path]) -> tuple[npt.NDArray[np.float32], Affine]:
    """(I, J, K) or (T, I, J, K) and its affine."""
    array, affine = convert_with_dcm2niix(files)
    if array.ndim not in (3, 4):
        raise SeriesRefused(ReasonCode.NOT_AN_IMAGE, f"dcm2niix: got shape {array.shape}")
    n_volumes = array.shape[3] if array.ndim == 4 else 1
    if n_volumes != part.n_volumes:
        raise SeriesRefused(
            ReasonCode.UNREADABLE,
            f"dcm2niix: expected {part.n_volumes} volumes, got {n_volumes}",
        )
    if part.geometry is not None:
        expected = part.geometry.affine
        if part.slices[0].mosaic:
            expected = _mosaic_affine(affine, expected)
        array, affine = _onto(array, affine, expected)
    return (np.moveaxis(array, -1, 0) if array.ndim == 4 else array), affine


def _mosaic_affine(affine: Affine, expected: Affine) -> Affine:
    """The affine expected of a mosaic, with its slices in whichever sense dcm2niix found."""
    if float(affine[:3, 2] @ expected[:3, 2]) >= 0:
        return expected
    turned = np.array(expected)
    turned[:3, 2] *= -1
    return turned


def _onto(
    array: npt.NDArray[np.float32], affine: Affine, expected: Affine
) -> tuple[npt.NDArray[np.float32], Affine]:
    """The array flipped so that its affine is the expected one, which is returned with it.

    Raises:
        SeriesRefused: no flip of the axes brings the corners together.
    """
    shape = (array.shape[0], array.shape[1], array.shape[2])
    target = corners(expected, shape)
    best = np.inf
    for flips in itertools.product((False, True), repeat=3):
        turned = _flipped(affine, shape, flips)
        apart = float(np.linalg.norm(corners(turned, shape) - target, axis=1).max())
        best = min(best, apart)
        if apart <= GRID_TOLERANCE_MM:
            axes = tuple(axis for axis, flip in enumerate(flips) if flip)
            return np.ascontiguousarray(np.flip(array, axes)), expected
    raise SeriesRefused(
        ReasonCode.UNREADABLE,
        f"the decoder's grid lies {best:.2f} mm from the one that the headers promise "
        f"(spacing {np.round(spacing_of(affine), 3).tolist()} mm)",
    )


def _flipped(affine: Affine, shape: tuple[int, int, int], flips: Sequence[bool]) -> Affine:
    turned = np.array(affine)
    for axis, flip in enumerate(flips):
        if flip:
            turned[:3, 3] += turned[:3, axis] * (shape[axis] - 1)
            turned[:3, axis] *= -1
    return turned


def read_image(path: Path) -> Volume:
    """The one volume of an image file (.nii, .nii.gz, .nrrd, .mha) or a folder with one series.

    Raises:
        InputError: nothing there, or a folder with several volumes.
        SeriesRefused: the image cannot become a volume.
    """
    from radloom.pipelines.ingest.discovery import discover
    from radloom.pipelines.ingest.files import file_record
    from radloom.pipelines.ingest.scan import Found

    path = Path(path)
    if path.is_dir():
        pairs = [(study, series) for study in discover(path) for series in study.series]
        good = [pair for pair in pairs if pair[1].status != "rejected"]
        if len(good) == 1:
            return read_series(*good[0])
        if not good and pairs:
            first = pairs[0][1]
            raise SeriesRefused(ReasonCode(first.reason), first.detail)
        raise InputError(
            f"<{path.name}>: expected a folder with one series, got {len(good)} volumes; name one"
        )
    if not path.is_file():
        raise InputError(f"<{path.name}>: expected an image file or a folder, got nothing there")
    is_nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    record = file_record(path.parent, Found(path.name, "nifti" if is_nifti else "itk"))
    study = StudyRecord("", "", "", path.parent, (record,))
    return read_series(study, record)
