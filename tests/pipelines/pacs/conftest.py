"""A real PACS for the tests: Orthanc on loopback, with its DICOMweb plugin; skipped without."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from radloom.pipelines.pacs.address import DimseAddress, WebAddress
from radloom.pipelines.pacs.head import HEAD_BYTES, read_file_head
from radloom.pipelines.pacs.limits import DEFAULT_LIMITS, Limits
from radloom.pipelines.pacs.peer import Stored

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Orthanc:
    """One instance with a folder, two ports and an address where it reaches us."""

    folder: Path
    http_port: int = field(default_factory=free_port)
    dicom_port: int = field(default_factory=free_port)
    our_port: int = field(default_factory=free_port)
    settings: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def web(self) -> WebAddress:
        return WebAddress("http", "127.0.0.1", self.http_port, "/dicom-web")

    @property
    def dicom(self) -> DimseAddress:
        return DimseAddress("ORTHANC", "127.0.0.1", self.dicom_port)

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        us = {
            "AET": "RADLOOM", "Host": "127.0.0.1", "Port": self.our_port,
            "AllowStorageCommitment": True,
        }  # fmt: skip
        config = {
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "DicomCheckCalledAet": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "DicomModalities": {"radloom": us},
            "UnknownSopClassAccepted": True,
            **self.settings,
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(config))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(["Orthanc", str(path)], stdout=log, stderr=log)
        for _ in range(200):
            try:
                self.get("/system")
            except OSError:  # noqa: PERF203  # each turn asks the network
                time.sleep(0.1)
            else:
                return
        self.kill()
        pytest.fail((self.folder / "log").read_text()[-2000:])

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as got:
            return json.loads(got.read())

    def delete(self, path: str) -> None:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()

    def instances(self) -> list[str]:
        found = self.get("/instances?expand")
        return sorted(item["MainDicomTags"]["SOPInstanceUID"] for item in found)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """Orthanc, running and empty."""
    if shutil.which("Orthanc") is None or not PLUGIN.is_file():
        pytest.skip("Debian's orthanc and orthanc-dicomweb are not here")
    server = Orthanc(tmp_path / "orthanc")
    server.start()
    yield server
    server.kill()


@dataclass(frozen=True)
class Objects:
    """DICOM files to send and fetch, and what tells them apart."""

    folder: Path

    def write(
        self, name: str, *, n: int = 3, study: str = "1.2.826.1", size: int = 8
    ) -> list[Path]:
        """`n` small MR instances of one series."""
        import numpy as np
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

        paths = []
        series = f"{study}.{sum(name.encode())}"
        for number in range(n):
            meta = FileMetaDataset()
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            meta.MediaStorageSOPClassUID = MRImageStorage
            meta.MediaStorageSOPInstanceUID = f"{series}.{number + 1}"
            path = self.folder / name / f"{number}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            item = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
            item.SOPClassUID, item.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
            item.StudyInstanceUID, item.SeriesInstanceUID = study, series
            item.PatientName, item.PatientID = "DOE^JANE", "SECRET-7"
            item.StudyDate, item.StudyTime, item.Modality = "20200101", "120000", "MR"
            item.StudyID, item.AccessionNumber, item.PatientBirthDate = "1", "A1", ""
            item.PatientSex, item.ReferringPhysicianName = "", ""
            item.SeriesNumber, item.InstanceNumber = 1, number + 1
            item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
            item.Rows = item.Columns = size
            item.BitsAllocated = item.BitsStored = 16
            item.HighBit, item.PixelRepresentation = 15, 0
            pixels = np.random.default_rng(number).integers(0, 4096, (size, size))
            item.PixelData = pixels.astype("<u2").tobytes()
            item.save_as(path, enforce_file_format=True)
            paths.append(path)
        return paths

    def stored(self, paths: list[Path]) -> list[Stored]:
        found = []
        for path in paths:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            found.append(Stored(path, read_file_head(content[:HEAD_BYTES]), digest))
        return found

    def run(self, out: Path, paths: list[Path]) -> Path:
        """An OUT whose manifest lists copies of `paths` as DICOM objects."""
        entries = []
        for number, path in enumerate(paths):
            relative = f"sub-x/ses-1/dicom/{number:04d}.dcm"
            (out / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, out / relative)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            entries.append({"kind": "dicom", "path": relative, "sha256": digest})
        (out / "stages").mkdir(parents=True, exist_ok=True)
        (out / "manifest.json").write_text(json.dumps(entries))
        return out

    def below(self, folder: Path) -> dict[str, Path]:
        """SOPInstanceUID -> path of every DICOM file."""
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and is_dicom(p)]
        return {item.head.sop_uid: item.path for item in self.stored(files)}

    def differences(self, before: Path, after: Path) -> list[str]:
        """Tags in which two instances differ; trailing padding, which carries nothing, aside."""
        import pydicom

        one, other = pydicom.dcmread(before), pydicom.dcmread(after)
        found = [
            str(tag)
            for tag in sorted(set(one.keys()) | set(other.keys()))
            if tag != 0xFFFCFFFC and one.get(tag) != other.get(tag)
        ]
        if one.file_meta.TransferSyntaxUID != other.file_meta.TransferSyntaxUID:
            found.append("transfer syntax")
        return found


def is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path / "objects")


@pytest.fixture
def limits() -> Limits:
    """Short waits, so that what fails fails soon."""
    return replace(
        DEFAULT_LIMITS,
        connect_s=2,
        stall_s=1.0,
        answer_s=3.0,
        idle_s=3.0,
        wait_s=0.01,
        free_bytes=0,
    )


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo study at 4 mm: four series and a localizer, one of them compressed."""
    from radloom.pipelines.demo import write_demo_study

    folder = tmp_path_factory.mktemp("study")
    write_demo_study(folder, spacing_mm=4.0)
    return folder
