"""How a training runs, apart from what it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from radloom.errors import ConfigError

__all__ = ["Precision", "TrainingSettings"]

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class TrainingSettings:
    """The numbers of a training run; a step is one update of the weights."""

    seed: int = 0
    """Of all that is drawn; the first weights too."""
    max_steps: int = 100_000
    """Where the training ends."""
    max_minutes: float = 60.0
    """After this the run stops with a checkpoint; the same command goes on from there."""
    batch_size: int = 1
    """Samples in one pass, each process."""
    accumulate: int = 1
    """Passes a step, whose gradients are averaged."""
    crop_shape: Sequence[int] | None = None
    """(I, J, K) of the windows cut at random from a sample; None: whole samples."""
    crops: int = 1
    """Windows from each sample."""
    reuse: int = 1
    """Steps that a sample serves, with other windows each; for samples that take longer to make
    than the step takes that learns from them, as on a CPU."""
    mix: int = 1
    """Samples held for each place of a batch, which take turns, so that steps next to each other
    learn from different heads in spite of `reuse`."""
    warmup_steps: int = 200
    """The learning rate rises from 0, over a tenth of `max_steps` at most."""
    decay_share: float = 0.2
    """Over this last share of `max_steps` it falls to 0."""
    clip_norm: float = 1.0
    """Gradients longer than this are shortened to it; 0: never."""
    ema_decay: float = 0.999
    """Of the average weights, which are validated and shipped."""
    precision: Precision = "auto"
    """Of the network's passes; auto: bfloat16 on a GPU, float32 on the CPU."""
    compile: bool = False
    """Whether torch compiles the network."""
    prefetch: int | None = None
    """Batches made ahead in a thread; None: 2 on a GPU (on a stream of its own), 0 on the CPU."""
    validate_every: int = 500
    """Steps between validations; one more at the end."""
    validation_cases: int = 4
    """Samples of a validation, always the same ones."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one more when the run stops."""
    keep_checkpoints: int = 2
    """The newest ones that stay."""
    compact_checkpoints: bool = False
    """Half the size, and the curve goes on nearly, not exactly."""
    log_every: int = 10
    """Steps between looks at the losses, which make a GPU wait."""

    def __post_init__(self) -> None:
        counts = (
            "max_steps", "batch_size", "accumulate", "crops", "reuse", "mix",
            "validate_every", "checkpoint_every", "keep_checkpoints", "log_every",
        )  # fmt: skip
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"settings: expected {name} of 1 or more, got {getattr(self, name)}"
                )
        if self.crops > 1 and self.crop_shape is None:
            raise ConfigError(f"settings: expected a crop_shape, got none for {self.crops} crops")

    def rate(self, step: int) -> float:
        """The learning rate's factor after `step` updates.

        >>> settings = TrainingSettings(max_steps=100, warmup_steps=10, decay_share=0.5)
        >>> [settings.rate(step) for step in (0, 4, 50, 75)]
        [0.1, 0.5, 1.0, 0.5]
        """
        up = (step + 1) / max(1, min(self.warmup_steps, self.max_steps // 10))
        down = (self.max_steps - step) / max(1.0, self.decay_share * self.max_steps)
        return max(0.0, min(1.0, up, down))

    def dtype(self, device: torch.device) -> torch.dtype:
        """Of the network's passes on this device.

        Raises:
            ConfigError: float16 on the CPU, or an unknown name.
        """
        name = self.precision
        if name == "auto":
            name = "bfloat16" if device.type == "cuda" else "float32"
        if name not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"settings: expected a precision of {Precision}, got {name!r}")
        if name == "float16" and device.type != "cuda":
            raise ConfigError("settings: expected float32 or bfloat16 on the CPU, got float16")
        dtype: torch.dtype = getattr(torch, name)
        return dtype
