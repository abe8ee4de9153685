"""Why a process died, in words for people: by its exit status, what it held, its last words."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Cause", "Remains", "is_of_memory", "last_words", "reason_of_death"]

Cause = Literal["", "time", "memory", "unwanted"]
"""Why its worker ended it; empty where it died by itself, or somebody else's hand."""

_LOG_TAIL = 64 * 1024
"""Bytes."""

_KNOWN_WORDS = re.compile(
    r"Fatal Python error: [A-Za-z ]+"
    r"|terminate called (?:after throwing an instance of '[\w:]+'|without an active exception)"
    r"|(?:double free|free\(\): invalid|malloc\(\): |corrupted |munmap_chunk)[\w :()!-]*"
    r"|(?:[A-Za-z_]+\.)*[A-Z]\w*(?:Error|Exception)(?=:|$)"
    r"|std::bad_alloc|CUDA error: [a-z -]+|Illegal instruction"
    r"|\*\*\* stack smashing detected \*\*\*"
)
"""What runtimes print when they die: nothing else of a log is quoted, for it may hold names."""

_FRAME = re.compile(r'^  File "[^"]*?([\w.]+)", line (\d+) in (\w+|<\w+>)$')

_GUILTY = re.compile(r"^(?:Stack|Current thread .*) \(most recent call first\):$")


@dataclass(frozen=True)
class Remains:
    """What is known of a process that is gone."""

    status: int
    """As `subprocess` gives it: negative for a signal."""
    cause: Cause = ""
    held: int = 0
    """Bytes of its resident set when last looked at."""
    together: int = 0
    """Bytes that it and the processes beside it held."""
    allowed: int = 0
    """Bytes for all of them."""
    expected: int = 0
    """Bytes by the stage's estimate."""
    seconds: float = 0.0
    """How long its stage had been at work."""
    words: str = ""
    """`last_words` of its log."""


def reason_of_death(remains: Remains) -> str:
    """One sentence.

    >>> reason_of_death(Remains(-11, words="std::bad_alloc"))
    'its process crashed in native code (SIGSEGV); last words: std::bad_alloc'
    >>> reason_of_death(Remains(137))
    'its process was killed (SIGKILL, exit 137), most often because memory ran out'
    """
    said = f"; last words: {remains.words}" if remains.words else ""
    return f"its process {_fate(remains)}{said}"


def is_of_memory(remains: Remains) -> bool:
    """Whether memory ran out, as far as one can tell."""
    killed = remains.cause == "" and _signal(remains.status) == signal.SIGKILL
    return remains.cause == "memory" or killed or "bad_alloc" in remains.words


def last_words(log: Path, start: int = 0) -> str:
    """What a runtime said of its death in a log from byte `start` on, and where; often nothing."""
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(start, size - _LOG_TAIL))
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    known = [found.group() for line in lines if (found := _KNOWN_WORDS.search(line))]
    frame = _crashed_in(lines)
    return ", ".join(part for part in (known[-1] if known else "", frame) if part)


def _fate(remains: Remains) -> str:
    held = f"; it held {_gib(remains.held)}" if remains.held else ""
    if remains.cause == "time":
        return (
            f"came to no end in {remains.seconds:.0f} s and was ended: give it longer with "
            "--stage-timeout if it is only slow"
        )
    if remains.cause == "memory":
        return (
            f"was ended because memory ran out: it held {_gib(remains.held)}, all together "
            f"{_gib(remains.together)} of {_gib(remains.allowed)}; its stage was expected to add "
            f"{_gib(remains.expected)}: give fewer workers, or more memory"
        )
    number = _signal(remains.status)
    if number == signal.SIGKILL:
        return f"was killed (SIGKILL, exit 137), most often because memory ran out{held}"
    if number is not None and number in _CRASHES:
        return f"crashed in native code ({_name(number)})"
    if number is not None:
        return f"was ended by {_name(number)}"
    return f"ended by itself with status {remains.status}"


def _signal(status: int) -> int | None:
    """The number of the signal; shells and containers give it as 128 and more."""
    if status < 0:
        return -status
    return status - 128 if 128 < status <= 128 + 64 else None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_CRASHES = {
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGSYS")
    if hasattr(signal, name)
}


def _crashed_in(lines: list[str]) -> str:
    """``decoding.py:12 decode``: where Python was when native code crashed."""
    for number in range(len(lines) - 2, -1, -1):
        if _GUILTY.match(lines[number]):
            found = _FRAME.match(lines[number + 1])
            return f"in {found[1]}:{found[2]} {found[3]}" if found else ""
    return ""


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"
