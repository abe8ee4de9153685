"""BIDS sidecars and similar mappings, without what identifies a patient.

As for DICOM: what is known to be safe stays. Numbers stay unless their key speaks of a person, a
place or a device; text stays under known keys; dates are moved, or dropped where nothing says by
how much.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from radloom.pipelines.deidentify.profile import Profile
from radloom.pipelines.deidentify.words import clean_words, holds_identifier

__all__ = ["clean_sidecar"]

WORD_KEYS = frozenset(
    {"SeriesDescription", "ProtocolName", "StudyDescription", "ProcedureStepDescription"}
)
"""Keys of descriptions: only known words stay."""

PERSONAL = re.compile(
    r"patient|subject|accession|serial|station|institution|department|physician|operator|performer|"
    r"address|birth|phone|studyid|^name$|admission|author|person|ident|comment|weight|age$|sex|size$",
    re.IGNORECASE,
)
"""Keys that speak of a person, a place or one device."""

TIMES = re.compile(r"(date|time)$", re.IGNORECASE)


def clean_sidecar(
    content: Mapping[str, Any],
    profile: Profile,
    *,
    identifiers: Collection[str] = (),
    move_date: Callable[[str], str] = lambda _: "",
    map_uid: Callable[[str], str] = lambda _: "",
) -> dict[str, Any]:
    """What of a sidecar may stay.

    Args:
        content: key -> value, as JSON has them.
        profile: which words descriptions keep, and under which keys text stays.
        identifiers: words to leave out of them all the same.
        move_date: YYYYMMDD -> the moved date; empty where it is none.
        map_uid: a UID -> its pseudonym.

    >>> from radloom.pipelines.deidentify.profile import load_profile
    >>> clean_sidecar({"PatientName": "Doe", "EchoTime": 0.003, "Weight": 70,
    ...                "SeriesDescription": "T1 Doe", "Unknown": "Doe"}, load_profile())
    {'EchoTime': 0.003, 'SeriesDescription': 'T1'}
    """
    cleaned: dict[str, Any] = {}
    for key, value in content.items():
        is_text = key in profile.sidecar_text
        if PERSONAL.search(key) and not is_text:
            continue
        if key in WORD_KEYS:
            stays: Any = clean_words(str(value), profile.vocabulary, identifiers)
        elif key.endswith("UID"):
            stays = map_uid(str(value))
        elif isinstance(value, str) and not is_text:
            stays = _moved(value, move_date) if TIMES.search(key) else ""
        else:
            stays = _without_text(value, keep_text=is_text and not _names(value, identifiers))
        if stays not in ("", None, [], {}):
            cleaned[key] = stays
    return cleaned


def _moved(value: str, move_date: Callable[[str], str]) -> str:
    """A date, or date and time of ISO 8601, with its day moved; a time alone stays."""
    if re.fullmatch(r"\d\d:?\d\d(:?\d\d(\.\d+)?)?", value):
        return value
    match = re.fullmatch(r"(\d{4})-?(\d\d)-?(\d\d)(T[\d:.]*)?", value)
    moved = move_date("".join(match.groups()[:3])) if match else ""
    if not match or not moved:
        return ""
    day = f"{moved[:4]}-{moved[4:6]}-{moved[6:]}" if "-" in value else moved
    return day + (match[4] or "")


def _names(value: Any, identifiers: Collection[str]) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(holds_identifier(str(v), identifiers) for v in values)


def _without_text(value: Any, *, keep_text: bool) -> Any:
    """Numbers and booleans of any nesting; text where it may stay; no mappings."""
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return value if keep_text else None
    if isinstance(value, list):
        kept = [_without_text(item, keep_text=keep_text) for item in value]
        return kept if None not in kept else None
    return None
