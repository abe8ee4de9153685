"""How much a peer on the network may ask of us: everything that it controls has a bound."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "Limits"]

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Bounds of memory, disk and time; what exceeds one is refused and said so."""

    instance_bytes: int = 4 * GIB
    """The longest instance that is taken."""
    study_instances: int = 100_000
    """Instances of one study."""
    studies: int = 10_000
    """Studies that one query may find, or one listener may hold unprocessed."""
    total_bytes: int = 1024 * GIB
    """What one fetch, or one listener between two starts, may write."""
    free_bytes: int = GIB
    """What has to stay free on the disk."""
    memory_bytes: int = 16 * MIB
    """Of one instance on its way; longer ones go through a file."""
    answer_bytes: int = 64 * MIB
    """One answer to a query."""
    pdu_bytes: int = 8 * MIB
    """One protocol data unit of the DICOM upper layer; peers are asked for far less."""
    command_bytes: int = 64 << 10
    """One DIMSE command set."""
    associations: int = 16
    """At one time."""
    connect_s: float = 20.0
    """To connect, to negotiate TLS, to negotiate an association."""
    stall_s: float = 60.0
    """Without a byte, or for one protocol data unit."""
    answer_s: float = 300.0
    """From a request to the beginning of its answer."""
    slowest_bytes_s: int = 1024
    """Bytes per second below which a transfer counts as stalled, measured over `stall_s`."""
    idle_s: float = 600.0
    """How long a peer may keep an association without storing anything."""
    attempts: int = 5
    """Of something that failed in passing and made no headway."""
    wait_s: float = 1.0
    """Before the second attempt; doubled before each further one."""


DEFAULT_LIMITS = Limits()
