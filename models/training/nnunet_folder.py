"""A bundle's weights as an nnU-Net results folder, which ``nnUNetv2_predict -f all`` takes.

    python -m radloom.models.training.nnunet_folder RUN/model.pt DEST [--plans FOLDER]

One training gives both: what `Training` writes is the state of the network that nnU-Net's plans
describe, and this puts plans, data set and weights where nnU-Net looks for them::

    DEST/Dataset500_RadloomBrainMR/nnUNetTrainer__nnUNetPlans__3d_fullres/
        plans.json  dataset.json  fold_all/checkpoint_final.pth

The checkpoint holds tensors and plain values alone. It allows no mirroring: the classes have sides.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from radloom.errors import ConfigError, MissingWeights
from radloom.models.bundles import find_bundle
from radloom.models.checkpoints import load_checkpoint
from radloom.models.segmentation.loading import network_of_plans

__all__ = ["BUNDLE", "main", "network_of_plans", "write_nnunet_folder"]

BUNDLE = "brain_mr_segmentation"
TRAINER = "nnUNetTrainer"
"""It says nothing but that the network is built as the plans say."""

_log = logging.getLogger(__name__)


def write_nnunet_folder(weights: Path, dest: Path, plans_folder: Path) -> Path:
    """The results folder made of weights and plans.

    Args:
        weights: a bundle's ``model.pt``.
        dest: where ``DatasetNNN_Name/...`` goes.
        plans_folder: holds ``plans.json`` and ``dataset.json``, such as a bundle's ``configs``.

    Raises:
        MissingWeights: no such weights.
        ConfigError: the folder holds no plans, or the weights are of another network.
    """
    if not weights.is_file():
        raise MissingWeights(f"expected the weights <{weights.name}>, which are absent")
    plans, dataset = (_read(plans_folder / name) for name in ("plans.json", "dataset.json"))
    (configuration,) = plans["configurations"]
    state = load_checkpoint(weights)
    try:
        network_of_plans(plans, dataset).load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"<{weights.name}>: expected the weights of the network that <plans.json> describes: "
            f"{str(error)[:200]}"
        ) from error
    name = f"{TRAINER}__{plans['plans_name']}__{configuration}"
    folder = dest / str(plans["dataset_name"]) / name
    fold = folder / "fold_all"
    fold.mkdir(parents=True, exist_ok=True)
    for file in ("plans.json", "dataset.json"):
        shutil.copyfile(plans_folder / file, folder / file)
    checkpoint = {
        "network_weights": dict(state),
        "trainer_name": TRAINER,
        "init_args": {"configuration": configuration, "fold": "all"},
        "inference_allowed_mirroring_axes": None,
    }
    fresh = fold / "checkpoint_final.pth.partial"
    torch.save(checkpoint, fresh)
    fresh.replace(fold / "checkpoint_final.pth")
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m radloom.models.training.nnunet_folder")
    parser.add_argument("weights", type=Path, help="model.pt of a training or a bundle")
    parser.add_argument("dest", type=Path, help="where the results folder goes")
    parser.add_argument("--plans", type=Path, help="folder of plans.json; by default the bundle's")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    plans = given.plans or find_bundle(BUNDLE) / "configs"
    _log.info("wrote %s", write_nnunet_folder(given.weights, given.dest, plans))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"expected <{path.name}> of nnU-Net's planner in <{path.parent.name}>; "
            "python -m radloom.models.training.nnunet_plans writes it"
        )
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    main()
