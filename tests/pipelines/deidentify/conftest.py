"""A folder with identifiers in every odd place, and a search for them in all bytes of another."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from radloom.pipelines.deidentify import Pseudonyms
from radloom.pipelines.ingest.names import digest_label

ROOT_UID = "1.2.826.0.1.3680043.9.7777"
PATIENT_ID = "MRN-8812345"
FOLDER = "Zwetkova, Olga 1961-03-07"

PLANTED = (
    "zwetkova", "olga", "quirinus", "8812345", "acc5599881", "19610307", "1961-03-07", "hedwig",
    "scannerx9", "sn-66677", "0171-555123", "ahornweg", ROOT_UID, "20190422", "2019-04-22",
    "20190423", "3680043.9.7777", digest_label(PATIENT_ID), digest_label(f"{ROOT_UID}.1"),
)  # fmt: skip
"""Everything that must not be found afterwards, in lower case."""

MPRAGE = {
    "ScanningSequence": ["GR", "IR"],
    "SequenceVariant": ["SK", "SP", "MP"],
    "RepetitionTime": 2300,
    "EchoTime": 2.9,
    "InversionTime": 900,
    "FlipAngle": 9,
    "MRAcquisitionType": "3D",
}


def code(meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "T-A0100", "SRT", meaning
    return item


def slice_of(k: int, *, study: int = 1, n: int = 5) -> Dataset:
    """Slice k of a T1, with identifiers wherever somebody may have put them."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.SourceApplicationEntityTitle = "ZWETKOVA"
    ds.file_meta.PrivateInformationCreatorUID = f"{ROOT_UID}.99"
    ds.file_meta.PrivateInformation = b"Zwetkova"
    ds.preamble = b"Olga Zwetkova".ljust(128, b"\0")
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    ds.SOPInstanceUID = f"{ROOT_UID}.{study}.1.{k + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT_UID}.{study}", f"{ROOT_UID}.{study}.1"
    ds.FrameOfReferenceUID = f"{ROOT_UID}.7"
    ds.Modality, ds.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.PatientName, ds.PatientID = "Zwetkova^Olga", PATIENT_ID
    ds.PatientBirthDate, ds.PatientSex, ds.PatientWeight = "19610307", "F", 61
    ds.OtherPatientIDs, ds.PatientAddress = ["8812345-X"], "Ahornweg 7"
    ds.AccessionNumber, ds.StudyID = "ACC5599881", "8812345"
    ds.ReferringPhysicianName, ds.OperatorsName = "Quirinus^Q", "Quirinus"
    ds.InstitutionName, ds.StationName = "St. Hedwig Klinik", "SCANNERX9"
    ds.DeviceSerialNumber, ds.Manufacturer = "SN-66677", "SIEMENS"
    ds.ManufacturerModelName = "Skyra of St. Hedwig Klinik"
    ds.SoftwareVersions = "syngo MR E11"
    ds.StudyDescription = "MR head Olga Zwetkova ACC5599881"
    ds.SeriesDescription = "t1_mprage sag ZWETKOVA 0171-555123"
    ds.ProtocolName = "t1 mprage Olga"
    ds.ImageComments = "call Olga at 0171-555123"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20190422" if study == 1 else "20190522"
    ds.AcquisitionDateTime = "20190423101112.123456+0100"
    ds.StudyTime = ds.ContentTime = "101112"
    ds.ScanOptions = ["PFP", "ZWETKOVA"]
    ds.AcquisitionNumber, ds.SeriesNumber, ds.InstanceNumber = 8812345, 2, k + 1
    for keyword, value in MPRAGE.items():
        setattr(ds, keyword, value)
    ds.ContrastBolusAgent = "Gadovist for Zwetkova"

    request = Dataset()
    request.RequestedProcedureDescription = "Zwetkova"
    request.ScheduledPerformingPhysicianName = "Quirinus^Q"
    ds.RequestAttributesSequence = [request]
    region = code("Olga's brain")
    region.AnatomicRegionModifierSequence = [code("of Zwetkova")]
    deep = Dataset()
    deep.PatientName, deep.TextString = "Zwetkova^Olga", "Zwetkova"
    deep.AcquisitionDateTime = "20190422"
    region.PatientOrientationCodeSequence = [deep]
    ds.AnatomicRegionSequence = [region]
    other = Dataset()
    other.ReferencedSOPClassUID = ds.SOPClassUID
    other.ReferencedSOPInstanceUID = f"{ROOT_UID}.{study}.1.{(k + 1) % n + 1}"
    ds.ReferencedImageSequence = [other]

    private = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    private.add_new(0x0C, "IS", 0)
    private.add_new(0x0A, "LO", "Zwetkova")  # a safe element that holds what it should not
    private.add_new(0x15, "LO", "Zwetkova")
    secret = ds.private_block(0x0029, "ZWETKOVA CSA", create=True)
    secret.add_new(0x10, "OB", b"Zwetkova Olga 20190422 ".ljust(24, b"\0"))
    item = Dataset()
    item.PatientName = "Zwetkova^Olga"
    secret.add_new(0x20, "SQ", [item])

    ds.add_new(0x60000010, "US", 8)
    ds.add_new(0x60000011, "US", 6)
    ds.add_new(0x60000102, "US", 12)
    ds.add_new(0x60004000, "LT", "overlay of Zwetkova")
    ds.add_new(0x60001500, "LO", "Zwetkova")
    ds.add_new(0x50002500, "LO", "Zwetkova")
    ds.add_new(0x00089999, "UN", b"Zwetkova")
    ds.add_new(0xFFFCFFFC, "OB", b"Zwetkova")

    ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], [1, 1]
    ds.ImagePositionPatient = [-4, -3, 2.0 * k]
    ds.Rows, ds.Columns, ds.SamplesPerPixel = 8, 6, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SmallestImagePixelValue, ds.PixelPaddingValue = 0, 0
    pixels = pixels_of(k)
    pixels[2:5, 1:4] |= 1 << 12  # an overlay in a bit that the image does not use
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def pixels_of(k: int) -> np.ndarray:
    """(row, column) of slice k, 12 bits."""
    return np.random.default_rng(k).integers(0, 4096, (8, 6)).astype("<u2")


def write_planted(folder: Path) -> Path:
    """Two DICOM studies of one patient, a NIfTI, an NRRD and a report, all under her name."""
    for study in (1, 2):
        place = folder / FOLDER / f"MR 2019-0{study + 3}-22"
        place.mkdir(parents=True)
        for k in range(5):
            ds = slice_of(k, study=study)
            ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            ds.save_as(place / f"ZWETKOVA_OLGA_{k}.dcm", enforce_file_format=True)
    files = folder / FOLDER / "ses-20190422"
    files.mkdir()
    write_nifti(files / "Zwetkova_T1w.nii.gz")
    (files / "Zwetkova_T1w.json").write_text(json.dumps(SIDECAR))
    (files / "Zwetkova_T1w.bval").write_text("0 1000 1000\n")
    image = sitk.GetImageFromArray(np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7))
    image.SetMetaData("PatientName", "Zwetkova")
    sitk.WriteImage(image, files / "Zwetkova_t2.nrrd")
    (files / "report of Olga.txt").write_text("Zwetkova has nothing")
    return folder


SIDECAR = {
    "PatientName": "Zwetkova^Olga",
    "PatientBirthDate": "1961-03-07",
    "PatientWeight": 61,
    "AcquisitionDateTime": "2019-04-22T10:11:12.500000",
    "AcquisitionTime": "10:11:12.5",
    "InstitutionName": "St. Hedwig Klinik",
    "InstitutionAddress": "Ahornweg 7",
    "DeviceSerialNumber": "66677",
    "StationName": "SCANNERX9",
    "AccessionNumber": "ACC5599881",
    "StudyInstanceUID": f"{ROOT_UID}.1",
    "SeriesDescription": "t1_mprage Zwetkova",
    "ImageComments": "Olga",
    "Manufacturer": "Siemens",
    "ImageType": ["ORIGINAL", "PRIMARY", "M"],
    "EchoTime": 0.0029,
    "RepetitionTime": 2.3,
    "InversionTime": 0.9,
    "SliceTiming": [0.0, 0.5],
    "Anything": "Zwetkova",
    "Nested": {"PatientName": "Zwetkova"},
    "NestedList": ["Zwetkova"],
}


def write_nifti(path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 900, (7, 6, 5)).astype(np.int16)
    image = nib.Nifti1Image(values, np.diag([1.5, 2, 2.5, 1]))
    image.header["descrip"] = b"Zwetkova Olga 20190422"
    image.header["intent_name"], image.header["db_name"] = b"Zwetkova", b"Olga"
    image.header["aux_file"] = b"Zwetkova.txt"
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"scan of Zwetkova"))
    nib.save(image, path)


def leaks(folder: Path) -> list[tuple[str, str]]:
    """Each planted value in a name or in any byte below `folder`, packed files unpacked."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        content = path.read_bytes() if path.is_file() else b""
        if content[:2] == b"\x1f\x8b":
            content += gzip.decompress(content)
        text = (name + "\n").lower().encode() + content.lower()
        found += [(name, word) for word in PLANTED if word.encode() in text]
    return found


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder of studies with identifiers everywhere."""
    folder = write_planted(tmp_path / "in")
    assert {word for _, word in leaks(folder)} >= {"zwetkova", "20190422", ROOT_UID}
    return folder


@pytest.fixture
def names() -> Pseudonyms:
    """Pseudonyms of a key that stays."""
    return Pseudonyms(bytes(range(32)))


@pytest.fixture
def find_leaks():
    """`leaks`."""
    return leaks


@pytest.fixture
def make_slice():
    """`slice_of`."""
    return slice_of


@pytest.fixture
def read_dicom():
    """Every DICOM object below a folder, by path."""

    def read(folder: Path) -> list[Dataset]:
        return [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]

    return read
