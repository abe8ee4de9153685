"""From DICOM through a real nnU-Net model to DICOM: what a user with a model of their own gets."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import highdicom as hd
import numpy as np
import pydicom
import pytest
import torch

from radloom.pipelines.export.dicom.stage import ExportStage
from radloom.pipelines.ingest import IngestStage, discover
from radloom.pipelines.segment import SegmentStage
from radloom.pipelines.stage import Context, run_stage
from radloom.pipelines.study import Study
from radloom.shapes import array_of


def _scans() -> ModuleType:
    """The writer of small DICOM series, which belongs to the tests of another room."""
    path = Path(__file__).parents[2] / "pipelines" / "export" / "conftest.py"
    spec = importlib.util.spec_from_file_location("scans_for_export", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_labels_of_a_users_model_lie_over_the_source_images(
    nnunet_folder: Path, tmp_path: Path
) -> None:
    scans = _scans()
    folder = tmp_path / "studies"
    folder.mkdir()
    scan = scans.Scan("t1", spacing=(1.0, 1.25, 3.6), shape=(40, 36, 12))
    for k in range(scan.shape[2]):
        scans._slice(scan, 1, k).save_as(folder / f"{k}.dcm", enforce_file_format=True)
    (record,) = discover(folder)
    series = (replace(record.series[0], role="t1", status="accepted"),)
    study = Study(replace(record, series=series))
    context = Context(torch.device("cpu"), torch.Generator(), trust=True, is_last=True)
    stages = (
        IngestStage(),
        SegmentStage(model=nnunet_folder, mirroring=False),
        ExportStage(("segmentation", "structure_set", "measurements")),
    )
    for stage in stages:
        study, receipt = run_stage(stage, study, tmp_path / "out", context)
        assert receipt.status == "done", receipt.reason
    (label,) = study.find(kind="label")
    labels = array_of(label.volume)[0]
    assert labels.any()
    made = {
        str(pydicom.dcmread(tmp_path / "out" / path).SOPClassUID.name): tmp_path / "out" / path
        for output in study.outputs["export"]
        for path in output.files
    }
    assert set(made) == {
        "Segmentation Storage", "RT Structure Set Storage", "Enhanced SR Storage"
    }  # fmt: skip
    segmentation = hd.seg.segread(made["Segmentation Storage"])
    names = {str(s.SegmentLabel): int(s.SegmentNumber) for s in segmentation.SegmentSequence}
    source = [str(ds.SOPInstanceUID) for ds in _in_slice_order(folder)]
    for value, name in label.label_names.items():
        if name not in names:
            assert not (labels == value).any()
            continue
        read = segmentation.get_pixels_by_source_instance(
            source, segment_numbers=[names[name]], assert_missing_frames_are_empty=True
        )
        np.testing.assert_array_equal(read[..., 0].transpose(2, 1, 0), labels == value)


def _in_slice_order(folder: Path) -> list[pydicom.Dataset]:
    datasets = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    row, column = np.reshape(np.array(datasets[0].ImageOrientationPatient, float), (2, 3))
    normal = np.cross(row, column)
    return sorted(datasets, key=lambda ds: float(np.array(ds.ImagePositionPatient, float) @ normal))
