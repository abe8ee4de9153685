"""The bundle's weights as nnU-Net's own results folder, and the plans that both share."""

from __future__ import annotations

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from radloom.errors import ConfigError, MissingWeights
from radloom.models.bundles import find_bundle
from radloom.models.segmentation.classes import CLASSES
from radloom.models.training import nnunet_plans
from radloom.models.training.ema import export_weights
from radloom.models.training.nnunet_folder import network_of_plans, write_nnunet_folder
from radloom.pipelines.segment import segment
from radloom.shapes import array_of, make_volume

CONFIGS = find_bundle("brain_mr_segmentation") / "configs"
MAX_WEIGHTS_BYTES = 16 * 2**20
GAIN = 8.0
"""Of the last layer: scores of random weights lie so near each other that classes tie in float16,
in which nnU-Net adds them up; those of trained ones lie apart."""


def read(name):
    text = (CONFIGS / name).read_text()
    return yaml.safe_load(text) if name.endswith(".yaml") else json.loads(text)


def configuration():
    (one,) = read("plans.json")["configurations"].values()
    return one


def test_the_bundle_trains_and_runs_the_network_that_nnunet_planned():
    planned, train, run = configuration(), read("train.yaml"), read("inference.yaml")
    kwargs = planned["architecture"]["arch_kwargs"]
    for network in (train["network_def"], run["network_def"]):
        assert network["_target_"] == planned["architecture"]["network_class_name"]
        assert network["features_per_stage"] == kwargs["features_per_stage"]
        assert [[s] * 3 for s in network["strides"]] == kwargs["strides"]
        assert network["num_classes"] == len(CLASSES)
        assert network["n_stages"] == kwargs["n_stages"]
        assert network["n_conv_per_stage"] == kwargs["n_conv_per_stage"]
        decoder = [network["n_conv_per_stage_decoder"]] * (network["n_stages"] - 1)
        assert decoder == kwargs["n_conv_per_stage_decoder"]
    assert planned["spacing"] == list(nnunet_plans.SPACING_MM)
    assert [float(train["task"]["stride"])] * 3 == planned["spacing"]
    assert read("dataset.json") == json.loads(json.dumps(nnunet_plans.dataset_of_generator()))
    outputs = read("metadata.json")["network_data_format"]["outputs"]["pred"]
    assert list(outputs["channel_def"].values()) == [item.name for item in CLASSES]
    assert outputs["label_values"] == [item.label for item in CLASSES]


def test_the_weights_are_small_enough_to_ship(tmp_path):
    network = network_of_plans(read("plans.json"), read("dataset.json"))
    export_weights(network, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < MAX_WEIGHTS_BYTES


@pytest.mark.slow
def test_nnunets_planner_plans_so_again(tmp_path):
    plans = read("plans.json")
    x, y, z = plans["original_median_shape_after_transp"]
    properties = plans["foreground_intensity_properties_per_channel"]
    found = {
        "spacings": [[1.0, 1.0, 1.0]],
        "shapes_after_crop": [[z, y, x]],
        "foreground_intensity_properties_per_channel": properties,
        "median_relative_size_after_cropping": 1.0,
    }
    raw, preprocessed = tmp_path / "raw", tmp_path / "preprocessed"
    with contextlib.redirect_stdout(io.StringIO()):
        (again,) = nnunet_plans.plan(found, raw, preprocessed)["configurations"].values()
    for key in ("patch_size", "batch_size", "spacing", "normalization_schemes", "architecture"):
        assert again[key] == configuration()[key]


@pytest.fixture
def small_plans(tmp_path):
    """The bundle's plans with a patch that a test can wait for."""
    folder = tmp_path / "plans"
    folder.mkdir()
    plans = read("plans.json")
    (one,) = plans["configurations"].values()
    one["patch_size"] = [32, 32, 48]
    one["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 4, 8, 8, 8]
    (folder / "plans.json").write_text(json.dumps(plans))
    shutil.copyfile(CONFIGS / "dataset.json", folder / "dataset.json")
    return folder


@pytest.fixture
def weights(small_plans, tmp_path):
    torch.manual_seed(0)
    plans, dataset = (
        json.loads((small_plans / name).read_text()) for name in ("plans.json", "dataset.json")
    )
    network = network_of_plans(plans, dataset).eval()
    last = network.decoder.seg_layers[-1]
    with torch.no_grad():
        last.weight *= GAIN
        last.bias.zero_()
        last.bias -= network(torch.randn(1, 1, 32, 32, 48)).mean(dim=(0, 2, 3, 4))
    export_weights(network, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_nnunet_itself_and_radloom_take_the_folder_and_agree(small_plans, weights, tmp_path):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder = write_nnunet_folder(weights, tmp_path / "dest", small_plans)
    assert folder.name == "nnUNetTrainer__nnUNetPlans__3d_fullres"
    torch.load(folder / "fold_all" / "checkpoint_final.pth", weights_only=True)
    values = np.random.default_rng(0).normal(0, 1, (34, 40, 50)).astype(np.float32)
    values[5:20, 10:30, 15:40] += 3
    volume = make_volume(values, np.eye(4), modality="MR", units="arbitrary")
    ours = array_of(segment(volume, folder)[0])[0]
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), ("all",))
        as_read = np.ascontiguousarray(values.transpose(2, 1, 0))[None]
        theirs = predictor.predict_single_npy_array(as_read, {"spacing": [1.0, 1.0, 1.0]})
    assert len(np.unique(ours)) > 5
    assert (ours == np.asarray(theirs).transpose(2, 1, 0)).mean() > 0.9999


def test_the_network_sees_what_the_training_shows_it(small_plans, weights, tmp_path):
    """(x, y, z): a window of the image through the bare network gives nnU-Net's labels."""
    folder = write_nnunet_folder(weights, tmp_path / "dest", small_plans)
    values = np.random.default_rng(1).normal(0, 1, (32, 32, 48)).astype(np.float32)
    values[3:10, 10:30, 15:40] += 3
    of_network = np.diag([*nnunet_plans.SPACING_MM, 1.0])
    volume = make_volume(values, of_network, modality="MR", units="arbitrary")
    ours = array_of(segment(volume, folder)[0])[0]
    plans, dataset = (
        json.loads((small_plans / name).read_text()) for name in ("plans.json", "dataset.json")
    )
    network = network_of_plans(plans, dataset).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    image = torch.from_numpy((values - values.mean()) / values.std())[None, None]
    with torch.no_grad():
        bare = network(image)[0].argmax(0).numpy()
    assert (ours == bare).mean() > 0.99  # whose scores are not rounded to float16
    with torch.no_grad():
        turned = network(image.permute(0, 1, 4, 3, 2))[0].argmax(0).numpy().transpose(2, 1, 0)
    assert (ours == turned).mean() < 0.7


def test_what_does_not_fit_is_refused(small_plans, weights, tmp_path):
    with pytest.raises(MissingWeights, match=r"absent\.pt"):
        write_nnunet_folder(tmp_path / "absent.pt", tmp_path / "dest", small_plans)
    with pytest.raises(ConfigError, match="expected the weights of the network"):
        write_nnunet_folder(weights, tmp_path / "dest", CONFIGS)
    with pytest.raises(ConfigError, match=r"expected <plans\.json> of nnU-Net's planner"):
        write_nnunet_folder(weights, tmp_path / "dest", tmp_path)
