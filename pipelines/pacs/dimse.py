"""C-FIND, C-GET, C-MOVE and C-STORE (DICOM PS3.4 annexes B, C) with one PACS."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from radloom.errors import PacsFailed
from radloom.pipelines.pacs.association import Caller, check_status
from radloom.pipelines.pacs.commitment import ask_commitment
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
from radloom.pipelines.pacs.scp import Scp, receive, storage_contexts

__all__ = ["Dimse", "Reception"]

_PENDING: Final = (0xFF00, 0xFF01)
_SUCCESS, _SOME_FAILED = 0x0000, 0xB000
_WARNINGS: Final = (0xB000, 0xB006, 0xB007)
_MEANINGS: Final = {
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0xA700: "out of resources",
    0xA701: "out of resources: it cannot count the matches",
    0xA702: "out of resources: it cannot send the instances",
    0xA801: "it does not know where to move to: enter our AE title, host and port there",
    0xA900: "the data set does not match its class",
    0xC000: "it cannot process it",
    0xFE00: "cancelled",
}
_CONTEXTS: Final = 126
"""One association has 128 (PS3.8 section 9.3.2.2); two for the query."""

_UIDS_AT_ONCE: Final = 100
_BATCH: Final = 500
_BATCH_BYTES: Final = 1 << 30

_USUAL_SYNTAXES: Final = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.2",
)
"""Each proposed in a context of its own, so that nothing has to be decoded to be sent."""


@dataclass(frozen=True)
class Reception:
    """Where we can be reached: for C-MOVE, and for the results of storage commitment."""

    host: str = "127.0.0.1"
    port: int | None = None
    wait_s: float = 30.0
    """For the result of a storage commitment."""


class Dimse:
    """A PACS that speaks DICOM's own protocol."""

    def __init__(
        self,
        caller: Caller,
        *,
        method: Literal["get", "move"] = "get",
        reception: Reception | None = None,
    ) -> None:
        self._caller = caller
        self._limits = caller.limits
        self._method = method
        self._reception = reception or Reception()
        self.name = str(caller.address)

    def find_studies(self, query: Query) -> Sequence[str]:
        """StudyInstanceUIDs that match, each once."""
        found: dict[str, None] = {}
        with self._finding() as find:
            for keys in query.studies:
                asked = {"StudyInstanceUID": "", **keys}
                for item in find("STUDY", asked, self._limits.studies):
                    found[_uid(item, "StudyInstanceUID")] = None
        if len(found) > self._limits.studies:
            raise PacsFailed(f"more than {self._limits.studies} studies match: ask for fewer")
        return list(found)

    def find_instances(self, study_uid: str, query: Query) -> Listing:
        """What a study holds, as far as `query` wants its series."""
        series: dict[str, None] = {}
        listing: dict[str, dict[str, str]] = {}
        most = self._limits.study_instances
        study = {"StudyInstanceUID": study_uid}
        with self._finding() as find:
            for keys in query.series:
                for item in find("SERIES", {"SeriesInstanceUID": "", **keys, **study}, most):
                    series[_uid(item, "SeriesInstanceUID")] = None
            for uid in series:
                asked = {**study, "SeriesInstanceUID": uid, "SOPInstanceUID": "", "SOPClassUID": ""}
                listing[uid] = {
                    _uid(item, "SOPInstanceUID"): _optional_uid(item, "SOPClassUID")
                    for item in find("IMAGE", asked, most)
                }
        return listing

    def holds(self, files: Sequence[Stored]) -> set[str]:
        """Which of the instances it has, by asking for their series."""
        found: set[str] = set()
        with self._finding() as find:
            for study, series in sorted({(f.head.study_uid, f.head.series_uid) for f in files}):
                asked = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
                asked["SOPInstanceUID"] = ""
                for item in find("IMAGE", asked, self._limits.study_instances):
                    found.add(_uid(item, "SOPInstanceUID"))
        return found & {f.head.sop_uid for f in files}

    @contextlib.contextmanager
    def _finding(self) -> Iterator[Callable[[str, Mapping[str, str], int], list[Any]]]:
        """An association for queries, as a function of level, keys and the most matches."""
        from pynetdicom import build_context
        from pynetdicom.sop_class import (
            StudyRootQueryRetrieveInformationModelFind as Model,
        )

        with self._caller.associated([build_context(Model)]) as association:
            if not association.accepted_contexts:
                raise PacsFailed(f"{self.name} does not offer C-FIND in the study root model")

            def find(level: str, keys: Mapping[str, str], most: int) -> list[Any]:
                found = []
                for status, item in association.send_c_find(_identifier(level, keys), Model):
                    code = check_status(status, self._caller.address, "C-FIND")
                    if code not in (*_PENDING, _SUCCESS):
                        raise self._failed("C-FIND", code)
                    if item is not None:
                        found.append(item)
                    if len(found) > most:
                        raise PacsFailed(f"{self.name} lists more than {most}: ask for fewer")
                return found

            yield find

    def retrieve(self, wanted: Wanted, delivery: Delivery) -> None:
        """What is wanted, instance by instance, to where it goes."""
        keys = {"StudyInstanceUID": wanted.study_uid, "SeriesInstanceUID": wanted.series_uid}
        identifiers = [_identifier("SERIES", keys)]
        if wanted.instances is not None:
            starts = range(0, len(wanted.instances), _UIDS_AT_ONCE)
            some = ("\\".join(wanted.instances[i : i + _UIDS_AT_ONCE]) for i in starts)
            identifiers = [_identifier("IMAGE", {**keys, "SOPInstanceUID": uids}) for uids in some]
        one_at_a_time = threading.Lock()

        def on_store(event: Any) -> int:
            with one_at_a_time:
                return receive(event, delivery)

        if self._method == "get":
            self._get(identifiers, on_store, wanted.classes, delivery.folder)
        else:
            self._move(identifiers, on_store, delivery.folder)

    def _get(
        self,
        identifiers: Sequence[Any],
        on_store: Callable[[Any], int],
        classes: Collection[str],
        folder: Path,
    ) -> None:
        from pynetdicom import build_context, build_role, evt
        from pynetdicom.sop_class import (
            StudyRootQueryRetrieveInformationModelGet as Model,
        )

        contexts = _contexts_for(classes)
        roles = [build_role(uid, scp_role=True) for uid in {c.abstract_syntax for c in contexts}]
        with self._caller.associated(
            [build_context(Model), *contexts],
            on_event=[(evt.EVT_C_STORE, on_store)],
            roles=roles,
            folder=folder,
        ) as association:
            if not any(c.abstract_syntax == Model for c in association.accepted_contexts):
                raise PacsFailed(f"{self.name} does not offer C-GET: try --retrieve move")
            for identifier in identifiers:
                self._follow(association.send_c_get(identifier, Model), "C-GET")

    def _move(
        self, identifiers: Sequence[Any], on_store: Callable[[Any], int], folder: Path
    ) -> None:
        from pynetdicom import build_context, evt
        from pynetdicom.sop_class import (
            StudyRootQueryRetrieveInformationModelMove as Model,
        )

        server = Scp(
            ae_title=self._caller.ae_title,
            host=self._reception.host,
            port=self._reception.port or 0,
            contexts=storage_contexts(),
            on_event=[(evt.EVT_C_STORE, on_store)],
            limits=self._limits,
            folder=folder,
            allow=[self._caller.address.ae_title],
            tls=self._caller.tls if self._caller.address.tls else None,
        )
        with server.running(), self._caller.associated([build_context(Model)]) as association:
            if not association.accepted_contexts:
                raise PacsFailed(f"{self.name} does not offer C-MOVE: try --retrieve get")
            for identifier in identifiers:
                ours = self._caller.ae_title
                self._follow(association.send_c_move(identifier, ours, Model), "C-MOVE")

    def _follow(self, answers: Iterator[tuple[Any, Any]], what: str) -> None:
        for status, _ in answers:
            code = check_status(status, self._caller.address, what)
            if code not in (*_PENDING, _SUCCESS, _SOME_FAILED):
                raise self._failed(what, code)

    def store(self, files: Sequence[Stored]) -> Mapping[str, StoreResult]:
        """SOPInstanceUID -> what became of it, for each of `files` that was tried."""
        results: dict[str, StoreResult] = {}
        for batch in in_batches(files, _BATCH, _BATCH_BYTES):
            for group in _by_context(batch):
                results |= self._store(group)
        return results

    def _store(self, files: Sequence[Stored]) -> Mapping[str, StoreResult]:
        from pynetdicom import build_context

        kinds = sorted({(f.head.sop_class, f.head.transfer_syntax) for f in files})
        results: dict[str, StoreResult] = {}
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in kinds]
        with self._caller.associated(contexts) as association, _from_files():
            for file in files:
                try:
                    status = association.send_c_store(file.path)
                except ValueError:
                    refused = "0x0122: it takes no such class in this transfer syntax"
                    results[file.head.sop_uid] = StoreResult(refused)
                    continue
                except RuntimeError:
                    break  # the association has ended: the rest was not tried
                if "Status" not in status:
                    results[file.head.sop_uid] = StoreResult("no answer", doubtful=True)
                    break
                results[file.head.sop_uid] = _result(int(status.Status))
        return results

    def confirm(self, files: Sequence[Stored]) -> Confirmation:
        """Storage commitment; where the PACS does not know it or stays silent, a query."""
        reception = self._reception
        try:
            results = ask_commitment(
                self._caller,
                files,
                host=reception.host,
                port=reception.port,
                wait_s=reception.wait_s,
            )
            problem = "it does not know it"
        except PacsFailed:
            results, problem = None, "it refused"
        ours = {f.head.sop_uid for f in files}
        if results is not None and results.told.is_set():
            refused = {uid: why for uid, why in results.refused.items() if uid in ours}
            return Confirmation("storage commitment", frozenset(results.kept & ours), refused)
        if results is not None:
            problem = f"no result within {reception.wait_s:.0f} s"
        kept = frozenset(self.holds(files))
        lost = dict.fromkeys(ours - kept, "accepted, but not found")
        return Confirmation(f"found by C-FIND; no storage commitment: {problem}", kept, lost)

    def _failed(self, what: str, code: int) -> PacsFailed:
        meaning = _MEANINGS.get(code, "")
        more = f", {meaning}" if meaning else ""
        out_of_resources = code & 0xFF00 == 0xA700
        return PacsFailed(
            f"{self.name} fails {what}: status 0x{code:04X}{more}", passing=out_of_resources
        )


def _result(code: int) -> StoreResult:
    meaning = _MEANINGS.get(code, "")
    status = f"0x{code:04X}" + (f": {meaning}" if meaning and code not in _WARNINGS else "")
    passing = code & 0xFF00 == 0xA700  # out of resources
    return StoreResult(status, accepted=code in (_SUCCESS, *_WARNINGS), doubtful=passing)


def _identifier(level: str, keys: Mapping[str, str]) -> Any:
    from pydicom.dataset import Dataset

    identifier = Dataset()
    if not all(value.isascii() for value in keys.values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def _uid(item: Any, keyword: str) -> str:
    value = _optional_uid(item, keyword)
    if not value:
        raise PacsFailed("expected a UID in each match of a query, got an answer without")
    return value


def _optional_uid(item: Any, keyword: str) -> str:
    value = str(item.get(keyword, "")).strip(" \0")
    return value if is_uid(value) else ""


def _contexts_for(classes: Collection[str]) -> list[Any]:
    """Contexts for what may come by C-GET: each usual syntax apart, as far as there is room."""
    from pynetdicom import StoragePresentationContexts, build_context

    wanted = [uid for uid in dict.fromkeys(classes) if uid][:_CONTEXTS]
    if not wanted:
        usual = [str(cx.abstract_syntax) for cx in StoragePresentationContexts]
        return [build_context(uid, list(_USUAL_SYNTAXES)) for uid in usual[:_CONTEXTS]]
    apart = max(1, min(len(_USUAL_SYNTAXES), _CONTEXTS // len(wanted)))
    alone, together = _USUAL_SYNTAXES[: apart - 1], _USUAL_SYNTAXES[apart - 1 :]
    return [
        build_context(uid, list(syntaxes))
        for uid in wanted
        for syntaxes in (*((syntax,) for syntax in alone), together)
    ]


def _by_context(files: Sequence[Stored]) -> Iterator[list[Stored]]:
    """`files` in groups of which one association can propose all contexts."""
    kinds = list(dict.fromkeys((f.head.sop_class, f.head.transfer_syntax) for f in files))
    for start in range(0, len(kinds), _CONTEXTS):
        some = set(kinds[start : start + _CONTEXTS])
        yield [f for f in files if (f.head.sop_class, f.head.transfer_syntax) in some]


@contextlib.contextmanager
def _from_files() -> Iterator[None]:
    """Has pynetdicom send the bytes of files as they are, instead of what it would write itself."""
    from pynetdicom import _config

    before = _config.STORE_SEND_CHUNKED_DATASET
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        yield
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before
