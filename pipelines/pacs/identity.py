"""Who we are to a PACS, and how we know that it is the one: TLS and credentials, from files."""

from __future__ import annotations

import base64
import os
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from radloom.errors import ConfigError

__all__ = ["TLS", "Credentials", "read_credentials"]

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class TLS:
    """PEM files: whom we trust, and who we are."""

    ca: Path | None = None
    """Certificates of authorities; None: the system's (a listener then asks clients for none)."""
    cert: Path | None = None
    """Our certificate and those between it and its authority."""
    key: Path | None = None
    """Our private key; None: it stands in `cert`."""

    @property
    def given(self) -> bool:
        """Whether the user said anything about TLS."""
        return any((self.ca, self.cert, self.key))

    def for_client(self) -> ssl.SSLContext:
        """TLS 1.2 or later, the peer's certificate and name verified."""
        context = _load(lambda: ssl.create_default_context(cafile=self.ca), self.ca)
        return self._with_own(context)

    def for_server(self) -> ssl.SSLContext:
        """TLS 1.2 or later; with `ca` only clients with a certificate from it get in.

        Raises:
            ConfigError: there is no certificate for us, or a file cannot be used.
        """
        if self.cert is None:
            raise ConfigError("expected --tls-cert with the certificate to listen under, got none")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            ca = self.ca
            _load(lambda: context.load_verify_locations(ca), ca)
        return self._with_own(context)

    def _with_own(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert is not None:
            cert = self.cert
            # an empty password: a key under one is refused instead of asked for on the terminal
            _load(lambda: context.load_cert_chain(cert, self.key, password=""), cert)
        elif self.key is not None:
            raise ConfigError("expected --tls-cert together with --tls-key, got the key alone")
        return context


def _load(action: Callable[[], Loaded], path: Path | None) -> Loaded:
    try:
        return action()
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise ConfigError(f"<{path}>: expected PEM with what TLS needs, got {what}") from None


@dataclass(frozen=True)
class Credentials:
    """What goes into the Authorization header. Never shown, written or logged."""

    header: str = field(repr=False)


def read_credentials(path: Path) -> Credentials:
    """The credentials in a file that its owner alone can read.

    One line: ``bearer TOKEN`` or ``basic USER:PASSWORD``.

    Raises:
        ConfigError: no such file, another line, or a file that others can read.
    """
    try:
        words = path.read_text(encoding="utf-8").strip().split(None, 1)
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"expected a file with credentials, got <{path}>") from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"<{path}>: expected credentials that their owner alone can read; chmod 600 it"
        )
    kind = words[0].lower() if len(words) == 2 else ""
    if kind == "bearer" and words[1].isascii() and len(words[1].split()) == 1:
        return Credentials(f"Bearer {words[1]}")
    if kind == "basic" and ":" in words[1] and "\n" not in words[1]:
        return Credentials("Basic " + base64.b64encode(words[1].encode()).decode("ascii"))
    raise ConfigError(f"<{path}>: expected one line `bearer TOKEN` or `basic USER:PASSWORD`")
