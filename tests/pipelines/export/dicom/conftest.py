"""A small CT in many positions whose voxels are the numbers of structures, and what a run adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from radloom.geometry import affine_from_parts, flip_lps_ras
from radloom.pipelines.export.dicom.heading import Heading
from radloom.pipelines.export.dicom.segmentation import LabelGrid, label_grid
from radloom.pipelines.export.dicom.source import SourceSeries
from radloom.pipelines.export.dicom.structures import Structure, structures_of
from radloom.pipelines.export.dicom.uids import ObjectUIDs, make_uid
from radloom.shapes import make_label

SHAPE = (64, 56, 20)

OBLIQUE = (0.8, 0.36, -0.48, 0.0, 0.8, 0.6)

POSITIONS: Mapping[str, tuple[tuple[float, ...], tuple[float, float], float, str]] = {
    "axial": ((1, 0, 0, 0, 1, 0), (1, 1), 3.0, "HFS"),
    "sagittal": ((0, 1, 0, 0, 0, -1), (1, 1), 2.0, "HFS"),
    "coronal": ((1, 0, 0, 0, 0, -1), (1, 1), 2.0, "HFS"),
    "oblique": (OBLIQUE, (0.9, 0.9), 2.5, "HFS"),
    "decubitus": ((0, 1, 0, -1, 0, 0), (1, 1), 3.0, "HFDL"),
    "feet_first": ((-1, 0, 0, 0, 1, 0), (1, 1), 3.0, "FFS"),
    "non_square": ((1, 0, 0, 0, 1, 0), (0.7, 1.3), 2.0, "HFS"),
    "negative_columns": ((1, 0, 0, 0, -1, 0), (1, 1), 2.0, "HFP"),
}
"""Name -> ImageOrientationPatient, PixelSpacing, mm between slices, PatientPosition."""

NAMES = {
    2: "left cerebral white matter",
    3: "left cerebral cortex",
    17: "left hippocampus",
    24: "CSF",
    41: "right cerebral white matter",
    511: "soft tissue and skin",
}


@dataclass(frozen=True, eq=False)
class LabelPhantom:
    """Labels, the source that they lie on, and what an object of them needs."""

    grid: LabelGrid
    structures: tuple[Structure, ...]
    heading: Heading
    datasets: tuple[Dataset, ...]
    """The source with its pixels, which are the labels."""

    def write_source(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for k, dataset in enumerate(self.datasets):
            dataset.save_as(folder / f"{k:03d}.dcm", enforce_file_format=True)
        return folder


def phantom_labels() -> np.ndarray:
    """A ball with a hollow, a ball and a hollow in that, a block with windows, a plate, corners."""
    i, j, k = np.indices(SHAPE)

    def ball(radii: tuple[float, float, float], shift: int = 0) -> np.ndarray:
        a, b, c = radii
        return ((i - 20 - shift) / a) ** 2 + ((j - 22) / b) ** 2 + ((k - 9) / c) ** 2 < 1

    labels = np.zeros(SHAPE, np.uint16)
    labels[ball((15, 12, 7))] = 17
    labels[ball((9, 7, 5))] = 0
    labels[ball((4, 3, 3))] = 17
    labels[ball((1.6, 1.6, 1.6), 2)] = 0
    labels[40:60, 30:54, 3:17] = 511
    labels[44:56, 34:40, 5:15] = 0
    labels[44:50, 44:50, 5:15] = 0
    labels[52:58, 44:50, 5:15] = 0
    labels[46:48, 46:48, 5:15] = 511
    labels[45, 35, 9] = 2
    labels[0:6, 0:5, 0:4] = 41
    labels[60:64, 52:56, 17:20] = 3
    labels[(np.abs(i - j - 20.0) < 1.5) & (k > 12) & (labels == 0)] = 24
    return labels


@pytest.fixture(scope="session")
def label_phantom() -> Callable[[str], LabelPhantom]:
    return _phantom


def _phantom(position: str) -> LabelPhantom:
    orientation, pixel_spacing, step, patient_position = POSITIONS[position]
    row, column = np.reshape(orientation, (2, 3))
    normal = np.cross(row, column)
    labels = phantom_labels()
    half = [pixel_spacing[1] * SHAPE[0] / 2, pixel_spacing[0] * SHAPE[1] / 2, step * SHAPE[2] / 2]
    origin = np.array([3.1, -20.7, 15.3]) - row * half[0] - column * half[1] - normal * half[2]
    datasets = tuple(
        _slice(position, labels[:, :, k], k, origin + normal * step * k) for k in range(SHAPE[2])
    )
    for dataset in datasets:
        dataset.ImageOrientationPatient = [f"{value:.8g}" for value in orientation]
        dataset.PixelSpacing = [str(value) for value in pixel_spacing]
        dataset.SliceThickness = str(step)
        dataset.PatientPosition = patient_position
    direction = np.column_stack([row, column, normal])
    spacing = (pixel_spacing[1], pixel_spacing[0], step)
    source = SourceSeries(
        datasets=tuple(_without_pixels(dataset) for dataset in datasets),
        slices=tuple((k, 0) for k in range(SHAPE[2])),
        affine=flip_lps_ras(affine_from_parts(origin, spacing, direction)),
        shape=SHAPE,
        frame_of_reference_uid=str(datasets[0].FrameOfReferenceUID),
    )
    grid = label_grid(make_label(labels, source.affine), source)
    uids = ObjectUIDs(source.study_uid, (source.series_uid,), f"labels/{position}", "fingerprint")
    return LabelPhantom(
        grid=grid,
        structures=structures_of(grid.labels, NAMES),
        heading=Heading(uids, 9201, "CT phantom labels", (source,)),
        datasets=datasets,
    )


def _slice(position: str, labels: np.ndarray, k: int, where: np.ndarray) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = make_uid("slice", position, str(k))
    dataset.StudyInstanceUID = make_uid("study", position)
    dataset.SeriesInstanceUID = make_uid("series", position)
    dataset.FrameOfReferenceUID = make_uid("frame", position)
    dataset.PositionReferenceIndicator = ""
    dataset.Modality, dataset.Manufacturer = "CT", "Phantom"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Phantom^Label", "P1", ""
    dataset.PatientSex, dataset.AccessionNumber, dataset.ReferringPhysicianName = "O", "", ""
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", 1, k + 1
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = "20200102"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = "101112"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = [f"{value:.10g}" for value in where]
    dataset.Columns, dataset.Rows = labels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.KVP = "0", "1", ""
    dataset.PixelData = np.ascontiguousarray(labels.T.astype("<u2")).tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _without_pixels(dataset: Dataset) -> Dataset:
    header = Dataset()
    header.update({e.tag: e for e in dataset if e.keyword != "PixelData"})
    return header


@pytest.fixture(scope="session")
def iod_faults() -> Callable[[Dataset], list[str]]:
    """What an object lacks, or has too much, by the tables of PS3.3 that highdicom carries."""
    return _faults


def _faults(dataset: Dataset) -> list[str]:
    from highdicom._standard_utils import (
        get_iod_module_map,
        get_module_attribute_map,
        get_sop_class_iod_map,
    )

    iod = get_sop_class_iod_map()[str(dataset.SOPClassUID)]
    faults, known = [], set()
    for module in get_iod_module_map()[iod]:
        attributes = get_module_attribute_map()[module["key"]]
        known |= {attribute["keyword"] for attribute in attributes if not attribute["path"]}
        if module["usage"] == "M":
            faults += _absent(dataset, attributes, module["key"])
    extra = [e.keyword for e in dataset if e.keyword not in known and e.tag.group > 2]
    return faults + [f"{keyword} is in no module of {iod}" for keyword in extra]


def _absent(dataset: Dataset, attributes: list[dict], where: str) -> list[str]:
    found = []
    groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    for attribute in attributes:
        if attribute["path"] and attribute["path"][-1] in groups:
            continue  # which groups there are is conditional; each that is there is looked at
        for item in _items(dataset, attribute["path"]):
            name = f"{where}: {'.'.join([*attribute['path'], attribute['keyword']])}"
            there = attribute["keyword"] in item
            if attribute["type"] in ("1", "2") and not there:
                found.append(f"{name} is absent")
            elif attribute["type"] == "1" and item[attribute["keyword"]].is_empty:
                found.append(f"{name} is empty")
    return found


def _items(dataset: Dataset, path: list[str]) -> list[Dataset]:
    items = [dataset]
    for keyword in path:
        items = [inner for item in items for inner in item.get(keyword) or ()]
    return items
