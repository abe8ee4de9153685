"""A run in a process of its own, which a signal to us ends in good order."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import Final

from radloom.pipelines.pacs.listen import Ran

__all__ = ["run_job"]

_OVER: Final = (0, 1)
"""Exit statuses of a run that went to its end: all done, or some study failed or was refused."""

_TICK_S: Final = 0.2
_END_S: Final = 60.0
"""How long a run may take to end when it is asked to."""


def run_job(command: Sequence[str], stop: threading.Event) -> Ran:
    """Whether `command` went to its end; asked to stop when `stop` is set, and waited for."""
    process = subprocess.Popen(  # noqa: S603  # our own interpreter with a list of arguments
        list(command), stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while not stop.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return "over" if process.wait(_TICK_S) in _OVER else "again"
        return "again"
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
