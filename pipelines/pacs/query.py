"""Which studies, and which of their series, are wanted from a PACS."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from radloom.errors import ConfigError

__all__ = ["SERIES_KEYS", "STUDY_KEYS", "Query", "is_uid", "parse_query"]

STUDY_KEYS: Mapping[str, int] = {
    "StudyDate": 0x00080020,
    "StudyTime": 0x00080030,
    "AccessionNumber": 0x00080050,
    "ModalitiesInStudy": 0x00080061,
    "ReferringPhysicianName": 0x00080090,
    "StudyDescription": 0x00081030,
    "PatientName": 0x00100010,
    "PatientID": 0x00100020,
    "PatientBirthDate": 0x00100030,
    "StudyInstanceUID": 0x0020000D,
    "StudyID": 0x00200010,
}
"""Keyword -> tag of what a study may be asked for by (PS3.18 table 10.6.1-5, PS3.4 C.6.2.1)."""

SERIES_KEYS: Mapping[str, int] = {
    "Modality": 0x00080060,
    "SeriesDescription": 0x0008103E,
    "BodyPartExamined": 0x00180015,
    "SeriesInstanceUID": 0x0020000E,
    "SeriesNumber": 0x00200011,
}
"""Keyword -> tag of what narrows down a study's series."""

_MOST_QUERIES = 1000
_LONGEST_VALUE = 324


@dataclass(frozen=True)
class Query:
    """What to ask for. A study has to match one of `studies`, a series one of `series`."""

    studies: tuple[Mapping[str, str], ...] = field(repr=False)
    """Keyword -> value; the values may name patients."""
    series: tuple[Mapping[str, str], ...] = field(default=({},), repr=False)


def parse_query(words: Iterable[str]) -> Query:
    """The query that ``KEY=VALUE`` words write; a key given twice asks for either value.

    ``@FILE`` stands for the lines of a file, so that no identifier need stand on a command line.

    Raises:
        ConfigError: an unknown key, no value, or nothing that selects studies.

    >>> parse_query(["PatientID=7", "PatientID=8", "Modality=MR"]).studies
    ({'PatientID': '7'}, {'PatientID': '8'})
    """
    wanted: dict[str, list[str]] = defaultdict(list)
    for word in _lines(words):
        key, _, value = (part.strip() for part in word.partition("="))
        if key not in STUDY_KEYS and key not in SERIES_KEYS:
            known = ", ".join((*STUDY_KEYS, *SERIES_KEYS))
            raise ConfigError(f"expected a query KEY=VALUE with one of {known}, got another key")
        if not value or len(value) > _LONGEST_VALUE or not value.isprintable() or "\\" in value:
            raise ConfigError(f"expected a query {key}=VALUE with a printable value, got none")
        if key.endswith("InstanceUID") and not is_uid(value):
            raise ConfigError(f"expected a UID of digits and dots for {key}, got something else")
        wanted[key].append(value)
    studies = _each({key: wanted[key] for key in STUDY_KEYS if key in wanted})
    if studies == ({},):
        raise ConfigError(
            "expected --query with what selects studies, such as StudyDate=20260101-20260131, got "
            "none: the whole archive is not fetched"
        )
    return Query(studies, _each({key: wanted[key] for key in SERIES_KEYS if key in wanted}))


def is_uid(text: object) -> bool:
    """Whether `text` is a UID (PS3.5 section 9): 1 to 64 digits and dots."""
    return isinstance(text, str) and 0 < len(text) <= 64 and set(text) <= set("0123456789.")


def _lines(words: Iterable[str]) -> Iterable[str]:
    for word in words:
        if not word.startswith("@"):
            yield word
            continue
        path = Path(word[1:])
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"expected a file of KEY=VALUE lines, got <{path}>") from None
        yield from (line for line in lines if line.strip() and not line.startswith("#"))


def _each(wanted: Mapping[str, list[str]]) -> tuple[Mapping[str, str], ...]:
    combined = itertools.product(*(dict.fromkeys(values) for values in wanted.values()))
    found = tuple(
        dict(zip(wanted, values, strict=True))
        for values in itertools.islice(combined, _MOST_QUERIES + 1)
    )
    if len(found) > _MOST_QUERIES:
        raise ConfigError(f"expected at most {_MOST_QUERIES} combinations of --query, got more")
    return found
