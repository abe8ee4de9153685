"""Any MONAI bundle whose network maps ``image`` to ``pred`` as a segmentation model.

What the bundle's postprocessing leaves in ``pred`` becomes one label volume:

- one channel: its values are the labels;
- several, the first of which is background (``channel_def`` of the metadata): the largest wins;
- several without background: each is a region of its own (Whole tumor, Tumor core, ...), painted
  where it is above one half with the value channel + 1, the largest region first, so that a
  region inside another stays visible.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from radloom.errors import ConfigError, InputError
from radloom.models.bundles import Bundle, bundle_config, bundle_sha256, load_bundle
from radloom.models.segmentation.labelling import TakeProbabilities
from radloom.models.segmentation.postprocessing import postprocess, read_postprocessing
from radloom.models.segmentation.result import Prediction
from radloom.shapes import LabelVolume, Volume, affine_of, array_of, make_label
from radloom.threads import torch_settings

_LABELS_ONLY = "the bundle {} gives labels only; probabilities come from nnU-Net models"

__all__ = ["BundleFolder", "BundleModel", "find_bundle_folder", "labels_of"]


@dataclass(frozen=True, eq=False)
class BundleFolder:
    """A bundle as its metadata describe it, nothing loaded."""

    path: Path
    """The folder that holds configs/ and models/."""
    metadata: Mapping[str, Any] = field(repr=False)
    """``configs/metadata.json``."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each input channel holds, in order."""
        image = self._format("inputs", "image")
        named = _in_order(image.get("channel_def", {}))
        return named or tuple(f"image{i}" for i in range(int(image.get("num_channels", 1))))

    @property
    def label_names(self) -> dict[int, str]:
        """Value -> structure, background left out."""
        return _label_names(self.output_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What each channel of ``pred`` stands for, in order; empty where the metadata say not."""
        return _in_order(self._format("outputs", "pred").get("channel_def", {}))

    @property
    def class_names(self) -> tuple[str, ...]:
        """A bundle's own postprocessing leaves no probabilities.

        Raises:
            InputError: always.
        """
        raise InputError(_LABELS_ONLY.format(self.name))

    def sha256(self) -> str:
        """A hash of all that decides the model's results.

        Raises:
            MissingWeights: the bundle has no weights.
        """
        return bundle_sha256(self.path)

    def estimate_memory(self, shape: Sequence[int], spacing: Sequence[float]) -> int:  # noqa: ARG002 (nnU-Net's estimate needs it)
        """Bytes at the peak for a volume (I, J, K), if the bundle works near its spacing.

        Float32 scores of all classes before and after the way back to the volume's grid, and a
        copy for each of the two steps.
        """
        pred = self._format("outputs", "pred")
        classes = max(int(pred.get("num_channels", 1)), len(pred.get("channel_def", {})))
        return int(math.prod(shape) * 4 * (4 * classes + 4 * len(self.channel_names)))

    def least_memory(self, shape: Sequence[int], spacing: Sequence[float]) -> int:
        """All that it estimates: a bundle cannot be told to do with less."""
        return self.estimate_memory(shape, spacing)

    def load(self, *, device: torch.device, trust: bool = False) -> BundleModel:
        """The model, ready to run.

        Raises:
            NotTrusted: the bundle is not Radloom's own, and `trust` is False.
            MissingWeights: it has no weights.
            ConfigError: its configs lack an entry, or the weights do not fit.
        """
        return BundleModel(self, load_bundle(self.path, device=device, trust=trust))

    def _format(self, side: str, name: str) -> Mapping[str, Any]:
        found = self.metadata.get("network_data_format", {}).get(side, {}).get(name)
        if not isinstance(found, Mapping):
            raise ConfigError(
                f"<{self.name}/configs/metadata.json>: expected network_data_format with inputs "
                f"'image' and outputs 'pred', got no {side} {name!r}"
            )
        return found


@dataclass(frozen=True)
class BundleModel:
    """A loaded bundle."""

    folder: BundleFolder
    """Where it comes from."""
    bundle: Bundle
    """Network and transforms."""

    def predict(
        self,
        volumes: Sequence[Volume],
        *,
        n_threads: int = 1,
        memory: int | None = None,  # noqa: ARG002 (what a bundle does is its own)
        probabilities: TakeProbabilities | None = None,
    ) -> Prediction:
        """Labels of `segment`; a bundle's own postprocessing leaves no probabilities.

        Raises:
            InputError: probabilities were asked for.
        """
        if probabilities is not None:
            raise InputError(_LABELS_ONLY.format(self.folder.name))
        return Prediction(self.segment(volumes, n_threads=n_threads), {})

    def segment(self, volumes: Sequence[Volume], *, n_threads: int = 1) -> LabelVolume:
        """Labels (1, I, J, K) on the grid of `volumes`.

        Args:
            volumes: one volume (1, I, J, K) a channel, in the order of `channel_names`, on one
                grid.
            n_threads: of the CPU.

        Raises:
            InputError: the number of volumes is not that of the channels.
            GridMismatch: the volumes do not share a grid, or the prediction does not come back
                to it.
        """
        with torch_settings(n_threads):
            pred = array_of(self.bundle.predict(volumes))
        labels = labels_of(pred, has_background=_has_background(self.folder.output_names))
        asked = read_postprocessing(self.folder.metadata, self.folder.label_names)
        labels = postprocess(labels, self.folder.label_names, asked)
        series_uid = str(volumes[0].meta.get("series_uid", ""))
        return make_label(labels, affine_of(volumes[0]), series_uid=series_uid)


def find_bundle_folder(folder: Path) -> BundleFolder:
    """The bundle in `folder`.

    Raises:
        ConfigError: it is not in the layout of a MONAI bundle.
    """
    bundle_config(folder)
    text = (folder / "configs" / "metadata.json").read_text(encoding="utf-8")
    return BundleFolder(folder.resolve(), json.loads(text))


def labels_of(pred: npt.NDArray[Any], *, has_background: bool = True) -> npt.NDArray[np.int32]:
    """Labels (I, J, K) of a prediction (C, I, J, K), by the rules of this module.

    >>> inner, outer = np.array([[[[0, 1, 0]]]]), np.array([[[[1, 1, 0]]]])
    >>> labels_of(np.concatenate([inner, outer]), has_background=False).ravel().tolist()
    [2, 1, 0]
    """
    if pred.shape[0] == 1:
        return np.asarray(np.rint(pred[0]), dtype=np.int32)
    if has_background:
        return np.asarray(pred.argmax(axis=0), dtype=np.int32)
    regions = pred > 0.5
    labels = np.zeros(pred.shape[1:], dtype=np.int32)
    for channel in np.argsort(-regions.reshape(len(regions), -1).sum(axis=1), kind="stable"):
        labels[regions[channel]] = channel + 1
    return labels


def _in_order(channel_def: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(channel_def[key]) for key in sorted(channel_def, key=int))


def _has_background(named: Sequence[str]) -> bool:
    return not named or named[0].lower() in ("background", "bg") or len(named) == 1


def _label_names(named: Sequence[str]) -> dict[int, str]:
    first = 0 if _has_background(named) and len(named) > 1 else 1
    names = dict(enumerate(named, start=first))
    names.pop(0, None)
    return names
