"""A stage made for tests, and studies for it. The processes of studies import it as tests do."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from radloom.pipelines.stage import Context, StageResult
from radloom.pipelines.study import Output, SeriesRecord, Study, StudyRecord
from radloom.voxels import Voxels

SHAPE = (4, 5, 6)


@dataclass(frozen=True)
class Make:
    """A volume drawn from the hashes of what the stage takes; needs no torch."""

    diary: Path | None = None
    """Gets a line each time that the stage runs."""
    name: str = "ingest"
    seconds: float = 0.0
    shape: tuple[int, int, int] = SHAPE
    memory: int = 0
    is_plain: ClassVar[bool] = True

    def fingerprint(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        return {"study": study.record.study_uid}

    def estimate_memory(self, study: Study) -> int:
        return self.memory

    def run(self, study: Study, context: Context) -> StageResult:
        if self.diary is not None:
            with self.diary.open("a") as diary:
                diary.write(f"{study.record.key} {self.name}\n")
        time.sleep(self.seconds)
        self.act(study)
        seed = hashlib.sha256(repr(sorted(self.input_hashes(study).items())).encode()).digest()
        values = np.random.default_rng(list(seed)).random((1, *self.shape), np.float32)
        volume = Voxels(values, np.eye(4), "MR", "arbitrary", "1.2")
        return StageResult((Output("volume", "t1", f"{self.name}ed", volume),))

    def act(self, study: Study) -> None:
        """Nothing: this one is fine."""


def record_of(subject: str, shape: tuple[int, int, int] = SHAPE) -> StudyRecord:
    """A study of one T1 of that shape, whose files nobody reads."""
    series = SeriesRecord(
        series_uid="1.2",
        modality="MR",
        description="T1",
        status="accepted",
        role="t1",
        shape=shape,
        spacing=(1.0, 1.0, 1.0),
        entities={"suffix": "T1w", "datatype": "anat"},
    )
    return StudyRecord(subject, "1", f"1.2.{subject}", Path(), (series,))


def records_of(*subjects: str) -> tuple[StudyRecord, ...]:
    return tuple(map(record_of, subjects))
