"""A real PACS for the tests: Orthanc on loopback, with its DICOMweb plugin; skipped without."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from radloom.pipelines.pacs.address import DimseAddress, WebAddress

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
            except OSError:
                time.sleep(0.1)
            else:
                return
        self.kill()
        pytest.fail((self.folder / "log").read_text()[-2000:])

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as got:
            return json.loads(got.read())

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


def dicom_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and is_dicom(p))


def is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"
