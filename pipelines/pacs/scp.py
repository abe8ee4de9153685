"""A DICOM server of our own: what a PACS moves, pushes or confirms comes in here."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from radloom.errors import ConfigError, PacsFailed
from radloom.pipelines.pacs.guard import Guard, Spool, handlers, quiet_pynetdicom
from radloom.pipelines.pacs.head import DEFLATED, InstanceHead, read_file_head
from radloom.pipelines.pacs.identity import TLS
from radloom.pipelines.pacs.inbox import Arrival
from radloom.pipelines.pacs.limits import Limits
from radloom.pipelines.pacs.peer import Delivery

__all__ = ["STORED", "Scp", "receive", "storage_contexts", "transfer_syntaxes"]

STORED: Final = 0x0000
NO_ROOM: Final = 0xA700
OTHER_CLASS: Final = 0xA900
UNREADABLE: Final = 0xC000
"""Status codes of C-STORE (PS3.4 table B.2-1)."""

_MAX_PDU: Final = 128 << 10
"""What peers are asked for."""


def transfer_syntaxes() -> list[str]:
    """All that pynetdicom knows but the deflated one, whose length nobody can tell beforehand."""
    from pynetdicom import ALL_TRANSFER_SYNTAXES

    return [str(uid) for uid in ALL_TRANSFER_SYNTAXES if uid != DEFLATED]


def storage_contexts() -> list[Any]:
    """Presentation contexts for every storage class, in every transfer syntax."""
    from pynetdicom import AllStoragePresentationContexts, build_context

    syntaxes = transfer_syntaxes()
    return [build_context(cx.abstract_syntax, syntaxes) for cx in AllStoragePresentationContexts]


def receive(event: Any, delivery: Delivery) -> int:
    """The status of a C-STORE, after its instance has been delivered as a file."""
    request = event.request
    spool = request.DataSet
    if not isinstance(spool, Spool) or spool.too_long:
        return NO_ROOM
    arrived: Arrival | None = None
    try:
        arrived = delivery.arrival()
        arrived.write(_file_start(request, str(event.context.transfer_syntax)))
        for piece in spool.pieces():
            arrived.write(piece)
        arrived.close()
        head = _head(arrived)
        if head is None:
            return UNREADABLE
        told = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        if (head.sop_class, head.sop_uid) != told:
            return OTHER_CLASS
        delivery.take(arrived, head)
    except (PacsFailed, OSError):
        return NO_ROOM
    finally:
        spool.close()
        if arrived is not None:
            arrived.discard()
    return STORED


def _head(arrived: Arrival) -> InstanceHead | None:
    try:
        return read_file_head(arrived.head)
    except PacsFailed:
        return None


def _file_start(request: Any, transfer_syntax: str) -> bytes:
    """Preamble and file meta information (PS3.10 section 7.1) for a data set off the network."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(str(request.AffectedSOPClassUID))
    meta.MediaStorageSOPInstanceUID = UID(str(request.AffectedSOPInstanceUID))
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.FileMetaInformationVersion = b"\x00\x01"
    stream = BytesIO(bytes(128) + b"DICM")
    stream.seek(0, 2)
    write_file_meta_info(stream, meta, enforce_standard=True)
    return stream.getvalue()


class Scp:
    """A server that runs while its block lasts."""

    def __init__(
        self,
        *,
        ae_title: str,
        host: str,
        port: int,
        contexts: Sequence[Any],
        on_event: Sequence[tuple[Any, Callable[..., Any]]],
        limits: Limits,
        folder: Path | None,
        allow: Sequence[str] = (),
        tls: TLS | None = None,
        known: Callable[[Any, Guard], None] = lambda _a, _g: None,
    ) -> None:
        """Nothing runs yet.

        Args:
            ae_title: ours; who calls for another is rejected.
            host: address to listen at.
            port: 0: one that is free.
            contexts: presentation contexts that are accepted.
            on_event: pynetdicom events and what handles them.
            limits: of peers.
            folder: where long data sets wait; None: none are taken.
            allow: AE titles that may call; empty: any.
            tls: our certificate, and whose clients are let in; None: no TLS.
            known: told of each association and its guard.
        """
        self._ae_title, self._place = ae_title, (host, port)
        self._contexts, self._on_event = list(contexts), list(on_event)
        self._limits, self._folder, self._allow = limits, folder, list(allow)
        self._tls, self._known = tls, known

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """The port it listens on.

        Raises:
            ConfigError: that address or port is not to be had.
        """
        from pynetdicom import AE

        from radloom.pipelines.pacs.server import BoundedServer

        ae = AE(ae_title=self._ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = self._allow
        ae.maximum_associations = self._limits.associations
        ae.maximum_pdu_size = _MAX_PDU
        ae.acse_timeout = self._limits.connect_s
        ae.dimse_timeout = ae.network_timeout = self._limits.stall_s
        bound = [*handlers(self._limits, self._folder, self._known), *self._on_event]
        secured = self._tls.for_server() if self._tls is not None else None
        with quiet_pynetdicom():
            try:
                server = BoundedServer(
                    ae,
                    self._place,
                    self._contexts,
                    secured=secured,
                    on_event=bound,
                    limits=self._limits,
                )
            except OSError as error:
                host, port = self._place
                raise ConfigError(
                    f"expected to listen at {host}:{port}, got: {error.strerror or error}"
                ) from None
            thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
            thread.start()
            try:
                yield int(server.server_address[1])
            finally:
                server.stop()
                thread.join()
