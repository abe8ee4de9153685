"""pynetdicom's server, with a bound on who may be connected."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from socketserver import BaseServer
from typing import Any, Final

from pynetdicom.transport import ThreadedAssociationServer

from radloom.pipelines.pacs.limits import Limits

__all__ = ["BoundedServer"]

_FAREWELL_S: Final = 2.0


class BoundedServer(ThreadedAssociationServer):  # type: ignore[misc]  # pynetdicom is not followed
    """Negotiates TLS beside the thread that accepts, and bounds how many connect at all."""

    daemon_threads = True

    def __init__(
        self,
        ae: Any,
        place: tuple[str, int],
        contexts: Sequence[Any],
        *,
        secured: ssl.SSLContext | None,
        on_event: Sequence[Any],
        limits: Limits,
    ) -> None:
        self._secured, self._limits = secured, limits
        self._slots = threading.BoundedSemaphore(2 * limits.associations)
        self._lock = threading.Lock()
        self._open: tuple[socket.socket, ...] = ()
        super().__init__(ae, place, ae.ae_title, list(contexts), evt_handlers=list(on_event))

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection; one too many is closed."""
        connection, address = self.socket.accept()
        with self._lock:
            self._open = tuple(s for s in self._open if s.fileno() >= 0)
        if len(self._open) >= 2 * self._limits.associations:
            connection.close()
            raise OSError("too many connections")
        connection.settimeout(self._limits.connect_s)
        if self._secured is None:
            self._count(connection)
        return connection, address

    def _count(self, connection: socket.socket) -> None:
        with self._lock:
            self._open = (*self._open, connection)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Its association, in a thread of its own, after TLS where that is wanted."""
        if self._secured is None:
            super().finish_request(request, client_address)
            return
        if not self._slots.acquire(blocking=False):
            request.close()
            return
        try:
            secured = _handshake(request, self._secured, self._limits.connect_s)
        finally:
            self._slots.release()
        if secured is not None:
            self._count(secured)
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, _client_address: Any) -> None:
        """What went wrong with one connection ends it, and is not printed."""
        request.close()

    def stop(self) -> None:
        """Nobody new is served; who is being served gets a moment, then is aborted."""
        BaseServer.shutdown(self)
        self.server_close()
        end = time.monotonic() + _FAREWELL_S
        while self.active_associations and time.monotonic() < end:
            time.sleep(0.02)
        for association in self.active_associations:
            association.abort()


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _handshake(
    request: socket.socket, context: ssl.SSLContext, seconds: float
) -> ssl.SSLSocket | None:
    """`request` under TLS; None where the peer cannot, or takes longer."""
    twin = request.dup()
    timer = threading.Timer(seconds, _shut, (twin,))
    timer.daemon = True
    timer.start()
    try:
        return context.wrap_socket(request, server_side=True)
    except OSError:  # what TLS raises among them
        request.close()
        return None
    finally:
        timer.cancel()
        twin.close()
