"""One step: passes over its batches, gradients averaged and clipped, weights and average moved."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from radloom.models.training.ema import Ema
from radloom.models.training.settings import TrainingSettings
from radloom.models.training.stream import Batch
from radloom.models.training.task import Task

__all__ = ["TrainingStep"]


class TrainingStep:
    """What the trainer does in an iteration.

    Args:
        network: compiled, distributed or plain; its weights are those of `ema`'s origin.
        task: gives the loss.
        optimizer: of the network's weights, at its full rate.
        scaler: of the gradients in float16; does nothing elsewhere.
        ema: the average.
        settings: passes, precision and clipping.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        task: Task,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        ema: Ema,
        settings: TrainingSettings,
    ) -> None:
        self.network, self.task, self.ema = network, task, ema
        self.optimizer, self.scaler, self.settings = optimizer, scaler, settings
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._weights = [w for w in network.parameters() if w.requires_grad]

    def __call__(self, engine: Any, batches: list[Batch]) -> dict[str, torch.Tensor]:
        """The parts of the loss, means over the passes, still on the device."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        total: dict[str, torch.Tensor] = {}
        for n, batch in enumerate(batches):
            with self._gradients_shared(last=n == len(batches) - 1):
                parts = self._losses(batch)
                loss = torch.stack(list(parts.values())).sum() / len(batches)
                self.scaler.scale(loss).backward()
            for name, value in parts.items():
                total[name] = total.get(name, 0) + value.detach() / len(batches)
        total["gradient"] = self._update(engine.state.iteration - 1)
        self.ema.update(_plain(self.network), engine.state.iteration)
        return total

    def _losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        image = batch["image"]
        dtype = self.settings.dtype(image.device)
        if image.device.type == "cuda":
            image = image.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(image.device.type, dtype=dtype, enabled=dtype != torch.float32):
            pred = self.network(image)
        return self.task.loss(pred.float(), batch)

    def _update(self, step: int) -> torch.Tensor:
        """Move the weights; the length of the gradient before it was clipped."""
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.clip_norm or float("inf")
        length = torch.nn.utils.clip_grad_norm_(self._weights, limit)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.settings.rate(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return length.detach()

    def _gradients_shared(self, *, last: bool) -> Any:
        """Between processes the gradients are averaged in the last pass alone."""
        wait = getattr(self.network, "no_sync", None)
        return nullcontext() if last or wait is None else wait()


def _plain(network: torch.nn.Module) -> torch.nn.Module:
    """The network without its wrappers."""
    for name in ("module", "_orig_mod"):
        inner = getattr(network, name, None)
        if isinstance(inner, torch.nn.Module):
            return _plain(inner)
    return network
