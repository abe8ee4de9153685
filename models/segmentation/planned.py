"""A bundle that nnU-Net planned: its weights run as nnU-Net runs them, labels numbered as it says.

Such a bundle holds ``configs/plans.json`` and ``configs/dataset.json`` beside
``configs/metadata.json``. Scores come back to the image's grid by linear interpolation, plane after
plane, and the largest is taken there, so labels are as fine as the image and no buffer of all
classes on its grid is ever made; where the metadata ask for it, labels are then refined by the
image's intensities (`refinement`). `radloom segment`, the segment stage and the bundle's own
``inference.yaml`` (by `Segmented`) all go this one way. The plans name network classes only, no
config is executed, and so no trust is asked for.

nnU-Net numbers the classes 0, 1, 2, ...; ``label_values`` of the metadata's ``pred`` says which
number each gets in results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from radloom.errors import ConfigError
from radloom.models.bundles import bundle_sha256, is_bundle, weights_path
from radloom.models.segmentation.nnunet import FAST_STEP, NnunetFolder, NnunetOptions
from radloom.models.segmentation.postprocessing import Postprocessing, read_postprocessing
from radloom.models.segmentation.prediction import NnunetModel
from radloom.models.segmentation.refinement import (
    Refinement,
    read_refinement,
    refinement_bytes,
)
from radloom.models.segmentation.sides import Sides, read_sides
from radloom.threads import MOST_WINDOWS

__all__ = ["PlannedBundle", "Segmented", "find_planned", "is_planned"]


@dataclass(frozen=True, eq=False)
class PlannedBundle(NnunetFolder):
    """A bundle as its files describe it, nothing loaded."""

    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """``configs/metadata.json``."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def values(self) -> tuple[int, ...]:
        """``label_values`` of the metadata: the number of each class in results.

        Raises:
            ConfigError: there is not one for each class.
        """
        pred = self.metadata.get("network_data_format", {}).get("outputs", {}).get("pred", {})
        found = tuple(int(value) for value in pred.get("label_values", ()))
        if found and len(set(found)) != len(self.dataset["labels"]):
            raise ConfigError(
                f"<{self.name}/configs/metadata.json>: expected label_values with a number for "
                f"each of the {len(self.dataset['labels'])} classes, got {len(set(found))}"
            )
        return found

    @property
    def label_names(self) -> dict[int, str]:
        """Value -> structure, background left out."""
        names, values = super().label_names, self.values
        return {values[index]: name for index, name in names.items()} if values else names

    def checkpoints(self) -> tuple[Path, ...]:
        """The bundle's weights.

        Raises:
            MissingWeights: there are none.
        """
        return (weights_path(self.path),)

    @property
    def postprocessing(self) -> Postprocessing:
        """What the metadata ask for."""
        return read_postprocessing(self.metadata, self.label_names)

    @property
    def refinement(self) -> Refinement | None:
        """How labels are brought to the image's edges, where the metadata ask for it.

        Raises:
            ConfigError: they ask for what the model cannot do; see `read_refinement`.
        """
        found = read_refinement(self.metadata, self.class_names)
        if found is not None and "regions_class_order" in self.dataset:
            raise ConfigError(
                f"<{self.name}/configs/metadata.json>: expected no refinement of a model of regions"
            )
        return found

    @property
    def sides(self) -> Sides | None:
        """How both sides of a head are asked, where metadata and options allow it.

        Raises:
            ConfigError: the metadata name what the model lacks; see `read_sides`.
        """
        return read_sides(self.metadata, self.class_names) if self.options.mirroring else None

    def sha256(self) -> str:
        """A hash of all that decides the model's results: configs, weights, options.

        Raises:
            MissingWeights: the bundle has no weights.
        """
        own = bundle_sha256(self.path)
        return own if self.options == NnunetOptions() else f"{own} {self.options!r}"

    def estimate_memory(
        self,
        shape: Sequence[int],
        spacing: Sequence[float],
        strips: int = 1,
        windows: int = MOST_WINDOWS,
    ) -> int:
        """Bytes at the peak, with those of the refinement; see `NnunetFolder`."""
        found = super().estimate_memory(shape, spacing, strips, windows)
        return found + (0 if self.refinement is None else refinement_bytes(shape, spacing))

    def previous(self) -> None:
        """A bundle is no cascade."""

    def load(self, *, device: torch.device, trust: bool = False) -> NnunetModel:
        """The model, ready to run.

        Raises:
            MissingWeights: the bundle has no weights.
            NotTrusted: the plans build the network by other than network classes.
            ConfigError: the weights do not fit the network.
        """
        from radloom.models.segmentation.loading import load_planned

        return load_planned(self, weights_path(self.path), device=device, trust=trust)

    def _configuration(self) -> dict[str, Any]:
        (only,) = self.plans["configurations"].values()
        return dict(only)


@dataclass(frozen=True)
class Segmented:
    """A step of a MONAI Compose: adds ``pred``, the labels (1, I, J, K) of ``image`` on its grid.

    Of one image (1, I, J, K) with its affine, as LoadImaged and EnsureChannelFirstd leave it.
    """

    bundle_root: str
    """Where the bundle lies."""
    network: torch.nn.Module = field(repr=False)
    """As its plans describe it."""
    weights: str
    """File with its state."""
    device: torch.device
    """Where it runs."""
    n_threads: int = 1
    """Of the CPU; the labels do not depend on it."""
    fast: bool = False
    """Windows that overlap by a quarter, and no mirroring."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """`data` with ``pred``, int32.

        Raises:
            MissingWeights: `weights` is not there.
            ConfigError: they do not fit the network.
        """
        from monai.data import MetaTensor

        from radloom.models.segmentation.loading import load_planned
        from radloom.shapes import array_of, make_volume

        image, options = data["image"], NnunetOptions()
        if self.fast:
            options = NnunetOptions(mirroring=False, step_size=FAST_STEP)
        folder = find_planned(Path(self.bundle_root), options)
        model = load_planned(folder, Path(self.weights), device=self.device, network=self.network)
        volume = make_volume(image.cpu(), image.affine.cpu(), modality="MR", units="arbitrary")
        label = array_of(model.segment([volume], n_threads=self.n_threads))
        pred = torch.from_numpy(label.astype("int32"))
        return {**data, "pred": MetaTensor(pred, meta=dict(image.meta))}


def is_planned(folder: Path) -> bool:
    """Whether `folder` is a bundle that holds nnU-Net's plans and data set beside its metadata."""
    names = ("plans.json", "dataset.json")
    return is_bundle(folder) and all((folder / "configs" / name).is_file() for name in names)


def find_planned(folder: Path, options: NnunetOptions | None = None) -> PlannedBundle:
    """The bundle in `folder`; of `options` only mirroring and the step size count.

    Raises:
        ConfigError: the plans or the metadata are absent, or there is not one configuration.
    """
    if not is_planned(folder):
        raise ConfigError(
            f"<{folder.name}>: expected a bundle with configs/plans.json and configs/dataset.json"
        )
    plans, dataset, metadata = (
        json.loads((folder / "configs" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("plans", "dataset", "metadata")
    )
    if len(plans.get("configurations", ())) != 1:
        raise ConfigError(
            f"<{folder.name}/configs/plans.json>: expected one configuration, got "
            f"{', '.join(plans.get('configurations', ())) or 'none'}"
        )
    return PlannedBundle(
        folder.resolve(), plans, dataset, options or NnunetOptions(), metadata=metadata
    )
