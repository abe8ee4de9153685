"""A run on studies made for it: ``python cohort.py OUT N_STUDIES STAGE_TIMEOUT_S [SCHEDULER]``.

Small volumes in three stages; the last three studies exhaust memory, crash in native code and hang.
While a file ``full`` lies beside OUT, the disk is full for whoever writes below it.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from radloom.errors import RadloomError
from radloom.pipelines.runner import Limits, run_records
from radloom.pipelines.stage import Context, Stage, StageResult
from radloom.pipelines.study import Output, SeriesRecord, Study, StudyRecord
from radloom.pipelines.workflow import Workflow
from radloom.voxels import Voxels

VICTIMS = ("hungry", "crashing", "hanging")
MEMORY = 10**9
"""Bytes for the run: three processes fit, and one that takes more and more does not."""
SHAPE = (24, 28, 32)


@dataclass(frozen=True)
class Make:
    """A volume drawn from the hashes of what the stage takes; no stage needs torch."""

    pause_s: float
    name: str = "ingest"
    is_plain: ClassVar[bool] = True

    def fingerprint(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        return {"study": study.record.study_uid}

    def estimate_memory(self, study: Study) -> int:
        return 50 * 2**20

    def run(self, study: Study, context: Context) -> StageResult:
        time.sleep(self.pause_s)
        seed = hashlib.sha256(repr(sorted(self.input_hashes(study).items())).encode()).digest()
        values = np.random.default_rng(list(seed)).random((1, *SHAPE), np.float32)
        volume = Voxels(values, np.eye(4), "MR", "arbitrary", "1.2")
        return StageResult((Output("volume", "t1", f"{self.name}ed", volume),))


@dataclass(frozen=True)
class Smooth(Make):
    """Another volume; where the victims meet their end."""

    name: str = "denoise"

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        return dict(study.latest("t1").files)

    def run(self, study: Study, context: Context) -> StageResult:
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
        return super().run(study, context)


@dataclass(frozen=True)
class Measure(Smooth):
    """A table of the newest volume's files."""

    name: str = "segment"

    def run(self, study: Study, context: Context) -> StageResult:
        time.sleep(self.pause_s)
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


def record_of(subject: str) -> StudyRecord:
    series = SeriesRecord(
        series_uid="1.2",
        modality="MR",
        description="T1",
        status="accepted",
        role="t1",
        shape=SHAPE,
        spacing=(1.0, 1.0, 1.0),
        entities={"suffix": "T1w", "datatype": "anat"},
    )
    return StudyRecord(subject, "1", f"1.2.{subject}", Path(), (series,))


def subjects_of(n_studies: int) -> tuple[str, ...]:
    return (*(f"{n:03d}" for n in range(n_studies - len(VICTIMS))), *VICTIMS)


def stages_of(out: Path) -> tuple[Stage, ...]:
    flag = out.resolve().parent / "full"
    return (Make(0.1), Smooth(0.2), FullDisk(0, flag=flag), Measure(0.1))


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out, n_studies = Path(sys.argv[1]), int(sys.argv[2])
    limits = Limits(MEMORY, float(sys.argv[3]))
    scheduler = sys.argv[4] if len(sys.argv) > 4 else None
    try:
        run_records(
            tuple(map(record_of, subjects_of(n_studies))),
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
