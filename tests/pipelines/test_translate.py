"""Pseudo-CT by a bundle that is given, and plain words where there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from radloom.errors import ConfigError, InputError, MissingWeights, NotTrusted
from radloom.models.bundles import find_bundle
from radloom.models.training.ema import export_weights
from radloom.models.translation.declaration import Declaration
from radloom.pipelines import translate as room
from radloom.pipelines.export import READERS
from radloom.pipelines.single import translate_file, write_image
from radloom.pipelines.stage import Context, run_stage
from radloom.pipelines.study import Output, Study, StudyRecord
from radloom.pipelines.translate import PseudoCT, TranslateStage, checks_of_input, translate
from radloom.shapes import affine_of, array_of, like, make_label, make_volume
from radloom.transforms.synthesis.phantom import render_mr

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


TINY = {"n_stages": 2, "features_per_stage": [8, 8], "strides": [1, 2], "n_conv_per_stage": 1}


@pytest.fixture
def own_bundle(tmp_path) -> Callable[..., Path]:
    """``own_bundle(*contrasts)``: Radloom's own, with a tiny network of random weights."""

    def make(*contrasts: str, **said: object) -> Path:
        folder = tmp_path / "-".join(("own", *contrasts))
        configs = find_bundle("head_mr_to_ct_translation") / "configs"
        (folder / "configs").mkdir(parents=True)
        config = yaml.safe_load((configs / "inference.yaml").read_text())
        n_inputs = 8 * (2 * len(contrasts) if contrasts else 1)
        config["network_def"]["backbone"] |= {**TINY, "input_channels": n_inputs}
        config["inferer"]["roi_size"] = [32, 32, 32]
        (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(config))
        metadata = json.loads((configs / "metadata.json").read_text())
        if contrasts:
            image = metadata["network_data_format"]["inputs"]["image"]
            image["num_channels"] = len(contrasts)
            image["channel_def"] = {str(n): name for n, name in enumerate(contrasts)}
        metadata["radloom"] |= {"missing": "told" if contrasts else "best", **said}
        (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = ConfigParser(config).get_parsed_content("network_def")
        export_weights(network, folder / "models" / "model.pt")
        return folder

    return make


def test_the_pseudo_ct_lies_on_the_mrs_grid_in_whole_hu(bundle) -> None:
    found = translate(volume(), bundle, trust=True)
    np.testing.assert_array_equal(array_of(found.hu), array_of(volume()))
    np.testing.assert_array_equal(affine_of(found.hu), affine_of(volume()))
    assert (found.hu.meta["modality"], found.hu.meta["units"]) == ("CT", "HU")
    assert found.uncertainty is None
    assert np.unique(array_of(found.classes)).tolist() == [0, 1, 2]
    mu = found.attenuation()
    assert mu.meta["units"] == "1/cm"
    np.testing.assert_allclose(np.unique(array_of(mu)), [0.0, 0.0989, 0.1338], atol=1e-4)


def test_the_stage_gives_a_ct_in_the_mrs_space(bundle) -> None:
    stage, on = TranslateStage(bundle), study("ct", "flair", "t1")
    result = stage.run(on, context())
    assert [(o.kind, o.role, o.name, o.space) for o in result.outputs] == [
        ("volume", "ct", "pseudoct", "t1"),
        ("volume", "ct", "attenuation", "t1"),
        ("label", "ct", "tissues", "t1"),
    ]
    assert on.with_outputs("translate", result.outputs).latest("t1").name == "ingested"
    assert on.with_outputs("translate", result.outputs).roles == on.roles
    assert stage.input_hashes(on) == {"t1.nii.gz": "h"}
    found = {check.name: check for check in result.checks}
    assert found["t1_air_peak"].value == -990.0
    assert found["t1_soft_tissue_peak"].value == 40.0
    assert found["t1_bone_peak"].value == 710.0
    assert found["t1_head_width"].flagged
    only = TranslateStage(bundle, outputs=("attenuation",))
    assert [o.name for o in only.run(on, context()).outputs] == ["attenuation"]
    assert only.fingerprint() != stage.fingerprint()
    with pytest.raises(ConfigError, match=r"expected outputs of pseudoct, .*'bones'"):
        TranslateStage(bundle, outputs=("bones",))


def test_files_have_names_units_and_say_how_they_came(own_bundle, tmp_path) -> None:
    folder = own_bundle()
    on, out = study("t1"), tmp_path / "out"
    after, receipt = run_stage(TranslateStage(folder), on, out, context())
    assert receipt.status == "done"
    stems = [next(iter(o.files)) for o in after.outputs["translate"]]
    assert stems == [
        "sub-a/ses-1/ct/sub-a_ses-1_space-T1w_desc-pseudoct_ct.nii.gz",
        "sub-a/ses-1/ct/sub-a_ses-1_space-T1w_desc-uncertainty_ct.nii.gz",
        "sub-a/ses-1/ct/sub-a_ses-1_space-T1w_desc-attenuation_mumap.nii.gz",
        "sub-a/ses-1/ct/sub-a_ses-1_mod-ct_space-T1w_desc-tissues_dseg.nii.gz",
    ]
    said = [json.loads((out / stem.replace(".nii.gz", ".json")).read_text()) for stem in stems[:3]]
    assert [one["Units"] for one in said] == ["HU", "HU", "1/cm"]
    assert said[2]["PhotonEnergy"] == 511
    assert "doi:10.1118/1.2174132" in said[2]["Method"]
    stored = nib.load(out / stems[0])
    assert stored.get_data_dtype() == np.int16
    assert stored.shape == (20, 22, 18)
    names = (out / stems[3].replace(".nii.gz", ".tsv")).read_text()
    assert "soft tissue" in names
    for output in after.outputs["translate"]:
        again = array_of(READERS[output.kind](out / next(iter(output.files))))
        np.testing.assert_array_equal(again, array_of(output.volume))


def test_expected_errors_are_positive_and_follow_the_temperature(own_bundle) -> None:
    folder = own_bundle()
    cold = translate(volume(), folder, trust=True)
    config = folder / "configs" / "inference.yaml"
    text, n_times = re.subn(
        r"(temperature: )([\d.]+)", lambda m: f"{m[1]}{2 * float(m[2])}", config.read_text()
    )
    assert n_times == 1
    config.write_text(text)
    warm = translate(volume(), folder, trust=True)
    assert float(cold.uncertainty.min()) > 0
    np.testing.assert_allclose(
        array_of(warm.uncertainty), 2 * array_of(cold.uncertainty), rtol=1e-4
    )
    np.testing.assert_array_equal(array_of(warm.hu), array_of(cold.hu))


def test_an_error_beyond_what_the_validation_saw_is_flagged(own_bundle) -> None:
    result = TranslateStage(own_bundle(expected_error_hu=0.001)).run(study("t1"), context())
    assert {c.name for c in result.checks if c.flagged} >= {"t1_expected_error"}


def test_contrasts_that_lack_are_told_or_refused(own_bundle) -> None:
    folder = own_bundle("t1", "t2")
    both = translate({"t1": volume(), "t2": volume()}, folder, trust=True)
    one = translate({"t2": volume()}, folder, trust=True)
    assert not np.array_equal(array_of(both.hu), array_of(one.hu))
    stage = TranslateStage(folder)
    result = stage.run(study("flair", "t2"), context())
    assert result.outputs[0].space == "t2"
    missing = next(c for c in result.checks if c.name == "t2_contrasts_missing")
    assert (missing.value, missing.flagged) == (1.0, False)
    assert stage.run(study("flair"), context()).reason.endswith("registered: t1, t2")
    # T2 on its own grid does not count beside T1, registered it does
    assert [*stage._inputs(study("t1", "t2"))] == ["t1"]
    moved = Output("volume", "t2", "registered", volume(), "t1", files={"moved.nii.gz": "m"})
    registered = study("t1", "t2").with_outputs("register", (moved,))
    assert dict(stage.input_hashes(registered)) == {"t1.nii.gz": "h", "moved.nii.gz": "m"}
    assert stage.run(registered, context()).outputs[0].sidecar["TranslatedFrom"] == "t1+t2"
    with pytest.raises(InputError, match="expected the contrasts t1, t2, got any; say which"):
        translate(volume(), folder, trust=True)
    metadata = folder / "configs" / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"told"', '"refuse"'))
    assert stage.run(study("t1", "t2"), context()).status == "skipped"
    assert stage.run(registered, context()).status == "done"


def test_a_ct_without_bone_is_flagged() -> None:
    flat = like(volume(), np.zeros((20, 22, 18), np.float32), modality="CT", units="HU")
    label = make_label(np.ones((20, 22, 18), np.uint8), AFFINE)
    checks = list(room._checks("t1", PseudoCT(flat, label, None, Declaration())))
    assert [check.flagged for check in checks] == [True, False, True]


def test_the_checks_of_the_input_say_what_it_is(head) -> None:
    mr = render_mr(head, "t1", generator=torch.Generator().manual_seed(0))
    assert [c.name for c in checks_of_input(mr, "t1") if c.flagged] == []
    seen = Declaration(seen=("t2",))
    assert [c.name for c in room._input_checks({"t1": mr}, seen) if c.flagged] == [
        "t1_contrast_seen"
    ]


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


def test_a_file_becomes_four(own_bundle, tmp_path) -> None:
    write_image(volume(), tmp_path / "mr.nii.gz")
    names = ("attenuation", "classes", "uncertainty")
    files = {name: tmp_path / f"{name}.nii.gz" for name in names}
    flagged = translate_file(
        tmp_path / "mr.nii.gz",
        tmp_path / "ct.nii.gz",
        model=own_bundle(),
        trust=True,
        device="cpu",
        n_threads=1,
        **files,
    )
    assert "head_width" in {check.name for check in flagged}
    for path in (tmp_path / "ct.nii.gz", *files.values()):
        assert nib.load(path).shape == (20, 22, 18)
    assert nib.load(files["classes"]).get_data_dtype() == np.uint8
