"""Storage commitment (PS3.4 annex J): whether a PACS takes over responsibility for instances."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from radloom.errors import PacsFailed
from radloom.pipelines.pacs.association import Caller, check_status
from radloom.pipelines.pacs.peer import Stored
from radloom.pipelines.pacs.query import is_uid
from radloom.pipelines.pacs.scp import Scp

__all__ = ["Results", "ask_commitment"]

_ASK: Final = 1
"""Action type: request storage commitment (PS3.4 table J.3.2-1)."""

_BATCH: Final = 1000


@dataclass
class Results:
    """What N-EVENT-REPORTs have told of one transaction."""

    transaction: str = field(default_factory=lambda: f"2.25.{uuid4().int}")
    kept: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    told: threading.Event = field(default_factory=threading.Event)

    def hear(self, event: Any) -> tuple[int, None]:
        """The status, and no data set, for an N-EVENT-REPORT; other transactions' are ignored."""
        information = event.event_information
        if str(information.get("TransactionUID", "")) != self.transaction:
            return 0x0000, None
        for item in information.get("ReferencedSOPSequence", None) or ():
            self.kept.add(str(item.get("ReferencedSOPInstanceUID", "")))
        for item in information.get("FailedSOPSequence", None) or ():
            reason = int(item.get("FailureReason", 0) or 0)
            self.refused[str(item.get("ReferencedSOPInstanceUID", ""))] = (
                f"FailureReason 0x{reason:04X}"
            )
        self.told.set()
        return 0x0000, None


def ask_commitment(
    caller: Caller, files: Sequence[Stored], *, host: str, port: int | None, wait_s: float
) -> Results | None:
    """What the PACS commits itself to; None where it does not know storage commitment.

    Args:
        caller: who asks whom.
        files: what it has accepted.
        host: address to listen at for an answer on an association of its own.
        port: port for it; None: only an answer on the same association is heard.
        wait_s: how long to wait for the answer to up to 1000 instances.

    Raises:
        PacsFailed: the association cannot be had, or the request was refused.
    """
    total = Results()
    for start in range(0, len(files), _BATCH):
        results = Results()
        with _listening(caller, results, host, port):
            if not _ask(caller, files[start : start + _BATCH], results, wait_s):
                return None
        total.kept |= {uid for uid in results.kept if is_uid(uid)}
        total.refused |= results.refused
        if results.told.is_set():
            total.told.set()
    return total


def _ask(caller: Caller, files: Sequence[Stored], results: Results, wait_s: float) -> bool:
    from pynetdicom import build_context, evt
    from pynetdicom.sop_class import (
        StorageCommitmentPushModel,
        StorageCommitmentPushModelInstance,
    )

    with caller.associated(
        [build_context(StorageCommitmentPushModel)],
        on_event=[(evt.EVT_N_EVENT_REPORT, results.hear)],
    ) as association:
        if not association.accepted_contexts:
            return False
        status, _ = association.send_n_action(
            _request(files, results.transaction),
            _ASK,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        code = check_status(status, caller.address, "storage commitment")
        if code != 0:
            raise PacsFailed(f"{caller.address} refuses storage commitment: status 0x{code:04X}")
        results.told.wait(wait_s)
    return True


def _request(files: Sequence[Stored], transaction: str) -> Any:
    from pydicom.dataset import Dataset

    request = Dataset()
    request.TransactionUID = transaction
    items = []
    for file in files:
        item = Dataset()
        item.ReferencedSOPClassUID = file.head.sop_class
        item.ReferencedSOPInstanceUID = file.head.sop_uid
        items.append(item)
    request.ReferencedSOPSequence = items
    return request


@contextlib.contextmanager
def _listening(caller: Caller, results: Results, host: str, port: int | None) -> Iterator[None]:
    """Our own server for results that come on an association of the PACS."""
    if port is None:
        yield
        return
    from pynetdicom import build_context, evt
    from pynetdicom.sop_class import (
        StorageCommitmentPushModel,
        Verification,
    )

    reports = build_context(StorageCommitmentPushModel)
    reports.scp_role, reports.scu_role = True, False
    server = Scp(
        ae_title=caller.ae_title,
        host=host,
        port=port,
        contexts=[reports, build_context(Verification)],
        on_event=[(evt.EVT_N_EVENT_REPORT, results.hear)],
        limits=caller.limits,
        folder=None,
        allow=[caller.address.ae_title],
        tls=caller.tls if caller.address.tls else None,
    )
    with server.running():
        yield
