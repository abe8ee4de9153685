"""A small bundle in Model Zoo layout, written on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": "$int(@n_in)",
    "out_channels": "$int(@n_out)",
    "channels": [4, 8],
    "strides": [2],
}
READ = [
    {"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
]
PREPARE = [
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [2.0, 2.0, 2.0], "mode": "bilinear"},
    {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True},
]
INVERT = {
    "_target_": "Invertd",
    "keys": "pred",
    "transform": "@preprocessing",
    "orig_keys": "image",
    "nearest_interp": False,
    "to_tensor": True,
}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
SAVE = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"}


@pytest.fixture(scope="session")
def write_bundle() -> Callable[..., Path]:
    """``write_bundle(folder, ...)``: a UNet, Orientationd and Spacingd, and their inversion."""

    def write(
        folder: Path,
        *,
        n_in: int = 1,
        labels: tuple[str, ...] = ("background", "shell", "core"),
        post: list[dict] | None = None,
        weights: bool = True,
        seed: int = 0,
        **entries,
    ) -> Path:
        from monai.networks.nets import UNet

        (folder / "configs").mkdir(parents=True)
        (folder / "models").mkdir()
        n_out = len(labels)
        config = {
            "imports": ["$import glob", "$import os"],
            "bundle_root": ".",
            "n_in": n_in,
            "n_out": n_out,
            "output_dir": "$os.path.join(@bundle_root, 'eval')",
            "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
            "network_def": NETWORK,
            "network": "$@network_def.to(@device)",
            "preprocessing": {"_target_": "Compose", "transforms": READ + PREPARE},
            "inferer": {
                "_target_": "SlidingWindowInfererAdapt",
                "roi_size": [32, 32, 32],
                "sw_batch_size": 1,
                "overlap": 0.25,
                "mode": "gaussian",
            },
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [INVERT, ARGMAX, SAVE] if post is None else post,
            },
            **entries,
        }
        channels = {str(i): name for i, name in enumerate(labels)}
        metadata = {
            "version": "0.0.1",
            "network_data_format": {
                "inputs": {
                    "image": {"num_channels": n_in, "channel_def": dict(enumerate("ab"[:n_in]))}
                },
                "outputs": {"pred": {"num_channels": n_out, "channel_def": channels}},
            },
        }
        (folder / "configs" / "inference.json").write_text(json.dumps(config))
        (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
        if weights:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = UNet(3, n_in, n_out, [4, 8], [2])
            torch.save(network.state_dict(), folder / "models" / "model.pt")
        return folder

    return write
