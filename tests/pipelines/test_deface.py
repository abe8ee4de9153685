"""Defacing on the phantom, where brain, eyes and skin are known, and as an option of ingestion."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from radloom.errors import SeriesRefused
from radloom.pipelines.deface import deface
from radloom.pipelines.demo import _rigid
from radloom.pipelines.ingest.discovery import discover
from radloom.pipelines.ingest.stage import IngestStage
from radloom.pipelines.single import deface_file
from radloom.pipelines.stage import Context
from radloom.pipelines.study import Study
from radloom.shapes import affine_of, array_of, make_label, make_volume, spatial_shape
from radloom.transforms.spatial import resample
from radloom.transforms.synthesis.phantom import make_head, render_ct, render_mr

EYE, SKIN, CSF = 506, 511, 24


@pytest.fixture(scope="module")
def other_head():
    """A head of another seed than the template's."""
    return make_head(torch.Generator().manual_seed(7), spacing_mm=2.0)


def picture(head, contrast, move):
    generator = torch.Generator().manual_seed(1)
    grid = {"grid_affine": head.affine, "grid_shape": head.grid_shape}
    kwargs = {**grid, "moving_from_fixed": move, "generator": generator}
    return render_ct(head, **kwargs) if contrast == "ct" else render_mr(head, contrast, **kwargs)


def require_defaced(head, volume, removed, move):
    """No brain, most of eyes' fronts, nose and mouth: `removed` against the labels moved along."""
    moved = resample(head.labels, move.inverse(), affine_of(volume), spatial_shape(volume),
                     interpolation="nearest", default=0.0)  # fmt: skip
    labels = array_of(moved)[0]
    brain = (labels > 0) & (labels < 500) & (labels != CSF)
    assert brain.sum() > 100_000
    assert not (brain & removed).any()
    points = head.affine[:3, 3] + 2.0 * np.argwhere(array_of(head.labels)[0] == SKIN)
    face = points[(points[:, 1] > 70) & (points[:, 2] < -30)]  # nose, lips, cheeks' front
    index = np.linalg.inv(affine_of(volume)) @ np.c_[move.apply(face), np.ones(len(face))].T
    i, j, k = np.round(index[:3]).astype(int)
    at = np.stack([i, j, k], axis=1)
    at = at[((at >= 0) & (at < removed.shape)).all(axis=1)]
    assert removed[tuple(at.T)].mean() > 0.97
    assert 0.3 < removed[labels == EYE].mean() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("contrast", ["t1", "t2", "flair", "ct"])
def test_the_face_goes_and_no_brain_does(other_head, contrast):
    move = _rigid((8, -6, 10), (5, 8, -6))
    volume = picture(other_head, contrast, move)
    done = deface(volume)
    require_defaced(other_head, volume, done.removed, move)
    values, cut = array_of(volume)[0], array_of(done.volume)[0]
    np.testing.assert_array_equal(cut[~done.removed], values[~done.removed])
    np.testing.assert_array_equal(affine_of(done.volume), affine_of(volume))
    assert done.volume.meta["series_uid"] == volume.meta["series_uid"]


@pytest.mark.slow
def test_with_labels_the_planes_keep_clear_of_that_brain(other_head, tmp_path):
    from radloom.transforms.nifti import write_nifti

    volume = picture(other_head, "t1", _rigid((0, 0, 0), (0, 0, 0)))
    write_nifti(volume, tmp_path / "t1.nii.gz")
    labels = array_of(other_head.labels)
    write_nifti(make_label(labels, other_head.affine), tmp_path / "labels.nii.gz")
    share = deface_file(tmp_path / "t1.nii.gz", tmp_path / "out.nii.gz",
                        brain=tmp_path / "labels.nii.gz", n_threads=1)  # fmt: skip
    removed = np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj) != array_of(volume)[0]
    brain = (labels[0] > 0) & (labels[0] < 500) & (labels[0] != CSF)
    assert not (brain & removed).any()
    assert 0.1 < share < 0.4


@pytest.mark.parametrize(
    ("shape", "modality", "message"),
    [((1, 60, 60, 60), "PT", "expected a 3D volume of MR or CT, got PT"),
     ((2, 60, 60, 60), "MR", "with 2 channels"),
     ((1, 60, 60, 10), "MR", "to find a head, got 20")],
)  # fmt: skip
def test_what_is_no_head_is_refused(shape, modality, message):
    units = "Bq/mL" if modality == "PT" else "arbitrary"
    values = np.ones(shape, np.float32)
    volume = make_volume(values, np.diag([2.0, 2, 2, 1]), modality=modality, units=units)
    with pytest.raises(SeriesRefused, match=message):
        deface(volume)


def test_ingestion_refuses_what_it_was_to_deface_and_cannot(tmp_path):
    values = np.random.default_rng(0).normal(100, 5, (12, 14, 9)).astype(np.float32)
    for name in ("x_T1w", "x_other"):
        nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1])), tmp_path / f"{name}.nii.gz")
    (record,) = discover(tmp_path)
    context = Context(torch.device("cpu"), torch.Generator())
    plain = IngestStage().run(Study(record), context)
    assert [output.kind for output in plain.outputs] == ["volume", "volume", "table"]
    result = IngestStage(deface=True).run(Study(record), context)
    (table,) = result.outputs
    assert [(row["status"], row["reason"], row["role"]) for row in table.table] == [
        ("rejected", "not_defaced", "")
    ] * 2
    assert IngestStage().fingerprint() != IngestStage(deface=True).fingerprint()
