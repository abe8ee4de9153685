"""The average network on cases that are always the same: metrics and a sheet."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from radloom.models.training.batches import draw_case
from radloom.models.training.pictures import Picture, write_sheet
from radloom.models.training.processes import Processes
from radloom.models.training.settings import TrainingSettings
from radloom.models.training.sources import Source
from radloom.models.training.stream import Batch
from radloom.models.training.task import Task

__all__ = ["Validation"]

_log = logging.getLogger(__name__)


class Validation:
    """Runs on MONAI's evaluator, each process on its share of the cases.

    Args:
        network: in evaluation mode.
        source: of cases that the training does not see.
        task: gives metrics and pictures.
        settings: number of cases, precision.
        processes: that share the work.
        out: gets ``validation.jsonl`` and ``sheets/step-NNNNNNNN.png``.
        writer: TensorBoard's; None: this process writes nothing.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        source: Source,
        task: Task,
        settings: TrainingSettings,
        processes: Processes,
        out: Path,
        writer: Any,
    ) -> None:
        self.network, self.source, self.task = network, source, task
        self.settings, self.processes = settings, processes
        self.out, self.writer = out, writer
        self.seconds = 0.0
        """How long the last one took."""

    def run(self, step: int) -> dict[str, float]:
        """Mean of each metric over the cases; the sheet is written."""
        begun = time.monotonic()
        found = self._found()
        means = self._written(step, self._gathered(found))
        self.seconds = time.monotonic() - begun
        return means

    def _found(self) -> dict[int, tuple[dict[str, float], list[Picture]]]:
        """Metrics and pictures of this process's cases."""
        from ignite.engine import Events
        from monai.engines import SupervisedEvaluator

        found: dict[int, tuple[dict[str, float], list[Picture]]] = {}
        mine = range(self.processes.rank, self.settings.validation_cases, self.processes.n)

        def keep(engine: Any) -> None:
            batch, pred = engine.state.batch, engine.state.output["pred"].float()
            metrics = self.task.metrics(pred, batch)
            pictures = [_on_cpu(picture) for picture in self.task.pictures(pred, batch)]
            numbers = {name: float(value) for name, value in metrics.items()}
            found[mine[engine.state.iteration - 1]] = numbers, pictures

        dtype = self.settings.dtype(self.processes.device)
        evaluator = SupervisedEvaluator(
            device=self.processes.device,
            val_data_loader=self._cases(mine),
            network=self.network,
            epoch_length=len(mine),
            prepare_batch=_image,
            decollate=False,
            amp=dtype != torch.float32 and self.processes.device.type == "cuda",
            amp_kwargs={"dtype": dtype},
        )
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, keep)
        if mine:
            evaluator.run()
        return found

    def _cases(self, indices: range) -> Iterator[Batch]:
        for index in indices:
            with torch.inference_mode():
                case = draw_case(self.source, self.task, self.settings, index)
            yield {name: tensor.clone() for name, tensor in case.items()}

    def _gathered(self, found: dict[int, Any]) -> list[Any]:
        """Of all processes, in the order of the cases."""
        if self.processes.n > 1:
            shares: list[dict[int, Any]] = [{} for _ in range(self.processes.n)]
            distributed.all_gather_object(shares, found)
            found = {index: item for share in shares for index, item in share.items()}
        return [found[index] for index in sorted(found)]

    def _written(self, step: int, found: list[Any]) -> dict[str, float]:
        means = _means([numbers for numbers, _ in found])
        if self.writer is None:
            return means
        with (self.out / "validation.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **means}) + "\n")
        page = write_sheet(
            [item[1] for item in found], self.out / "sheets" / f"step-{step:08d}.png"
        )
        for name, value in means.items():
            self.writer.add_scalar(f"validation/{name}", value, step)
        self.writer.add_image("validation/sheet", page, step, dataformats="HWC")
        _log.info("step %d  %s", step, "  ".join(f"{n} {v:.4f}" for n, v in means.items()))
        return means


def _image(batch: Batch, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
    """The network's input; the targets stay in the batch."""
    return batch["image"], None


def _means(cases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each metric over the cases that have it."""
    names = dict.fromkeys(name for case in cases for name in case)
    values = {name: [case[name] for case in cases if name in case] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}


def _on_cpu(picture: Picture) -> Picture:
    volume = picture.volume.detach().cpu()
    return Picture(picture.title, volume, picture.low, picture.high, picture.kind)
