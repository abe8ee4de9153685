"""HTTP to one server, with a bound on everything that the server controls.

The standard library's client, because it hides nothing: redirects are not followed, nothing is
decompressed, no proxy and no password comes from the environment, and a watchdog ends a transfer
that stalls or trickles. Messages name the address and the status, never what was asked for: a
query may hold a patient's ID.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from radloom.errors import PacsFailed
from radloom.pipelines.pacs.address import WebAddress
from radloom.pipelines.pacs.identity import TLS, Credentials
from radloom.pipelines.pacs.limits import DEFAULT_LIMITS, Limits

__all__ = ["Answer", "WebClient", "problem_of_status"]

CHUNK: Final = 1 << 16

_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MEANINGS: Final = {
    301: "it sends elsewhere: name the address that it sends to",
    400: "it does not understand the request",
    401: "it wants to know who asks: name a file with --credentials",
    403: "it does not let these credentials in",
    404: "there is nothing: is the path right? Orthanc's is /dicom-web",
    405: "it does not do that at this address",
    406: "it cannot answer in the form asked for",
    411: "it wants a length",
    413: "that is more than it takes at a time",
    415: "it does not take this form",
    429: "it is asked too often",
    500: "it failed",
    503: "it is busy or down",
    507: "its disk is full",
}


@dataclass
class Answer:
    """The beginning of an answer; the rest comes by `chunks`."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    _response: http.client.HTTPResponse = field(repr=False)
    _watchdog: _Watchdog = field(repr=False)

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives."""
        expected = self._response.length
        got = 0
        while chunk := self._response.read1(CHUNK):
            self._watchdog.fed(len(chunk))
            got += len(chunk)
            yield chunk
        self._watchdog.fed(0)
        if expected is not None and got < expected:
            raise PacsFailed("the connection broke within an answer", passing=True)

    def content(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            PacsFailed: it is longer than `limit`.
        """
        body = bytearray()
        for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise PacsFailed(f"an answer longer than {limit} bytes: not taken")
        return bytes(body)


class WebClient:
    """What talks to one DICOMweb service; holds no connection between requests."""

    def __init__(
        self,
        address: WebAddress,
        *,
        tls: TLS | None = None,
        credentials: Credentials | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.address = address
        self.limits = limits
        self._context = (tls or TLS()).for_client() if address.scheme == "https" else None
        self._credentials = credentials

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        path: str,
        *,
        query: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: Iterable[bytes] | None = None,
        body_bytes: int = 0,
    ) -> Iterator[Answer]:
        """An answer, whatever its status; the connection ends with the block.

        Args:
            method: GET or POST.
            path: below the root of the service, beginning with a slash.
            query: names and values of the query.
            headers: besides those that every request has.
            body: what to send, in pieces.
            body_bytes: how much that is.

        Raises:
            PacsFailed: no connection, no TLS, or it broke on the way.
        """
        sent = {"Accept-Encoding": "identity", "Connection": "close", **(headers or {})}
        if self._credentials is not None:
            sent["Authorization"] = self._credentials.header
        if body is not None:
            sent["Content-Length"] = str(body_bytes)
        words = urlencode(list(query), safe="*")
        target = f"{self.address.path}{path}" + (f"?{words}" if words else "")
        try:
            with self._connected() as (connection, watchdog):
                connection.request(method, target, body=_watched(body, watchdog), headers=sent)
                with connection.getresponse() as response:
                    watchdog.fed(1)
                    yield Answer(response.status, dict(_lower(response)), response, watchdog)
        except ssl.SSLError as error:
            raise self._tls_failed(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from None

    @contextlib.contextmanager
    def _connected(self) -> Iterator[tuple[http.client.HTTPConnection, _Watchdog]]:
        place = (self.address.host, self.address.port)
        plain = socket.create_connection(place, timeout=self.limits.connect_s)
        # the watchdog holds the descriptor's twin: TLS takes the first socket over
        with contextlib.ExitStack() as stack:
            stack.callback(plain.close)
            watchdog = stack.enter_context(_watching(plain.dup(), self.limits))
            wrapped: socket.socket = plain
            if self._context is not None:
                wrapped = self._context.wrap_socket(plain, server_hostname=self.address.host)
                stack.callback(wrapped.close)
            wrapped.settimeout(self.limits.answer_s)
            connection = http.client.HTTPConnection(self.address.host, self.address.port)
            connection.sock = wrapped
            stack.callback(connection.close)
            yield connection, watchdog

    def _tls_failed(self, error: ssl.SSLError) -> PacsFailed:
        why = getattr(error, "verify_message", "") or error.reason or type(error).__name__
        return PacsFailed(
            f"expected TLS that holds at {self.address}, got: {why}. Name the authority of its "
            "certificate with --tls-ca, and ours with --tls-cert if it wants one"
        )

    def _broken(self, error: Exception) -> PacsFailed:
        if isinstance(error, socket.gaierror):
            return PacsFailed(f"expected a server at {self.address}, found no such host")
        why = getattr(error, "strerror", None) or type(error).__name__
        return PacsFailed(f"the way to {self.address} broke: {why}", passing=True)


def problem_of_status(status: int, address: WebAddress) -> PacsFailed:
    """What an answer that is no success says, without what was asked."""
    meaning = _MEANINGS.get(301 if 300 <= status < 400 else status, "")
    more = f": {meaning}" if meaning else ""
    return PacsFailed(f"{address} answers HTTP {status}{more}", passing=status in _PASSING)


def _lower(response: http.client.HTTPResponse) -> Iterator[tuple[str, str]]:
    return ((name.lower(), value) for name, value in response.getheaders())


def _watched(body: Iterable[bytes] | None, watchdog: _Watchdog) -> Iterable[bytes] | None:
    if body is None:
        return None
    return (watchdog.passed(piece) for piece in body)


class _Watchdog:
    """Ends a connection that gives no answer, or that trickles."""

    def __init__(self, connection: socket.socket, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._moved = 0
        self._answered = self._bitten = False
        self._stop = threading.Event()

    def passed(self, piece: bytes) -> bytes:
        """`piece` on its way to the server."""
        self._moved += len(piece)
        return piece

    def fed(self, n_bytes: int) -> None:
        """The server has sent something.

        Raises:
            PacsFailed: the end of file that follows is ours, not the server's.
        """
        if self._bitten:
            raise PacsFailed("the server is too slow", passing=True)
        self._answered = True
        self._moved += n_bytes

    def watch(self) -> None:
        """Until the end of the request; what blocks on a socket shut down gets an end of file."""
        silent = 0.0
        while not self._stop.wait(self._limits.stall_s):
            slow = self._moved < self._limits.slowest_bytes_s * self._limits.stall_s
            silent = silent + self._limits.stall_s if slow else 0.0
            self._moved = 0
            allowed = 0.0 if self._answered else self._limits.answer_s
            if slow and silent > allowed:
                self._bitten = True
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
                return

    def end(self) -> None:
        """Nothing more to watch."""
        self._stop.set()


@contextlib.contextmanager
def _watching(connection: socket.socket, limits: Limits) -> Iterator[_Watchdog]:
    watchdog = _Watchdog(connection, limits)
    thread = threading.Thread(target=watchdog.watch, daemon=True)
    thread.start()
    try:
        yield watchdog
    finally:
        watchdog.end()
        thread.join()
        connection.close()
