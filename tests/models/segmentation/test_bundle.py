"""Bundles as segmentation models: what ``pred`` becomes, and what the metadata say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from radloom.errors import ConfigError, MissingWeights
from radloom.models.bundles import load_bundle
from radloom.models.segmentation import find_model
from radloom.models.segmentation.bundle import BundleFolder, find_bundle_folder, labels_of
from radloom.shapes import affine_of, array_of

CPU = torch.device("cpu")


def test_labels_are_the_bundles_own_argmax(write_bundle, tmp_path, grid_volume) -> None:
    path, volume = write_bundle(tmp_path / "brain"), grid_volume("oblique")
    folder = find_bundle_folder(path)
    labels = folder.load(device=CPU, trust=True).segment([volume])
    pred = load_bundle(path, device=CPU, trust=True).predict([volume])
    np.testing.assert_array_equal(array_of(labels), array_of(pred))
    np.testing.assert_array_equal(affine_of(labels), affine_of(volume))
    assert (labels.dtype, labels.meta["series_uid"]) == (torch.uint8, "1.2")
    assert folder.label_names == {1: "shell", 2: "core"}
    assert folder.name == "brain"


def test_scores_without_argmax_give_the_same_labels(write_bundle, tmp_path, grid_volume) -> None:
    volume = grid_volume("lps")
    with_argmax = find_model(write_bundle(tmp_path / "a")).load(device=CPU, trust=True)
    without = find_model(write_bundle(tmp_path / "b", post=[])).load(device=CPU, trust=True)
    np.testing.assert_array_equal(
        array_of(with_argmax.segment([volume])), array_of(without.segment([volume]))
    )


def test_threads_do_not_change_labels(write_bundle, tmp_path, grid_volume) -> None:
    model = find_model(write_bundle(tmp_path / "a")).load(device=CPU, trust=True)
    one, two = (array_of(model.segment([grid_volume("lps")], n_threads=n)) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_overlapping_regions_are_painted_the_largest_first() -> None:
    core, whole = np.zeros((2, 5, 1, 1))
    core[2], whole[1:4] = 1, 1
    labels = labels_of(np.stack([core, whole]), has_background=False)
    assert labels.ravel().tolist() == [0, 2, 1, 2, 0]
    metadata = {
        "network_data_format": {
            "inputs": {"image": {"num_channels": 1}},
            "outputs": {"pred": {"channel_def": {"0": "Tumor core", "1": "Whole tumor"}}},
        }
    }
    folder = BundleFolder(path=None, metadata=metadata)
    assert folder.label_names == {1: "Tumor core", 2: "Whole tumor"}


def test_one_channel_and_background_first() -> None:
    assert labels_of(np.array([[[[2.0, 0.0]]]])).ravel().tolist() == [2, 0]
    scores = np.array([[[[0.9, 0.1]]], [[[0.2, 0.6]]]])
    assert labels_of(scores).ravel().tolist() == [0, 1]


def test_channels_have_the_metadatas_names(write_bundle, tmp_path) -> None:
    assert find_bundle_folder(write_bundle(tmp_path / "two", n_in=2)).channel_names == ("a", "b")


def test_metadata_without_image_and_pred_are_refused(write_bundle, tmp_path) -> None:
    path = write_bundle(tmp_path / "odd")
    (path / "configs" / "metadata.json").write_text(json.dumps({"version": "1"}))
    with pytest.raises(ConfigError, match="no inputs 'image'"):
        _ = find_bundle_folder(path).channel_names


def test_a_bundle_without_weights_has_no_hash(write_bundle, tmp_path) -> None:
    with pytest.raises(MissingWeights, match="has no weights"):
        find_model(write_bundle(tmp_path / "bare", weights=False)).sha256()


def test_a_folder_with_neither_says_what_was_expected(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"expected an nnU-Net v2 results folder .* or a MONAI"):
        find_model(tmp_path)
    with pytest.raises(ConfigError, match="got <nowhere>, which is none"):
        find_model(tmp_path / "nowhere")
