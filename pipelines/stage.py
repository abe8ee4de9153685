"""What a stage is, and how one runs on one study so that a crash at any instant costs nothing.

Writing, receipts and resuming live here; a stage itself computes and touches no disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from radloom.pipelines.study import Output, Study

__all__ = ["Check", "Context", "Stage", "StageResult"]


@dataclass(frozen=True)
class Check:
    """A named number with the range it is expected in. Out of range: the study is flagged."""

    name: str
    """Lower-case words with underscores, with the role: ``t2_folded_voxels``."""
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    meaning: str = ""
    """One sentence for the report: what it tells, and what to look at when it is out of range."""

    @property
    def flagged(self) -> bool:
        """Whether the value is outside its range, or not a number."""
        value = self.value
        if value != value:
            return True
        return (self.low is not None and value < self.low) or (
            self.high is not None and value > self.high
        )


@dataclass(frozen=True)
class Context:
    """What the runner hands to every stage."""

    device: torch.device
    generator: torch.Generator
    """A CPU generator seeded from the study's key and the stage's fingerprint."""
    n_threads: int = 1
    """How many threads native code may use; results must not depend on it."""
    trust: bool = False
    """Whether the user trusts outside bundles and pickled checkpoints (--trust)."""


@dataclass(frozen=True)
class StageResult:
    """What a stage gives back."""

    outputs: tuple[Output, ...] = ()
    checks: tuple[Check, ...] = ()
    status: Literal["done", "skipped"] = "done"
    reason: str = ""
    """Why it was skipped, for people."""


class Stage(Protocol):
    """One step of the chain. Implementations are frozen dataclasses of their parameters.

    A stage never changes its input, touches no disk (ingest, which reads sources, excepted), and
    takes device and randomness from its context.
    """

    @property
    def name(self) -> str:
        """One word: ingest, denoise, register, translate, segment, report."""
        ...

    def fingerprint(self) -> str:
        """Hex digest over method, parameters, weights' hash and the stage's version."""
        ...

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        """Name -> hash of each input that the result depends on."""
        ...

    def estimate_memory(self, study: Study) -> int:
        """Bytes that `run` will need at its peak beyond what the study already holds."""
        ...

    def run(self, study: Study, context: Context) -> StageResult:
        """The outputs for one study.

        Raises:
            RadloomError: this study cannot be done; the message is for people.
        """
        ...
