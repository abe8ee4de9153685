"""Bounds on what a DIMSE peer can make pynetdicom hold: memory, time, queue.

pynetdicom reads as many bytes as a protocol data unit (PDU, PS3.8 section 9.3) claims to have, up
to 4 GiB, and waits for them for ever; data sets stay in memory, or go to files that a broken
association leaves behind. A `Guard` stands between its socket and its reader, and puts data sets
where they are bounded. It is set on every association when its connection opens.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from radloom.pipelines.pacs.limits import Limits

__all__ = ["Guard", "Spool", "handlers", "quiet_pynetdicom"]

_HEADER: Final = 6
"""Bytes before each PDU: type, reserved, length."""

_TYPES: Final = range(1, 8)
_P_DATA: Final = 4
_C_STORE_RQ: Final = 0x0001
_QUEUE: Final = 4
"""Messages that may wait to be worked off before more are read."""

_TICK_S: Final = 0.005


@contextmanager
def quiet_pynetdicom() -> Iterator[None]:
    """Silence for pynetdicom's log, which quotes AE titles, UIDs and data sets."""
    logger = logging.getLogger("pynetdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


class Spool(BytesIO):
    """A data set on its way: in memory, or in a nameless file once it is long."""

    def __init__(self, message: Any, folder: Path | None, limits: Limits) -> None:
        super().__init__()
        self._message = message
        self._folder = folder
        self._limits = limits
        self._file: Any = None
        self.n_bytes = 0
        self.too_long = False

    def write(self, data: Any) -> int:
        """More of it; what is beyond the limits is dropped and `too_long` set."""
        self.n_bytes += len(data)
        if self.n_bytes <= self._limits.memory_bytes:
            return super().write(data)
        if not self._may_be_long():
            self.too_long = True
            return len(data)
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._file.write(self.getvalue())
            self.seek(0)
            self.truncate()
        return int(self._file.write(data))

    def _may_be_long(self) -> bool:
        command = getattr(self._message.command_set, "CommandField", None)
        is_instance = command == _C_STORE_RQ and self._folder is not None
        return is_instance and self.n_bytes <= self._limits.instance_bytes

    def pieces(self, size: int = 1 << 20) -> Iterator[bytes]:
        """All of it."""
        stream = self._file or self
        stream.seek(0)
        while piece := stream.read(size):
            yield piece

    def close(self) -> None:
        """Nothing of it stays."""
        if self._file is not None:
            self._file.close()
        super().close()


class Guard:
    """Bounds for one association."""

    def __init__(self, association: Any, limits: Limits, folder: Path | None) -> None:
        self._association = association
        self._limits = limits
        self._folder = folder
        self._type = 0
        self._command_bytes = 0
        self._message_since = self._useful_since = time.monotonic()
        self._message_bytes = 0
        self._spool: Spool | None = None
        self._socket = association.dul.socket
        self._receive = association.dimse.receive_primitive
        self._socket.recv = self.recv
        self._socket._shutdown_socket = self._close
        self._socket.socket.settimeout(limits.stall_s)
        association.dimse.receive_primitive = self.receive_primitive

    def useful(self) -> None:
        """The peer has stored something: its time begins anew."""
        self._useful_since = time.monotonic()

    def receive_primitive(self, primitive: Any) -> None:
        """As pynetdicom's, but the data set of a new message goes to a `Spool`."""
        from pynetdicom.dimse_messages import DIMSEMessage

        dimse = self._association.dimse
        if dimse.message is None:
            dimse.message = DIMSEMessage()
            self._spool = Spool(dimse.message, self._folder, self._limits)
            dimse.message.data_set = self._spool
        self._receive(primitive)

    def recv(self, n_bytes: int) -> bytearray:
        """`n_bytes` of the stream, or as many as there are before its end.

        Raises:
            OSError: the peer broke a bound; pynetdicom then ends the association.
        """
        is_header = n_bytes == _HEADER and not self._type
        try:
            if is_header:
                self._between()
            received = self._read(n_bytes)
            if len(received) < n_bytes:
                self._wake()
            if is_header:
                self._type = received[0] if len(received) == _HEADER else 0
                length = int.from_bytes(received[2:], "big")
                _require(self._type in _TYPES or len(received) < _HEADER, "no PDU")
                _require(length <= self._limits.pdu_bytes, "a PDU that is too long")
            else:
                if self._type == _P_DATA:
                    self._count(received)
                self._type = 0
        except OSError:
            self._wake()
            self._close()
            raise
        return received

    def _between(self) -> None:
        """Before a PDU: whether the peer may go on."""
        self._wait_for_room()
        now = time.monotonic()
        if self._association.dimse.message is None:
            self._message_bytes = 0
        _require(self._spool is None or not self._spool.too_long, "a data set that is too long")
        if self._association.is_acceptor:
            _require(now - self._useful_since <= self._limits.idle_s, "nothing stored for long")
        spent = now - self._message_since
        allowed = self._limits.stall_s + self._message_bytes / self._limits.slowest_bytes_s
        _require(not self._message_bytes or spent <= allowed, "a message that trickles")

    def _wait_for_room(self) -> None:
        """Until what has come is being worked off: a peer may send faster than we write."""
        end = time.monotonic() + self._limits.answer_s
        while self._association.dimse.msg_queue.qsize() > _QUEUE:
            _require(time.monotonic() < end, "more than can be worked off")
            time.sleep(_TICK_S)

    def _read(self, n_bytes: int) -> bytearray:
        connection: socket.socket | None = self._socket.socket
        if connection is None:
            raise OSError("the connection is closed")
        end = time.monotonic() + self._limits.stall_s
        received = bytearray()
        while len(received) < n_bytes:
            left = end - time.monotonic()
            _require(left > 0, "a PDU that trickles")
            connection.settimeout(left)
            piece = connection.recv(min(1 << 16, n_bytes - len(received)))
            if not piece:
                break
            received += piece
        connection.settimeout(self._limits.stall_s)
        return received

    def _count(self, body: bytearray) -> None:
        """Goes along the presentation data values of a P-DATA-TF PDU (PS3.8 section 9.3.5)."""
        at = 0
        while at + 6 <= len(body):
            length, control = int.from_bytes(body[at : at + 4], "big"), body[at + 5]
            _require(length >= 2, "a value without a header")
            is_command, is_last = control & 1, control & 2
            if not self._message_bytes:
                self._message_since = time.monotonic()
            self._message_bytes += length
            self._command_bytes = self._command_bytes + length if is_command else 0
            _require(
                self._command_bytes <= self._limits.command_bytes, "a command that is too long"
            )
            if is_last:
                self._command_bytes = 0
            at += 4 + length

    def _wake(self) -> None:
        """Whoever waits for an answer gets none at once, and not after its time is over."""
        if self._association.is_requestor:
            self._association.dimse.msg_queue.put((None, None))

    def _close(self) -> None:
        """The connection closed: pynetdicom leaves one open that the peer has shut already."""
        connection: socket.socket | None = self._socket.socket
        if connection is None:
            return
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def handlers(
    limits: Limits, folder: Path | None, known: Callable[[Any, Guard], None] = lambda _a, _g: None
) -> list[tuple[Any, Callable[..., Any]]]:
    """Event handlers that put a `Guard` on each association; `known` is told of it."""
    from pynetdicom import evt

    def install(event: Any) -> None:
        known(event.assoc, Guard(event.assoc, limits, folder))

    return [(evt.EVT_CONN_OPEN, install)]


def _require(kept: bool, broken: str) -> None:  # noqa: FBT001  # reads as a sentence
    if not kept:
        raise OSError(f"the peer sent {broken}")
