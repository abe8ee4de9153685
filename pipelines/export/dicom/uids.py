"""UIDs that follow from what an object is made of: same run, same UIDs; other content, others."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

__all__ = ["ObjectUIDs", "make_uid"]


def make_uid(*parts: str) -> str:
    """``2.25.`` and the number of a UUID made from the SHA-256 of `parts` (DICOM PS3.5 B.2).

    122 bits of the digest stay; the others say that it is a UUID of version 8 (RFC 9562 5.8).

    >>> make_uid("a", "b") == make_uid("a", "b") != make_uid("ab")
    True
    >>> len(make_uid("a")) <= 64
    True
    """
    text = "".join(f"{len(part)}:{part}" for part in parts)
    raw = bytearray(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return f"2.25.{uuid.UUID(bytes=bytes(raw)).int}"


@dataclass(frozen=True)
class ObjectUIDs:
    """The UIDs of one series of results.

    The series changes its UID together with its instances when the content changes: a PACS would
    show old and new slices of one series side by side.
    """

    study_uid: str
    """StudyInstanceUID (0020,000D) of the source."""
    source_uids: tuple[str, ...]
    """SeriesInstanceUID of every source series."""
    kind: str
    """What it is: ``derived/denoised``, ``segmentation/brain``, ..."""
    fingerprint: str
    """Of the stage and the content: parameters, version, hashes of the result's files."""

    @property
    def series(self) -> str:
        """SeriesInstanceUID."""
        return self._make("series", 0)

    def instance(self, index: int = 0) -> str:
        """SOPInstanceUID of instance `index`, from 0."""
        return self._make("instance", index)

    def other(self, purpose: str, index: int = 0) -> str:
        """A UID within the objects: a tracking UID, a dimension organization, ..."""
        return self._make(f"other {purpose}", index)

    def _make(self, level: str, index: int) -> str:
        return make_uid(
            "radloom object",
            self.study_uid,
            *self.source_uids,
            self.kind,
            self.fingerprint,
            level,
            str(index),
        )
