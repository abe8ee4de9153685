"""One series of objects as a builder gives it, and what builders share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from radloom.pipelines.export.dicom.heading import Heading
from radloom.pipelines.export.dicom.source import NoDicomSource, SourceSeries, source_of_role
from radloom.pipelines.export.dicom.uids import ObjectUIDs
from radloom.pipelines.study import Output, Study

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from radloom.pipelines.stage import Check

__all__ = ["Builder", "Desk", "ObjectSeries", "content_digest"]

SERIES_NUMBERS = {
    "derived": 9100,
    "segmentation": 9200,
    "structure_set": 9300,
    "registration": 9400,
    "parametric": 9500,
    "measurements": 9600,
    "pictures": 9700,
    "document": 9800,
}
"""Kind -> SeriesNumber of its first series; scanners stay below."""


@dataclass(frozen=True, eq=False)
class ObjectSeries:
    """One series of objects, still to be written."""

    kind: str
    """A key of `SERIES_NUMBERS`."""
    role: str
    """The role it belongs to, as in `Output`; empty: the study."""
    name: str
    """As `Output.name`: denoised, <model>, ..."""
    datasets: Iterable[Dataset]
    """Finished (`finish`), in the order of their indices; made one by one where they are many."""
    check: Callable[[Sequence[Dataset]], Iterable[Check]]
    """Holds what a read of the written files gives to what was meant; raises StageFailed where they
    differ, and says by how much they differ where rounding is all."""
    space: str = ""
    """The role whose grid it lies on, where not its own."""
    entities: Mapping[str, str] = field(default_factory=dict)
    """BIDS parts that the files' names take beside those of role, name and space."""


@dataclass(eq=False)
class Desk:
    """What the builders of one study share: sources, read once, and the numbering of series."""

    study: Study
    fingerprint: str
    """Of the stage."""
    made: dict[tuple[str, str], list[Dataset]] = field(default_factory=dict)
    """Kind and role -> objects as read back, of kinds that others refer to (segmentation)."""
    _sources: dict[str, SourceSeries | str] = field(default_factory=dict)
    _used: dict[str, int] = field(default_factory=dict)

    def source(self, role: str) -> SourceSeries:
        """The instances behind a role's volume.

        Raises:
            NoDicomSource: there are none.
        """
        if role not in self._sources:
            try:
                self._sources[role] = source_of_role(self.study, role)
            except NoDicomSource as reason:
                self._sources[role] = str(reason)
        found = self._sources[role]
        if isinstance(found, str):
            raise NoDicomSource(found)
        return found

    def any_source(self) -> SourceSeries:
        """The instances behind the first role that has any.

        Raises:
            NoDicomSource: none has.
        """
        for role in self.study.roles:
            with suppress(NoDicomSource):
                return self.source(role)
        raise NoDicomSource("no volume of the study came from DICOM")

    def heading(
        self,
        kind: str,
        name: str,
        description: str,
        content: str,
        *sources: SourceSeries,
    ) -> Heading:
        """Identity of a series: the next number of its kind, UIDs from sources and content.

        Args:
            kind: a key of `SERIES_NUMBERS`.
            name: tells it from other series of its kind and sources.
            description: SeriesDescription, English, ASCII.
            content: digest of what it holds; see `content_digest`.
            sources: patient and study come from the first.
        """
        number = SERIES_NUMBERS[kind] + self._used.get(kind, 0) + 1
        self._used[kind] = self._used.get(kind, 0) + 1
        uids = ObjectUIDs(
            study_uid=sources[0].study_uid,
            source_uids=tuple(source.series_uid for source in sources),
            kind=f"{kind}/{name}",
            fingerprint=f"{self.fingerprint} {content}",
        )
        return Heading(uids, number, description, sources)


class Builder(Protocol):
    """Makes the objects of one kind; raises NoDicomSource where there is nothing to refer to."""

    def __call__(self, study: Study, desk: Desk) -> Iterator[ObjectSeries]:
        """Each series of the kind that the study's outputs make."""
        ...


def content_digest(*outputs: Output | Any) -> str:
    """SHA-256 over the hashes of the outputs' files and the text of whatever else is given."""
    digest = hashlib.sha256()
    for given in outputs:
        parts = sorted(given.files.items()) if isinstance(given, Output) else given
        digest.update(repr(parts).encode())
    return digest.hexdigest()
