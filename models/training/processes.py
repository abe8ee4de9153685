"""One process or several (torchrun), one device each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from radloom.errors import ConfigError

__all__ = ["Processes", "processes"]


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int
    n: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    def any(self, said: bool) -> bool:  # noqa: FBT001 (a question with one answer)
        """Whether one of the processes said yes; all get the same answer."""
        if self.n == 1:
            return said
        flag = torch.tensor([float(said)], device=self.device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return bool(flag.item())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.n > 1:
            distributed.barrier()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the processes."""
        if self.n == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.n


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did; a group that is there already is used.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; under torchrun each process takes the GPU
            of its local rank.

    Raises:
        ConfigError: a GPU was asked for where none is.
    """
    together = distributed.is_available() and distributed.is_torchelastic_launched()
    local = distributed.get_node_local_rank(fallback_rank=0) if together else 0
    chosen = _device(device, local if together else None)
    if not together:
        yield Processes(0, 1, chosen)
        return
    ours = not distributed.is_initialized()
    if ours:
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), chosen)
    finally:
        if ours:
            distributed.destroy_process_group()


def _device(name: str, local_rank: int | None) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"expected a GPU for device {name!r}, got none; use cpu or auto")
    if device.type == "cuda":
        index = local_rank if local_rank is not None else device.index or 0
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return device
