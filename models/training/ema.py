"""A network whose weights are the exponential moving average of another's."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["Ema", "export_weights", "halved", "shipped"]


class Ema:
    """Follows a network while it trains.

    ``average <- d * average + (1 - d) * weights`` with d = min(decay, (1 + step) / (10 + step)), so
    that the start of the training is soon forgotten.
    """

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        """In evaluation mode."""
        self.decay = decay
        self._weights = _floating(self.network)

    def update(self, network: torch.nn.Module, step: int) -> None:
        """Take the weights of `network` in."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self._weights, _floating(network), share)

    def load(self, state: Mapping[str, Any]) -> None:
        """Set the average."""
        self.network.load_state_dict(state)


def shipped(network: torch.nn.Module) -> torch.nn.Module:
    """The part of a trained network that a bundle holds; where it names none, all of it.

    Networks that train against discriminators name the one that is left after the training.
    """
    part = getattr(network, "shipped", network)
    return part if isinstance(part, torch.nn.Module) else network


def _floating(network: torch.nn.Module) -> list[torch.Tensor]:
    """Each floating-point tensor of the state once, whatever number of names it has."""
    state = network.state_dict().values()
    return list({w.data_ptr(): w.detach() for w in state if w.is_floating_point()}.values())


def halved(value: Any, dtype: torch.dtype) -> Any:
    """Float32 tensors of a state in `dtype`, on the CPU; what had two names has one copy still."""
    return _cast(value, dtype, {})


def _cast(value: Any, dtype: torch.dtype, done: dict[tuple[Any, ...], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        small = value.dtype != torch.float32 or value.numel() <= 1
        key = (value.data_ptr(), value.shape, value.dtype)
        if key not in done:
            done[key] = (value if small else value.to(dtype)).detach().cpu().contiguous()
        return done[key]
    if isinstance(value, Mapping):
        return {key: _cast(item, dtype, done) for key, item in value.items()}
    return [_cast(item, dtype, done) for item in value] if isinstance(value, list) else value


def export_weights(network: torch.nn.Module, path: Path) -> None:
    """Write the weights in half precision, as a bundle's ``models/model.pt`` holds them.

    `load_state_dict` of a network in float32 reads them.
    """
    state = halved(network.state_dict(), torch.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    torch.save(state, fresh)
    fresh.replace(path)
