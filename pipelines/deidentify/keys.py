"""The secret of a de-identification, and the pseudonyms that follow from it.

All pseudonyms are HMAC-SHA256 (RFC 2104) of the original under one key, so that the same patient,
study and image get the same ones in every run with the key, and nobody without it can compute or
guess them by trial. Whoever holds the key can link originals to pseudonyms: keep it apart.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from radloom.errors import ConfigError

__all__ = [
    "DICOM_ROOT",
    "LABEL_LETTERS",
    "Names",
    "Pseudonyms",
    "StudyPseudonyms",
    "make_key",
    "read_key",
]

KEY_BYTES = 32
"""As long as the digest; longer adds nothing (RFC 2104 section 3)."""

DICOM_ROOT = "1.2.840.10008."
"""Root of the UIDs that the standard itself defines: classes, syntaxes, codes. They name nobody."""

LABEL_LETTERS = 10
"""Hex digits of a label: 40 bits, so that among 10,000 patients two collide with odds of 5e-5."""

LONGEST_SHIFT_DAYS = 3652
"""Ten years."""


def make_key(path: Path) -> Pseudonyms:
    """A new key in a new file that only its owner can read.

    Raises:
        ConfigError: there is something at `path`, or it cannot be written.
    """
    text = secrets.token_hex(KEY_BYTES) + "\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    except FileExistsError:
        raise ConfigError(f"expected no file at <{path}> for a new key, found one") from None
    except OSError as error:
        raise ConfigError(f"<{path}>: the key cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text)
    return Pseudonyms(bytes.fromhex(text))


def read_key(path: Path) -> Pseudonyms:
    """The pseudonyms of the key in a file.

    Raises:
        ConfigError: no such file, not a key, or a file that others can read.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(
            f"expected a key file, got <{path}>: {error.strerror}; --new-key makes one"
        ) from None
    except UnicodeDecodeError:
        text, mode = "", 0
    if not re.fullmatch(rf"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
        raise ConfigError(f"<{path}>: expected a key of {2 * KEY_BYTES} hex digits, got other text")
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"<{path}>: expected a key that its owner alone can read; chmod 600 it, and make a new "
            "one if others may have read it"
        )
    return Pseudonyms(bytes.fromhex(text))


@dataclass(frozen=True)
class Pseudonyms:
    """What one key makes of originals. Never shown, written or sent to a worker.

    A worker gets the `StudyPseudonyms` of its study.
    """

    key: bytes = field(repr=False)

    def digest(self, purpose: str, text: str, n: int = LABEL_LETTERS) -> str:
        """`n` hex digits that stand for `text`, others for each purpose."""
        return self._mac(purpose, text).hex()[:n]

    def subject(self, patient: str) -> str:
        """The label of a patient: letters and digits."""
        return self.digest("subject", patient.strip())

    def uid(self, original: str) -> str:
        """The UID that stands for another; those of the standard itself stand for themselves.

        2.25 and a number below 2^128 (DICOM PS3.5 section B.2).

        >>> names = Pseudonyms(bytes(32))
        >>> names.uid("1.2.840.10008.1.2"), names.uid("1.2.3") == names.uid("1.2.3 ")
        ('1.2.840.10008.1.2', True)
        """
        original = original.strip(" \x00")
        if not original or original.startswith(DICOM_ROOT):
            return original
        return f"2.25.{int.from_bytes(self._mac('uid', original)[:16], 'big')}"

    def days(self, patient: str) -> int:
        """How many days each date of a patient is moved: back, by one day to ten years."""
        number = int.from_bytes(self._mac("days", patient.strip())[:8], "big")
        return -1 - number % LONGEST_SHIFT_DAYS

    def date(self, patient: str, date: str) -> str:
        """A date (YYYYMMDD, DICOM DA) moved with the patient's others; empty where it is none.

        >>> names = Pseudonyms(bytes(32))
        >>> first, second = (names.date("a", date) for date in ("20200228", "20200301"))
        >>> int(second) - int(first) in (2, 2 + 69, 2 + 70, 2 + 71, 2 + 72)
        True
        """
        return _moved_date(date, self.days(patient))

    def datetime(self, patient: str, value: str) -> str:
        """A DICOM DT with its day moved and its time kept; empty where no whole day is in it."""
        return _moved_datetime(value, self.days(patient))

    def of_study(self, patient: str, study_uid: str, uids: Iterable[str]) -> StudyPseudonyms:
        """What of all this one study takes, which a worker may be told: not the key.

        Args:
            patient: its patient.
            study_uid: its own UID, before.
            uids: those that its files hold; others get pseudonyms of the study alone.
        """
        return StudyPseudonyms(
            label=self.subject(patient),
            days_moved=self.days(patient),
            uids={uid: self.uid(uid) for uid in sorted({u.strip(" \x00") for u in uids})},
            secret=self._mac("uids of a study", study_uid),
        )

    def _mac(self, purpose: str, text: str) -> bytes:
        message = f"radloom {purpose}\x00{text}".encode("utf-8", "surrogateescape")
        return hmac.new(self.key, message, hashlib.sha256).digest()


class Names(Protocol):
    """Pseudonyms as far as one object needs them."""

    def subject(self, patient: str) -> str:
        """The label of a patient."""
        ...

    def uid(self, original: str) -> str:
        """The UID that stands for another."""
        ...

    def date(self, patient: str, date: str) -> str:
        """A date moved with the patient's others; empty where it is none."""
        ...

    def datetime(self, patient: str, value: str) -> str:
        """A DT with its day moved; empty where no whole day is in it."""
        ...


@dataclass(frozen=True)
class StudyPseudonyms:
    """What one study takes of a key's pseudonyms: it travels with the record, and is not written.

    It holds no more than the study's own files do together with their pseudonyms; it leads to no
    other study and not to the key.
    """

    label: str
    days_moved: int
    uids: Mapping[str, str] = field(repr=False)
    """UID -> pseudonym, for those that discovery met."""
    secret: bytes = field(repr=False)
    """Makes pseudonyms of the others."""

    def subject(self, patient: str) -> str:  # noqa: ARG002  # there is one patient
        """The label of the study's patient."""
        return self.label

    def uid(self, original: str) -> str:
        """The key's pseudonym where the UID is known; else one that is the study's own."""
        original = original.strip(" \x00")
        if not original or original.startswith(DICOM_ROOT):
            return original
        known = self.uids.get(original)
        if known is not None:
            return known
        digest = hmac.new(self.secret, original.encode("utf-8", "surrogateescape"), hashlib.sha256)
        return f"2.25.{int.from_bytes(digest.digest()[:16], 'big')}"

    def date(self, patient: str, date: str) -> str:  # noqa: ARG002  # there is one patient
        """A date moved with the patient's others; empty where it is none."""
        return _moved_date(date, self.days_moved)

    def datetime(self, patient: str, value: str) -> str:  # noqa: ARG002  # there is one patient
        """A DT with its day moved; empty where no whole day is in it."""
        return _moved_datetime(value, self.days_moved)


def _moved_date(date: str, days: int) -> str:
    match = re.fullmatch(r"(\d{4})[.-]?(\d\d)[.-]?(\d\d)", date.strip(" \x00"))
    if match is None:
        return ""
    try:
        moved = dt.date(*map(int, match.groups())) + dt.timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return moved.strftime("%Y%m%d") if moved.year > 999 else ""


def _moved_datetime(value: str, days: int) -> str:
    text = value.strip(" \x00")
    day, rest = _moved_date(text[:8], days), text[8:]
    return day + rest if day and re.fullmatch(r"[0-9]*(\.\d+)?([+-]\d{4})?", rest) else ""
