"""The voxels of one series: decoded, rescaled, and on the grid that its headers promised."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radloom.errors import InputError, ReasonCode, SeriesRefused
from radloom.geometry import Affine, corners, spacing_of
from radloom.pipelines.ingest.archives import unpacked
from radloom.pipelines.ingest.dcm2niix import acquisition_facts, convert_with_dcm2niix
from radloom.pipelines.ingest.decoding import decode
from radloom.pipelines.ingest.gradients import b_values_of, gradients_of
from radloom.pipelines.ingest.headers import SliceHeader, read_headers
from radloom.pipelines.ingest.names import redact_paths
from radloom.pipelines.ingest.options import DEFAULT_OPTIONS, IngestOptions, finished
from radloom.pipelines.ingest.philips import FLOATING_POINT, in_floating_point
from radloom.pipelines.ingest.quiet import quiet_dicom
from radloom.pipelines.ingest.timing import timing_of
from radloom.pipelines.ingest.units import pet_scale_of, units_of
from radloom.pipelines.ingest.verdicts import Part, file_order, parts_of_series, volumes_of
from radloom.pipelines.study import SeriesRecord, StudyRecord
from radloom.transforms.dicom import TILT_TOLERANCE_MM, Repairs, StackGeometry
from radloom.transforms.straightening import straightened
from radloom.transforms.suv import scale_slices
from radloom.voxels import Voxels

if TYPE_CHECKING:
    from radloom.shapes import Volume

__all__ = ["Reading", "part_of_record", "read_series", "read_with_facts"]

GRID_TOLERANCE_MM = 1.5 * TILT_TOLERANCE_MM
"""How far a decoder's corners may lie from those that the headers promise: what the tolerances of
`radloom.transforms.dicom` let pass, and a little for float32."""


@dataclass(frozen=True)
class Reading:
    """A volume, and what its sidecar says of it beyond what discovery knew."""

    source: Volume | Voxels
    facts: Mapping[str, Any]

    @property
    def volume(self) -> Volume:
        """As a MetaTensor."""
        return self.source.volume() if isinstance(self.source, Voxels) else self.source

    @property
    def units(self) -> str:
        """Of its values."""
        return str(self.source.meta["units"])


def read_series(record: StudyRecord, series: SeriesRecord) -> Volume:
    """The volume (C, I, J, K) of one accepted or split series; C is time or direction for 4D.

    I runs along the columns, J along the rows, K along the slice normal: the grid of acquisition,
    never reoriented.

    Raises:
        SeriesRefused: it was rejected at discovery, its files changed since, or its pixels cannot
            be read whole.
    """
    with unpacked(record, series) as there:
        return _read(there, series, with_facts=False).volume


def read_with_facts(record: StudyRecord, series: SeriesRecord) -> Reading:
    """As `read_series`, with the times and gradients of a 4D series.

    Raises:
        SeriesRefused: as `read_series`.
    """
    with unpacked(record, series) as there:
        return _read(there, series, with_facts=True)


def _read(record: StudyRecord, series: SeriesRecord, *, with_facts: bool) -> Reading:
    if series.status == "rejected":
        raise SeriesRefused(ReasonCode(series.reason), series.detail)
    if series.reader in ("nifti", "itk"):
        return Reading(_read_file(record.root / series.files[0], series), {})
    part = part_of_record(record.root, series)
    if series.headers.get(FLOATING_POINT):
        part = replace(part, slices=in_floating_point(part.slices))
    files = [record.root / path for path in series.files]
    if series.reader == "dcm2niix":
        array, affine = _mosaics(part, files)
    elif series.reader == "straightening":
        array, affine = _straightened(part, files)
    else:
        array, affine = _stacked(part, files), _geometry_of(part).affine
    units = units_of(part.slices) if series.modality != "PT" else _scale_pet(array, part, series)
    if not np.isfinite(array).all():
        raise SeriesRefused(ReasonCode.NOT_FINITE, "expected finite values, got NaN or infinity")
    voxels = Voxels(
        array if array.ndim == 4 else array[None],
        affine,
        modality=series.modality,
        units=units,
        series_uid=series.series_uid,
        reasons=(series.reason,) if series.reason else (),
    )
    return Reading(voxels, _facts(part, files, affine) if with_facts else {})


def _facts(part: Part, files: Sequence[Path], affine: Affine) -> dict[str, Any]:
    """What the sidecar says beyond headers: of padding, times, gradients, acquisition."""
    facts: dict[str, Any] = {}
    first = part.slices[0]
    padding, rescale = first.facts.get("PixelPaddingValue"), first.rescale or (1.0, 0.0)
    if isinstance(padding, (int, float)):
        facts["PixelPaddingValue"] = padding * rescale[0] + rescale[1]
    if part.kind == "volume":
        return facts
    if first.modality == "MR":
        where = dict(zip(file_order(part.slices), files, strict=True))
        some = [header for volume in volumes_of(part)[:2] for header in volume]
        facts.update(acquisition_facts([where[path] for path in file_order(some)], affine))
    facts.update(timing_of(part))
    if part.kind == "diffusion":
        facts["DiffusionBValue"] = b_values_of(part)
        facts["DiffusionGradientOrientation"] = gradients_of(part, affine)
    return facts


def part_of_record(root: Path, series: SeriesRecord) -> Part:
    """The part of a DICOM series that a record stands for, its headers read anew.

    Raises:
        SeriesRefused: the files are not what they were at discovery.
    """
    seen: dict[tuple[str, str, int], SliceHeader] = {}
    for path in series.files:
        for header in read_headers(root / path, path):
            seen.setdefault((header.series_uid, header.sop_uid or path, header.frame), header)
    straighten = IngestOptions(repairs=Repairs(tilt=True, spacing=True))
    options = straighten if series.reader == "straightening" else DEFAULT_OPTIONS
    parts = [finished(part, options) for part in parts_of_series(list(seen.values()))]
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
    units = series.units or "arbitrary"
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


def _stacked(part: Part, files: Sequence[Path]) -> npt.NDArray[np.float32]:
    """(I, J, K) or (T, I, J, K) rescaled values, one file held at a time.

    A slice needs no more than its own place, slope and intercept: readers that go by dimension
    indices or instance numbers mix the frames of some vendors' files.
    """
    i, j, k = _shape_of(part)
    array: npt.NDArray[np.float32] = np.empty((part.n_volumes, k, j, i), dtype=np.float32)
    where = dict(zip(file_order(part.slices), files, strict=True))
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, header in enumerate(part.slices):
        numbers[header.path].append(number)
    for path, wanted in numbers.items():
        stored, dataset = decode(where[path])
        for number in wanted:
            place, volume = divmod(number, part.n_volumes)
            array[volume, place] = _rescaled(part.slices[number], stored, dataset)
    # A view: slices lie in memory as in a NIfTI file.
    turned: npt.NDArray[np.float32] = array.transpose(0, 3, 2, 1)
    return turned[0] if part.n_volumes == 1 else turned


def _rescaled(header: SliceHeader, stored: npt.NDArray[Any], dataset: Any) -> npt.NDArray[Any]:
    """(row, column) values of one slice: the modality LUT, or slope and intercept, as float64.

    Values that these leave alone are given as they are stored.
    """
    if header.frame >= len(stored):
        raise SeriesRefused(
            ReasonCode.TRUNCATED,
            f"expected {header.frame + 1} frames or more, got {len(stored)}; copy it anew",
        )
    values = stored[header.frame]
    if header.mapped is not None:
        low, high = header.mapped
        if values.min() < low or values.max() > high:
            raise SeriesRefused(
                ReasonCode.AMBIGUOUS_UNITS,
                "RealWorldValueMappingSequence (0040,9096): expected it to hold for every stored "
                f"value, got {int(values.min())} to {int(values.max())} where it holds for "
                f"{low:g} to {high:g}",
            )
    if header.has_modality_lut:
        from pydicom.pixels import apply_modality_lut

        with quiet_dicom():
            return np.asarray(apply_modality_lut(values, dataset), dtype=np.float64)
    slope, intercept = header.rescale or (1.0, 0.0)
    if (slope, intercept) == (1.0, 0.0):
        return np.asarray(values)
    return np.asarray(values * np.float64(slope) + intercept)


def _straightened(part: Part, files: Sequence[Path]) -> tuple[npt.NDArray[np.float32], Affine]:
    """(I, J, K) from slices that lean or are uneven, on the straight grid, and its affine."""
    assert part.geometry is not None
    assert part.geometry.straightening is not None
    array, _ = straightened(_each_slice(part, files), part.geometry.straightening)
    return array, part.geometry.affine


def _each_slice(part: Part, files: Sequence[Path]) -> Iterator[npt.NDArray[np.float64]]:
    """(I, J) rescaled values of one slice after the other; one file is held at a time."""
    where = dict(zip(file_order(part.slices), files, strict=True))
    path, stored, dataset = "", np.empty((0, 0, 0)), None
    for header in part.slices:
        if header.path != path:
            path = header.path
            stored, dataset = decode(where[path])
        values = _rescaled(header, stored, dataset).T.astype(np.float64)
        if not np.isfinite(values).all():
            raise SeriesRefused(
                ReasonCode.NOT_FINITE, "expected finite values, got NaN or infinity"
            )
        yield values


def _scale_pet(array: npt.NDArray[np.float32], part: Part, series: SeriesRecord) -> str:
    """The units of a PET, once `array` has been multiplied to them in place."""
    scale = pet_scale_of(part.slices, suv=False)
    if series.units and scale.units != series.units:
        scale = pet_scale_of(part.slices, suv=True)
    scale_slices(array, scale.factors)
    return scale.units


def _geometry_of(part: Part) -> StackGeometry:
    assert part.geometry is not None
    return part.geometry


def _shape_of(part: Part) -> tuple[int, int, int]:
    return _geometry_of(part).shape


def _mosaics(part: Part, files: Sequence[Path]) -> tuple[npt.NDArray[np.float32], Affine]:
    """(I, J, K) or (T, I, J, K) from Siemens mosaics, a file a volume, and its affine.

    Whether slices run along the normal or against it is for dcm2niix to say, from the first file;
    its voxels must be those that the tiles give.
    """
    first, affine = convert_with_dcm2niix(files[:1])
    if first.ndim != 3:
        raise SeriesRefused(ReasonCode.NOT_AN_IMAGE, f"dcm2niix: got shape {first.shape}")
    expected = _mosaic_affine(affine, _geometry_of(part).affine)
    first, affine = _onto(first, affine, expected)
    array = np.empty((part.n_volumes, *_shape_of(part)), dtype=np.float32)
    for number, (header, file) in enumerate(zip(part.slices, files, strict=True)):
        stored, dataset = decode(file)
        array[number] = _untiled(_rescaled(header, stored, dataset), _shape_of(part))
    if not np.allclose(array[0], first, rtol=1e-6, atol=0):
        raise SeriesRefused(
            ReasonCode.UNREADABLE, "a mosaic: dcm2niix finds other voxels in it than its tiles hold"
        )
    return (array[0] if part.n_volumes == 1 else array), affine


def _untiled(values: npt.NDArray[Any], shape: tuple[int, int, int]) -> npt.NDArray[Any]:
    """(I, J, K) from one (row, column) picture of tiles, row by row in a square."""
    i, j, k = shape
    side = values.shape[0] // j
    tiles = values[: side * j, : side * i].reshape(side, j, side, i)
    stacked = tiles.transpose(0, 2, 1, 3).reshape(side * side, j, i)
    volume: npt.NDArray[Any] = stacked[:k].transpose(2, 1, 0)
    return volume


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
    is_nifti = path.name.lower().endswith((".nii", ".nii.gz", ".hdr"))
    record = file_record(path.parent, Found(path.name, "nifti" if is_nifti else "itk"))
    study = StudyRecord("", "", "", path.parent, (record,))
    return read_series(study, record)
