"""The stage with a map that deforms: which method, what it gives, what it flags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from radloom.errors import ConfigError, MissingWeights
from radloom.models.registration.deformable import Deformation
from radloom.models.registration.methods import Found
from radloom.pipelines.register import RegisterStage, register_images
from radloom.pipelines.stage import Context
from radloom.pipelines.study import Output, Study, StudyRecord
from radloom.shapes import Volume, affine_of, make_volume
from radloom.transforms.spatial import Transform, grid_points

SHIFT_MM = (9.0, -7.0, 5.0)
CONTEXT = Context(device=torch.device("cpu"), generator=torch.Generator().manual_seed(0))


def head(column: int, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Volume:
    """Nested ellipsoids off the middle, in one of two contrasts."""
    grid = np.diag([5.0, 5.0, 5.0, 1.0])
    grid[:3, 3] = -100
    points = grid_points(grid, (40, 44, 40)) - np.array(shift)
    values = np.zeros(points.shape[:-1])
    for centre, radii, *looks in (
        ((0, 5, 0), (72, 88, 80), 200, 40),
        ((0, 5, 4), (64, 80, 70), 90, 250),
        ((8, 20, 12), (30, 40, 30), 160, 110),
        ((-25, -30, -10), (16, 20, 14), 40, 300),
    ):
        values[(((points - centre) / radii) ** 2).sum(-1) < 1] = looks[column]
    values += np.random.default_rng(column).normal(size=values.shape) * 4
    return make_volume(np.abs(values), grid, modality="MR", units="arbitrary")


def test_hybrid_is_the_default_of_a_map_that_deforms(tmp_path):
    def stage(transform: str = "deformable", method: str | None = None) -> RegisterStage:
        return RegisterStage(transform=transform, method=method)

    assert stage().fingerprint() == stage(method="hybrid").fingerprint()
    assert stage().fingerprint() != stage(method="elastix").fingerprint()
    assert stage("affine").fingerprint() == stage("affine", "elastix").fingerprint()
    file = tmp_path / "mine.txt"
    file.write_text('(Transform "BSplineTransform")\n')
    given = RegisterStage(transform="deformable", parameter_files=(file,))
    assert given.estimate_memory(study()) < stage().estimate_memory(study())


def test_impossible_asks_are_refused():
    with pytest.raises(ConfigError, match="expected the transform deformable with the method"):
        RegisterStage(method="hybrid", transform="rigid")
    with pytest.raises(ConfigError, match="expected the method elastix with parameter files"):
        RegisterStage(method="hybrid", transform="deformable", parameter_files=(Path("mine.txt"),))


def test_voxelmorph_without_weights_says_so(monkeypatch):
    def absent(device: torch.device) -> None:
        raise MissingWeights("the bundle <head_mr_registration> has no weights")

    monkeypatch.setattr("radloom.models.registration.deformable.shipped_registrar", absent)
    with pytest.raises(MissingWeights, match="head_mr_registration"):
        register_images(head(0), head(0), transform="deformable", method="voxelmorph")


def test_the_weights_are_part_of_the_fingerprint(monkeypatch):
    stage = RegisterStage(transform="deformable")
    prints = set()
    for digest in ("a", "b"):
        monkeypatch.setattr(
            "radloom.models.registration.methods.bundle_sha256", lambda folder, d=digest: d
        )
        prints.add(stage.fingerprint())
    assert len(prints) == 2


def study() -> Study:
    record = StudyRecord("a", "1", "1.2", Path(), ())
    volumes = {"flair": head(1, SHIFT_MM), "t1": head(0)}
    outputs = tuple(
        Output("volume", role, "ingested", volume, files={f"{role}.nii.gz": f"hash-{role}"})
        for role, volume in volumes.items()
    )
    return Study(record).with_outputs("ingest", outputs)


def test_a_study_s_volume_is_deformed_onto_the_other():
    result = RegisterStage(transform="deformable", fast=True).run(study(), CONTEXT)
    transform, volume = result.outputs
    assert transform.sidecar["RegistrationMethod"] == "hybrid"
    assert transform.transform.displacement_mm.shape == (3, 40, 44, 40)
    np.testing.assert_allclose(transform.transform.apply([[0, 0, 0]]), [SHIFT_MM], atol=4)
    assert volume.volume.shape == (1, 40, 44, 40)
    checks = {check.name: check for check in result.checks}
    assert checks["flair_network_start"].value in (0.0, 1.0)
    assert checks["flair_inverse_error_mm"].value < 0.5
    assert checks["flair_folded_voxels"].value == 0.0
    assert checks["flair_similarity_gain"].value > 0.02
    assert "flair_deformation_gain" in checks


def test_a_guiding_network_is_named_and_judged(monkeypatch):
    """Of two networks, the one that took part; a map that draws structures apart is flagged."""
    monkeypatch.setattr(
        "radloom.models.registration.methods.bundle_sha256", lambda folder: f"hash-{folder.name}"
    )
    still = Transform.identity()
    worse = Deformation(still, still, "search", 1.0, 0.1, 0.7, 0.6)
    monkeypatch.setattr("radloom.models.registration.methods.register", lambda *a, **k: still)
    monkeypatch.setattr("radloom.models.registration.methods.deform", lambda *a, **k: worse)
    monkeypatch.setattr("radloom.models.registration.methods.registrar_for", lambda *a: None)
    monkeypatch.setattr("radloom.models.registration.methods.segmenter_for", lambda *a: "sees")
    result = RegisterStage(transform="deformable").run(study(), CONTEXT)
    used = result.outputs[0].sidecar["RegistrationModelsSHA256"]
    assert used == {"brain_mr_segmentation": "hash-brain_mr_segmentation"}
    checks = {check.name: check for check in result.checks}
    assert checks["flair_structures_after"].value == 0.6
    assert checks["flair_structures_gain"].flagged


def test_a_deformation_that_went_astray_is_flagged(monkeypatch):
    volume = head(0)
    field = np.zeros((3, 40, 44, 40), np.float32)
    field[0] = 12.0 * np.sin(np.arange(40) / 3.0)[:, None, None]
    wavy = Transform(np.eye(4), field, affine_of(volume))
    bad = Deformation(wavy, wavy, "network", refined_mm=20.0, inconsistency_mm=3.0)
    found = Found(wavy, Transform.identity(), bad)
    monkeypatch.setattr("radloom.pipelines.register.find_transform", lambda *a, **k: found)
    done = register_images(volume, volume, transform="deformable")
    flagged = {check.name for check in done.checks if check.flagged}
    assert {"deformation_gain", "refined_mm", "inverse_error_mm"} <= flagged
    assert done.fixed_from_moving is wavy
