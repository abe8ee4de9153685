"""An exception as a reason for people, without what may name a patient."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path

from radloom.errors import OutOfMemory, RadloomError

__all__ = ["is_out_of_memory", "reason_of", "trace_of"]

LONGEST_REASON = 400
"""Characters."""

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_PATH = re.compile(r"\S*[/\\]\S*")
_PERSON_NAME = re.compile(r"\S*\^\S*")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the process or the GPU ran out."""
    torch = sys.modules.get("torch")  # nobody raises its errors where it is not imported
    if isinstance(error, (MemoryError, OutOfMemory)):
        return True
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def reason_of(error: BaseException) -> str:
    """One line for tables and reports.

    Our own messages hold no identifiers. Those of other libraries may quote a header or a path:
    quoted text, paths and words with ``^`` (DICOM person names) are left out.

    >>> reason_of(ValueError("cannot read '/data/DOE^JANE/1.dcm': bad value 'DOE^JANE'"))
    "unexpected ValueError: cannot read '...': bad value '...'"
    """
    if isinstance(error, RadloomError):
        return _one_line(str(error)) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    if is_out_of_memory(error):
        return f"out of memory ({type(error).__name__}); give fewer workers, or a coarser grid"
    message = _QUOTED.sub("'...'", str(error).split("\n")[0])
    message = _PERSON_NAME.sub("...", _PATH.sub("...", message))
    return _one_line(f"unexpected {type(error).__name__}: {message}").rstrip(": ")


def trace_of(error: BaseException) -> tuple[str, ...]:
    """``file:line function`` of each call that led to `error`, innermost last; no values."""
    frames = traceback.extract_tb(error.__traceback__)
    return tuple(f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)


def _short(filename: str) -> str:
    return "/".join(Path(filename).parts[-2:])


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 3] + "..."
