"""First weights for a folded network, from one of the same body on half the grid.

    python -m radloom.models.training.transfer SEGMENTER.pt CONFIG OUT.pt

A segmenter of 2 mm voxels knows where bone, air and skin lie. A network that takes the eight voxels
of a block of 1 mm as channels (`HounsfieldNetwork`) has the same body; only its first convolution
sees eight images, and its last gives other numbers. The first convolution here takes the mean of
the eight, which is the image of 2 mm; the last stays as it was drawn.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from radloom.errors import ConfigError
from radloom.models.checkpoints import load_checkpoint
from radloom.models.training.ema import export_weights

__all__ = ["main", "transferred"]

_log = logging.getLogger(__name__)


def transferred(
    source: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], prefix: str = "backbone."
) -> dict[str, torch.Tensor]:
    """`own`, with what `source` has of the same name and shape; its first convolution spread.

    Args:
        source: state of the network that has learnt.
        own: state of the other network, as drawn; its names begin with `prefix`.
        prefix: what its names have before those of `source`.

    Returns:
        A state for the other network. A convolution (N, C, ...) whose weights there are
        (N, F C, ...) gives each of the F copies an F-th.

    Raises:
        ConfigError: nothing fits.
    """
    result, fitting = dict(own), 0
    for name, there in source.items():
        here = own.get(prefix + name)
        if here is None:
            continue
        there = there.to(here.dtype)
        if here.shape == there.shape:
            result[prefix + name] = there
            fitting += 1
        elif _folds(here.shape, there.shape):
            copies = here.shape[1] // there.shape[1]
            result[prefix + name] = there.repeat_interleave(copies, dim=1) / copies
    if not fitting:
        raise ConfigError(
            f"expected weights of the same body, got none of {len(own)} that fits in name and shape"
        )
    return result


def _folds(here: Sequence[int], there: Sequence[int]) -> bool:
    """Whether two convolutions differ in that the first takes each channel several times."""
    same = len(here) == len(there) == 5 and here[0] == there[0] and here[2:] == there[2:]
    return same and here[1] % there[1] == 0


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    from monai.bundle import ConfigParser

    parser = argparse.ArgumentParser(prog="python -m radloom.models.training.transfer")
    parser.add_argument("source", type=Path, help="model.pt of the network that has learnt")
    parser.add_argument("config", type=Path, help="train.yaml of the other; its network_def")
    parser.add_argument("out", type=Path, help="where the first weights go, for --initial_weights")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = ConfigParser()
    config.read_config(str(given.config))
    network: torch.nn.Module = config.get_parsed_content("network_def")
    state = transferred(load_checkpoint(given.source), network.state_dict())
    network.load_state_dict(state)
    export_weights(network, given.out)
    _log.info("wrote <%s>", given.out.name)


if __name__ == "__main__":
    main()
