"""A run on studies made for it: ``python cohort.py OUT N_STUDIES STAGE_TIMEOUT_S [SCHEDULER]``.

Small volumes in three stages; the last three studies exhaust memory, crash in native code and hang.
While a file ``full`` lies beside OUT, the disk is full for whoever writes below it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from toys import Make, record_of

from radloom.errors import RadloomError
from radloom.pipelines.runner import Limits, run_records
from radloom.pipelines.stage import Context, Stage, StageResult
from radloom.pipelines.study import Output, Study
from radloom.pipelines.workflow import Workflow

VICTIMS = ("hungry", "crashing", "hanging")
MEMORY = 10**9
"""Bytes for the run: three processes fit, and one that takes more and more does not."""
SHAPE = (24, 28, 32)


@dataclass(frozen=True)
class Smooth(Make):
    """Another volume; where the victims meet their end."""

    name: str = "denoise"

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        return dict(study.latest("t1").files)

    def act(self, study: Study) -> None:
        victim = study.record.subject
        if victim == "hungry":
            blocks = []
            while sum(map(len, blocks)) < 3 * MEMORY:
                blocks.append(np.ones(256 * 2**20, np.uint8))
                time.sleep(0.05)
        if victim == "crashing":
            ctypes.string_at(8)
        if victim == "hanging":
            ctypes.PyDLL(None).sleep(3600)  # holds the interpreter, as native code may


@dataclass(frozen=True)
class Measure(Smooth):
    """A table of the newest volume's files."""

    name: str = "segment"

    def run(self, study: Study, context: Context) -> StageResult:
        time.sleep(self.seconds)
        rows = tuple({"file": sha256} for sha256 in self.input_hashes(study).values())
        return StageResult((Output("table", "t1", "volumes", rows),))


@dataclass(frozen=True)
class FullDisk(Make):
    """Nothing, but the disk is full for its process from here on while somebody says so."""

    name: str = "translate"
    flag: Path = Path("full")

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        return {}

    def run(self, study: Study, context: Context) -> StageResult:
        if self.flag.exists():
            sys.addaudithook(self._refuse)
        return StageResult()

    def _refuse(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[2], int):
            return
        writes = arguments[2] & os.O_ACCMODE
        path = str(arguments[0])
        if writes and path.startswith(str(self.flag.parent)) and self.flag.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def subjects_of(n_studies: int) -> tuple[str, ...]:
    return (*(f"{n:03d}" for n in range(n_studies - len(VICTIMS))), *VICTIMS)


def stages_of(out: Path) -> tuple[Stage, ...]:
    flag = out.resolve().parent / "full"
    memory = 50 * 2**20
    return (
        Make(seconds=0.1, shape=SHAPE, memory=memory),
        Smooth(seconds=0.2, shape=SHAPE, memory=memory),
        FullDisk(flag=flag, memory=memory),
        Measure(seconds=0.1, memory=memory),
    )


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out, n_studies = Path(sys.argv[1]), int(sys.argv[2])
    limits = Limits(MEMORY, float(sys.argv[3]))
    scheduler = sys.argv[4] if len(sys.argv) > 4 else None
    try:
        run_records(
            tuple(record_of(subject, SHAPE) for subject in subjects_of(n_studies)),
            out,
            Workflow("chaos", stages_of(out)),
            device="cpu",
            workers=2,
            scheduler=scheduler,
            limits=limits,
        )
    except RadloomError as error:
        sys.exit(f"stopped: {error}")


if __name__ == "__main__":
    main()
