"""The training of a network: MONAI's trainer, stopped and resumed at will.

::

    OUT/curve.tsv               the losses of every step
    OUT/validation.jsonl        the metrics of each validation
    OUT/sheets/step-*.png       samples and results, looked at by people
    OUT/checkpoints/step-*/     manifest and parts of at most 16 MiB
    OUT/model.pt                the average weights in half precision, ready for a bundle
    OUT/tensorboard/
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from radloom.models.checkpoints import load_checkpoint
from radloom.models.training.batches import Kept, draw_batches
from radloom.models.training.draws import seed_at
from radloom.models.training.ema import Ema, export_weights, halved, shipped
from radloom.models.training.handlers import Clock, Curve, Every
from radloom.models.training.parts import latest_parts, read_parts, remove_old_parts, write_parts
from radloom.models.training.processes import Processes, processes
from radloom.models.training.settings import TrainingSettings
from radloom.models.training.sources import Source
from radloom.models.training.step import TrainingStep
from radloom.models.training.stream import BatchStream
from radloom.models.training.task import Task
from radloom.models.training.validation import Validation

__all__ = ["Training", "seeded"]

_log = logging.getLogger(__name__)


def seeded(seed: int) -> int:
    """Seed the first weights of the network that a config makes next; the seed itself."""
    torch.manual_seed(seed_at(seed, "weights") % 2**32)
    return seed


@dataclass
class Training:
    """Everything a run needs; `run` trains until the steps are done or the time is up."""

    network: torch.nn.Module
    task: Task
    source: Source
    optimizer: torch.optim.Optimizer
    output_dir: str
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    validation: Source | None = None
    """Cases that the training does not see; None: draws of the training's own source."""
    device: str = "auto"
    initial_weights: str | None = None
    """A bundle's ``model.pt`` to start from; counts where there is no checkpoint yet."""
    started: float | None = None
    """`time.monotonic()` from which the minutes count; None: when `run` is called."""

    def run(self) -> int:
        """Train on from the newest checkpoint of `output_dir`; the step that was reached.

        Raises:
            ConfigError: settings that this machine cannot do.
            InputError: a checkpoint that is damaged, or of another network.
            TrainingDiverged: the loss is not finite.
        """
        started = time.monotonic() if self.started is None else self.started
        with processes(self.device) as own, ExitStack() as stack:
            return _Run(self, own, stack, started).run()


class _Run:
    """One run in one process."""

    def __init__(
        self, training: Training, own: Processes, stack: ExitStack, started: float
    ) -> None:
        self.settings, self.task, self.own = training.settings, training.task, own
        self.out = Path(training.output_dir)
        self.initial_weights = training.initial_weights
        self.clock = Clock(self.settings.max_minutes, own, started)
        self.network = training.network.to(own.device)
        if own.device.type == "cuda":
            self.network = self.network.to(memory_format=torch.channels_last_3d)
        self.optimizer = training.optimizer
        half = self.settings.dtype(own.device) == torch.float16
        self.scaler = torch.amp.GradScaler(own.device.type, enabled=half)
        self.ema = Ema(self.network, self.settings.ema_decay)
        self.source = training.source.to(own.device)
        validation = training.validation
        self.validation_source = validation.to(own.device) if validation else self.source
        self.writer = self._open_writer(stack)
        self.saved = -1
        self.kept: Kept = {}

    def run(self) -> int:
        start = self._resume()
        if start >= self.settings.max_steps:
            _log.info("done: %d steps of %d", start, self.settings.max_steps)
            return start
        ahead = self.settings.prefetch
        if ahead is None:
            ahead = 2 if self.own.device.type == "cuda" else 0
        stream = BatchStream(self._draw, self.own.device, start, ahead)
        tuned, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            return self._train(stream, start)
        finally:
            stream.close()
            torch.backends.cudnn.benchmark = tuned

    def _draw(self, step: int) -> list[dict[str, torch.Tensor]]:
        return draw_batches(self.source, self.task, self.settings, step, self.own.rank, self.kept)

    def _train(self, stream: BatchStream, start: int) -> int:
        from monai.engines import SupervisedTrainer

        settings = self.settings
        network = self._wrapped()
        step = TrainingStep(network, self.task, self.optimizer, self.scaler, self.ema, settings)
        curve = Curve(
            self.out / "curve.tsv", self.writer, self.own, self.optimizer, settings.log_every, start
        )
        validation = Validation(
            self.ema.network,
            self.validation_source,
            self.task,
            settings,
            self.own,
            self.out,
            self.writer,
        )

        def save(at: int) -> None:
            curve.flush()
            self._save(at)

        def validate(at: int) -> None:
            curve.flush()
            if not self.own.any(self.clock.left() < 1.2 * validation.seconds):
                validation.run(at)

        trainer = SupervisedTrainer(
            device=self.own.device,
            max_epochs=1,
            epoch_length=settings.max_steps,
            train_data_loader=stream,
            network=network,
            optimizer=self.optimizer,
            loss_function=self.task.loss,
            iteration_update=step,
            decollate=False,
            train_handlers=[
                curve,
                self.clock,
                Every(settings.checkpoint_every, save, lambda: self.clock.stopped),
                Every(settings.validate_every, validate, lambda: self.clock.stopped),
            ],
        )
        trainer.state.iteration = start
        trainer.run()
        reached = int(trainer.state.iteration)
        if reached != self.saved:
            save(reached)
        if not self.clock.stopped and reached % settings.validate_every:
            validate(reached)
        self.own.wait()
        _log.info("stopped at step %d of %d", reached, settings.max_steps)
        return reached

    def _wrapped(self) -> torch.nn.Module:
        network: Any = torch.compile(self.network) if self.settings.compile else self.network
        if self.own.n == 1:
            return network
        devices = [self.own.device] if self.own.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(network, device_ids=devices)

    def _open_writer(self, stack: ExitStack) -> Any:
        """TensorBoard's, for the first process."""
        if not self.own.is_first:
            return None
        from torch.utils.tensorboard import SummaryWriter

        self.out.mkdir(parents=True, exist_ok=True)
        return stack.enter_context(SummaryWriter(str(self.out / "tensorboard")))

    def _save(self, step: int) -> None:
        """A checkpoint, and the weights as a bundle holds them, by the first process."""
        begun = time.monotonic()
        if self.own.is_first:
            write_parts(self.out / "checkpoints", step, self._state())
            remove_old_parts(self.out / "checkpoints", self.settings.keep_checkpoints)
            export_weights(shipped(self.ema.network), self.out / "model.pt")
        self.saved = step
        self.clock.saving_s = time.monotonic() - begun

    def _state(self) -> dict[str, Any]:
        weights = {"network": self.network.state_dict(), "ema": self.ema.network.state_dict()}
        optimizer = self.optimizer.state_dict()
        if self.settings.compact_checkpoints:
            weights = halved(weights, torch.float16)
            optimizer = halved(optimizer, torch.bfloat16)
        return {
            **weights,
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
        }

    def _begin(self) -> None:
        """Start from the weights given, if any."""
        if self.initial_weights is not None:
            weights = load_checkpoint(Path(self.initial_weights))
            shipped(self.network).load_state_dict(weights)
            self.ema.load(self.network.state_dict())

    def _resume(self) -> int:
        """Load the newest checkpoint; its step, 0 where there is none.

        The optimiser's rates and decays are those of the command at hand, so that a run may go on
        with others; the schedule is a function of the step and has no state.
        """
        newest = latest_parts(self.out / "checkpoints")
        if newest is None:
            self._begin()
            return 0
        step, state = read_parts(newest)
        self.network.load_state_dict(state["network"])
        self.ema.load(state["ema"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        self.scaler.load_state_dict(state["scaler"])
        _log.info("resumed at step %d", step)
        self.saved = step
        return step
