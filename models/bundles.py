"""MONAI bundles: where ours lie, whether one may run, and how it runs on a volume in memory.

A bundle is a folder in Model Zoo layout: ``configs/metadata.json``, ``configs/inference.json`` (or
``.yaml``), ``models/model.pt``. Its configs hold Python expressions, so to load one is to run code:
Radloom's own are trusted, others need `trust`.

Of the inference config four entries are used: ``network_def``, ``preprocessing``, ``inferer`` and
``postprocessing``. The volume at hand takes the place of LoadImaged, the caller that of SaveImaged.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from radloom.errors import ConfigError, GridMismatch, InputError, MissingWeights, NotTrusted
from radloom.geometry import same_grid
from radloom.models.checkpoints import load_checkpoint, sha256_of_all
from radloom.shapes import Volume, affine_of, require_same_grid, require_volume, spatial_shape

__all__ = [
    "SHIPPED",
    "Bundle",
    "bundle_config",
    "bundle_sha256",
    "bundles_folder",
    "find_bundle",
    "is_bundle",
    "is_shipped",
    "list_bundles",
    "load_bundle",
    "weights_path",
]

SHIPPED = (
    "brain_mr_segmentation",
    "head_ct_denoising",
    "head_mr_denoising",
    "head_mr_registration",
    "head_mr_to_ct_translation",
)
"""The bundles that Radloom knows by name; a release may hold some of them without weights."""

_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")

_NOT_INFERENCE = ("train", "evaluate", "logging")
"""How the names of configs start that have no part in a bundle's results."""

_FILE_TRANSFORMS = ("LoadImage", "EnsureChannelFirst", "SaveImage")
"""Read, order and write files; a volume in memory is already channel first."""


def bundles_folder() -> Path:
    """The folder with Radloom's own bundles: beside this room, installed or in a checkout."""
    return Path(__file__).resolve().parents[1] / "bundles"


def list_bundles() -> tuple[str, ...]:
    """The names of the bundles that are here, with or without weights."""
    folder = bundles_folder()
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return tuple(name for name in found if is_bundle(folder / name))


def find_bundle(name: str) -> Path:
    """The folder of one of Radloom's own bundles.

    Raises:
        MissingWeights: Radloom knows the bundle, and this release does not hold it.
        ConfigError: Radloom knows no such bundle.
    """
    if name in list_bundles():
        return bundles_folder() / name
    if name in SHIPPED:
        raise MissingWeights(
            f"this release of Radloom does not hold the bundle {name!r} yet; name a model of your "
            "own instead"
        )
    raise ConfigError(f"expected one of Radloom's bundles {', '.join(SHIPPED)}, got {name!r}")


def is_bundle(folder: Path) -> bool:
    """Whether `folder` has the layout of a MONAI bundle."""
    return (folder / "configs" / "metadata.json").is_file() and bool(_configs(folder))


def is_shipped(folder: Path) -> bool:
    """Whether `folder` is one of Radloom's own bundles."""
    return folder.resolve().parent == bundles_folder()


def bundle_config(folder: Path) -> Path:
    """The bundle's inference config.

    Raises:
        ConfigError: there is none.
    """
    found = _configs(folder)
    if not found:
        raise ConfigError(
            f"<{folder.name}>: expected configs/metadata.json and configs/inference.json (or .yaml)"
            ", the layout of a MONAI bundle"
        )
    return found[0]


def weights_path(folder: Path) -> Path:
    """The bundle's weights, ``models/model.pt``.

    Raises:
        MissingWeights: there are none.
    """
    path = folder / "models" / "model.pt"
    if not path.is_file():
        advice = "; name a model of your own, or train it" if is_shipped(folder) else ""
        raise MissingWeights(
            f"the bundle <{folder.name}> has no weights: models/model.pt is absent{advice}"
        )
    return path


def bundle_sha256(folder: Path) -> str:
    """A hash of all that decides the bundle's results: its configs and its weights.

    How it is trained, evaluated and logged does not decide them.

    Raises:
        MissingWeights: the bundle has no weights.
    """
    configs = sorted(
        path
        for path in (folder / "configs").iterdir()
        if path.is_file() and not path.name.startswith(_NOT_INFERENCE)
    )
    return sha256_of_all([*configs, weights_path(folder)])


@dataclass(frozen=True)
class Bundle:
    """A loaded MONAI bundle whose network maps ``image`` to ``pred``."""

    name: str
    """The folder's name."""
    metadata: Mapping[str, Any]
    """``configs/metadata.json``."""
    network: torch.nn.Module = field(repr=False)
    """On `device`, in evaluation mode."""
    preprocessing: Any = field(repr=False)
    """A MONAI Compose over a dictionary with ``image``, without its file readers."""
    inferer: Any = field(repr=False)
    """A MONAI Inferer."""
    postprocessing: Any = field(repr=False)
    """A MONAI Compose over ``image`` and ``pred``, without its file writers; may be None."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def n_channels(self) -> int:
        """How many input channels the network takes, as the metadata says; 1 where they do not."""
        image = self.metadata.get("network_data_format", {}).get("inputs", {}).get("image", {})
        return int(image.get("num_channels", 1))

    def predict(self, volumes: Sequence[Volume]) -> Volume:
        """``pred`` after postprocessing, (C, I, J, K) on the grid of `volumes`, affine unchanged.

        Args:
            volumes: one volume a channel of the network, each (1, I, J, K), on one grid.

        Raises:
            InputError: the number of volumes is not that of the network's channels.
            GridMismatch: the volumes do not share a grid, or the prediction cannot be brought
                back to it.
        """
        from monai.data import MetaTensor
        from monai.transforms import Invertd

        image = _stack(volumes, self.n_channels, self.name)
        with torch.no_grad():
            data = dict(self.preprocessing({"image": image}))
            prepared = data["image"]
            batch = prepared.as_tensor()[None].to(self.device, torch.float32)
            pred = self.inferer(batch, self.network)[0].to(prepared.device)
            data["pred"] = MetaTensor(pred, affine=prepared.affine)
            if self.postprocessing is not None:
                data = dict(self.postprocessing(data))
            if not _lies_on(data["pred"], image):
                undo = Invertd("pred", self.preprocessing, "image", nearest_interp=_is_label(data))
                data = dict(undo(data))
        return _on_grid(data["pred"], volumes[0], self.name)


def load_bundle(folder: Path, *, device: torch.device, trust: bool = False) -> Bundle:
    """The bundle in `folder`, ready to run.

    Args:
        folder: in Model Zoo layout.
        device: where the network runs.
        trust: whether the user trusts a bundle that is not Radloom's own.

    Raises:
        NotTrusted: the bundle is not Radloom's own, and `trust` is False.
        MissingWeights: it has no weights.
        ConfigError: its configs lack an entry, or the weights do not fit the network.
    """
    from monai.bundle import ConfigParser

    if not is_shipped(folder) and not trust:
        raise NotTrusted(
            f"the configs of the bundle <{folder.name}> can run code; if you know where it comes "
            "from, give --trust"
        )
    config, weights = bundle_config(folder), weights_path(folder)
    parser = ConfigParser()
    parser.read_config(str(config))
    parser.read_meta(str(folder / "configs" / "metadata.json"))
    parser.config = _without_files(parser.config)
    parser["bundle_root"] = str(folder.resolve())
    parser["device"] = device
    with _scripts_of(folder):
        network = _entry(parser, "network_def", folder)
        preprocessing = _in_memory(_entry(parser, "preprocessing", folder))
        inferer = _entry(parser, "inferer", folder)
        postprocessing = _in_memory(_entry(parser, "postprocessing", folder, needed=False))
    _load_weights(network, weights, folder)
    return Bundle(
        name=folder.resolve().name,
        metadata=json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8")),
        network=network.to(device).eval(),
        preprocessing=preprocessing,
        inferer=inferer,
        postprocessing=postprocessing,
        device=device,
    )


def _configs(folder: Path) -> list[Path]:
    return [folder / "configs" / name for name in _CONFIGS if (folder / "configs" / name).is_file()]


def _entry(parser: Any, name: str, folder: Path, *, needed: bool = True) -> Any:
    if name not in parser:
        if not needed:
            return None
        raise ConfigError(f"<{folder.name}>: expected an entry {name!r} in the inference config")
    return parser.get_parsed_content(name)


def _without_files(config: Any) -> Any:
    """The config without its file readers and writers, which cost seconds to make."""
    if isinstance(config, Mapping):
        return {key: _without_files(value) for key, value in config.items()}
    if isinstance(config, list):
        return [_without_files(item) for item in config if not _is_file_transform(item)]
    return config


def _is_file_transform(item: Any) -> bool:
    target = str(item.get("_target_", "")) if isinstance(item, Mapping) else ""
    return target.rpartition(".")[-1].startswith(_FILE_TRANSFORMS)


def _in_memory(compose: Any) -> Any:
    """The Compose itself, without file readers and writers that an expression may have made.

    In place, for an Invertd of the postprocessing refers to the same object.
    """
    if compose is not None:
        compose.transforms = tuple(
            transform
            for transform in compose.transforms
            if not type(transform).__name__.startswith(_FILE_TRANSFORMS)
        )
    return compose


def _load_weights(network: torch.nn.Module, path: Path, folder: Path) -> None:
    state = load_checkpoint(path)
    for key in ("model", "network", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    try:
        network.load_state_dict(cast("Mapping[str, Any]", state))
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"<{folder.name}>: the weights do not fit network_def: {str(error)[:300]}"
        ) from error


@contextmanager
def _scripts_of(folder: Path) -> Iterator[None]:
    """Let configs find the bundle's own ``scripts`` package, and the next bundle find its own."""
    root = str(folder.resolve())
    sys.path.insert(0, root)
    try:
        yield
    finally:
        sys.path.remove(root)
        for name in [n for n in sys.modules if n == "scripts" or n.startswith("scripts.")]:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(root):
                del sys.modules[name]


def _stack(volumes: Sequence[Volume], n_channels: int, where: str) -> Volume:
    """One MetaTensor (C, I, J, K) of the channels, with an empty history of transforms."""
    if len(volumes) != n_channels:
        raise InputError(
            f"<{where}>: expected {n_channels} volume(s), one a channel, got {len(volumes)}"
        )
    for volume in volumes:
        require_same_grid(require_volume(volume, where), volumes[0], where)
        if volume.shape[0] != 1:
            raise InputError(f"<{where}>: expected volumes (1, I, J, K), got {volume.shape[0]} ...")
    from monai.data import MetaTensor

    stacked = torch.cat([volume.as_tensor() for volume in volumes])
    affine = torch.from_numpy(affine_of(volumes[0]))
    meta = {"space": "RAS", "original_channel_dim": 0, "filename_or_obj": "volume"}
    return MetaTensor(stacked, affine=affine, meta=meta)


def _lies_on(pred: Volume, image: Volume) -> bool:
    """Whether `pred` came back to the volume's own grid, as an Invertd of the bundle does it."""
    return same_grid(affine_of(pred), tuple(pred.shape), affine_of(image), tuple(image.shape))


def _is_label(data: Mapping[str, Any]) -> bool:
    """Whether ``pred`` holds whole numbers, which must not be blended when resampled."""
    pred = torch.as_tensor(data["pred"])
    return bool((pred == pred.round()).all())


def _on_grid(pred: torch.Tensor, volume: Volume, where: str) -> Volume:
    from monai.data import MetaTensor

    plain = pred.as_tensor() if isinstance(pred, MetaTensor) else pred
    if plain.ndim != 4 or tuple(plain.shape[1:]) != spatial_shape(volume):
        raise GridMismatch(
            f"<{where}>: expected a prediction (C, I, J, K) on {spatial_shape(volume)}, got "
            f"{tuple(plain.shape)}; the bundle's preprocessing cannot be inverted"
        )
    known = ("modality", "units", "series_uid", "reasons", "space")
    meta = {key: volume.meta[key] for key in known if key in volume.meta}
    affine = torch.from_numpy(affine_of(volume))
    return MetaTensor(plain.detach().cpu().to(torch.float32), affine=affine, meta=meta)
