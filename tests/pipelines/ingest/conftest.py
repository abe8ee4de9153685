"""DICOM series made on the spot, right or wrong as a test wants them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

SOP_CLASSES = {
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}

PATIENT = {
    "PatientName": "Doe^Jane",
    "PatientID": "HOSPITAL-4711",
    "PatientBirthDate": "19700203",
    "AccessionNumber": "ACC99887",
}

T1 = {
    "ScanningSequence": ["GR", "IR"],
    "RepetitionTime": 2300,
    "EchoTime": 2.9,
    "InversionTime": 900,
    "FlipAngle": 9,
    "MRAcquisitionType": "3D",
}


def write_series(
    folder: Path,
    *,
    n: int = 5,
    modality: str = "MR",
    rows: int = 6,
    columns: int = 4,
    spacing: tuple[float, float] = (0.9, 1.1),
    step: float = 2.0,
    direction: np.ndarray | None = None,
    origin: tuple[float, float, float] = (-30.0, 20.0, 5.0),
    study_uid: str = "1.2.3.4",
    series_uid: str | None = None,
    names: Callable[[int], str] = "{:03d}.dcm".format,
    edit: Callable[[Dataset, int], None] | None = None,
    seed: int = 0,
    **tags: Any,
) -> np.ndarray:
    """A series of classic files; returns its stored values (I, J, K).

    `direction` (3, 3) holds the row, column and normal direction (LPS) as columns.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series_uid = series_uid or generate_uid()
    direction = np.eye(3) if direction is None else direction
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 3000, (columns, rows, n)).astype(np.uint16)
    for k in range(n):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = SOP_CLASSES[modality]
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series_uid, str(k), str(seed)])
        dataset.StudyInstanceUID = study_uid
        dataset.SeriesInstanceUID = series_uid
        dataset.FrameOfReferenceUID = "1.2.3.4.5"
        dataset.Modality = modality
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
        dataset.SeriesDescription = "series"
        dataset.SeriesNumber = 1
        dataset.InstanceNumber = (k * 7) % n + 1
        dataset.ImageOrientationPatient = [_ds(v) for v in direction[:, :2].T.ravel()]
        position = np.asarray(origin) + direction[:, 2] * step * k
        dataset.ImagePositionPatient = [_ds(v) for v in position]
        dataset.PixelSpacing = list(spacing)
        dataset.Rows, dataset.Columns = rows, columns
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        if modality == "CT":
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = values[:, :, k].T.tobytes()
        for keyword, value in {**PATIENT, **tags}.items():
            setattr(dataset, keyword, value)
        if edit is not None:
            edit(dataset, k)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        pydicom.dcmwrite(folder / names(k), dataset, enforce_file_format=True)
    return values


def _ds(value: float) -> str:
    return format_number_as_ds(float(value))


@pytest.fixture
def series() -> Callable[..., np.ndarray]:
    """`write_series`."""
    return write_series


@pytest.fixture
def t1_tags() -> dict[str, Any]:
    """What makes a series an MPRAGE."""
    return dict(T1)
