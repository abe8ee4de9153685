"""A multipart message (RFC 2046) taken apart as it arrives, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message

from radloom.errors import PacsFailed

__all__ = ["PartBegin", "PartEnd", "boundary_of", "split"]

_LONGEST_HEADER = 16 << 10
_LONGEST_PREAMBLE = 64 << 10
_LONGEST_BOUNDARY = 200
"""RFC 2046 allows 70; some servers make longer ones."""


@dataclass(frozen=True)
class PartBegin:
    """A part begins; its bytes follow."""

    content_type: str


@dataclass(frozen=True)
class PartEnd:
    """The part is whole."""


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names.

    Raises:
        PacsFailed: it is not multipart, or names none.

    >>> boundary_of('multipart/related; type="application/dicom"; boundary=abc')
    b'abc'
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if not message.get_content_type().startswith("multipart/") or not isinstance(boundary, str):
        raise PacsFailed("expected a multipart answer, got another kind")
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY or not boundary.isascii():
        raise PacsFailed("expected a multipart boundary of ordinary length, got another")
    return boundary.encode("ascii")


def split(chunks: Iterable[bytes], boundary: bytes) -> Iterator[PartBegin | PartEnd | bytes]:
    r"""Each part as `PartBegin`, its bytes in pieces, `PartEnd`.

    Raises:
        PacsFailed: the message ends before its end, or is none; in passing, for a connection may
            have broken.

    >>> list(split([b"--x\r\n\r\nab", b"c\r\n-", b"-x--"], b"x"))
    [PartBegin(content_type=''), b'ab', b'c', PartEnd()]
    """
    yield from _Splitter(iter(chunks), b"\r\n--" + boundary).parts()


class _Splitter:
    def __init__(self, chunks: Iterator[bytes], delimiter: bytes) -> None:
        self._chunks = chunks
        self._delimiter = delimiter
        self._buffer = b"\r\n"  # so that a message may begin with a delimiter

    def parts(self) -> Iterator[PartBegin | PartEnd | bytes]:
        self._take_until(self._delimiter, _LONGEST_PREAMBLE)
        while not self._is_last():
            yield PartBegin(self._content_type())
            yield from self._body()
            yield PartEnd()

    def _is_last(self) -> bool:
        while len(self._buffer) < 2:
            self._more()
        return self._buffer.startswith(b"--")

    def _content_type(self) -> str:
        """After a delimiter: the rest of its line, then header lines, then an empty one."""
        self._take_until(b"\r\n", _LONGEST_HEADER)
        found = ""
        left = _LONGEST_HEADER
        while line := self._take_until(b"\r\n", left):
            left -= len(line)
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-type":
                found = value.strip().decode("ascii", "replace")
        return found

    def _body(self) -> Iterator[bytes]:
        while (at := self._buffer.find(self._delimiter)) < 0:
            ready = len(self._buffer) - len(self._delimiter) + 1
            if ready > 0:
                yield self._buffer[:ready]
                self._buffer = self._buffer[ready:]
            self._more()
        if at:
            yield self._buffer[:at]
        self._buffer = self._buffer[at + len(self._delimiter) :]

    def _take_until(self, mark: bytes, limit: int) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            if len(self._buffer) > limit:
                raise PacsFailed("expected a multipart message, got other bytes")
            self._more()
        taken, self._buffer = self._buffer[:at], self._buffer[at + len(mark) :]
        return taken

    def _more(self) -> None:
        for chunk in self._chunks:
            self._buffer += chunk
            if chunk:
                return
        raise PacsFailed("the answer ended before its end", passing=True)
