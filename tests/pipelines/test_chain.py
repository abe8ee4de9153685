"""The head workflow on the demo study at full size, held against what is known of the phantom."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from radloom.geometry import apply_affine, flip_lps_ras
from radloom.pipelines.demo import DemoTruth, write_demo_study
from radloom.pipelines.runner import RunSummary, run
from radloom.pipelines.workflow import load_workflow
from radloom.shapes import affine_of, array_of
from radloom.transforms.itk_files import read_transform

pytestmark = pytest.mark.slow

GEOMETRY_MM = 1e-4
RIGID_MM = 0.5


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> tuple[DemoTruth, RunSummary]:
    folder = tmp_path_factory.mktemp("chain")
    truth = write_demo_study(folder / "studies" / "phantom")
    return truth, run(folder / "studies", folder / "out", load_workflow("head"), device="cpu")


def outputs(out: Path, kind: str, stage: str) -> dict[str, Path]:
    rows = json.loads((out / "manifest.json").read_text())
    return {
        row["role"]: out / row["path"]
        for row in rows
        if row["kind"] == kind and row["stage"] == stage
    }


def test_the_study_is_done_and_nothing_is_flagged(chain):
    _, summary = chain
    assert summary.all_done, summary.sentence()
    assert [outcome.flags for outcome in summary.outcomes] == [0]


@pytest.mark.parametrize("role", ["t1", "t2", "flair", "ct"])
def test_volumes_lie_where_the_scanner_put_them_and_hold_what_it_wrote(chain, role):
    truth, summary = chain
    image = nib.load(outputs(summary.out, "volume", "ingest")[role])
    expected = truth.volumes[role]
    assert image.shape == expected.shape[1:]
    index = np.stack(np.meshgrid(*[(0, n - 1) for n in image.shape], indexing="ij"), -1)
    apart = apply_affine(image.affine, index) - apply_affine(affine_of(expected), index)
    assert np.abs(apart).max() < GEOMETRY_MM
    np.testing.assert_array_equal(np.asarray(image.dataobj), array_of(expected)[0])


@pytest.mark.parametrize("role", ["t2", "flair", "ct"])
def test_known_moves_are_recovered(chain, role):
    truth, summary = chain
    path = outputs(summary.out, "transform", "register")[role]
    labels = array_of(truth.head.labels)[0].astype(np.int32)
    head = apply_affine(affine_of(truth.head.labels), np.argwhere(labels > 0)[::97])
    expected = truth.moving_from_fixed[role].apply(head)
    found = read_transform(path).apply(head)
    assert np.linalg.norm(found - expected, axis=1).mean() < RIGID_MM
    itk = sitk.ReadTransform(str(path))
    point = head[len(head) // 2]
    through_itk = np.array(itk.TransformPoint(flip_lps_ras(np.eye(4))[:3, :3] @ point))
    np.testing.assert_allclose(
        through_itk * (-1, -1, 1), read_transform(path).apply(point[None])[0]
    )


@pytest.mark.parametrize("role", ["t2", "flair", "ct"])
def test_registered_volumes_lie_on_the_grid_of_t1(chain, role):
    _, summary = chain
    fixed = nib.load(outputs(summary.out, "volume", "ingest")["t1"])
    warped = nib.load(outputs(summary.out, "volume", "register")[role])
    assert warped.shape == fixed.shape
    np.testing.assert_array_equal(warped.affine, fixed.affine)


def test_the_registered_ct_is_still_in_hounsfield_units(chain):
    truth, summary = chain
    warped = np.asarray(nib.load(outputs(summary.out, "volume", "register")["ct"]).dataobj)
    labels = array_of(truth.head.labels)[0]
    grid = affine_of(truth.head.labels)
    fixed = nib.load(outputs(summary.out, "volume", "ingest")["t1"])
    index = np.rint(
        apply_affine(np.linalg.inv(fixed.affine), apply_affine(grid, np.argwhere(labels == 2)))
    ).astype(int)
    inside = ((index >= 0) & (index < warped.shape)).all(axis=1)
    white = warped[tuple(index[inside].T)]
    assert 20 < np.median(white) < 45
    assert warped.min() <= -1000
