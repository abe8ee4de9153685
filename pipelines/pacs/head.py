"""What an instance says it is, from its first bytes, whoever wrote them.

Only the first `HEAD_BYTES` are looked at, and no value but four UIDs is decoded: an element that
claims to be gigabytes long, a bomb of deflated zeros or a sequence nested a thousand deep costs a
bounded amount of memory and time, and is refused.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from radloom.errors import PacsFailed
from radloom.pipelines.pacs.query import is_uid

__all__ = ["DEFLATED", "HEAD_BYTES", "InstanceHead", "read_file_head", "read_head"]

HEAD_BYTES = 4 << 20
"""Everything up to SeriesInstanceUID has to be within."""

DEFLATED = "1.2.840.10008.1.2.1.99"
"""Deflated Explicit VR Little Endian (PS3.5 A.5)."""

_IMPLICIT = "1.2.840.10008.1.2"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_PREAMBLE = 128
_LAST_TAG = 0x0020000E
_SOP_CLASS, _SOP_UID, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, _LAST_TAG
_META_END = 0x00030000
_TRANSFER_SYNTAX = 0x00020010


@dataclass(frozen=True)
class InstanceHead:
    """The UIDs of one instance; each is digits and dots, nothing else."""

    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    transfer_syntax: str


def read_file_head(content: bytes) -> InstanceHead:
    """The head of a DICOM file (PS3.10) from its first `HEAD_BYTES`.

    Raises:
        PacsFailed: it is none, or does not say what it is.
    """
    if content[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        raise PacsFailed("expected a DICOM file, got other bytes")
    stream = BytesIO(content[_PREAMBLE + 4 :])
    meta = _elements(stream, implicit=False, little=True, end=_META_END)
    syntax = _uid(meta, _TRANSFER_SYNTAX, "a transfer syntax")
    return read_head(stream.read(), syntax)


def read_head(content: bytes, transfer_syntax: str) -> InstanceHead:
    """The head of a data set from its first `HEAD_BYTES`, encoded as `transfer_syntax` says.

    Raises:
        PacsFailed: it cannot be read, or lacks one of the four UIDs.
    """
    if transfer_syntax == DEFLATED:
        content = _inflated(content)
    elements = _elements(
        BytesIO(content),
        implicit=transfer_syntax == _IMPLICIT,
        little=transfer_syntax != _BIG_ENDIAN,
        end=_LAST_TAG + 1,
    )
    return InstanceHead(
        sop_class=_uid(elements, _SOP_CLASS, "SOPClassUID"),
        sop_uid=_uid(elements, _SOP_UID, "SOPInstanceUID"),
        study_uid=_uid(elements, _STUDY, "StudyInstanceUID"),
        series_uid=_uid(elements, _SERIES, "SeriesInstanceUID"),
        transfer_syntax=transfer_syntax,
    )


def _elements(stream: BytesIO, *, implicit: bool, little: bool, end: int) -> Any:
    from pydicom.filereader import read_dataset

    try:
        return read_dataset(
            stream, implicit, little, stop_when=lambda tag, _vr, _length: tag >= end
        )
    except Exception as error:  # noqa: BLE001  # a parser on bytes of a stranger
        name = type(error).__name__
        raise PacsFailed(
            f"expected a DICOM data set, got one that cannot be read ({name})"
        ) from None


def _uid(elements: Any, tag: int, name: str) -> str:
    raw = elements.get_item(tag) if tag in elements else None
    value = getattr(raw, "value", None)
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").strip(" \0")
    if not is_uid(value):
        raise PacsFailed(f"expected a data set with {name}, got one without")
    return str(value)


def _inflated(content: bytes) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, HEAD_BYTES)
    except zlib.error:
        raise PacsFailed("expected a deflated data set, got other bytes") from None
