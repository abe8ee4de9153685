"""A bundle's weights on cases that its training did not see."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import torch

from radloom.errors import MissingWeights
from radloom.models.checkpoints import load_checkpoint
from radloom.models.training.processes import processes
from radloom.models.training.settings import TrainingSettings
from radloom.models.training.sources import Source
from radloom.models.training.task import Task
from radloom.models.training.validation import Validation

__all__ = ["evaluate"]


def evaluate(
    network: torch.nn.Module,
    task: Task,
    source: Source,
    weights: str,
    output_dir: str,
    settings: TrainingSettings,
    device: str = "auto",
) -> dict[str, float]:
    """Mean of each metric over ``settings.validation_cases`` cases of `source`.

    Writes ``metrics.json`` and ``sheets/step-00000000.png`` into `output_dir`.

    Raises:
        MissingWeights: `weights` is not there.
    """
    path, out = Path(weights), Path(output_dir)
    if not path.is_file():
        raise MissingWeights(
            f"expected the weights <{path.name}>, which are absent: train them, or name others "
            "(--weights)"
        )
    network.load_state_dict(load_checkpoint(path))
    with processes(device) as own, ExitStack() as stack:
        writer = None
        if own.is_first:
            from torch.utils.tensorboard import SummaryWriter

            writer = stack.enter_context(SummaryWriter(str(out / "tensorboard")))
        network = network.to(own.device).eval()
        cases = source.to(own.device)
        metrics = Validation(network, cases, task, settings, own, out, writer).run(0)
        if own.is_first:
            (out / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    return metrics
