"""What became of one study, from its receipts and its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from radloom.pipelines.receipts.receipt import Receipt
from radloom.pipelines.study import StudyRecord

__all__ = ["NOT_FINISHED", "StudySummary", "summary_of"]

NOT_FINISHED = "not finished: give the same command again"


@dataclass(frozen=True)
class StudySummary:
    """One study's row in ``studies.tsv``."""

    study: str
    status: Literal["done", "failed", "skipped"]
    stage: str = ""
    """Which stage failed."""
    reason: str = ""
    flags: tuple[str, ...] = ()
    """Names of the checks out of range."""
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether the study has come to an end, good or bad."""
        return self.reason != NOT_FINISHED


def summary_of(
    key: str, receipts: Sequence[Receipt], record: StudyRecord | None, *, marked: bool = False
) -> StudySummary:
    """The row of the study `key`.

    Args:
        key: the study's.
        receipts: in the order of its stages.
        record: the study as it was found.
        marked: whether a worker is at work on it, or died there.
    """
    flags = tuple(dict.fromkeys(flag for receipt in receipts for flag in receipt.flags))
    seconds = sum(receipt.seconds for receipt in receipts)
    failed = [receipt for receipt in receipts if receipt.status == "failed"]
    if failed:
        first = failed[0]
        return StudySummary(key, "failed", first.stage, first.reason, flags, seconds)
    if record is not None and all(series.status == "rejected" for series in record.series):
        return StudySummary(key, "skipped", "ingest", _refusals(record), flags, seconds)
    ingested = [receipt for receipt in receipts if receipt.stage == "ingest"]
    if not receipts:  # found, and no more
        return StudySummary(key, "failed", "", NOT_FINISHED, flags, seconds)
    if ingested and not any(o.kind == "volume" for o in ingested[0].outputs):
        reason = ingested[0].reason or "no series could be accepted"
        return StudySummary(key, "skipped", "ingest", reason, flags, seconds)
    if marked:
        return StudySummary(key, "failed", "", NOT_FINISHED, flags, seconds)
    left_out = [f"{r.stage} skipped: {r.reason}" for r in receipts if r.status == "skipped"]
    return StudySummary(key, "done", "", "; ".join(left_out), flags, seconds)


def _refusals(record: StudyRecord) -> str:
    reasons = sorted({series.reason for series in record.series if series.reason})
    return "no series could be accepted" + (f" ({', '.join(reasons)})" if reasons else "")
