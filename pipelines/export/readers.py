"""Outputs read back from their files, as the stage that wrote them handed them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radloom.pipelines.export.tsv import read_table, sidecar_path
from radloom.pipelines.receipts.plain import from_json
from radloom.pipelines.study import Data, Kind
from radloom.transforms.nifti import read_nifti

if TYPE_CHECKING:  # a run of ingestion alone never imports torch
    from radloom.shapes import LabelVolume, Volume
    from radloom.transforms.spatial import Transform

__all__ = ["READERS", "read_bytes", "read_label", "read_table", "read_volume", "sidecar_path"]


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


def read_transform(path: Path) -> Transform:
    """A transform as `radloom.transforms.itk_files` reads it."""
    from radloom.transforms import itk_files

    return itk_files.read_transform(path)


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
