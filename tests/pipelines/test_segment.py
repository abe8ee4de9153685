"""The stage picks the right volumes, and says so when it cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from radloom.errors import InputError, MissingWeights, NotTrusted
from radloom.models.segmentation import Prediction
from radloom.pipelines import segment as room
from radloom.pipelines.segment import (
    SegmentStage,
    find_mask,
    model_name,
    segment,
    volumes_table,
)
from radloom.pipelines.stage import Context
from radloom.pipelines.study import Output, Study, StudyRecord
from radloom.shapes import affine_of, array_of, make_label, make_volume

AFFINE = np.diag([-1.0, 1.5, 2.0, 1.0])
MOVED = np.array([[-1.0, 0, 0, 7], [0, 1.5, 0, 0], [0, 0, 2.0, -3], [0, 0, 0, 1]])


def volume(seed: int = 0, affine: np.ndarray = AFFINE):
    image = np.random.default_rng(seed).normal(100, 20, (24, 20, 18)).astype(np.float32)
    return make_volume(image, affine, modality="MR", units="arbitrary")


def output(role: str, seed: int, name: str = "ingested", space: str = "", affine=AFFINE) -> Output:
    files = {f"{name}_{role}.nii.gz": f"hash {name} {role}"}
    return Output("volume", role, name, volume(seed, affine), space=space, files=files)


def study(*outputs: Output) -> Study:
    record = StudyRecord("a", "1", "1.2.3", Path(), ())
    empty = Study(record).with_outputs("ingest", tuple(o for o in outputs if not o.space))
    return empty.with_outputs("register", tuple(o for o in outputs if o.space))


def context(*, trust: bool = True) -> Context:
    return Context(torch.device("cpu"), torch.Generator(), trust=trust)


@dataclass(frozen=True)
class Recorder:
    """A model that labels nothing and keeps what it was given."""

    channel_names: tuple[str, ...]
    given: list
    name: str = "Dataset7_Test"
    doubt: Mapping[int, float] = field(default_factory=dict)

    @property
    def label_names(self) -> Mapping[int, str]:
        return {1: "one", 2: "two"}

    def sha256(self) -> str:
        return "abc"

    def estimate_memory(self, shape, spacing) -> int:
        return int(np.prod(shape) * np.prod(spacing))

    def load(self, *, device, trust) -> Recorder:
        return self

    def least_memory(self, shape, spacing) -> int:
        return 7

    def predict(self, volumes, *, n_threads, memory, probabilities):
        self.given.extend(volumes)
        labels = np.zeros(volumes[0].shape[1:], np.uint8)
        labels[:2, :3, :4] = 1
        return Prediction(make_label(labels, affine_of(volumes[0])), self.doubt)


@pytest.fixture
def recorder(monkeypatch):
    """``recorder("T1", "FLAIR")``: every folder holds this model."""

    def make(*channels: str) -> Recorder:
        model = Recorder(channels, [])
        monkeypatch.setattr(room, "find_model", lambda folder, options: model)
        room._loaded.cache_clear()
        return model

    yield make
    room._loaded.cache_clear()


def run(stage: SegmentStage, on: Study):
    return stage.run(on, context())


def test_labels_table_and_checks(recorder) -> None:
    recorder("T1")
    result = run(SegmentStage(Path("m")), study(output("t1", 0)))
    label, table = result.outputs
    assert (label.kind, label.role, label.name, label.space) == ("label", "t1", "dataset7test", "")
    assert label.label_names == {1: "one", 2: "two"}
    assert table.table == (
        {"label": 1, "structure": "one", "volume_ml": 0.072, "n_voxels": 24},
        {"label": 2, "structure": "two", "volume_ml": 0.0, "n_voxels": 0},
    )
    values = {check.name: check.value for check in result.checks}
    assert values == {"t1_labelled_share": 0.002778, "t1_structures_found": 1.0}
    assert not any(check.flagged for check in result.checks)
    assert label.sidecar["Channels"] == ["t1"]


@pytest.mark.parametrize(
    ("channel", "roles", "expected"),
    [
        ("image", (), "flair"),
        ("T1", (), "t1"),
        ("T1w", (), "t1"),
        ("CT", (), "ct"),
        ("T1", ("pd", "ct"), "ct"),
    ],
)
def test_one_channel_finds_its_role(recorder, channel, roles, expected) -> None:
    model = recorder(channel)
    on = study(output("flair", 0), output("t1", 1), output("ct", 2))
    result = run(SegmentStage(Path("m"), roles=roles), on)
    assert result.outputs[0].role == expected
    np.testing.assert_array_equal(model.given[0], on.latest(expected).volume)


def test_a_nameless_channel_takes_the_fixed_volume(recorder) -> None:
    recorder("MRI")
    on = study(output("flair", 0), output("t1", 1), output("flair", 2, "registered", "t1"))
    assert run(SegmentStage(Path("m")), on).outputs[0].role == "t1"


def test_a_channel_of_any_mr_takes_the_fixed_one_and_no_ct(recorder) -> None:
    recorder("MR")
    on = study(output("ct", 0), output("t2", 1), output("t1", 2))
    assert run(SegmentStage(Path("m")), on).outputs[0].role == "t2"
    result = run(SegmentStage(Path("m")), study(output("ct", 0)))
    assert result.status == "skipped"
    assert result.reason.startswith("the model takes t1 or t1ce or t2 or flair or pd; the study")


def test_masks_come_from_labels_of_our_own_model_only() -> None:
    label = make_label(np.array([[[0, 2, 17]], [[511, 515, 506]]]), AFFINE, series_uid="1.2")
    other = Output("label", "t1", "dataset7test", label)
    on = study(output("t1", 0))
    assert find_mask(on.with_outputs("segment", (other,)), "head") is None
    on = on.with_outputs("segment", (other, Output("label", "t1", "brainmrsegmentation", label)))
    masks = {name: array_of(find_mask(on, name)).ravel().tolist() for name in ("head", "skin")}
    assert masks == {"head": [0, 1, 1, 1, 1, 1], "skin": [0, 0, 0, 1, 0, 0]}
    inside = find_mask(on, "intracranial")
    np.testing.assert_array_equal(affine_of(inside), affine_of(label))
    assert (int(inside.sum()), inside.meta["series_uid"]) == (2, "1.2")


def test_several_channels_take_registered_volumes(recorder) -> None:
    model = recorder("T1", "FLAIR")
    moved = output("flair", 2, "registered", "t1")
    on = study(output("t1", 0), output("flair", 1, affine=MOVED), moved)
    stage = SegmentStage(Path("m"))
    result = run(stage, on)
    np.testing.assert_array_equal(model.given[1], moved.volume)
    assert result.outputs[0].sidecar["Channels"] == ["t1", "flair"]
    assert stage.input_hashes(on) == {
        "ingested_t1.nii.gz": "hash ingested t1",
        "registered_flair.nii.gz": "hash registered flair",
    }
    n_voxels = 24 * 20 * 18
    read_back = 2 * 4 * n_voxels
    assert (stage.estimate_memory(on), stage.least_memory(on)) == (3 * n_voxels, read_back + 7)


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        (("t1",), "needs t1, flair; absent: flair"),
        (("t1", "flair"), "needs flair registered to t1, which it is not"),
        ((), "needs t1, flair; absent: t1"),
    ],
)
def test_an_absent_channel_skips_the_stage(recorder, outputs, reason) -> None:
    recorder("T1", "FLAIR")
    grids = {"t1": AFFINE, "flair": MOVED}
    on = study(*(output(role, 0, affine=grids[role]) for role in outputs))
    result = run(SegmentStage(Path("m")), on)
    assert (result.status, result.outputs) == ("skipped", ())
    assert reason in result.reason


def test_an_absent_channel_of_zeros_is_named_and_flagged(recorder) -> None:
    model = recorder("T1", "FLAIR")
    on = study(output("flair", 1))
    stage = SegmentStage(Path("m"), missing="zero")
    result = run(stage, on)
    zeros, flair = model.given
    assert not zeros.any()
    np.testing.assert_array_equal(flair, on.latest("flair").volume)
    flagged = [check for check in result.checks if check.flagged]
    assert [check.name for check in flagged] == ["flair_channels_of_zeros"]
    assert "has no t1" in flagged[0].meaning
    assert result.outputs[0].sidecar["ChannelsOfZeros"] == ["t1"]
    assert run(stage, study(output("ct", 0))).status == "skipped"
    assert stage.fingerprint() != SegmentStage(Path("m")).fingerprint()


def test_doubt_stands_in_the_table_and_flags_our_own_model_only(recorder) -> None:
    model = recorder("T1")
    object.__setattr__(model, "doubt", {1: 0.7})
    on = study(output("t1", 0))
    result = run(SegmentStage(Path("m")), on)
    assert [row["entropy"] for row in result.outputs[1].table] == [0.7, ""]
    checks = {check.name: check for check in result.checks}
    assert (checks["t1_doubt"].value, checks["t1_doubt"].high) == (0.7, None)
    own = room._doubt_checks("t1", {1: 0.7, 2: 0.2}, {1: "one"}, own=True)
    assert own[0].flagged
    assert "(one)" in own[0].meaning


def test_volumes_out_of_all_proportion_are_flagged() -> None:
    rows = [
        {"structure": "left hippocampus", "volume_ml": 3.8},
        {"structure": "right hippocampus", "volume_ml": 12.0},
        {"structure": "eye", "volume_ml": 1e9},
    ]
    checks = {check.name: check.flagged for check in room._size_checks("t1", rows)}
    assert checks == {"t1_left_hippocampus_ml": False, "t1_right_hippocampus_ml": True}


def test_one_absent_role_skips_the_stage(recorder) -> None:
    recorder("CT")
    result = run(SegmentStage(Path("m")), study(output("t1", 0)))
    assert result.status == "skipped"
    assert result.reason.startswith("the model takes ct; the study has t1")


def test_channels_without_a_role_ask_for_roles(recorder) -> None:
    recorder("DWI b0", "DWI b1000")
    with pytest.raises(InputError, match="no role goes by the name of 'DWI b0'; give `roles`"):
        run(SegmentStage(Path("m")), study(output("t1", 0)))
    with pytest.raises(InputError, match="expected `roles` with 2 entries in that order, got 1"):
        run(SegmentStage(Path("m"), roles=("t1",)), study(output("t1", 0)))


def test_missing_weights_skip_the_stage_and_stop_the_command(monkeypatch) -> None:
    def missing(name: str) -> Path:
        raise MissingWeights(f"{name} has no weights")

    monkeypatch.setattr(room, "find_bundle", missing)
    stage, on = SegmentStage(), study(output("t1", 0))
    result = run(stage, on)
    assert result.status == "skipped"
    assert result.reason == "brain_mr_segmentation has no weights"
    assert (stage.input_hashes(on), stage.estimate_memory(on)) == ({}, 0)
    assert len(stage.fingerprint()) == 64
    with pytest.raises(MissingWeights, match="has no weights"):
        segment(volume())


def test_the_fingerprint_follows_parameters_and_weights(recorder, monkeypatch) -> None:
    recorder("T1")
    stages = [SegmentStage(Path("m")), SegmentStage(Path("m"), roles=("t2",)),
              SegmentStage(Path("m"), folds=(1,)), SegmentStage(Path("m"), fast=True)]  # fmt: skip
    prints = [stage.fingerprint() for stage in stages]
    assert len(set(prints)) == 4
    assert SegmentStage(Path("elsewhere")).fingerprint() == prints[0]
    monkeypatch.setattr(Recorder, "sha256", lambda self: "other")
    assert stages[0].fingerprint() != prints[0]


def test_a_bundle_from_outside_needs_trust(tmp_path) -> None:
    write_threshold(tmp_path)
    with pytest.raises(NotTrusted, match="give --trust"):
        segment(volume(), tmp_path)
    label, names = segment(volume(), tmp_path, trust=True)
    np.testing.assert_array_equal(array_of(label), array_of(volume()) > 100)
    assert names == {1: "bright"}


def write_threshold(folder: Path) -> None:
    """A bundle whose network is the image minus 100."""
    (folder / "configs").mkdir()
    (folder / "models").mkdir()
    config = {
        "network_def": {"_target_": "torch.nn.Threshold", "threshold": -1e9, "value": 0},
        "preprocessing": {"_target_": "Compose", "transforms": []},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "AsDiscreted", "keys": "pred", "threshold": 100.0}],
        },
    }
    channels = {"0": "bright"}
    metadata = {
        "network_data_format": {
            "inputs": {"image": {"num_channels": 1, "channel_def": {"0": "image"}}},
            "outputs": {"pred": {"num_channels": 1, "channel_def": channels}},
        }
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.save({}, folder / "models" / "model.pt")


def test_names_and_tables_for_values_without_a_name() -> None:
    assert model_name("Dataset_004 é") == "dataset004"
    label = make_label(np.array([[[0, 3, 3]]]), np.eye(4))
    assert volumes_table(label, {}) == (
        {"label": 3, "structure": "unnamed_3", "volume_ml": 0.002, "n_voxels": 2},
    )
