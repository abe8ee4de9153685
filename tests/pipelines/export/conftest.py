"""Small DICOM studies on any grid, ingested, and what a checker of Debian says of an object."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from radloom.pipelines.export.dicom.result import Desk
from radloom.pipelines.ingest import IngestStage, discover
from radloom.pipelines.stage import Context
from radloom.pipelines.study import Study

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.96, 0.28, 0.0, -0.168, 0.576, 0.8)


@dataclass(frozen=True)
class Scan:
    """One series to write."""

    role: str = "t1"
    modality: str = "MR"
    orientation: Sequence[float] = OBLIQUE
    position: tuple[float, float, float] = (-12.5, 7.25, -30.0)
    spacing: tuple[float, float, float] = (1.5, 1.25, 3.0)
    """Between columns, rows, slices."""
    shape: tuple[int, int, int] = (20, 24, 7)
    frame: str = "1.2.826.77.1"
    headers: Mapping[str, Any] | None = None
    seed: int = 0


@pytest.fixture
def scan_type() -> type[Scan]:
    return Scan


@pytest.fixture
def context() -> Context:
    return Context(torch.device("cpu"), torch.Generator(), is_last=True)


@pytest.fixture
def write_scans(tmp_path: Path) -> Callable[..., Path]:
    """Writes series to a folder: ``write_scans(Scan(), Scan("ct", "CT"))``."""

    def write(*scans: Scan) -> Path:
        folder = tmp_path / "studies" / "patient"
        folder.mkdir(parents=True, exist_ok=True)
        for number, scan in enumerate(scans, start=1):
            for k in range(scan.shape[2]):
                dataset = _slice(scan, number, k)
                # an order that says nothing
                path = folder / f"{number}_{(5 * k) % 97:03d}.dcm"
                dataset.save_as(path, enforce_file_format=True)
        return tmp_path / "studies"

    return write


@pytest.fixture
def study_of(context: Context) -> Callable[..., Study]:
    """The one study below a folder, ingested, its series in their order taking the roles given."""

    def ingested(folder: Path, *roles: str, records: Any = None) -> Study:
        (record,) = records or discover(folder)
        pairs = zip(record.series, roles, strict=True)
        chosen = tuple(replace(series, role=role, status="accepted") for series, role in pairs)
        study = Study(replace(record, series=chosen))
        result = IngestStage().run(study, context)
        assert len(result.outputs) == len(roles) + 1, result.outputs[-1].table
        return study.with_outputs("ingest", result.outputs, result.checks)

    return ingested


@pytest.fixture
def study(write_scans: Callable[..., Path], study_of: Callable[..., Study]) -> Study:
    """An oblique T1 and an axial T2 in one frame of reference, a CT in another."""
    folder = write_scans(
        Scan("t1"),
        Scan("t2", orientation=AXIAL, shape=(18, 16, 9), position=(-20.0, -4.0, -28.0), seed=1),
        Scan("ct", "CT", AXIAL, (-25.0, -9.0, -33.0), (2.0, 2.0, 2.5), (22, 21, 12),
             frame="1.2.826.77.2", seed=2),
    )  # fmt: skip
    return study_of(folder, "t1", "t2", "ct")


@pytest.fixture
def desk(study: Study) -> Desk:
    return Desk(study, "fingerprint")


@pytest.fixture
def validate(tmp_path: Path) -> Callable[[bytes], list[str]]:
    """What dciodvfy calls an error in an object; the test is skipped where it is absent."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not here")

    def errors(content: bytes) -> list[str]:
        path = tmp_path / "object.dcm"
        path.write_bytes(content)
        done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
        lines = (done.stderr + done.stdout).splitlines()
        assert any(line and not line.startswith(("Error", "Warning")) for line in lines), lines
        return [line for line in lines if line.startswith("Error")]

    return errors


@pytest.fixture
def dsrdump(tmp_path: Path) -> Callable[[bytes], str]:
    """What dsrdump prints of a report that it accepts; the test is skipped where it is absent."""
    program = shutil.which("dsrdump")
    if program is None:
        pytest.skip("dsrdump (Debian package dcmtk) is not here")

    def dump(content: bytes) -> str:
        path = tmp_path / "report.dcm"
        path.write_bytes(content)
        done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return dump


_COMMON: Mapping[str, Any] = {
    "SpecificCharacterSet": "ISO_IR 100",
    "StudyInstanceUID": "1.2.826.99",
    "PatientName": "Mustermann^Maria",
    "PatientID": "SECRET4711",
    "PatientBirthDate": "19700102",
    "PatientSex": "F",
    "PatientAge": "050Y",
    "StudyDate": "20200304",
    "StudyTime": "101112",
    "SeriesDate": "20200304",
    "AcquisitionDate": "20200304",
    "StudyID": "77",
    "AccessionNumber": "ACC123456",
    "ReferringPhysicianName": "Doctor^Who",
    "StudyDescription": "Head",
    "Manufacturer": "ACME",
    "ManufacturerModelName": "Scanner 3000",
    "SoftwareVersions": "v1",
    "DeviceSerialNumber": "123",
    "BodyPartExamined": "HEAD",
    "PatientPosition": "HFS",
    "PositionReferenceIndicator": "",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 16,
    "HighBit": 15,
    "PixelRepresentation": 1,
}

_MODALITY: Mapping[str, Mapping[str, Any]] = {
    "MR": {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "ScanningSequence": "SE",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "EchoTime": 12,
        "RepetitionTime": 500,
        "EchoTrainLength": 1,
    },
    "CT": {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "KVP": 120,
    },
}


def _slice(scan: Scan, number: int, k: int) -> Dataset:
    row, column = np.reshape(scan.orientation, (2, 3))
    between_columns, between_rows, between_slices = scan.spacing
    place = np.asarray(scan.position) + np.cross(row, column) * between_slices * k
    columns, rows, _ = scan.shape
    values: dict[str, Any] = {
        **_COMMON,
        **_MODALITY[scan.modality],
        "SOPInstanceUID": f"1.2.826.99.{number}.{k + 1}",
        "SeriesInstanceUID": f"1.2.826.99.{number}",
        "FrameOfReferenceUID": scan.frame,
        "SeriesTime": f"10{number:02d}00",
        "AcquisitionTime": f"10{number:02d}30",
        "SeriesDescription": f"{scan.role} head",
        "SeriesNumber": number,
        "InstanceNumber": 100 - k,
        "Modality": scan.modality,
        "ImagePositionPatient": [f"{v:.10g}" for v in place],
        "ImageOrientationPatient": [f"{v:.10g}" for v in scan.orientation],
        "PixelSpacing": [between_rows, between_columns],
        "SliceThickness": between_slices,
        "Rows": rows,
        "Columns": columns,
        **(scan.headers or {}),
    }
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    pixels = np.random.default_rng((scan.seed, k)).integers(0, 1500, (rows, columns))
    dataset.PixelData = pixels.astype("<i2").tobytes()
    return dataset
