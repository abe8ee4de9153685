"""Any nnU-Net v2 results folder as a segmentation model for volumes in memory.

A thin adapter over nnU-Net's own predictor: preprocessing, sliding window, mirroring, ensemble of
folds and the way back to the image's grid are nnU-Net's; this module gives it the array in the axis
order of the model's own reader, and takes the labels back to (1, I, J, K) on the volume's grid.

nnU-Net works in (c, z, y, x) with the spacing in the same order, z first. Its readers take voxels
as they lie in the file, or (``...WithReorient``) turned to RAS first; `_ORIENTATIONS` says which.

Source: Isensee et al., nnU-Net, Nature Methods 2021, doi:10.1038/s41592-020-01008-z; nnunetv2,
``inference/predict_from_raw_data.py`` and ``imageio/``.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from radloom.errors import ConfigError, InputError, NotTrusted
from radloom.geometry import Affine, spacing_of
from radloom.models.checkpoints import load_checkpoint, sha256_of_all
from radloom.models.threads import torch_settings
from radloom.shapes import (
    LabelVolume,
    Volume,
    affine_of,
    array_of,
    make_label,
    require_same_grid,
    require_volume,
)

__all__ = [
    "NnunetFolder",
    "NnunetModel",
    "NnunetOptions",
    "find_nnunet",
    "from_model",
    "is_nnunet",
    "to_model",
]

_ORIENTATIONS = {
    "SimpleITKIO": "",
    "NibabelIO": "",
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
}
"""nnU-Net's readers of medical volumes, and the orientation they turn a volume to."""

_NETWORK_PACKAGES = ("dynamic_network_architectures.", "torch.nn.", "nnunetv2.")
"""Where plans.json may name classes that build the network; elsewhere any callable would do."""


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

    def sha256(self) -> str:
        """A hash of all that decides the model's results: plans, data set, checkpoints, options."""
        files = (self.path / "plans.json", self.path / "dataset.json", *self.checkpoints())
        return sha256_of_all(files, repr(self.options))

    def estimate_memory(self, shape: Sequence[int], spacing: Sequence[float]) -> int:
        """Bytes at the peak for a volume (I, J, K) with `spacing` in mm, checkpoints included.

        The peak lies where the logits of all classes go from the model's spacing to the volume's:
        float64 on the one grid, float16 on both, and for one class at a time three copies in
        float64, or nine where one axis is so coarse that nnU-Net resamples it apart. Measured for
        192 x 224 x 192 voxels, three classes, 4 mm slices: 839 MB, estimated 806.
        """
        configuration = self._configuration()
        own = math.prod(shape)
        target = [float(mm) for mm in configuration.get("spacing", [])][-3:]
        scale = math.prod(spacing) / math.prod(target) if len(target) == 3 else 1.0
        model = max(own * scale, math.prod(configuration["patch_size"]))
        classes, channels = len(self.dataset["labels"]), len(self.channel_names)
        apart = any(max(mm) / min(mm) > 3 for mm in (list(spacing), target) if len(mm) == 3)
        logits = classes * (10 * model + 2 * own) + (72 if apart else 24) * max(own, model)
        images = channels * 12 * (model + own)
        weights = sum(path.stat().st_size for path in self.checkpoints())
        window = 4 * 32 * 8 * math.prod(configuration["patch_size"])
        return int(logits + images + weights + window)

    def load(self, *, device: torch.device, trust: bool = False) -> NnunetModel:
        """The model, ready to run.

        Args:
            device: where the network runs.
            trust: whether the user trusts checkpoints and plans that can run code.

        Raises:
            NotTrusted: a checkpoint or the plans need more than tensors and nnU-Net's own classes.
            ConfigError: nnU-Net does not know a class that the folder names, the weights do not
                fit, the model is the second half of a cascade, or its reader reads no volumes.
        """
        orientation = _orientation(self)
        checkpoints = [_checkpoint(path, trust=trust) for path in self.checkpoints()]
        with _quiet(), torch_settings(torch.get_num_threads()):
            predictor = _predictor(self, checkpoints, device=device, trust=trust)
        return NnunetModel(self, predictor, orientation)

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


@dataclass(frozen=True)
class NnunetModel:
    """A loaded model."""

    folder: NnunetFolder
    """Where it comes from."""
    predictor: Any = field(repr=False)
    """nnU-Net's own nnUNetPredictor."""
    orientation: str
    """What the model's reader turns a volume to: ``RAS``, or empty for as it lies."""

    def segment(self, volumes: Sequence[Volume], *, n_threads: int = 1) -> LabelVolume:
        """Labels (1, I, J, K) on the grid of `volumes`, as ``nnUNetv2_predict`` gives them.

        Args:
            volumes: one volume (1, I, J, K) a channel, in the order of `channel_names`, on one
                grid.
            n_threads: of the CPU; the labels do not depend on it.

        Raises:
            InputError: the number of volumes is not that of the channels.
            GridMismatch: the volumes do not share a grid.
        """
        names = self.folder.channel_names
        if len(volumes) != len(names):
            raise InputError(
                f"the model <{self.folder.name}> takes {len(names)} channel(s) ({', '.join(names)})"
                f", got {len(volumes)}"
            )
        for name, volume in zip(names, volumes, strict=True):
            require_same_grid(require_volume(volume, name), volumes[0], name)
            if volume.shape[0] != 1:
                raise InputError(f"{name}: expected (1, I, J, K), got {tuple(volume.shape)}")
        affine = affine_of(volumes[0])
        stacked = np.concatenate([array_of(volume) for volume in volumes])
        data, spacing = to_model(stacked, affine, self.orientation)
        labels = from_model(self._predict(data, spacing, n_threads), affine, self.orientation)
        return make_label(labels, affine, series_uid=str(volumes[0].meta.get("series_uid", "")))

    def _predict(
        self, data: npt.NDArray[np.float32], spacing: list[float], n_threads: int
    ) -> npt.NDArray[Any]:
        """Labels (z, y, x) of (c, z, y, x): the steps of nnU-Net's sequential prediction."""
        from nnunetv2.inference.export_prediction import (
            convert_predicted_logits_to_segmentation_with_correct_shape as to_segmentation,
        )

        p = self.predictor
        with _quiet(), torch_settings(n_threads):
            preprocessor = p.configuration_manager.preprocessor_class(verbose=False)
            prepared, _, properties = preprocessor.run_case_npy(
                data, None, {"spacing": spacing}, p.plans_manager, p.configuration_manager,
                p.dataset_json,
            )  # fmt: skip
            tensor = torch.from_numpy(prepared).to(torch.float32).contiguous()
            logits = p.predict_logits_from_preprocessed_data(tensor).cpu()
            return np.asarray(
                to_segmentation(
                    logits, p.plans_manager, p.configuration_manager, p.label_manager, properties,
                    num_threads_torch=n_threads,
                )
            )  # fmt: skip


def to_model(
    array: npt.NDArray[np.float32], affine: Affine, orientation: str = ""
) -> tuple[npt.NDArray[np.float32], list[float]]:
    """The array (c, z, y, x) and its spacing (z, y, x) in mm as nnU-Net's readers give them.

    The spacing is rounded to float32, as NIfTI stores it and the readers read it.

    Args:
        array: (C, I, J, K).
        affine: (4, 4) voxel -> RAS+ mm.
        orientation: what the reader turns the volume to, or empty.

    >>> data, spacing = to_model(np.zeros((1, 2, 3, 4), np.float32), np.diag([1.0, 2.0, 3.0, 1.0]))
    >>> data.shape, spacing
    ((1, 4, 3, 2), [3.0, 2.0, 1.0])
    """
    spacing = spacing_of(affine).astype(np.float32).astype(float)
    if orientation:
        turn = _turn(affine, orientation)
        array = np.stack([_apply(channel, turn) for channel in array])
        spacing = spacing[np.argsort(turn[:, 0])]
    return np.ascontiguousarray(array.transpose(0, 3, 2, 1)), spacing[::-1].tolist()


def from_model(labels: npt.NDArray[Any], affine: Affine, orientation: str = "") -> npt.NDArray[Any]:
    """Labels (z, y, x) of `to_model`'s array back as (I, J, K)."""
    import nibabel as nib

    array = labels.transpose(2, 1, 0)
    if orientation:
        own = nib.orientations.io_orientation(affine)
        array = _apply(array, nib.orientations.ornt_transform(_codes(orientation), own))
    return np.ascontiguousarray(array)


def _codes(orientation: str) -> npt.NDArray[Any]:
    import nibabel as nib

    return np.asarray(nib.orientations.axcodes2ornt(tuple(orientation)))


def _turn(affine: Affine, orientation: str) -> npt.NDArray[Any]:
    """(3, 2) nibabel's transform from the grid's own orientation to `orientation`."""
    import nibabel as nib

    own = nib.orientations.io_orientation(affine)
    return np.asarray(nib.orientations.ornt_transform(own, _codes(orientation)))


def _apply(array: npt.NDArray[Any], turn: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import nibabel as nib

    return np.asarray(nib.orientations.apply_orientation(array, turn))


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


def _orientation(folder: NnunetFolder) -> str:
    reader = folder.plans["image_reader_writer"]
    if reader not in _ORIENTATIONS:
        raise ConfigError(
            f"<{folder.path.name}/plans.json>: expected image_reader_writer to be one of "
            f"{', '.join(_ORIENTATIONS)}, got {reader!r}; such a model does not read volumes"
        )
    return _ORIENTATIONS[reader]


def _predictor(
    folder: NnunetFolder,
    checkpoints: Sequence[Mapping[str, Any]],
    *,
    device: torch.device,
    trust: bool,
) -> Any:
    """nnU-Net's predictor, filled as its ``initialize_from_trained_model_folder`` does it.

    That method itself unpickles whatever the checkpoint holds, and so is not called.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    first, dataset = checkpoints[0], dict(folder.dataset)
    manager = PlansManager(json.loads(json.dumps(folder.plans)))
    configuration = manager.get_configuration(first["init_args"]["configuration"])
    _require_supported(folder, configuration, trust=trust)
    network = _trainer(first["trainer_name"], folder).build_network_architecture(
        manager,
        configuration,
        determine_num_input_channels(manager, configuration, dataset),
        manager.get_label_manager(dataset).num_segmentation_heads,
        enable_deep_supervision=False,
    )
    parameters = [checkpoint["network_weights"] for checkpoint in checkpoints]
    _require_fit(network, parameters, folder)
    predictor = nnUNetPredictor(
        tile_step_size=folder.options.step_size,
        use_mirroring=folder.options.mirroring,
        device=device,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        network, manager, configuration, parameters, dataset, first["trainer_name"],
        first.get("inference_allowed_mirroring_axes"),
    )  # fmt: skip
    predictor.network = network  # not the compiled one that an environment variable may ask for
    return predictor


def _checkpoint(path: Path, *, trust: bool) -> Mapping[str, Any]:
    checkpoint = load_checkpoint(path, trust=trust)
    needed = ("network_weights", "init_args", "trainer_name")
    if not isinstance(checkpoint, Mapping) or not all(key in checkpoint for key in needed):
        raise ConfigError(
            f"<{path.parent.name}/{path.name}>: expected a checkpoint of nnU-Net v2 with "
            f"{', '.join(needed)}"
        )
    return checkpoint


def _require_fit(
    network: torch.nn.Module, parameters: Sequence[Mapping[str, Any]], folder: NnunetFolder
) -> None:
    try:
        for weights in parameters:
            network.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(
            f"<{folder.path.name}>: a checkpoint does not fit the network of plans.json: "
            f"{str(error)[:200]}"
        ) from error


def _require_supported(folder: NnunetFolder, configuration: Any, *, trust: bool) -> None:
    """Refuse cascades, and plans that name callables outside the network libraries."""
    where = f"<{folder.path.name}/plans.json>"
    if configuration.previous_stage_name is not None:
        raise ConfigError(
            f"{where}: expected a model that needs images only, got the second half of a cascade "
            f"after {configuration.previous_stage_name!r}; give the 3d_fullres or 3d_lowres model"
        )
    keys = configuration.network_arch_init_kwargs_req_import
    named = [configuration.network_arch_init_kwargs[key] for key in keys]
    named = [configuration.network_arch_class_name, *(name for name in named if name is not None)]
    foreign = [name for name in named if not str(name).startswith(_NETWORK_PACKAGES)]
    if foreign and not trust:
        raise NotTrusted(
            f"{where}: the network is built by {', '.join(map(str, foreign))}, which is no part of "
            "nnU-Net; if you know where the folder comes from, give --trust"
        )


def _trainer(name: str, folder: NnunetFolder) -> Any:
    """The trainer class of that name in the installed nnunetv2, and nowhere else."""
    import nnunetv2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    root = Path(nnunetv2.__path__[0])
    trainers = root / "training" / "nnUNetTrainer"
    try:  # nnU-Net looks by importing one trainer after the other, with all that they need
        found = recursive_find_python_class(
            str(trainers), name, "nnunetv2.training.nnUNetTrainer", str(root)
        )
    except ImportError as error:
        raise ConfigError(
            f"<{folder.path.name}>: the trainer {name!r} was not found before a module of nnunetv2 "
            f"failed to load: {error}; repair that installation"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nnUNetTrainer)):
        raise ConfigError(
            f"<{folder.path.name}>: the installed nnunetv2 has no trainer {name!r}; install the "
            "version of nnunetv2 that the model was trained with"
        )
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep nnU-Net's prints out of the program's output."""
    with redirect_stdout(io.StringIO()):
        yield
