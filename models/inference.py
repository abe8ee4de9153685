"""A bundle's own ``inference.yaml``, from file to file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from radloom.errors import MissingWeights
from radloom.models.checkpoints import load_checkpoint

__all__ = ["infer", "load_weights"]


def infer(
    data: Mapping[str, Any],
    network: torch.nn.Module,
    weights: str,
    preprocessing: Callable[[Any], Any],
    inferer: Callable[..., torch.Tensor],
    postprocessing: Callable[[Any], Any],
    device: torch.device,
) -> dict[str, Any]:
    """What `postprocessing` makes of the network's ``pred`` for ``image``.

    Args:
        data: file names by key, as `preprocessing` reads them.
        network: of the bundle.
        weights: file that holds its state.
        preprocessing: a MONAI Compose over a dictionary.
        inferer: a MONAI Inferer.
        postprocessing: a MONAI Compose over a dictionary with ``pred``.
        device: where the network runs.

    Raises:
        MissingWeights: `weights` is not there.
    """
    from monai.data import MetaTensor

    load_weights(network, weights)
    prepared = dict(preprocessing(dict(data)))
    image = prepared["image"]
    with torch.inference_mode():
        batch = image.as_tensor()[None].to(device, torch.float32)
        pred = inferer(batch, network.to(device).eval())[0].to(image.device).clone()
    prepared["pred"] = MetaTensor(pred, affine=image.affine)
    return dict(postprocessing(prepared))


def load_weights(network: torch.nn.Module, weights: str) -> None:
    """Fills `network` with the state in a file.

    Raises:
        MissingWeights: the file is not there.
    """
    path = Path(weights)
    if not path.is_file():
        raise MissingWeights(
            f"expected the weights <{path.parent.name}/{path.name}>, which are absent: train them "
            "(configs/train.yaml), or give --bundle_root if the command runs elsewhere"
        )
    network.load_state_dict(load_checkpoint(path))
