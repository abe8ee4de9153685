"""Where a PACS is: ``dicomweb+https://HOST/dicom-web`` or ``dicom://AET@HOST:PORT``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit

from radloom.errors import ConfigError

__all__ = [
    "Address",
    "DimseAddress",
    "WebAddress",
    "check_ae_title",
    "is_address",
    "parse_address",
    "parse_dimse",
    "parse_web",
]

_SCHEMES = ("dicomweb+http", "dicomweb+https", "dicom", "dicom+tls")
_WANTED = (
    "expected dicomweb+http://HOST[:PORT]/PATH, dicomweb+https://HOST[:PORT]/PATH, "
    "dicom://AET@HOST:PORT or dicom+tls://AET@HOST:PORT"
)


@dataclass(frozen=True)
class WebAddress:
    """The root of a DICOMweb service (DICOM PS3.18 section 8.2)."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str
    """Begins with a slash, ends without; empty for the server's root."""

    def __str__(self) -> str:
        return f"dicomweb+{self.scheme}://{_bracketed(self.host)}:{self.port}{self.path}"


@dataclass(frozen=True)
class DimseAddress:
    """An application entity (DICOM PS3.8 section 7.1.1)."""

    ae_title: str
    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        scheme = "dicom+tls" if self.tls else "dicom"
        return f"{scheme}://{self.ae_title}@{_bracketed(self.host)}:{self.port}"


Address: TypeAlias = "WebAddress | DimseAddress"


def is_address(text: str) -> bool:
    """Whether `text` is meant as the address of a PACS and not as a folder.

    >>> is_address("dicom://PACS@127.0.0.1:104"), is_address("dicom/studies")
    (True, False)
    """
    return text.partition("://")[0].lower() in _SCHEMES and "://" in text


def parse_address(text: str) -> Address:
    """The address that `text` writes.

    Raises:
        ConfigError: it writes none.

    >>> str(parse_address("dicomweb+http://localhost/dicom-web/"))
    'dicomweb+http://localhost:80/dicom-web'
    """
    if text.lower().startswith("dicomweb+"):
        return parse_web(text[len("dicomweb+") :])
    return parse_dimse(text)


def parse_web(url: str) -> WebAddress:
    """The root of a DICOMweb service from its URL; a password in it is refused, never shown."""
    parts = _split(url.removeprefix("dicomweb+"))
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "expected an address without a user or password, got one with: put them into a file "
            "and name it with --credentials"
        )
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"{_WANTED}, got <{url}>")
    if not re.fullmatch(r"[\w./~%+-]*", parts.path, re.ASCII) or ".." in parts.path.split("/"):
        raise ConfigError(f"{_WANTED}, got <{url}>")
    port = parts.port or (443 if scheme == "https" else 80)
    return WebAddress(
        "https" if scheme == "https" else "http", parts.hostname, port, parts.path.rstrip("/")
    )


def parse_dimse(text: str) -> DimseAddress:
    """An application entity from ``AET@HOST:PORT``, with or without ``dicom://``.

    >>> parse_dimse("ORTHANC@127.0.0.1:4242")
    DimseAddress(ae_title='ORTHANC', host='127.0.0.1', port=4242, tls=False)
    """
    scheme, found, rest = text.partition("://")
    scheme, rest = (scheme.lower(), rest) if found else ("dicom", text)
    title, _, place = rest.rpartition("@")
    parts = _split(f"dicom://{place.rstrip('/')}")
    if scheme not in ("dicom", "dicom+tls") or not title or not parts.hostname or not parts.port:
        raise ConfigError(f"{_WANTED}, got <{text}>")
    if parts.path or parts.query or parts.fragment:
        raise ConfigError(f"{_WANTED}, got <{text}>")
    return DimseAddress(check_ae_title(title), parts.hostname, parts.port, scheme == "dicom+tls")


def check_ae_title(title: str) -> str:
    """`title` if it can be an AE title: 1 to 16 printable characters, no backslash (PS3.5, AE).

    Raises:
        ConfigError: it cannot.
    """
    if not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", title) or title != title.strip():
        raise ConfigError(
            f"expected an AE title of 1 to 16 printable characters, got <{title[:32]}>"
        )
    return title


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no port
    except ValueError:
        raise ConfigError(f"{_WANTED}, got something else") from None
    return parts


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
