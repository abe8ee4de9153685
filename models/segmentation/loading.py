"""Any nnU-Net v2 results folder, made ready: networks by nnU-Net's own code, weights by fold.

Source: nnunetv2, ``inference/predict_from_raw_data.py``, whose own loading unpickles whatever a
checkpoint holds, and so is not called.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from radloom.errors import ConfigError, MissingWeights, NotTrusted
from radloom.models.checkpoints import load_checkpoint
from radloom.models.segmentation.nnunet import NnunetFolder
from radloom.models.segmentation.prediction import NnunetModel
from radloom.models.segmentation.sides import Sides, over_both_sides
from radloom.models.segmentation.tensorrt import by_tensorrt
from radloom.models.segmentation.windows import Predict, mirrored
from radloom.threads import torch_settings

if TYPE_CHECKING:
    from radloom.models.segmentation.planned import PlannedBundle

__all__ = ["load_nnunet", "load_planned", "network_of_plans"]

_NETWORK_PACKAGES = ("dynamic_network_architectures.", "torch.nn.", "nnunetv2.")
"""Where plans.json may name classes that build the network; elsewhere any callable would do."""


def load_nnunet(folder: NnunetFolder, *, device: torch.device, trust: bool = False) -> NnunetModel:
    """The model in `folder`, with the one of the stage before where it is half of a cascade.

    Raises:
        NotTrusted: a checkpoint or the plans need more than tensors and nnU-Net's own classes.
        ConfigError: nnU-Net does not know a class that the folder names, the weights do not fit,
            its reader reads no volumes, or the other half of the cascade is not beside it.
    """
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    orientation, before = folder.orientation, folder.previous()
    previous = None if before is None else load_nnunet(before, device=device, trust=trust)
    checkpoints = [_checkpoint(path, trust=trust) for path in folder.checkpoints()]
    first, dataset = checkpoints[0], dict(folder.dataset)
    with _quiet(), torch_settings(torch.get_num_threads()):
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
        axes = first.get("inference_allowed_mirroring_axes") if folder.options.mirroring else None
        networks = tuple(
            _ready(_filled(network, c["network_weights"], folder), axes, device, configuration,
                   folder, n)
            for n, c in enumerate(checkpoints)
        )  # fmt: skip
    return NnunetModel(folder, manager, configuration, networks, device, orientation, previous)


def load_planned(
    folder: PlannedBundle,
    weights: Path,
    *,
    device: torch.device,
    trust: bool = False,
    network: torch.nn.Module | None = None,
) -> NnunetModel:
    """The model of a bundle with plans.

    Args:
        folder: of the bundle.
        weights: file with the network's state.
        device: where the network runs.
        trust: whether plans may name other callables than network classes.
        network: made already; None: as the plans say.

    Raises:
        MissingWeights: `weights` is not there.
        NotTrusted: the plans name other callables, and `trust` is False.
        ConfigError: the weights do not fit the network.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    if not weights.is_file():
        raise MissingWeights(
            f"expected the weights <{weights.parent.name}/{weights.name}>, which are absent: train "
            "them (configs/train.yaml), or give --bundle_root if the command runs elsewhere"
        )
    orientation, dataset = folder.orientation, dict(folder.dataset)
    with _quiet(), torch_settings(torch.get_num_threads()):
        manager = PlansManager(json.loads(json.dumps(folder.plans)))
        (name,) = folder.plans["configurations"]
        configuration = manager.get_configuration(name)
        _require_supported(folder, configuration, trust=trust)
        made = network or network_of_plans(dict(folder.plans), dataset)
        filled = _filled(made, load_checkpoint(weights), folder)
        predict = _ready(filled, folder.sides, device, configuration, folder)
    return NnunetModel(folder, manager, configuration, (predict,), device, orientation)


def network_of_plans(plans: dict[str, Any], dataset: dict[str, Any]) -> torch.nn.Module:
    """The network of the plans' one configuration, with first weights, as nnU-Net builds it."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    (configuration,) = plans["configurations"].values()
    how = configuration["architecture"]
    network: torch.nn.Module = get_network_from_plans(
        how["network_class_name"],
        how["arch_kwargs"],
        how["_kw_requires_import"],
        len(dataset["channel_names"]),
        len(dataset["labels"]),
        deep_supervision=False,
    )
    return network


def _ready(
    network: torch.nn.Module,
    mirroring: Sequence[int] | Sides | None,
    device: torch.device,
    configuration: Any,
    folder: NnunetFolder | PlannedBundle,
    fold: int = 0,
) -> Predict:
    """The network on its device, mirrored, and one of planes as one of boxes a voxel deep.

    On CUDA in half precision where autocast allows it, as nnU-Net predicts there.
    """
    network, options = network.to(device), folder.options
    run: Predict = network
    if options.engines is not None and device.type == "cuda":
        run = by_tensorrt(network, options.engines / f"{folder.sha256()[:16]}-{fold}")
    elif options.compiled:
        run = torch.compile(network)
    if isinstance(mirroring, Sides):
        predict = over_both_sides(run, mirroring)
    else:
        predict = mirrored(run, mirroring)
    if device.type == "cuda":
        predict = torch.autocast("cuda", torch.float16)(predict)
    planar = len(configuration.patch_size) == 2
    return (lambda windows: predict(windows[:, :, 0])[:, :, None]) if planar else predict


def _checkpoint(path: Path, *, trust: bool) -> Mapping[str, Any]:
    checkpoint = load_checkpoint(path, trust=trust)
    needed = ("network_weights", "init_args", "trainer_name")
    if not isinstance(checkpoint, Mapping) or not all(key in checkpoint for key in needed):
        raise ConfigError(
            f"<{path.parent.name}/{path.name}>: expected a checkpoint of nnU-Net v2 with "
            f"{', '.join(needed)}"
        )
    return checkpoint


def _filled(
    network: torch.nn.Module, weights: Mapping[str, Any], folder: NnunetFolder
) -> torch.nn.Module:
    """A copy of the network with the weights of one fold."""
    filled = copy.deepcopy(network)
    try:
        filled.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(
            f"<{folder.path.name}>: a checkpoint does not fit the network of plans.json: "
            f"{str(error)[:200]}"
        ) from error
    return filled.eval().requires_grad_(requires_grad=False)


def _require_supported(folder: NnunetFolder, configuration: Any, *, trust: bool) -> None:
    """Refuse plans that name callables outside the network libraries."""
    keys = configuration.network_arch_init_kwargs_req_import
    named = [configuration.network_arch_init_kwargs[key] for key in keys]
    named = [configuration.network_arch_class_name, *(name for name in named if name is not None)]
    foreign = [name for name in named if not str(name).startswith(_NETWORK_PACKAGES)]
    if foreign and not trust:
        raise NotTrusted(
            f"<{folder.path.name}/plans.json>: the network is built by "
            f"{', '.join(map(str, foreign))}, which is no part of nnU-Net; if you know where the "
            "folder comes from, give --trust"
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
