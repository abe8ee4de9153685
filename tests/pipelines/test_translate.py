"""Pseudo-CT by a bundle that is given, and plain words where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from radloom.errors import InputError, MissingWeights, NotTrusted
from radloom.pipelines import translate as room
from radloom.pipelines.stage import Context
from radloom.pipelines.study import Output, Study, StudyRecord
from radloom.pipelines.translate import TranslateStage, translate
from radloom.shapes import affine_of, array_of, make_volume

AFFINE = np.array([[0, -1.0, 0, 4], [1.2, 0, 0, -9], [0, 0, 2.0, 3], [0, 0, 0, 1]])


def volume(modality: str = "MR"):
    image = np.full((20, 22, 18), 30.0, np.float32)
    image[:6], image[9:12] = -1000.0, 700.0
    return make_volume(image, AFFINE, modality=modality, units="arbitrary", series_uid="1.2")


def study(*roles: str) -> Study:
    record = StudyRecord("a", "1", "1.2.3", Path(), ())
    outputs = tuple(
        Output("volume", role, "ingested", volume(), files={f"{role}.nii.gz": "h"})
        for role in roles
    )
    return Study(record).with_outputs("ingest", outputs)


def context(*, trust: bool = True) -> Context:
    return Context(torch.device("cpu"), torch.Generator(), trust=trust)


@pytest.fixture
def bundle(tmp_path) -> Path:
    """Gives the image back, through LPS and by windows."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "models").mkdir()
    turn = {"_target_": "Orientationd", "keys": "image", "axcodes": "LPS", "labels": None}
    config = {
        "network_def": {"_target_": "torch.nn.Threshold", "threshold": -1e9, "value": 0},
        "preprocessing": {"_target_": "Compose", "transforms": [turn]},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
    }
    metadata = {"network_data_format": {"inputs": {"image": {"num_channels": 1}}}}
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(config))
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.save({}, tmp_path / "models" / "model.pt")
    return tmp_path


def test_the_pseudo_ct_lies_on_the_mrs_grid_in_hu(bundle) -> None:
    pseudo_ct = translate(volume(), bundle, trust=True)
    np.testing.assert_allclose(array_of(pseudo_ct), array_of(volume()), rtol=1e-5)
    np.testing.assert_array_equal(affine_of(pseudo_ct), affine_of(volume()))
    assert (pseudo_ct.meta["modality"], pseudo_ct.meta["units"]) == ("CT", "HU")


def test_the_stage_gives_a_ct_in_the_mrs_space(bundle) -> None:
    stage, on = TranslateStage(bundle), study("ct", "flair", "t1")
    result = stage.run(on, context())
    (output,) = result.outputs
    assert (output.kind, output.role, output.name, output.space) == (
        "volume", "ct", "pseudoct", "t1",
    )  # fmt: skip
    assert on.with_outputs("translate", result.outputs).latest("t1").name == "ingested"
    assert stage.input_hashes(on) == {"t1.nii.gz": "h"}
    assert {check.name: check.value for check in result.checks} == {
        "t1_air_peak": -990.0,
        "t1_soft_tissue_peak": 40.0,
        "t1_bone_peak": 710.0,
    }
    assert not any(check.flagged for check in result.checks)


def test_a_ct_without_bone_is_flagged() -> None:
    checks = room._checks("t1", np.zeros((4, 4, 4), np.float32))
    assert [check.flagged for check in checks] == [True, False, True]


def test_absent_bundle_weights_or_mr_skip_the_stage(bundle, monkeypatch) -> None:
    def missing(name: str) -> Path:
        raise MissingWeights(f"{name} is not here")

    monkeypatch.setattr(room, "find_bundle", missing)
    result = TranslateStage().run(study("t1"), context())
    assert (result.status, result.reason) == ("skipped", "head_mr_to_ct_translation is not here")
    (bundle / "models" / "model.pt").unlink()
    result = TranslateStage(bundle).run(study("t1"), context())
    assert result.status == "skipped"
    assert "has no weights" in result.reason
    result = TranslateStage(bundle).run(study("ct"), context())
    assert result.reason.startswith("the study has no volume of t1")
    assert TranslateStage().fingerprint() == TranslateStage(bundle).fingerprint()


def test_trust_and_modality_are_asked_for(bundle) -> None:
    with pytest.raises(NotTrusted, match="give --trust"):
        TranslateStage(bundle).run(study("t1"), context(trust=False))
    with pytest.raises(InputError, match="expected an MR volume, got modality 'CT'"):
        translate(volume("CT"), bundle, trust=True)
