"""Segmentation models: nnU-Net v2 results folders, MONAI bundles, and our own, one interface.

`find_model` looks at a folder and says which it is; what it gives knows the model's name, channels,
labels, hash and need of memory without loading it, and `load` makes it ready.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from radloom.errors import ConfigError
from radloom.models.bundles import is_bundle
from radloom.models.segmentation.bundle import find_bundle_folder
from radloom.models.segmentation.labelling import TakeProbabilities
from radloom.models.segmentation.nnunet import NnunetOptions, find_nnunet, is_nnunet
from radloom.models.segmentation.planned import find_planned, is_planned
from radloom.models.segmentation.result import Prediction
from radloom.shapes import Volume

__all__ = [
    "ModelFolder",
    "NnunetOptions",
    "Prediction",
    "SegmentationModel",
    "TakeProbabilities",
    "find_model",
]


class SegmentationModel(Protocol):
    """A loaded model."""

    def predict(
        self,
        volumes: Sequence[Volume],
        *,
        n_threads: int = 1,
        memory: int | None = None,
        probabilities: TakeProbabilities | None = None,
    ) -> Prediction:
        """Labels (1, I, J, K) of one volume a channel, all on one grid, within `memory` bytes.

        `probabilities` takes those of all classes, box by box, where the model has them.
        """
        ...


class ModelFolder(Protocol):
    """A model in a folder, not loaded yet."""

    @property
    def name(self) -> str:
        """What the model calls itself."""
        ...

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each input channel holds, in order."""
        ...

    @property
    def label_names(self) -> Mapping[int, str]:
        """Value -> structure, background left out."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """What each channel of the probabilities stands for, in order.

        Raises:
            InputError: the model gives labels only.
        """
        ...

    def sha256(self) -> str:
        """A hash of all that decides the model's results."""
        ...

    def estimate_memory(self, shape: Sequence[int], spacing: Sequence[float]) -> int:
        """Bytes at the peak for a volume (I, J, K) with `spacing` in mm."""
        ...

    def least_memory(self, shape: Sequence[int], spacing: Sequence[float]) -> int:
        """Bytes that will do where memory is short, to the same labels."""
        ...

    def load(self, *, device: torch.device, trust: bool = False) -> SegmentationModel:
        """The model, ready to run on `device`."""
        ...


def find_model(folder: Path, options: NnunetOptions | None = None) -> ModelFolder:
    """The model that `folder` holds, told by its content.

    Args:
        folder: an nnU-Net v2 results folder (or one that holds exactly one), or a MONAI bundle.
        options: how an nnU-Net model is used.

    Raises:
        ConfigError: the folder holds neither, or several nnU-Net models.
    """
    if not folder.is_dir():
        raise ConfigError(f"expected the folder of a model, got <{folder.name}>, which is none")
    if is_planned(folder):
        return find_planned(folder, options)
    if is_bundle(folder):
        return find_bundle_folder(folder)
    if is_nnunet(folder):
        return find_nnunet(folder, options)
    raise ConfigError(
        f"<{folder.name}>: expected an nnU-Net v2 results folder (plans.json, dataset.json, fold_*/"
        "checkpoint_final.pth) or a MONAI bundle (configs/metadata.json, configs/inference.json)"
    )
