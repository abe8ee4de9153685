"""What travels between the driver, its workers and the processes of studies.

Imports nothing heavy: a worker only looks after processes, and starts in a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Death", "Outcome", "Task"]


@dataclass(frozen=True)
class Task:
    """One study as a worker sees it."""

    study: str
    """The study's key."""
    job: bytes
    """A pickled `radloom.pipelines.engine.worker.Job`, for the study's process."""
    topic: str
    """Dask topic for news of this run."""
    alone: bool = False
    """Whether no other study may be in a stage on this worker meanwhile: its memory ran out."""
    stage_timeout_s: float | None = None
    """How long a stage may take; None: by its estimate."""


@dataclass(frozen=True)
class Outcome:
    """What became of a study, told at once; receipts say the rest."""

    study: str
    status: Literal["done", "failed", "skipped"]
    stage: str = ""
    """Where it failed."""
    reason: str = ""
    flags: int = 0
    """How many checks ask a person to look."""
    seconds: float = 0.0
    n_faulty: int = 0
    """How many series were refused for a fault of theirs; a localizer has none."""


@dataclass(frozen=True)
class Death:
    """A study took its process along."""

    study: str
    stage: str
    """The stage it was in; empty where it had not begun."""
    reason: str
    """For people, without identifiers."""
    of_memory: bool = False
    """Whether memory ran out, as far as one can tell."""
