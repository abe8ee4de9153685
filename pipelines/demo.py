"""A study made on the spot, as a scanner would have left it: DICOM of a phantom, truth known.

One head (`radloom.transforms.synthesis.phantom`) seen by five series: T1 sagittal, T2 axial and
oblique after the patient moved, FLAIR axial, CT after the patient moved to another scanner, and a
localizer. Files are classic single-frame DICOM in nested folders, in no helpful order.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from radloom.geometry import Affine, affine_from_parts, flip_lps_ras, parts_from_affine
from radloom.shapes import Volume, affine_of, like, spatial_shape
from radloom.transforms.spatial import Transform
from radloom.transforms.synthesis.contrast import SEQUENCES, MRSequence
from radloom.transforms.synthesis.phantom import HeadPhantom, make_head, render_ct, render_mr

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["DemoTruth", "write_demo_study"]

_DATE, _TIME = "20200229", "093000"
_LOCALIZER = MRSequence("localizer", "spin_echo", 400, 10)
_FILES_PER_FOLDER = 128


@dataclass(frozen=True)
class DemoTruth:
    """What a run over the demo study should find."""

    head: HeadPhantom
    """The anatomy, in the world of the T1 series."""
    moving_from_fixed: Mapping[str, Transform]
    """Role -> where the points of T1's world lie in that series; identity where nobody moved."""
    series_uids: Mapping[str, str]
    """Role (and "localizer") -> SeriesInstanceUID."""
    volumes: Mapping[str, Volume]
    """Role -> the voxels as written: I along columns, J along rows, K along slices."""


@dataclass(frozen=True)
class _Series:
    """One series to write: slices, and what its headers say."""

    role: str
    number: int
    description: str
    volumes: tuple[Volume, ...]
    """One, or for the localizer one a plane."""
    headers: Mapping[str, Any] = field(default_factory=dict)
    compressed: bool = False


def write_demo_study(folder: Path, *, seed: int = 0, spacing_mm: float = 1.0) -> DemoTruth:
    """What was written to `folder`: a DICOM study of five series and a stray text file.

    Args:
        folder: made if absent; holds ``DICOM/...`` and ``README.TXT`` afterwards.
        seed: of the head, the movements, the noise and the UIDs.
        spacing_mm: of the anatomy and T1; the other series follow. 1 looks real, 2 is quick.
    """
    generator = torch.Generator().manual_seed(seed)
    head = make_head(generator, spacing_mm=spacing_mm)
    moves = {
        "t1": _rigid((0, 0, 0), (0, 0, 0)),
        "t2": _rigid((4, -2.5, 5), (3, -4, 5)),
        "flair": _rigid((0, 0, 0), (0, 0, 0)),
        "ct": _rigid((-7, 4, -3), (-6, 9, 14)),
    }
    series = [
        _localizer(head, generator),
        *(_mr_series(head, role, spacing_mm, moves[role], generator) for role in SEQUENCES),
        _ct_series(head, spacing_mm, moves["ct"], generator),
    ]
    _write(folder, series, seed, generator)
    uids = {one.role: _uid(seed, one.role) for one in series}
    volumes = {
        one.role: like(one.volumes[0], one.volumes[0], series_uid=uids[one.role])
        for one in series
        if one.role != "localizer"
    }
    return DemoTruth(head, moves, uids, volumes)


def _rigid(degrees: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> Transform:
    """Turns about x, then y, then z round the middle of the head, then a shift, RAS+."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[i, i] = step[j, j] = math.cos(angle)
        step[j, i], step[i, j] = math.sin(angle), -math.sin(angle)
        turn = step @ turn
    centre = np.array([0.0, -10.0, -10.0])
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = centre - turn @ centre + np.asarray(shift_mm)
    return Transform(matrix)


def _grid(
    orientation_lps: npt.ArrayLike,
    spacing: tuple[float, float, float],
    shape: tuple[int, int, int],
    centre: tuple[float, float, float],
) -> Affine:
    """The affine of a stack of slices with the row and column directions given (LPS), centred."""
    row, column = np.asarray(orientation_lps, dtype=np.float64).reshape(2, 3)
    direction = np.column_stack([row, column, np.cross(row, column)])
    extent = direction @ (np.asarray(spacing) * (np.asarray(shape) - 1))
    middle = np.asarray(centre) * (-1, -1, 1)
    return flip_lps_ras(affine_from_parts(middle - extent / 2, spacing, direction))


_SAGITTAL = (0, 1, 0, 0, 0, -1)
_AXIAL = (1, 0, 0, 0, 1, 0)
_CORONAL = (1, 0, 0, 0, 0, -1)


def _tilted_axial(degrees: float) -> tuple[float, ...]:
    angle = math.radians(degrees)
    return (1, 0, 0, 0, math.cos(angle), math.sin(angle))


def _mr_grid(role: str, s: float) -> tuple[Affine, tuple[int, int, int]]:
    n = round(232 / s)
    if role == "t1":
        shape = (n, n - n % 2, round(180 / s))
        affine = _grid(_SAGITTAL, (s, s, s), shape, (0, 0, -20))
        affine[:3, 3] = np.round(affine[:3, 3] / s) * s
        return affine, shape
    thick = max(3.0, 2 * s) if role == "t2" else max(2.0, 1.5 * s)
    shape = (n, n, round(168 / thick))
    orientation = _tilted_axial(8) if role == "t2" else _tilted_axial(-3)
    return _grid(orientation, (s, s, thick), shape, (0, -6, -4)), shape


def _mr_series(
    head: HeadPhantom, role: str, spacing: float, move: Transform, generator: torch.Generator
) -> _Series:
    affine, shape = _mr_grid(role, spacing)
    volume = render_mr(
        head,
        role,
        grid_affine=affine,
        grid_shape=shape,
        moving_from_fixed=move,
        generator=generator,
    )
    names = {
        "t1": (2, "t1_mprage_sag_p2_iso"),
        "t2": (3, "t2_tse_tra_3mm"),
        "flair": (4, "t2_flair_tra_dark-fluid"),
    }
    number, description = names[role]
    stored = like(volume, volume.round().clamp(0, 4095))
    return _Series(
        role, number, description, (stored,), _mr_headers(SEQUENCES[role]), compressed=role == "t2"
    )


def _mr_headers(sequence: MRSequence) -> dict[str, Any]:
    gradient = sequence.kind == "mprage"
    headers: dict[str, Any] = {
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"],
        "ScanningSequence": {"mprage": ["GR", "IR"], "inversion_recovery": ["SE", "IR"]}.get(
            sequence.kind, "SE"
        ),
        "SequenceVariant": ["SK", "SP", "MP"] if gradient else ["SK", "SP"],
        "ScanOptions": "",
        "MRAcquisitionType": "3D" if gradient else "2D",
        "SequenceName": {"mprage": "*tfl3d1", "inversion_recovery": "*tir2d1_16"}.get(
            sequence.kind, "*tse2d1_15"
        ),
        "RepetitionTime": sequence.tr_ms,
        "EchoTime": sequence.te_ms,
        "EchoTrainLength": 1 if gradient else 16,
        "FlipAngle": sequence.flip_degrees,
        "NumberOfAverages": 1,
        "ImagedNucleus": "1H",
        "ImagingFrequency": 123.2,
        "EchoNumbers": 1,
        "MagneticFieldStrength": 3,
        "PercentSampling": 100,
    }
    if sequence.ti_ms:
        headers["InversionTime"] = sequence.ti_ms
    return headers


def _ct_series(
    head: HeadPhantom, spacing: float, move: Transform, generator: torch.Generator
) -> _Series:
    step, thick = 0.8 * spacing, 1.5 * spacing
    n = 2 * round(250 / step / 2)
    shape = (n, n, round(195 / thick))
    affine = _grid(_AXIAL, (step, step, thick), shape, (-4, 3, -5))
    volume = render_ct(
        head,
        grid_affine=affine,
        grid_shape=shape,
        moving_from_fixed=move,
        generator=generator,
    )
    headers = {
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"],
        "KVP": 120,
        "AcquisitionNumber": 1,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "WindowCenter": 40,
        "WindowWidth": 80,
        "ConvolutionKernel": "H31s",
        "XRayTubeCurrent": 320,
        "ExposureTime": 1000,
        "GantryDetectorTilt": 0,
    }
    return _Series("ct", 5, "Head 1.5 H31s", (volume,), headers)


def _localizer(head: HeadPhantom, generator: torch.Generator) -> _Series:
    planes = []
    for orientation in (_SAGITTAL, _AXIAL, _CORONAL):
        shape = (128, 128, 3)
        affine = _grid(orientation, (2.2, 2.2, 18.0), shape, (0, -6, -12))
        volume = render_mr(
            head, _LOCALIZER, grid_affine=affine, grid_shape=shape, generator=generator
        )
        planes.append(like(volume, volume.round().clamp(0, 4095)))
    return _Series("localizer", 1, "localizer", tuple(planes), _mr_headers(_LOCALIZER))


def _uid(seed: int, *parts: object) -> str:
    """A UID under 2.25 (DICOM PS3.5 B.2) that follows from the seed and the parts."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _write(folder: Path, series: list[_Series], seed: int, generator: torch.Generator) -> None:
    """Every instance to its file, in an order that says nothing."""
    datasets = [ds for one in series for ds in _instances(one, seed)]
    order = torch.randperm(len(datasets), generator=generator).tolist()
    for place, ds in zip(order, datasets, strict=True):
        inside = folder / "DICOM" / "A0000001" / f"S{place // _FILES_PER_FOLDER:07d}"
        inside.mkdir(parents=True, exist_ok=True)
        ds.save_as(inside / f"IM{place:06d}", enforce_file_format=True)
    (folder / "README.TXT").write_text(
        "Head phantom made by radloom demo. Nobody was scanned.\n", encoding="utf-8"
    )


def _instances(series: _Series, seed: int) -> list[Dataset]:
    from pydicom.dataset import Dataset

    common = _common(series, seed)
    datasets: list[Dataset] = []
    for plane, volume in enumerate(series.volumes):
        _, _, n_slices = spatial_shape(volume)
        for k in range(n_slices):
            ds = Dataset()
            ds.update(common)
            ds.file_meta = copy.deepcopy(common.file_meta)
            ds.InstanceNumber = len(datasets) + 1
            _set_geometry(ds, affine_of(volume), k)
            _set_pixels(ds, volume, k)
            ds.SOPInstanceUID = _uid(seed, series.role, plane, k)
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            if series.compressed:
                from pydicom.uid import RLELossless

                ds.compress(RLELossless, generate_instance_uid=False)
            datasets.append(ds)
    return datasets


def _common(series: _Series, seed: int) -> Dataset:
    """The attributes that do not depend on the slice."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

    ct = series.role == "ct"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = _uid(0, "radloom")
    ds.file_meta.ImplementationVersionName = "RADLOOM_DEMO"
    ds.SOPClassUID = CTImageStorage if ct else MRImageStorage
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "Phantom^Radloom",
        "PatientID": f"PHANTOM{seed:04d}",
        "PatientBirthDate": "",
        "PatientSex": "O",
        "StudyInstanceUID": _uid(seed, "study"),
        "StudyID": "1",
        "StudyDate": _DATE,
        "StudyTime": _TIME,
        "StudyDescription": "Head",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "SeriesInstanceUID": _uid(seed, series.role),
        "SeriesNumber": series.number,
        "SeriesDescription": series.description,
        "ProtocolName": series.description,
        "SeriesDate": _DATE,
        "SeriesTime": f"{93000 + 500 * series.number:06d}",
        "AcquisitionDate": _DATE,
        "AcquisitionTime": f"{93000 + 500 * series.number:06d}",
        "ContentDate": _DATE,
        "ContentTime": f"{93000 + 500 * series.number:06d}",
        "AcquisitionNumber": 1,
        "BodyPartExamined": "HEAD",
        "PatientPosition": "HFS",
        "FrameOfReferenceUID": _uid(seed, "frame", "ct" if ct else "mr"),
        "PositionReferenceIndicator": "",
        "Manufacturer": "Radloom",
        "ManufacturerModelName": "Phantom CT" if ct else "Phantom MR",
        "InstitutionName": "",
        "SoftwareVersions": "demo",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
    }
    for keyword, value in {**values, **series.headers}.items():
        setattr(ds, keyword, value)
    return ds


def _set_geometry(ds: Dataset, affine: Affine, k: int) -> None:
    from pydicom.valuerep import DS

    origin, spacing, direction = parts_from_affine(flip_lps_ras(affine))
    position = origin + direction[:, 2] * spacing[2] * k
    orientation = np.concatenate([direction[:, 0], direction[:, 1]])

    def decimals(values: npt.ArrayLike) -> list[DS]:
        clean = np.round(np.atleast_1d(values), 9) + 0.0
        return [DS(float(v), auto_format=True) for v in clean]

    ds.ImagePositionPatient = decimals(position)
    ds.ImageOrientationPatient = decimals(orientation)
    ds.PixelSpacing = decimals([spacing[1], spacing[0]])
    ds.SliceThickness = decimals(spacing[2])[0]
    ds.SpacingBetweenSlices = decimals(spacing[2])[0]
    ds.SliceLocation = decimals(position @ direction[:, 2])[0]


def _set_pixels(ds: Dataset, volume: Volume, k: int) -> None:
    plane = volume[0, :, :, k].numpy().T - float(ds.get("RescaleIntercept", 0))
    ds.Rows, ds.Columns = plane.shape
    ds.PixelData = np.ascontiguousarray(plane.round().astype("<u2")).tobytes()
    ds["PixelData"].VR = "OW"
