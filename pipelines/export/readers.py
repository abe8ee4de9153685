"""Outputs read back from their files, as the stage that wrote them handed them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from radloom.pipelines.export.tsv import parse_tsv
from radloom.pipelines.receipts.plain import from_json
from radloom.pipelines.study import Data, Kind, Table
from radloom.shapes import LabelVolume, Volume
from radloom.transforms.itk_files import read_transform
from radloom.transforms.nifti import read_nifti

__all__ = ["READERS", "read_bytes", "read_label", "read_table", "read_volume", "sidecar_path"]


def sidecar_path(path: Path) -> Path:
    """The JSON file beside a data file.

    >>> sidecar_path(Path("sub-a_T1w.nii.gz")).name
    'sub-a_T1w.json'
    """
    return path.with_name(path.name.split(".")[0] + ".json")


def read_volume(path: Path) -> Volume:
    """(C, I, J, K) float32, with modality, units, series UID and reasons from its JSON file."""
    said = _sidecar(path)
    return read_nifti(
        path,
        label=False,
        modality=said["Modality"],
        units=said["Units"],
        series_uid=said.get("SeriesInstanceUID", ""),
        reasons=tuple(said.get("ReasonCodes", ())),
    )


def read_label(path: Path) -> LabelVolume:
    """(1, I, J, K) integers, with the series UID from its JSON file."""
    return read_nifti(path, label=True, series_uid=_sidecar(path).get("SeriesInstanceUID", ""))


def read_table(path: Path) -> Table:
    """Rows, typed as the JSON file says."""
    said = _sidecar(path)
    columns = {key: value for key, value in said.items() if isinstance(value, Mapping)}
    formats = {key: value["Format"] for key, value in columns.items() if "Format" in value}
    return parse_tsv(path.read_bytes(), formats)


def read_bytes(path: Path) -> bytes:
    """The file as it is: a picture or a DICOM object."""
    return path.read_bytes()


def _sidecar(path: Path) -> Mapping[str, Any]:
    said: Mapping[str, Any] = from_json(sidecar_path(path).read_bytes())
    return said


READERS: Mapping[Kind, Callable[[Path], Data]] = {
    "volume": read_volume,
    "label": read_label,
    "transform": read_transform,
    "table": read_table,
    "dicom": read_bytes,
    "report": read_bytes,
}
"""Kind -> what reads its file."""
