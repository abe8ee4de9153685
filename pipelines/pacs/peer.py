"""What a PACS is to those who fetch from it and send to it, whichever protocol it speaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

from radloom.errors import PacsFailed
from radloom.pipelines.pacs.head import InstanceHead
from radloom.pipelines.pacs.inbox import Arrival
from radloom.pipelines.pacs.limits import Limits
from radloom.pipelines.pacs.query import Query

__all__ = [
    "Confirmation",
    "Delivery",
    "Listing",
    "Peer",
    "Sink",
    "StoreResult",
    "Stored",
    "Wanted",
    "in_batches",
    "retrying",
]

Listing: TypeAlias = Mapping[str, Mapping[str, str]]
"""SeriesInstanceUID -> SOPInstanceUID -> SOPClassUID, empty where the peer does not tell."""

Sink: TypeAlias = Callable[[Arrival, InstanceHead], None]
"""Takes an instance that has arrived, or discards it."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Delivery:
    """Where what is retrieved goes."""

    arrival: Callable[[], Arrival]
    """Room for one more instance."""
    take: Sink
    folder: Path
    """For long data sets on their way."""


@dataclass(frozen=True)
class Wanted:
    """A series, or some of its instances."""

    study_uid: str
    series_uid: str
    instances: tuple[str, ...] | None = None
    """SOPInstanceUIDs; None: all."""
    classes: tuple[str, ...] = ()
    """SOPClassUIDs that may come, where the peer told."""


@dataclass(frozen=True)
class Stored:
    """A file to send."""

    path: Path
    head: InstanceHead
    sha256: str


@dataclass(frozen=True)
class StoreResult:
    """What a peer said of one instance."""

    status: str
    """Its own code: ``0x0000``, ``FailureReason 0x0110``, ``HTTP 413``."""
    accepted: bool = False
    doubtful: bool = False
    """No answer came: it may have it or not."""


@dataclass(frozen=True)
class Confirmation:
    """What a peer says it keeps."""

    how: str
    """For people: storage commitment, or found by a query."""
    kept: frozenset[str] = frozenset()
    """SOPInstanceUIDs."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """SOPInstanceUID -> why not."""


class Peer(Protocol):
    """A PACS."""

    name: str
    """Its address, as people and the ledger know it."""

    def find_studies(self, query: Query) -> Sequence[str]:
        """StudyInstanceUIDs that match, each once."""

    def find_instances(self, study_uid: str, query: Query) -> Listing:
        """What a study holds, as far as `query` wants its series."""

    def retrieve(self, wanted: Wanted, delivery: Delivery) -> None:
        """What is wanted, instance by instance, to where it goes."""

    def store(self, files: Sequence[Stored]) -> Mapping[str, StoreResult]:
        """SOPInstanceUID -> what became of it, for each of `files` that was tried."""

    def holds(self, files: Sequence[Stored]) -> set[str]:
        """Which of the instances it has, by asking."""

    def confirm(self, files: Sequence[Stored]) -> Confirmation:
        """What it says of instances that it has accepted."""


def retrying(
    action: Callable[[], Result],
    limits: Limits,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """What `action` gives, tried again while it fails in passing.

    Raises:
        PacsFailed: it failed for good, or once more than the limits allow.
    """
    for attempt in range(1, limits.attempts):
        try:
            return action()
        except PacsFailed as error:  # noqa: PERF203  # each turn asks the network
            if not error.passing:
                raise
            sleep(limits.wait_s * 2 ** (attempt - 1))
    return action()


def in_batches(files: Sequence[Stored], most: int, most_bytes: int) -> Iterable[list[Stored]]:
    """`files` in their order, in groups bounded by number and by bytes; a long one is alone."""
    batch: list[Stored] = []
    n_bytes = 0
    for file in files:
        size = file.path.stat().st_size
        if batch and (len(batch) >= most or n_bytes + size > most_bytes):
            yield batch
            batch, n_bytes = [], 0
        batch.append(file)
        n_bytes += size
    if batch:
        yield batch
