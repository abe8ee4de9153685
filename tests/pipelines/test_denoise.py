import numpy as np
import pytest
import torch

from radloom.errors import ConfigError, InputError
from radloom.models.denoising.noise import NoiseEstimate
from radloom.pipelines.denoise import DenoiseStage, denoise
from radloom.pipelines.stage import Context
from radloom.pipelines.study import Output, Study, StudyRecord
from radloom.shapes import affine_of, array_of, make_volume

OBLIQUE = np.array([[0.96, 0.28, 0, -9], [-0.28, 0.96, 0, 4], [0, 0, 3, 7], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def mr():
    truth = np.zeros((48, 44, 24), np.float32)
    truth[6:42, 6:38, 3:21] = 500
    truth[18:30, 16:28, 8:16] = 800
    noise = 40 * np.random.default_rng(0).standard_normal((2, *truth.shape))
    image = np.hypot(truth + noise[0], noise[1])
    return make_volume(image, OBLIQUE, modality="MR", units="arbitrary", series_uid="1.2.3")


@pytest.fixture(scope="module")
def ct():
    hu = np.full((48, 44, 24), -1000.0)
    hu[6:42, 6:38, 3:21] = 1000
    hu[9:39, 9:35, 5:19] = 40
    hu += np.random.default_rng(0).normal(0, 10, hu.shape)
    return make_volume(hu.round(), np.diag([1.0, 1, 2, 1]), modality="CT", units="HU")


@pytest.fixture
def study(mr, ct, tmp_path):
    outputs = (
        Output("volume", "t1", "ingested", mr, files={"t1.nii.gz": "aa"}),
        Output("volume", "ct", "ingested", ct, files={"ct.nii.gz": "bb"}),
        Output("volume", "", "ingested", mr, files={"scout.nii.gz": "cc"}),
    )
    record = StudyRecord("01", "01", "1.2", tmp_path, ())
    return Study(record).with_outputs("ingest", outputs)


@pytest.fixture
def context():
    return Context(torch.device("cpu"), torch.Generator().manual_seed(0), n_threads=2)


def test_keeps_grid_units_and_input(mr):
    before = mr.clone()
    clean, level = denoise(mr)
    assert level == pytest.approx(40, rel=0.1)
    assert np.array_equal(affine_of(clean), affine_of(mr))
    assert clean.shape == mr.shape
    assert clean.as_tensor().dtype == torch.float32
    assert {k: clean.meta[k] for k in ("modality", "units", "series_uid")} == {
        "modality": "MR", "units": "arbitrary", "series_uid": "1.2.3"}  # fmt: skip
    assert torch.equal(mr.as_tensor(), before.as_tensor())


def test_ct_keeps_its_numbers(ct):
    clean, level = denoise(ct)
    brain = array_of(clean)[0, 14:34, 14:30, 8:16]
    assert level == pytest.approx(10, rel=0.1)
    assert brain.mean() == pytest.approx(40, abs=0.5)
    assert brain.std() < 3
    assert array_of(clean)[0, :3].mean() == pytest.approx(-1000, abs=1)


def test_channels_are_denoised_one_by_one(mr):
    two = make_volume(
        np.concatenate([array_of(mr), 2 * array_of(mr)]), affine_of(mr), modality="MR",
        units="arbitrary",
    )  # fmt: skip
    clean, _ = denoise(two)
    assert np.array_equal(array_of(clean)[0], array_of(denoise(mr)[0])[0])
    np.testing.assert_allclose(array_of(clean)[1], 2 * array_of(clean)[0], rtol=1e-3, atol=0.5)


def test_a_constant_stays():
    flat = make_volume(np.full((6, 5, 4), 40), np.eye(4), modality="CT", units="HU")
    clean, level = denoise(flat)
    assert level == 0
    assert torch.equal(clean.as_tensor(), flat.as_tensor())


def test_refuses_what_is_no_volume():
    with pytest.raises(InputError, match="expected a MetaTensor"):
        denoise(torch.zeros(1, 2, 2, 2))


def test_stage_gives_one_volume_a_role_with_its_sidecar(study, context):
    result = DenoiseStage(fast=True).run(study, context)
    assert [(o.kind, o.role, o.name, o.space) for o in result.outputs] == [
        ("volume", "t1", "denoised", ""),
        ("volume", "ct", "denoised", ""),
    ]
    assert result.outputs[1].sidecar["NoiseLevelUnits"] == "HU"
    assert result.outputs[1].sidecar["NoiseLevel"] == pytest.approx(10, rel=0.1)
    assert result.outputs[0].sidecar["DenoisingMethod"] == "nlm"
    assert result.outputs[0].sidecar["NoiseUnevenness"] == 1.0
    assert result.outputs[0].sidecar["NoiseCoils"] == 1
    assert result.outputs[0].sidecar["DenoisingFast"] is True
    assert not [c.name for c in result.checks if c.flagged]
    assert {c.name for c in result.checks} == {
        f"{role}_{what}"
        for role in ("t1", "ct")
        for what in ("noise_before", "noise_left", "residual_autocorrelation",
                     "residual_edge_correlation")
    }  # fmt: skip


def test_each_modality_has_its_method_and_another_can_be_asked_for(study, context):
    def methods(stage):
        return [o.sidecar["DenoisingMethod"] for o in stage.run(study, context).outputs]

    assert methods(DenoiseStage()) == ["nlb", "nlm"]
    assert methods(DenoiseStage(method_mr="tv", method_other="dct")) == ["tv", "dct"]


def test_stage_flags_an_oversmoothed_volume(study, context, monkeypatch):
    from scipy import ndimage

    from radloom.pipelines import denoise as room
    from radloom.shapes import like

    def blur(volume, _):
        blurred = ndimage.gaussian_filter(array_of(volume), (0, 2, 2, 2))
        return like(volume, blurred), NoiseEstimate(40.0, "head")

    monkeypatch.setattr(room, "_denoise", blur)
    flagged = {c.name for c in DenoiseStage(roles=("t1",)).run(study, context).checks if c.flagged}
    assert flagged >= {"t1_residual_autocorrelation", "t1_residual_edge_correlation"}


def test_stage_takes_the_roles_asked_for_and_names_its_inputs(study, context):
    stage = DenoiseStage(roles=("ct",))
    assert [o.role for o in stage.run(study, context).outputs] == ["ct"]
    assert stage.input_hashes(study) == {"ct.nii.gz": "bb"}
    skipped = DenoiseStage(roles=("pet",)).run(study, context)
    assert (skipped.status, skipped.reason) == ("skipped", "the study has no volume to denoise")


def test_result_does_not_depend_on_threads(study, context):
    one = Context(torch.device("cpu"), torch.Generator(), n_threads=1)
    for a, b in zip(
        DenoiseStage().run(study, one).outputs,
        DenoiseStage().run(study, context).outputs,
        strict=True,
    ):
        assert torch.equal(a.volume.as_tensor(), b.volume.as_tensor())


def test_fingerprint_covers_the_parameters():
    stages = [DenoiseStage(), DenoiseStage(fast=True), DenoiseStage(method_mr="tv"),
              DenoiseStage(roles=("t1",))]  # fmt: skip
    assert len({s.fingerprint() for s in stages}) == len(stages)
    assert DenoiseStage().fingerprint() == DenoiseStage(roles=[]).fingerprint()
    with pytest.raises(ConfigError, match="expected a method"):
        DenoiseStage(method_mr="median")


def test_memory_is_estimated_for_the_largest_volume(study, mr):
    estimate = DenoiseStage().estimate_memory(study)
    assert estimate >= 40 * mr.numel()
    assert DenoiseStage(roles=("pet",)).estimate_memory(study) < estimate
