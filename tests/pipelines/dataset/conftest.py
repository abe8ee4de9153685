"""What a run leaves, made without one: studies with volumes and receipts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from radloom.pipelines.receipts.files import sha256_of
from radloom.pipelines.receipts.receipt import OutputRecord, Receipt, read_receipt, write_receipt
from radloom.pipelines.receipts.records import write_record
from radloom.pipelines.study import StudyRecord
from radloom.shapes import make_label, make_volume
from radloom.transforms.nifti import write_nifti

SHAPE = (12, 14, 9)
AFFINE = np.array([[0.0, -1.5, 0, 12], [2, 0, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1]])


class Run:
    """An OUT to which volumes are added one by one."""

    affine = AFFINE

    def __init__(self, out: Path) -> None:
        self.out = out

    @staticmethod
    def truth() -> np.ndarray:
        """Labels 0, 3 and 7 (I, J, K), alike under no flip."""
        return truth()

    @staticmethod
    def picture(labels: np.ndarray, seed: int) -> np.ndarray:
        return picture(labels, seed)

    @staticmethod
    def save_label(path: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(make_label(labels, affine), path)
        return path

    def study(self, key: str) -> str:
        subject, session = (part.split("-")[1] for part in key.split("_"))
        write_record(self.out, StudyRecord(subject, session, "1.2", Path(), ()))
        return key

    def volume(
        self, key: str, role: str, *, array=None, affine=AFFINE, space="", stage="ingest", place=0
    ) -> Path:
        subject, session = key.split("_")
        array = picture(truth(), 0) if array is None else array
        relative = f"{subject}/{session}/anat/{key}_{stage}_{role}.nii.gz"
        path = self.out / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(make_volume(array, affine, modality="MR", units="arbitrary"), path)
        record = OutputRecord(
            "volume", role, {"ingest": "ingested", "register": "registered"}.get(stage, stage),
            space, path=relative, files={relative: sha256_of(path)},
        )  # fmt: skip
        receipt = self.out / "stages" / key / stage / "stage.json"
        known = read_receipt(receipt)
        outputs = (*known.outputs, record) if known else (record,)
        write_receipt(receipt, Receipt(key, stage, "done", position=place, outputs=outputs))
        return path


def truth() -> np.ndarray:
    """Labels 0, 3 and 7 (I, J, K), alike under no flip."""
    labels = np.zeros(SHAPE, dtype=np.int32)
    labels[2:9, 3:10, 1:6] = 3
    labels[3:6, 4:7, 2:4] = 7
    return labels


def picture(labels: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 5, labels.shape)
    return (100 + 20.0 * labels + noise).astype(np.float32)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "out")


@pytest.fixture
def two_studies(run: Run, tmp_path: Path) -> Run:
    """Studies ``sub-a_ses-1`` and ``sub-b_ses-1`` with t1 and labels in ``labels/``."""
    for seed, key in enumerate(("sub-a_ses-1", "sub-b_ses-1")):
        run.study(key)
        run.volume(key, "t1", array=picture(truth(), seed))
        run.save_label(tmp_path / "labels" / f"{key}_seg.nii.gz", truth())
    return run
