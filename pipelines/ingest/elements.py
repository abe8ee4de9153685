"""The elements of a common DICOM file, found without decoding those that nobody asks for.

pydicom makes an object of every element; for the few dozen that ingestion looks at this takes
fifteen times as long. `Elements` knows little-endian files with explicit or implicit VR that keep
to the standard, and answers like a pydicom ``Dataset``: `get`, ``in``, ``[tag].value``, iteration.
At the first thing out of the ordinary it raises `Unusual`, and pydicom reads the file instead, so
that no file is judged by this module alone. Values of rare kinds are decoded by pydicom, one by
one.

Two things make it quick. A regular expression finds runs of short elements: tag, VR, length, and
that many bytes; where the next bytes are no short element, its other branch takes all the rest, so
that nothing is ever skipped. And what the bytes of a short element decode to is kept in a table,
for the slices of a series say almost the same. Sources: DICOM PS3.5 sections 6.2 (value
representations), 7.1 and 7.5 (encoding); PS3.10 section 7.1 (file meta information).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias

from radloom.pipelines.ingest.quiet import quiet_dicom

__all__ = ["Bounded", "Element", "Elements", "Unusual", "read_elements"]

Key: TypeAlias = "str | int | tuple[int, int]"
"""A keyword, a tag as one number, or group and element."""

FIRST_READ: Final = 1 << 14
"""Bytes read at once: most headers end within."""

NEXT_READ: Final = 1 << 13
"""Bytes read next, after a value that was passed over."""

PASSED_OVER: Final = 1 << 12
"""Bytes of a value, no sequence, that is not read where it reaches beyond what has been read."""

PREAMBLE: Final = 128
UNDEFINED: Final = 0xFFFFFFFF

SHORT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
)
"""With a length of two bytes."""

LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""With two bytes reserved and a length of four."""

ITEM, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
ITEM_END: Final = 0xFFFEE00D
ITEM_GROUP: Final = 0xFFFE
META_GROUP: Final = 0x0002
PIXEL_TAGS: Final = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))

META_END: Final = 0x00030000
PIXELS_BOUND: Final = 0x7FE00008
ITEM_BOUND: Final = 0xFFFE0000
"""The first tags at which file meta information, a data set or an item may end."""

CHARACTER_SET: Final = b"\x08\x00\x05\x00"
PIXEL_REPRESENTATION: Final = b"\x28\x00\x03\x01"

DEEPEST: Final = 24
"""Sequences within sequences; no object of the standard goes half as far."""

TABLE_SIZE: Final = 1 << 13
"""Entries after which a table is emptied: a megabyte or two."""

N_TABLES: Final = 8
"""Character sets after which the tables themselves are thrown away."""

NATIVE_SYNTAXES: Final = frozenset(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"))
COMPRESSED_ROOT: Final = "1.2.840.10008.1.2.4."
RLE: Final = "1.2.840.10008.1.2.5"
IMPLICIT: Final = "1.2.840.10008.1.2"

DEFAULT_ENCODING: Final = "iso8859"
"""What pydicom takes the default repertoire for."""

ENCODINGS: Final[Mapping[bytes, str]] = {
    b"": DEFAULT_ENCODING,
    b"ISO_IR 6": DEFAULT_ENCODING,
    b"ISO_IR 100": "latin_1",
    b"ISO_IR 192": "utf-8",
}
"""SpecificCharacterSet (0008,0005) -> Python's name; all others are pydicom's to decode."""

TEXT_VRS: Final = frozenset((b"CS", b"UI", b"DA", b"TM", b"DT", b"AS"))
"""Strings of the default repertoire."""

NUMBERS: Final[Mapping[bytes, str]] = {
    b"US": "H",
    b"SS": "h",
    b"UL": "L",
    b"SL": "l",
    b"FL": "f",
    b"FD": "d",
    b"UV": "Q",
    b"SV": "q",
}

_short = struct.Struct("<H").unpack_from
_long = struct.Struct("<L").unpack_from
_tag_bytes = struct.Struct("<HH").pack
_tag_parts = struct.Struct("<HH").unpack
_content = itemgetter(1)

SHORT_LENGTH: Final = 128
"""Bytes of the longest value that the expressions below take."""


def _value_of_length(high: bytes) -> bytes:
    """Matches an even length, whose upper bytes are `high`, and that many bytes."""
    lengths = range(0, SHORT_LENGTH + 1, 2)
    return b"(?:%s)" % b"|".join(b"\\x%02x%s.{%d}" % (n, high, n) for n in lengths)


def _run(tag: bytes, content: bytes) -> re.Pattern[bytes]:
    """Finds (tag, what follows it up to the next element), then (empty, empty) for all the rest."""
    return re.compile(b"(%s)(%s)|.+" % (tag, content), re.DOTALL)


SHORT_VR: Final = b"(?:A[EST]|CS|D[AST]|F[LD]|IS|L[OT]|PN|S[HLST]|TM|U[ILS])"
LONG_VR: Final = rb"(?<!\xe0\x7f..)(?:O[BDFLVW]|S[QV]|U[CNRTV])\x00\x00"
"""Not of pixels."""

CONTENT: Final = b"%s%s|%s%s" % (
    SHORT_VR,
    _value_of_length(rb"\x00"),
    LONG_VR,
    _value_of_length(rb"\x00\x00\x00"),
)

META_RUN: Final = _run(rb"\x02\x00..", CONTENT)
EXPLICIT_RUN: Final = _run(b"....", CONTENT)
IMPLICIT_RUN: Final = _run(rb"(?!\xe0\x7f|\xfe\xff)....", _value_of_length(rb"\x00\x00\x00"))

_values: dict[tuple[bool, bytes], dict[bytes, Any]] = {}
"""Implicit or not and encoding -> bytes of an element -> its value, which nobody can change."""


class Unusual(Exception):  # it says what the file is; nothing went wrong
    """The file is for pydicom to read."""


class Bounded:
    """A file that is never asked for more bytes than it has, whatever lengths it claims itself."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes."""
        left = max(0, self._size - self._stream.tell())
        return self._stream.read(left if n < 0 else min(n, left))


class Many(tuple[Any, ...]):
    """Several values of one element, written as pydicom writes them."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"[{', '.join(repr(v) if isinstance(v, str) else str(v) for v in self)}]"


class Decimal(float):
    """A number of VR DS that remembers how it was written."""

    __slots__ = ("text",)
    text: str

    def __str__(self) -> str:
        return self.text


class Integer(int):
    """A number of VR IS that remembers how it was written."""

    text: str

    def __str__(self) -> str:
        return self.text


class Long(NamedTuple):
    """An element that the expressions do not take."""

    vr: bytes
    """Empty: implicit."""
    value: bytes | None
    """None: it was passed over."""


Found: TypeAlias = "dict[bytes, bytes | Long]"
"""Tag as written -> what follows it: (VR and) length and value, or these taken apart."""


class Element:
    """One element, decoded when its value is asked for."""

    __slots__ = ("_home", "_tag")

    def __init__(self, home: Elements, tag: bytes) -> None:
        self._home = home
        self._tag = tag

    @property
    def VR(self) -> str:  # noqa: N802  # pydicom's name for it
        """The value representation, two letters."""
        return self._home.vr_of(self._tag)

    @property
    def is_private(self) -> bool:
        """Whether its group is odd (PS3.5 section 7.8)."""
        return self._tag[0] % 2 == 1

    @property
    def value(self) -> Any:
        """As pydicom decodes it; strings and numbers plain, several of them as a tuple."""
        return self._home.value_of(self._tag)


class Elements:
    """One data set: of a file, or an item of a sequence."""

    __slots__ = ("_encoding", "_found", "_implicit", "_values", "file_meta")

    def __init__(self, found: Found, *, implicit: bool, encoding: bytes = b"") -> None:
        self._found = found
        self._implicit = implicit
        self._encoding = encoding
        if CHARACTER_SET in found:
            self._encoding = self._raw(CHARACTER_SET)[1].strip(b" \0")
        self._values = _values.get((implicit, self._encoding)) or _table(implicit, self._encoding)
        self.file_meta: Elements | None = None

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of a keyword, or the element of a tag, as pydicom's ``Dataset.get``."""
        if key.__class__ is str:
            tag = _KEYWORDS.get(key) or _keyword_tag(key)
            if tag not in self._found:
                return default
            return self.value_of(tag)
        tag = _tag(key)
        return Element(self, tag) if tag in self._found else default

    def __contains__(self, key: Key) -> bool:
        return _tag(key) in self._found

    def __getitem__(self, key: Key) -> Element:
        tag = _tag(key)
        if tag not in self._found:
            raise KeyError(key)
        return Element(self, tag)

    def __iter__(self) -> Iterator[Element]:
        for tag in sorted(self._found, key=_tag_parts):
            yield Element(self, tag)

    def value_of(self, tag: bytes) -> Any:
        """The decoded value of an element that is there."""
        content = self._found[tag]
        if content.__class__ is Long:
            return self._decoded(tag)
        key = tag + content if self._implicit else content  # type: ignore[operator]
        value = self._values.get(key, self)  # type: ignore[arg-type]
        return self._decoded(tag, key) if value is self else value

    def vr_of(self, tag: bytes) -> str:
        """The VR as written, or by the dictionaries; UN where neither knows."""
        vr = self._vr(tag)
        if vr in (b"", b"UN"):
            vr = _private_vr(tag, self._creator(tag)) if tag[0] & 1 else _dictionary_vr(tag)
        return vr.decode("ascii") if vr else "UN"

    def _vr(self, tag: bytes) -> bytes:
        content = self._found[tag]
        if isinstance(content, Long):
            return content.vr
        return b"" if self._implicit else content[:2]

    def _raw(self, tag: bytes) -> tuple[bytes, bytes]:
        """VR as written and the bytes of the value."""
        content = self._found[tag]
        if not isinstance(content, Long):
            if self._implicit:
                return b"", content[4:]
            return content[:2], content[8 if content[:2] in LONG_VRS else 4 :]
        if content.value is None:
            raise Unusual
        return content.vr, content.value

    def _decoded(self, tag: bytes, key: bytes = b"") -> Any:
        """The value, kept under `key` where other data sets would decode the same."""
        written = self._vr(tag)
        if tag[0] & 1 and written in (b"", b"UN"):
            return _private_value(tag, self._raw(tag)[1], self._creator(tag), written)
        vr = written or _dictionary_vr(tag)
        if vr == b"SQ":
            return self._sequence(tag)
        raw = self._raw(tag)[1]
        if vr not in SHORT_VRS and vr not in LONG_VRS:
            return self._ambiguous(raw, vr)
        value = _value(tag, raw, vr, self._encoding)
        if key and vr not in LONG_VRS:
            if len(self._values) > TABLE_SIZE:
                self._values.clear()
            self._values[key] = value
        return value

    def _sequence(self, tag: bytes) -> list[Elements]:
        _, value = self._raw(tag)
        scanner = _Scanner(value, len(value), implicit=self._implicit)
        return [
            Elements(found, implicit=self._implicit, encoding=self._encoding)
            for found in scanner.items()
        ]

    def contents(self, tags: Iterable[bytes]) -> tuple[bytes | Long | None, ...]:
        """What is written under each tag; None where there is nothing."""
        return tuple(map(self._found.get, tags))

    def recorded(self) -> tuple[Elements, set[bytes]]:
        """The same data set, and the tags that it will have been asked for."""
        found = _Recorded(self._found)
        same = Elements(found, implicit=self._implicit, encoding=self._encoding)
        same.file_meta = self.file_meta
        return same, found.asked

    @property
    def kind(self) -> tuple[bool, bytes]:
        """Whether the VRs are implicit, and the character set."""
        return self._implicit, self._encoding

    def _creator(self, tag: bytes) -> str:
        """The private creator that reserved the block of `tag` (PS3.5 section 7.8.1)."""
        creator = tag[:2] + tag[3:] + b"\0"
        return self._raw(creator)[1].decode("latin-1") if creator in self._found else ""

    def _ambiguous(self, raw: bytes, vr: bytes) -> Any:
        """Signed or not, as PixelRepresentation (0028,0103) says."""
        if vr != b"US or SS" or PIXEL_REPRESENTATION not in self._found or len(raw) % 2 or not raw:
            raise Unusual
        return _numbers(raw, b"SS" if self.value_of(PIXEL_REPRESENTATION) else b"US")


class _Recorded(dict[bytes, "bytes | Long"]):
    """What a data set holds, and which tags of it somebody wanted to know about."""

    def __init__(self, found: Found) -> None:
        super().__init__(found)
        self.asked: set[bytes] = set()

    def __getitem__(self, tag: bytes) -> bytes | Long:
        self.asked.add(tag)
        return super().__getitem__(tag)

    def __contains__(self, tag: object) -> bool:
        self.asked.add(tag)  # type: ignore[arg-type]
        return super().__contains__(tag)

    def __iter__(self) -> Iterator[bytes]:
        raise Unusual


def _table(implicit: bool, encoding: bytes) -> dict[bytes, Any]:  # noqa: FBT001  # a part of a key
    if len(_values) > N_TABLES:
        _values.clear()
    return _values.setdefault((implicit, encoding), {})


def read_elements(stream: BinaryIO, size: int, head: bytes = b"") -> tuple[Elements, int]:
    """The elements before the pixels, and the offset at which the pixels' element begins.

    Args:
        stream: the file, at its start, or where `head` ends.
        size: the file's length in bytes.
        head: what has been read of it already.

    Raises:
        Unusual: pydicom should read the file.
    """
    data = head or stream.read(FIRST_READ)
    if data[PREAMBLE : PREAMBLE + 4] != b"DICM":
        raise Unusual
    scanner = _Scanner(data, size, implicit=False, stream=stream)
    try:
        meta: Found = {}
        start, _ = scanner.elements(PREAMBLE + 4, meta, bound=META_END)
        file_meta = Elements(meta, implicit=False)
        syntax = str(file_meta.get("TransferSyntaxUID", ""))
        if syntax not in NATIVE_SYNTAXES and syntax != RLE and COMPRESSED_ROOT not in syntax:
            raise Unusual
        scanner.implicit = syntax == IMPLICIT
        scanner.require_first_element(start)
        found: Found = {}
        pixels, _ = scanner.elements(start, found, bound=PIXELS_BOUND)
    except (struct.error, IndexError) as error:
        raise Unusual from error
    elements = Elements(found, implicit=scanner.implicit)
    elements.file_meta = file_meta
    return elements, pixels


class _Scanner:
    """Finds elements; reads on where the bytes at hand end."""

    __slots__ = ("base", "data", "implicit", "limit", "size", "stream")

    def __init__(
        self, data: bytes, size: int, *, implicit: bool, stream: BinaryIO | None = None
    ) -> None:
        self.data = data
        self.base = 0
        """Where in the file the data begin; all other offsets are the file's."""
        self.size = size
        self.limit = min(len(data), size)
        self.implicit = implicit
        self.stream = stream

    def require_first_element(self, start: int) -> None:
        """Nothing, if the data set begins as the transfer syntax says, in an ordinary group."""
        self._have(start + 8)
        here = start - self.base
        vr = self.data[here + 4 : here + 6]
        is_explicit = vr in SHORT_VRS or vr in LONG_VRS
        if is_explicit == self.implicit or _short(self.data, here)[0] <= META_GROUP:
            raise Unusual

    def elements(self, at: int, found: Found, *, bound: int, depth: int = 0) -> tuple[int, int]:
        """Fills `found`; gives the offset and tag at which the data set ends (-1: with the bytes).

        Args:
            at: where the first element begins.
            found: what is filled.
            bound: the first tag that may end the data set.
            depth: how many sequences it lies in.
        """
        run = IMPLICIT_RUN if self.implicit else EXPLICIT_RUN
        run = META_RUN if bound == META_END else run
        while True:
            matches = run.findall(self.data, at - self.base, self.limit - self.base)
            if matches and not matches[-1][0]:
                matches.pop()
            found.update(matches)
            at += 4 * len(matches) + sum(map(len, map(_content, matches)))
            after, tag = self._element(at, found, bound, depth)
            if after < 0:
                return at, tag
            at = after

    def _element(self, at: int, found: Found, bound: int, depth: int) -> tuple[int, int]:
        """One element entered in `found`: the offset after it (-1: the data set ends), its tag."""
        if at + 12 > self.limit:
            if at + 8 > self.size:
                return -1, -1
            self._have(min(at + 12, self.size))
        written = self.data[at - self.base : at - self.base + 4]
        tag = _tag_number(written)
        if tag >= bound and self._ends(tag, bound, depth):
            return -1, tag
        vr, start, length = self._head(at)
        stop = start + length
        if length == UNDEFINED:
            stop = self._undefined(written, vr, start, depth)
        elif stop > self.limit:
            if depth == 0 and length > PASSED_OVER and (vr or _dictionary_vr(written)) != b"SQ":
                self._pass_over(stop)
                found[written] = Long(vr, None)
                return stop, tag
            self._have(stop)
        found[written] = Long(vr, self.data[start - self.base : stop - self.base])
        return stop, tag

    def _head(self, at: int) -> tuple[bytes, int, int]:
        """VR, where the value begins, and its length."""
        here = at - self.base
        if self.implicit:
            return b"", at + 8, _long(self.data, here + 4)[0]
        vr = self.data[here + 4 : here + 6]
        if vr in SHORT_VRS:
            return vr, at + 8, _short(self.data, here + 6)[0]
        if vr not in LONG_VRS:
            raise Unusual
        return vr, at + 12, _long(self.data, here + 8)[0]

    @staticmethod
    def _ends(tag: int, bound: int, depth: int) -> bool:
        """Whether a data set that may end at `bound` ends with this tag."""
        if bound == META_END or (depth == 0 and tag in PIXEL_TAGS) or (depth and tag == ITEM_END):
            return True
        if tag >> 16 == ITEM_GROUP:
            raise Unusual
        return False

    def _undefined(self, tag: bytes, vr: bytes, start: int, depth: int) -> int:
        """Where a sequence of undefined length ends, its delimiter included."""
        if (vr or _dictionary_vr(tag)) != b"SQ":
            raise Unusual
        return self._items(start, self.size, depth + 1, [], needs_end=True)

    def items(self) -> list[Found]:
        """The elements of each item, where the data are the value of a sequence."""
        items: list[Found] = []
        try:
            self._items(0, self.size, 1, items, needs_end=False)
        except struct.error as error:
            raise Unusual from error
        return items

    def _items(self, at: int, stop: int, depth: int, items: list[Found], *, needs_end: bool) -> int:
        if depth > DEEPEST:
            raise Unusual
        while at < stop:
            self._have(at + 8)
            tag = self.data[at - self.base : at - self.base + 4]
            (length,) = _long(self.data, at - self.base + 4)
            at += 8
            if tag == SEQUENCE_END:
                return at
            if tag != ITEM:
                raise Unusual
            found: Found = {}
            if length == UNDEFINED:
                at, end = self.elements(at, found, bound=ITEM_BOUND, depth=depth)
                at += 8
                if end != ITEM_END:
                    raise Unusual
            else:
                self._have(at + length)
                here = at - self.base
                inner = _Scanner(self.data, here + length, implicit=self.implicit)
                inner.elements(here, found, bound=ITEM_BOUND, depth=depth)
                at += length
            if at > stop:
                raise Unusual
            items.append(found)
        if needs_end:
            raise Unusual
        return at

    def _have(self, stop: int) -> None:
        """Reads on so that the data reach `stop`."""
        if stop <= self.limit:
            return
        end = self.base + len(self.data)
        if stop > end:
            self.data += self._read(end, max(stop - end, len(self.data)))
        self.limit = min(self.base + len(self.data), self.size)
        if stop > self.limit:
            raise Unusual

    def _pass_over(self, stop: int) -> None:
        """Goes on reading at `stop`."""
        if stop > self.size:
            raise Unusual
        self.data, self.base = self._read(stop, NEXT_READ), stop
        self.limit = stop + len(self.data)

    def _read(self, start: int, length: int) -> bytes:
        if self.stream is None:
            raise Unusual
        self.stream.seek(start)
        return self.stream.read(min(length, max(0, self.size - start)))


def _value(tag: bytes, raw: bytes, vr: bytes, encoding: bytes) -> Any:
    """One value as pydicom decodes it, sequences excepted."""
    try:
        if vr in TEXT_VRS:
            return _parts(raw.decode("latin-1").rstrip(" \0"), str)
        if vr == b"DS" and raw:
            return _parts(raw.decode("latin-1").strip().rstrip(" \0"), _decimal)
        if vr == b"IS" and raw:
            return _parts(raw.decode("latin-1").rstrip(" \0"), _integer)
        if vr in NUMBERS and raw:
            return _numbers(raw, vr)
        if vr in (b"LO", b"SH", b"UC") and b"\x1b" not in raw:
            return _parts(raw.decode(ENCODINGS[encoding]), _unpadded)
    except (ValueError, KeyError, struct.error):
        pass  # an odd value, or a character set that is not in the table
    return _value_by_pydicom(tag, raw, vr.decode("ascii"), encoding)


def _parts(text: str, kind: Any) -> Any:
    return Many(kind(part) for part in text.split("\\")) if "\\" in text else kind(text)


def _unpadded(text: str) -> str:
    return text.rstrip("\0 ")


def _decimal(text: str) -> Decimal | str:
    stripped = text.strip()
    if not stripped:
        return text
    number = Decimal(text)
    number.text = stripped
    return number


def _integer(text: str) -> Integer | str:
    stripped = text.strip()
    if not stripped:
        return text
    number = Integer(text)
    number.text = stripped
    return number


def _numbers(raw: bytes, vr: bytes) -> Any:
    """Raises struct.error where the length is no multiple of the number's."""
    letter = NUMBERS[vr]
    n, rest = divmod(len(raw), struct.calcsize(f"<{letter}"))
    if rest:
        raise struct.error
    values = struct.unpack(f"<{n}{letter}", raw)
    return values[0] if n == 1 else Many(values)


_KEYWORDS: dict[str, bytes] = {}
"""Keyword -> tag as written, of those that were asked for."""


def _keyword_tag(keyword: str) -> bytes:
    from pydicom.datadict import tag_for_keyword

    _KEYWORDS[keyword] = tag = _tag(tag_for_keyword(keyword) or 0)
    return tag


def _tag(key: Key) -> bytes:
    if isinstance(key, str):
        return _KEYWORDS.get(key) or _keyword_tag(key)
    return _tag_bytes(key >> 16, key & 0xFFFF) if isinstance(key, int) else _tag_bytes(*key)


def _tag_number(tag: bytes) -> int:
    group, element = _tag_parts(tag)
    return int(group << 16 | element)


@lru_cache(maxsize=1 << 13)
def _dictionary_vr(tag: bytes) -> bytes:
    """By the standard's dictionary; empty for private and unknown tags."""
    from pydicom.datadict import dictionary_VR

    if tag[2:] == b"\0\0":
        return b"UL"  # a group's length
    try:
        return str(dictionary_VR(_tag_number(tag))).encode("ascii")
    except KeyError:
        return b""


@lru_cache(maxsize=1 << 12)
def _private_vr(tag: bytes, creator: str) -> bytes:
    from pydicom.datadict import private_dictionary_VR

    try:
        vr = private_dictionary_VR(_tag_number(tag), creator.rstrip(" \0"))
    except KeyError:
        return b""
    return str(vr).encode("ascii")


def _value_by_pydicom(tag: bytes, raw: bytes, vr: str, encoding: bytes) -> Any:
    from pydicom.charset import convert_encodings

    written = encoding.decode("latin-1").split("\\")
    with quiet_dicom():
        encodings = convert_encodings(written)
    return _converted(tag, raw, vr, encodings, None)


@lru_cache(maxsize=1 << 12)
def _private_value(tag: bytes, raw: bytes, creator: str, vr: bytes) -> Any:
    """A private element that carries no VR: by the creator's dictionary, where pydicom has it."""
    from pydicom.dataset import Dataset

    block = Dataset()
    if creator:
        group, element = _tag_parts(tag)
        block.add_new((group, element >> 8), "LO", creator.rstrip(" \0"))
    return _converted(tag, raw, "UN" if vr else None, DEFAULT_ENCODING, block)


def _converted(tag: bytes, raw: bytes, vr: str | None, encoding: Any, block: Any) -> Any:
    from pydicom.dataelem import RawDataElement, convert_raw_data_element
    from pydicom.tag import Tag

    place = {"value_tell": 0, "is_implicit_VR": vr is None, "is_little_endian": True}
    element = RawDataElement(Tag(_tag_number(tag)), vr, len(raw), raw, **place)
    with quiet_dicom():
        return convert_raw_data_element(element, encoding=encoding, ds=block).value
