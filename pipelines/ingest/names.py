"""Labels, made-up UIDs and the removal of identifiers from whatever is written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

__all__ = [
    "REDACTED",
    "alphanumeric",
    "digest_label",
    "hide_paths",
    "made_uid",
    "redact",
    "redact_paths",
]

REDACTED = "<redacted>"
"""What stands where an identifier stood."""


def digest_label(text: str, n: int = 8) -> str:
    """`n` letters and digits that stand for `text`, the same on every machine.

    >>> digest_label("PATIENT-1") == digest_label("PATIENT-1") != digest_label("PATIENT-2")
    True
    """
    return hashlib.sha256(f"radloom:{text}".encode()).hexdigest()[:n]


def made_uid(*parts: str) -> str:
    """A DICOM UID made from text: 2.25 and a number below 2^128 (DICOM PS3.5 section B.2).

    >>> made_uid("sub", "a.nii").startswith("2.25.")
    True
    """
    number = hashlib.sha256("\x00".join(("radloom", *parts)).encode()).digest()[:16]
    return f"2.25.{int.from_bytes(number, 'big')}"


def alphanumeric(text: str) -> str:
    """The ASCII letters and digits of a folder's name, or a digest where too little is left.

    Two names that differ in other signs alone would fall together, so a name that loses any gets
    four letters of its digest.

    >>> alphanumeric("date1")
    'date1'
    >>> alphanumeric("visit 2") != alphanumeric("visit-2")
    True
    """
    kept = re.sub(r"[^A-Za-z0-9]", "", text)
    if kept == text and kept:
        return kept
    return kept[:24] + digest_label(text, 4)


def redact(text: str, identifiers: Iterable[str]) -> str:
    """`text` without any of the identifiers, whatever their case.

    Longer identifiers go first, so that a part of a name does not leave the rest behind.

    >>> redact("head of DOE_JOHN", ["Doe", "John"])
    'head of <redacted>_<redacted>'
    """
    for word in sorted(set(identifiers), key=lambda w: (-len(w), w)):
        if len(word) <= len(text):  # a damaged file may call half of itself a name
            text = re.sub(re.escape(word), REDACTED, text, flags=re.IGNORECASE)
    return text


def hide_paths(detail: str) -> str:
    """`detail` without any ``<path>``, UID, date or long number, whatever they hold.

    All from the first ``<`` to the last ``>`` goes: names of files may hold both signs.

    >>> hide_paths("<scans/DOE/1.dcm>: expected 1.2.840.113619.2.5.1, got 20200131")
    '<...>: expected ..., got ...'
    """
    detail = re.sub(r"<.*>", "<...>", detail, flags=re.DOTALL)
    return re.sub(r"\d+(\.\d+){5,}|\d{6,}", "...", detail)


def redact_paths(detail: str, identifiers: Iterable[str]) -> str:
    """`detail` with every component of a ``<path>`` that holds an identifier replaced.

    >>> redact_paths("<scans/DOE_JOHN/1.dcm>: the file is empty", {"Doe"})
    '<scans/<redacted>/1.dcm>: the file is empty'
    """
    words = set(identifiers)

    def clean(match: re.Match[str]) -> str:
        parts = match[1].split("/")
        return "<" + "/".join(REDACTED if redact(p, words) != p else p for p in parts) + ">"

    return re.sub(r"<([^<>]+)>", clean, detail)
