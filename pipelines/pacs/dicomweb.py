"""QIDO-RS, WADO-RS and STOW-RS (DICOM PS3.18 chapter 10) of one service."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from radloom.errors import PacsFailed
from radloom.pipelines.pacs.head import read_file_head
from radloom.pipelines.pacs.http import CHUNK, WebClient, problem_of_status
from radloom.pipelines.pacs.inbox import Arrival
from radloom.pipelines.pacs.multipart import PartBegin, PartEnd, boundary_of, split
from radloom.pipelines.pacs.peer import (
    Confirmation,
    Delivery,
    Listing,
    Stored,
    StoreResult,
    Wanted,
    in_batches,
)
from radloom.pipelines.pacs.query import Query, is_uid

__all__ = ["DicomWeb"]

_STUDY, _SERIES, _SOP, _CLASS = "0020000D", "0020000E", "00080018", "00080016"
_N_INSTANCES = "00201209"
_FAILED, _REFERENCED = "00081198", "00081199"
_REFERENCED_SOP, _FAILURE_REASON = "00081155", "00081197"

_PAGE: Final = 1000
_SINGLY: Final = 32
"""Instances that are still missing and are asked for one by one; more: the whole series anew."""

_BATCH: Final = 32
_BATCH_BYTES: Final = 32 << 20

_AS_A_WHOLE: Final = (400, 409, 413, 415, 422, 500)
"""Statuses by which services turn a whole message away for one of its instances."""

_AS_STORED: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_JSON: Final = "application/dicom+json"


class DicomWeb:
    """A PACS that speaks DICOMweb."""

    def __init__(self, client: WebClient) -> None:
        self._client = client
        self._limits = client.limits
        self.name = str(client.address)

    def find_studies(self, query: Query) -> Sequence[str]:
        """StudyInstanceUIDs that match, each once."""
        found: dict[str, None] = {}
        for keys in query.studies:
            found |= dict.fromkeys(self._search("/studies", _STUDY, keys, self._limits.studies))
        if len(found) > self._limits.studies:
            raise PacsFailed(f"more than {self._limits.studies} studies match: ask for fewer")
        return list(found)

    def find_instances(self, study_uid: str, query: Query) -> Listing:
        """What a study holds, as far as `query` wants its series."""
        most = self._limits.study_instances
        series = dict[str, Mapping[str, Any]]()
        for keys in query.series:
            series |= self._search(f"/studies/{study_uid}/series", _SERIES, keys, most)
        listing: dict[str, dict[str, str]] = {}
        for uid, about in series.items():
            items = self._search(f"/studies/{study_uid}/series/{uid}/instances", _SOP, {}, most)
            listing[uid] = {sop: _text(item, _CLASS) for sop, item in items.items()}
            n_expected = _text(about, _N_INSTANCES)
            if n_expected.isdigit() and int(n_expected) != len(items):
                raise PacsFailed(
                    f"{self.name} counts {n_expected} instances in a series and lists {len(items)}",
                    passing=True,  # it may be receiving them at this moment
                )
        return listing

    def retrieve(self, wanted: Wanted, delivery: Delivery) -> None:
        """What is wanted, instance by instance, to where it goes."""
        path = f"/studies/{wanted.study_uid}/series/{wanted.series_uid}"
        if wanted.instances is None or len(wanted.instances) > _SINGLY:
            self._retrieve(path, delivery)
            return
        for uid in wanted.instances:
            self._retrieve(f"{path}/instances/{uid}", delivery)

    def _retrieve(self, path: str, delivery: Delivery) -> None:
        with self._client.request("GET", path, headers={"Accept": _AS_STORED}) as answer:
            if answer.status != 200:
                raise problem_of_status(answer.status, self._client.address)
            boundary = boundary_of(answer.headers.get("content-type", ""))
            _take_parts(split(answer.chunks(), boundary), delivery)

    def store(self, files: Sequence[Stored]) -> Mapping[str, StoreResult]:
        """SOPInstanceUID -> what became of it, for each of `files`."""
        results: dict[str, StoreResult] = {}
        for batch in in_batches(files, _BATCH, _BATCH_BYTES):
            results |= self._store(batch)
        return results

    def _store(self, batch: Sequence[Stored]) -> Mapping[str, StoreResult]:
        boundary = f"radloom-{uuid4().hex}"
        pieces = [_Piece(file, boundary) for file in batch]
        end = f"--{boundary}--\r\n".encode("ascii")
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        try:
            with self._client.request(
                "POST",
                "/studies",
                headers={"Accept": _JSON, "Content-Type": kind},
                body=_body(pieces, end),
                body_bytes=sum(piece.n_bytes for piece in pieces) + len(end),
            ) as answer:
                status, content = answer.status, answer.content(self._limits.answer_bytes)
        except PacsFailed as error:
            if not error.passing:
                raise
            return {f.head.sop_uid: StoreResult("no answer", doubtful=True) for f in batch}
        if status in _AS_A_WHOLE and len(batch) > 1 and not (status == 409 and _told(content)):
            return {uid: result for f in batch for uid, result in self._store([f]).items()}
        return _store_results(status, content, batch, self._client)

    def holds(self, files: Sequence[Stored]) -> set[str]:
        """Which of the instances it has, by asking for their series."""
        found: set[str] = set()
        for study_uid, series_uid in sorted({(f.head.study_uid, f.head.series_uid) for f in files}):
            path = f"/studies/{study_uid}/series/{series_uid}/instances"
            found |= set(self._search(path, _SOP, {}, self._limits.study_instances, absent=()))
        return found & {f.head.sop_uid for f in files}

    def confirm(self, files: Sequence[Stored]) -> Confirmation:
        """What QIDO-RS finds; DICOMweb has no storage commitment."""
        kept = frozenset(self.holds(files))
        lost = {f.head.sop_uid: "accepted, but not found" for f in files}
        refused = {uid: why for uid, why in lost.items() if uid not in kept}
        return Confirmation("found by QIDO-RS", kept, refused)

    def _search(
        self,
        path: str,
        tag: str,
        keys: Mapping[str, str],
        most: int,
        *,
        absent: tuple[()] | None = None,
    ) -> dict[str, Mapping[str, Any]]:
        """Every match by its UID, page by page until one brings nothing new.

        `absent`: what HTTP 404 stands for; None: a failure.
        """
        found: dict[str, Mapping[str, Any]] = {}
        n_before = -1
        while n_before < len(found):
            n_before = len(found)
            for item in self._page(path, keys, len(found), absent):
                found[_uid(item, tag)] = item
            if len(found) > most:
                raise PacsFailed(f"{self.name} lists more than {most}: ask for fewer")
        return found

    def _page(
        self, path: str, keys: Mapping[str, str], offset: int, absent: tuple[()] | None
    ) -> Sequence[Mapping[str, Any]]:
        query = [*keys.items(), ("limit", str(_PAGE)), ("offset", str(offset))]
        with self._client.request("GET", path, query=query, headers={"Accept": _JSON}) as answer:
            if answer.status == 204 or (answer.status == 404 and (offset or absent is not None)):
                return ()
            if answer.status != 200:
                raise problem_of_status(answer.status, self._client.address)
            return _items(answer.content(self._limits.answer_bytes))


def _take_parts(events: Iterable[PartBegin | PartEnd | bytes], delivery: Delivery) -> None:
    """Each part of an answer as an instance that has arrived; an unfinished one leaves nothing."""
    current: Arrival | None = None
    try:
        for event in events:
            if isinstance(event, PartBegin):
                current = delivery.arrival()
            elif current is None:
                continue
            elif isinstance(event, PartEnd):
                current.close()
                delivery.take(current, read_file_head(current.head))
                current = None
            else:
                current.write(event)
    finally:
        if current is not None:
            current.discard()


class _Piece:
    """A file as a part of a multipart message."""

    def __init__(self, file: Stored, boundary: str) -> None:
        start = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n"
        self._before = start.encode("ascii")
        self._path = file.path
        self._size = file.path.stat().st_size
        self.n_bytes = len(self._before) + self._size + 2

    def content(self) -> Iterator[bytes]:
        """Head line and bytes of the file, as many as it had at first."""
        yield self._before
        left = self._size
        with self._path.open("rb") as stream:
            while left and (chunk := stream.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk
        yield b"\r\n"


def _body(pieces: Iterable[_Piece], end: bytes) -> Iterator[bytes]:
    for piece in pieces:
        yield from piece.content()
    yield end


def _store_results(
    status: int, content: bytes, batch: Sequence[Stored], client: WebClient
) -> Mapping[str, StoreResult]:
    """What an answer to STOW-RS says of each instance (PS3.18 section 10.5.3).

    Raises:
        PacsFailed: it says that nothing at all was looked at.
    """
    passing = problem_of_status(status, client.address).passing
    if status in (401, 403, 404, 405) or 300 <= status < 400:
        raise problem_of_status(status, client.address)
    told = _told(content) if status in (200, 202, 409) else {}
    other = StoreResult(f"HTTP {status}", doubtful=passing or status < 300)
    return {file.head.sop_uid: told.get(file.head.sop_uid, other) for file in batch}


def _told(content: bytes) -> Mapping[str, StoreResult]:
    items = _items(content, listed=False) if content.strip() else []
    results: dict[str, StoreResult] = {}
    for item in items:
        for found in _sequence(item, _FAILED):
            reason = _text(found, _FAILURE_REASON)
            code = f"0x{int(reason):04X}" if reason.isdigit() else "unknown"
            results[_text(found, _REFERENCED_SOP)] = StoreResult(f"FailureReason {code}")
        for found in _sequence(item, _REFERENCED):
            results[_text(found, _REFERENCED_SOP)] = StoreResult("stored", accepted=True)
    return results


def _items(content: bytes, *, listed: bool = True) -> Sequence[Mapping[str, Any]]:
    """The data sets of an answer in the DICOM JSON model (PS3.18 annex F).

    Raises:
        PacsFailed: it is something else.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise PacsFailed("expected an answer in DICOM JSON, got something else") from None
    if isinstance(found, dict) and not listed:
        found = [found]
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise PacsFailed("expected an answer in DICOM JSON, got something else")
    return found


def _sequence(item: Mapping[str, Any], tag: str) -> Sequence[Mapping[str, Any]]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []


def _text(item: Mapping[str, Any], tag: str) -> str:
    """The first value of an element as text; empty where there is none."""
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    return str(value)[:64] if isinstance(value, str | int) else ""


def _uid(item: Mapping[str, Any], tag: str) -> str:
    value = _text(item, tag)
    if not is_uid(value):
        raise PacsFailed("expected a UID in each match of a query, got an answer without")
    return value
