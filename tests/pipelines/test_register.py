from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from radloom.errors import ConfigError
from radloom.pipelines.register import RegisterStage, register_images
from radloom.pipelines.stage import Context
from radloom.pipelines.study import Output, Study, StudyRecord
from radloom.shapes import affine_of, array_of, make_volume, require_same_grid
from radloom.transforms.spatial import Transform, grid_points, resample

SHIFT_MM = (9.0, -7.0, 5.0)
CONTEXT = Context(device=torch.device("cpu"), generator=torch.Generator().manual_seed(0))


def head(kind: str, shift=(0.0, 0.0, 0.0)):
    """Nested ellipsoids off the middle, in two contrasts."""
    grid = np.diag([5.0, 5.0, 5.0, 1.0])
    grid[:3, 3] = -100
    points = grid_points(grid, (40, 44, 40)) - np.array(shift)
    values = np.zeros(points.shape[:-1])
    parts = (
        ((0, 5, 0), (72, 88, 80), 200, 40),
        ((0, 5, 4), (64, 80, 70), 90, 250),
        ((8, 20, 12), (30, 40, 30), 160, 110),
        ((-25, -30, -10), (16, 20, 14), 40, 300),
    )
    for centre, radii, t1, t2 in parts:
        inside = (((points - centre) / radii) ** 2).sum(-1) < 1
        values[inside] = t1 if kind == "t1" else t2
    values += np.random.default_rng(len(kind) + int(shift[0])).normal(size=values.shape) * 4
    return make_volume(np.abs(values), grid, modality="MR", units="arbitrary")


def study_of(**volumes) -> Study:
    record = StudyRecord("a", "1", "1.2", Path(), ())
    outputs = tuple(
        Output("volume", role, "ingested", volume, files={f"{role}.nii.gz": f"hash-{role}"})
        for role, volume in volumes.items()
    )
    return Study(record).with_outputs("ingest", outputs)


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of(flair=head("flair", SHIFT_MM), t1=head("t1"))


def test_the_stage_brings_the_moving_volume_home(study):
    result = RegisterStage(fast=True).run(study, CONTEXT)
    assert result.status == "done"
    transform, volume = result.outputs
    assert (transform.kind, transform.role, transform.name, transform.space) == (
        "transform",
        "flair",
        "moving_from_fixed",
        "t1",
    )
    assert (volume.kind, volume.role, volume.name, volume.space) == (
        "volume",
        "flair",
        "registered",
        "t1",
    )
    np.testing.assert_allclose(transform.transform.apply([0, 0, 0]), SHIFT_MM, atol=1.0)
    fixed = study.latest("t1").volume
    require_same_grid(fixed, volume.volume)
    once = resample(
        study.latest("flair").volume, transform.transform, affine_of(fixed), (40, 44, 40)
    )
    np.testing.assert_array_equal(array_of(volume.volume), array_of(once))
    values = {check.name: check for check in result.checks}
    assert values["flair_similarity_gain"].value > 0.02
    assert values["flair_moved_mm"].value == pytest.approx(np.linalg.norm(SHIFT_MM), abs=1.0)
    assert [c.name for c in result.checks if c.flagged] == []


def test_a_map_that_makes_things_worse_is_flagged(study, monkeypatch):
    matrix = np.eye(4)
    matrix[:3, 3] = 140.0, 0.0, 0.0
    astray = Transform(matrix)
    monkeypatch.setattr("radloom.models.registration.methods.register", lambda *a, **k: astray)
    same = head("t1")
    found = register_images(same, same)
    flagged = {check.name for check in found.checks if check.flagged}
    assert {"similarity_gain", "moved_mm", "overlap"} <= flagged


def test_folds_are_counted_and_flagged(monkeypatch):
    volume = head("t1")
    field = np.zeros((3, 40, 44, 40), np.float32)
    field[0, 20:] = -30.0
    torn = Transform(np.eye(4), field, affine_of(volume))
    monkeypatch.setattr("radloom.models.registration.methods.register", lambda *a, **k: torn)
    checks = {check.name: check for check in register_images(volume, volume).checks}
    assert checks["folded_voxels"].value == pytest.approx(2 / 40)
    assert checks["folded_voxels"].flagged


@pytest.mark.parametrize(
    ("roles", "fixed", "expected"),
    [
        (("ct", "t2", "t1"), "t1", ("t1", "ct", "t2")),
        (("ct", "t2", "flair"), "t1", ("flair", "ct", "t2")),
        (("ct", "t2"), "ct", ("ct", "t2")),
        (("pet",), "t1", ("pet",)),
    ],
)
def test_who_is_fixed(roles, fixed, expected):
    small = make_volume(np.zeros((4, 4, 4)), np.eye(4), modality="MR", units="arbitrary")
    given = study_of(**dict.fromkeys(roles, small))
    hashes = RegisterStage(fixed=fixed).input_hashes(given)
    assert tuple(hashes) == tuple(f"{role}.nii.gz" for role in expected)


def test_one_volume_only_is_skipped():
    result = RegisterStage().run(study_of(t1=head("t1")), CONTEXT)
    assert (result.status, result.reason) == ("skipped", "one volume only")
    empty = RegisterStage().run(study_of(), CONTEXT)
    assert (empty.status, empty.outputs) == ("skipped", ())


def test_the_fingerprint_follows_what_the_result_depends_on(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text('(Transform "EulerTransform")\n')
    stage = RegisterStage(parameter_files=(file,))
    before = stage.fingerprint()
    moved = tmp_path / "b.txt"
    moved.write_text('// the same, elsewhere\n(Transform "EulerTransform")\n')
    assert RegisterStage(parameter_files=(moved,)).fingerprint() == before
    file.write_text('(Transform "AffineTransform")\n')
    assert stage.fingerprint() != before
    prints = {
        RegisterStage().fingerprint(),
        RegisterStage(fast=True).fingerprint(),
        RegisterStage(transform="affine").fingerprint(),
        RegisterStage(moving=("ct",)).fingerprint(),
    }
    assert len(prints) == 4


def test_impossible_parameters_are_refused():
    with pytest.raises(ConfigError, match="expected transform of"):
        RegisterStage(transform="curly")
    with pytest.raises(ConfigError, match="register: expected method of"):
        RegisterStage(method="guess")


def test_memory_grows_with_the_volumes(study):
    stage = RegisterStage()
    voxels = 40 * 44 * 40
    assert stage.estimate_memory(study) > 2 * 4 * voxels
    assert RegisterStage(transform="deformable").estimate_memory(study) > stage.estimate_memory(
        study
    )
    assert stage.estimate_memory(study_of(t1=head("t1"))) == 0
