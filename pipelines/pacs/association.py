"""An association with a PACS (PS3.8 section 7): asked for, used, released; failures explained."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from radloom.errors import PacsFailed
from radloom.pipelines.pacs.address import DimseAddress
from radloom.pipelines.pacs.guard import handlers, quiet_pynetdicom
from radloom.pipelines.pacs.identity import TLS
from radloom.pipelines.pacs.limits import DEFAULT_LIMITS, Limits

__all__ = ["Caller", "check_status"]

_QUEUED: Final = 64
"""Protocol data units that wait to be sent: pynetdicom itself would queue a whole file."""

_SERVICE_USER, _NOT_OUR_TITLE, _NOT_ITS_TITLE = 1, 3, 7
"""Source and reasons of a rejection (PS3.8 table 9-21)."""


@dataclass(frozen=True)
class Caller:
    """Who calls, whom, and how."""

    address: DimseAddress
    ae_title: str = "RADLOOM"
    tls: TLS = field(default_factory=TLS)
    limits: Limits = DEFAULT_LIMITS

    @contextlib.contextmanager
    def associated(
        self,
        contexts: Sequence[Any],
        *,
        on_event: Sequence[tuple[Any, Callable[..., Any]]] = (),
        roles: Sequence[Any] = (),
        folder: Path | None = None,
    ) -> Iterator[Any]:
        """An association; released at the end of the block, aborted if that fails.

        Args:
            contexts: presentation contexts to propose, at most 128.
            on_event: pynetdicom events and what handles them.
            roles: SCP/SCU role selections.
            folder: where long data sets wait that the peer sends; None: none are taken.

        Raises:
            PacsFailed: there is none to be had; says why.
        """
        from pynetdicom import AE, evt
        from pynetdicom.pdu import A_ASSOCIATE_RJ

        rejections: list[Any] = []

        def keep(event: Any) -> None:
            if isinstance(event.pdu, A_ASSOCIATE_RJ):
                rejections.append(event.pdu)

        ae = AE(ae_title=self.ae_title)
        ae.acse_timeout = ae.connection_timeout = self.limits.connect_s
        ae.dimse_timeout = ae.network_timeout = self.limits.answer_s
        secured = (self.tls.for_client(), self.address.host) if self.address.tls else None
        with quiet_pynetdicom():
            try:
                association = ae.associate(
                    self.address.host,
                    self.address.port,
                    contexts=list(contexts),
                    ae_title=self.address.ae_title,
                    ext_neg=list(roles),
                    tls_args=secured,
                    evt_handlers=[
                        *handlers(self.limits, folder),
                        (evt.EVT_PDU_RECV, keep),
                        *on_event,
                    ],
                )
            except OSError:
                raise PacsFailed(f"expected {self.address}, found no such host") from None
            if not association.is_established:
                raise self._refusal(rejections)
            _throttle(association)
            try:
                yield association
            except BaseException:
                association.abort()
                raise
            association.release()

    def _refusal(self, rejections: Sequence[Any]) -> PacsFailed:
        """Why there is no association, by the rejections received.

        pynetdicom's own ``is_rejected`` says nothing of one whose peer had hung up by the time that
        pynetdicom looked whether it was connected.
        """
        if rejections:
            answer = rejections[0]
            return self._rejection(answer.result, answer.source, answer.reason_diagnostic)
        problem = self._connection_problem()
        if problem is not None:
            return problem
        return PacsFailed(
            f"{self.address} broke off while an association was negotiated", passing=True
        )

    def _rejection(self, result: int, source: int, reason: int) -> PacsFailed:
        passing = result == 2  # rejected-transient
        if (source, reason) == (_SERVICE_USER, _NOT_OUR_TITLE):
            why = f"it does not know the AE title {self.ae_title}: enter it there, or --ae-title"
        elif (source, reason) == (_SERVICE_USER, _NOT_ITS_TITLE):
            why = f"its AE title is not {self.address.ae_title}"
        else:
            why = "it is busy" if passing else "it says no more"
        code = f"result {result}, source {source}, reason {reason}"
        return PacsFailed(
            f"{self.address} rejects the association: {why} ({code})", passing=passing
        )

    def _connection_problem(self) -> PacsFailed | None:
        """What stands in the way, by trying to connect once more; None: nothing does."""
        place = (self.address.host, self.address.port)
        try:
            with socket.create_connection(place, timeout=self.limits.connect_s) as plain:
                if self.address.tls:
                    self.tls.for_client().wrap_socket(
                        plain, server_hostname=self.address.host
                    ).close()
        except ConnectionError as error:
            return PacsFailed(f"{self.address}: {error.strerror}", passing=True)
        except TimeoutError:
            return PacsFailed(f"{self.address}: nobody answers", passing=True)
        except OSError as error:
            why = getattr(error, "verify_message", "") or getattr(error, "reason", "")
            why = why or error.strerror or type(error).__name__
            return PacsFailed(
                f"expected TLS that holds at {self.address}, got: {why}. Name the authority of its "
                "certificate with --tls-ca, and ours with --tls-cert if it wants one"
            )
        return None


def check_status(status: Any, address: DimseAddress, what: str) -> int:
    """The status code of an answer.

    Raises:
        PacsFailed: there was no answer: the association broke.
    """
    if "Status" not in status:
        raise PacsFailed(f"{address} broke off during {what}", passing=True)
    return int(status.Status)


def _throttle(association: Any) -> None:
    """Has `association` wait for the network instead of queueing a whole file."""
    dul = association.dul
    send = dul.send_pdu

    def send_when_there_is_room(primitive: Any) -> None:
        while (
            dul.to_provider_queue.qsize() > _QUEUED
            and dul.is_alive()
            and dul.socket.socket is not None
            and dul.socket.socket.fileno() >= 0
        ):
            time.sleep(0.001)
        send(primitive)

    dul.send_pdu = send_when_there_is_room
