"""An nnU-Net v2 results folder as its files describe it: labels, channels, folds, need of memory.

Nothing of nnU-Net or of a checkpoint is loaded here; `NnunetFolder.load` gives the model.

Source: Isensee et al., nnU-Net, Nature Methods 2021, doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from radloom.errors import ConfigError
from radloom.models.checkpoints import sha256_of_all
from radloom.models.segmentation.postprocessing import (
    POSTPROCESSING_FILE,
    Postprocessing,
    read_postprocessing,
)
from radloom.models.segmentation.refinement import Refinement
from radloom.threads import MOST_WINDOWS

if TYPE_CHECKING:
    from radloom.models.segmentation.prediction import NnunetModel

__all__ = ["FAST_STEP", "MOST_STRIPS", "NnunetFolder", "NnunetOptions", "find_nnunet", "is_nnunet"]

_ORIENTATIONS = {
    "SimpleITKIO": "",
    "NibabelIO": "",
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
}
"""nnU-Net's readers of medical volumes, and the orientation they turn a volume to."""

MOST_STRIPS = 8
"""Into how many strips a grid is cut at most where memory is short: windows on the borders are
computed for each strip they lie in."""

_WINDOWS_BYTES = 2e9
"""What they may take together."""


FAST_STEP = 0.75
"""Of the sliding window where time counts: windows overlap by a quarter, not by a half."""


@dataclass(frozen=True)
class NnunetOptions:
    """How a results folder is used; the defaults are those of ``nnUNetv2_predict``."""

    folds: tuple[int | str, ...] = ()
    """Fold numbers, or ``("all",)``; empty: every fold_0 ... here, else fold_all."""
    checkpoint: str = "checkpoint_final.pth"
    """The file's name in each fold's folder."""
    mirroring: bool = True
    """Whether predictions over mirrored windows are averaged, where the model allows it."""
    step_size: float = 0.5
    """The sliding window's step as a share of its size, above 0 and at most 1."""
    compiled: bool = False
    """Whether PyTorch compiles the network first: minutes once, then less time a window."""
    engines: Path | None = None
    """Folder that keeps TensorRT's engines, by which CUDA devices compute; None: PyTorch does."""


@dataclass(frozen=True, eq=False)
class NnunetFolder:
    """A results folder as its JSON files describe it, no checkpoint opened."""

    path: Path
    """``<Trainer>__<Plans>__<configuration>``."""
    plans: Mapping[str, Any] = field(repr=False)
    """plans.json."""
    dataset: Mapping[str, Any] = field(repr=False)
    """dataset.json."""
    options: NnunetOptions = NnunetOptions()
    """How it is used."""

    @property
    def name(self) -> str:
        """The data set's name, such as ``Dataset004_Hippocampus``."""
        return str(self.plans.get("dataset_name", self.path.parent.name))

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each input channel holds, in order: T1, CT, ..."""
        names = self.dataset.get("channel_names", self.dataset.get("modality", {}))
        return tuple(str(names[key]) for key in sorted(names, key=int))

    @property
    def label_names(self) -> dict[int, str]:
        """Value -> structure, background left out.

        In a region-based model a region is painted over the ones before it, so a value stands for
        what of its region no later one covers: ``tumor without core``.
        """
        labels: dict[str, Any] = dict(self.dataset["labels"])
        order = self.dataset.get("regions_class_order")
        names = [n for n in labels if n != "ignore" and set(_values(labels[n])) != {0}]
        if order is None or all(len(_values(labels[n])) == 1 for n in names):
            return {int(_values(labels[n])[0]): n for n in names}
        sets = [frozenset(_values(labels[n])) for n in names]
        return {int(v): _region_name(i, names, sets) for i, v in enumerate(order)}

    @property
    def class_names(self) -> tuple[str, ...]:
        """What each channel of scores and probabilities stands for, in order."""
        labels = {n: _values(v) for n, v in self.dataset["labels"].items() if n != "ignore"}
        if any(len(values) > 1 for values in labels.values()):
            return tuple(name for name, values in labels.items() if set(values) != {0})
        return tuple(sorted(labels, key=lambda name: labels[name][0]))

    @property
    def values(self) -> tuple[int, ...]:
        """Of each class, its number in results; empty: nnU-Net's own numbers."""
        return ()

    def checkpoints(self) -> tuple[Path, ...]:
        """The checkpoint of each fold to use.

        Raises:
            ConfigError: a fold or its checkpoint is absent.
        """
        name = self.options.checkpoint
        paths = tuple(self.path / f"fold_{fold}" / name for fold in self.options.folds)
        paths = paths or self._every_fold(name)
        absent = [f"{p.parent.name}/{p.name}" for p in paths if not p.is_file()]
        if absent or not paths:
            here = sorted(f"{p.parent.name}/{p.name}" for p in self.path.glob("fold_*/*.pth"))
            raise ConfigError(
                f"<{self.path.name}>: expected {', '.join(absent) or 'fold_*/' + name}; "
                f"checkpoints here: {', '.join(here) or 'none'}"
            )
        return paths

    @property
    def postprocessing(self) -> Postprocessing:
        """What ``postprocessing.json`` asks for; nnU-Net's own pickle is not read."""
        return read_postprocessing(self.path, self.label_names)

    @property
    def refinement(self) -> Refinement | None:
        """How labels are brought to the image's edges; nnU-Net's own models never ask for it."""
        return None

    def sha256(self) -> str:
        """A hash of all that decides the model's results: plans, data set, checkpoints, options."""
        asked = self.path / POSTPROCESSING_FILE
        files = (self.path / "plans.json", self.path / "dataset.json", *self.checkpoints())
        files += (asked,) if asked.is_file() else ()
        before = self.previous()
        return sha256_of_all(files, repr(self.options) + (before.sha256() if before else ""))

    def estimate_memory(
        self,
        shape: Sequence[int],
        spacing: Sequence[float],
        strips: int = 1,
        windows: int = MOST_WINDOWS,
    ) -> int:
        """Bytes at the peak for a volume (I, J, K) with `spacing` in mm, weights included.

        What is held: the image on its own grid and on the model's, and once more in float64 while
        it is resampled; the labels; scores of all classes in float16, as many planes of the model's
        grid as a window is deep, for each fold; and what one window takes in the network.

        Args:
            shape: of the image.
            spacing: of the image.
            strips: parts in which the model's grid is worked on, one after the other.
            windows: computed at a time, no more than `parallel`.
        """
        configuration = self._configuration()
        patch = [int(n) for n in configuration["patch_size"]]
        own, model = math.prod(shape), self._model_shape(shape, spacing)
        depth = patch[0] if len(patch) == 3 else 1
        plane = math.prod(max(n, p) for n, p in zip(model[1:], patch[-2:], strict=True))
        classes, channels = len(self.dataset["labels"]), len(self.channel_names)
        folds = self.checkpoints()
        image = 4 * channels * (own + math.prod(model)) + 2 * own
        resampling = 8 * max(own, math.prod(model))
        planes = depth * (len(folds) + 1) + 4 * 16
        scores = 2 * classes * planes * plane // strips
        window = self._window_bytes() * min(windows, self.parallel)
        weights = sum(path.stat().st_size for path in folds)
        found = image + max(resampling, scores + window) + weights
        before = self.previous()
        if before is None:
            return int(found)
        return int(max(found, before.estimate_memory(shape, spacing, strips, windows)) + weights)

    @property
    def parallel(self) -> int:
        """How many windows go through the network at a time at most, a thread of the CPU each.

        1: they are too large for that, and the threads share one window. PyTorch's sums then depend
        on the threads in the last bits: labels where classes tie may.
        """
        return max(1, min(MOST_WINDOWS, int(_WINDOWS_BYTES // self._window_bytes())))

    def _window_bytes(self) -> int:
        """What one window takes in the network."""
        patch = math.prod(int(n) for n in self._configuration()["patch_size"])
        return 4 * patch * (8 * self._features() + 4 * len(self.dataset["labels"]))

    def least_memory(self, shape: Sequence[int], spacing: Sequence[float]) -> int:
        """Bytes that will do where memory is short, to the same labels in more time."""
        return self.estimate_memory(shape, spacing, MOST_STRIPS, 1)

    @property
    def orientation(self) -> str:
        """What the model's reader turns a volume to: ``RAS``, or empty for as it lies.

        Raises:
            ConfigError: the model reads pictures, no volumes.
        """
        reader = self.plans["image_reader_writer"]
        if reader not in _ORIENTATIONS:
            raise ConfigError(
                f"<{self.path.name}/plans.json>: expected image_reader_writer to be one of "
                f"{', '.join(_ORIENTATIONS)}, got {reader!r}; such a model does not read volumes"
            )
        return _ORIENTATIONS[reader]

    def previous(self) -> NnunetFolder | None:
        """Of the second half of a cascade, the folder of the first, which lies beside it.

        Raises:
            ConfigError: it is not there, or there are several and none is of the same trainer.
        """
        stage = self._configuration().get("previous_stage")
        if not stage:
            return None
        trainer, plans, _ = self.path.name.split("__")
        beside = [p for p in sorted(self.path.parent.glob(f"*__{plans}__{stage}"))
                  if _is_results_folder(p)]  # fmt: skip
        same = [p for p in beside if p.name.split("__")[0] == trainer]
        if len(same or beside) != 1:
            raise ConfigError(
                f"<{self.path.name}>: it is the second half of a cascade: expected the folder of "
                f"the first beside it, <{trainer}__{plans}__{stage}>, got "
                f"{', '.join(p.name for p in beside) or 'none'}"
            )
        return find_nnunet((same or beside)[0], self.options)

    def load(self, *, device: torch.device, trust: bool = False) -> NnunetModel:
        """The model, ready to run.

        Args:
            device: where the network runs.
            trust: whether the user trusts checkpoints and plans that can run code.

        Raises:
            NotTrusted: a checkpoint or the plans need more than tensors and nnU-Net's own classes.
            ConfigError: nnU-Net does not know a class that the folder names, the weights do not
                fit, the other half of a cascade is absent, or its reader reads no volumes.
        """
        from radloom.models.segmentation.loading import load_nnunet

        return load_nnunet(self, device=device, trust=trust)

    def _model_shape(self, shape: Sequence[int], spacing: Sequence[float]) -> list[int]:
        """The image's shape on the model's grid, in the model's order of axes."""
        order = self.plans.get("transpose_forward", [0, 1, 2])
        turned = self._turned(shape), self._turned(spacing)
        own, mm = ([along[axis] for axis in order] for along in turned)
        target = [float(x) for x in self._configuration().get("spacing", mm)]
        target = [mm[0], *target] if len(target) == 2 else target
        return [max(1, round(n * a / b)) for n, a, b in zip(own, mm, target, strict=True)]

    @staticmethod
    def _turned(along: Sequence[float]) -> list[float]:
        """Of I, J, K in the order z, y, x; a reader's turn to RAS is not known here."""
        return list(along)[::-1]

    def _features(self) -> int:
        configuration = self._configuration()
        kwargs = configuration.get("architecture", {}).get("arch_kwargs", {})
        widths = kwargs.get("features_per_stage")
        return int(widths[0] if widths else configuration.get("UNet_base_num_features", 32))

    def _configuration(self) -> dict[str, Any]:
        """The configuration in plans.json that the folder's name ends in, inheritance resolved."""
        every = self.plans["configurations"]
        name = self.path.name.split("__")[-1]
        if name not in every:
            raise ConfigError(
                f"<{self.path.name}>: expected a folder named <Trainer>__<Plans>__<configuration>, "
                f"the last of {', '.join(every)}"
            )
        found, resolved = dict(every[name]), dict[str, Any]()
        while found:
            resolved = {**found, **resolved}
            found = dict(every.get(found.get("inherits_from", ""), {}))
        return resolved

    def _every_fold(self, checkpoint: str) -> tuple[Path, ...]:
        """The numbered folds; fold_all where there are none."""
        here = {p.parent.name[len("fold_") :]: p for p in self.path.glob(f"fold_*/{checkpoint}")}
        numbers = sorted((name for name in here if name.isdigit()), key=int)
        return tuple(here[name] for name in numbers or here if name.isdigit() or name == "all")


def is_nnunet(folder: Path) -> bool:
    """Whether `folder` is an nnU-Net results folder, or holds one or more."""
    return bool(_results_folders(folder))


def find_nnunet(folder: Path, options: NnunetOptions | None = None) -> NnunetFolder:
    """The nnU-Net results folder that `folder` is or holds, to be used with `options`.

    Raises:
        ConfigError: it holds none or several, or its JSON files are not nnU-Net's.
    """
    found = _results_folders(folder)
    if len(found) != 1:
        inside = ", ".join(f"<{path.relative_to(folder)}>" for path in found) or "none"
        raise ConfigError(
            f"<{folder.name}>: expected one nnU-Net results folder, <Trainer>__<Plans>__"
            f"<configuration> with plans.json, dataset.json and fold_*, got {inside}; name the one"
        )
    plans, dataset = (
        json.loads((found[0] / name).read_text(encoding="utf-8"))
        for name in ("plans.json", "dataset.json")
    )
    for key, content, name in (
        ("configurations", plans, "plans.json"),
        ("image_reader_writer", plans, "plans.json"),
        ("labels", dataset, "dataset.json"),
    ):
        if key not in content:
            raise ConfigError(
                f"<{found[0].name}/{name}>: expected {key!r}, as nnU-Net v2 writes it"
            )
    return NnunetFolder(found[0].resolve(), plans, dataset, options or NnunetOptions())


def _results_folders(folder: Path) -> list[Path]:
    """`folder` if it is a results folder, else those up to two levels below it."""
    levels = ([folder], sorted(folder.glob("*/")), sorted(folder.glob("*/*/")))
    for level in levels:
        found = [path for path in level if _is_results_folder(path)]
        if found:
            return found
    return []


def _is_results_folder(folder: Path) -> bool:
    named = all((folder / name).is_file() for name in ("plans.json", "dataset.json"))
    return named and any(path.is_dir() for path in folder.glob("fold_*"))


def _values(label: Any) -> list[int]:
    return [int(v) for v in label] if isinstance(label, list | tuple) else [int(label)]


def _region_name(index: int, names: Sequence[str], sets: Sequence[frozenset[int]]) -> str:
    """The region's name, and which later regions are painted over it, the largest ones only."""
    later = [i for i in range(index + 1, len(names)) if sets[i] < sets[index]]
    largest = [i for i in later if not any(sets[i] < sets[j] for j in later)]
    inner = " and ".join(names[i] for i in largest)
    return f"{names[index]} without {inner}" if inner else names[index]
