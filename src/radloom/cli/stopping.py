"""Ctrl-C and TERM: the first stops a run cleanly, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from radloom.cli.shell import STOPPED

__all__ = ["stoppable"]

_PATIENCE_S = 9.0
"""How long a clean stop may take: receipts hold whatever comes, so nothing is lost after it."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C or TERM ends the block with KeyboardInterrupt; a second one ends the process.

    So does the clock, if the clean stop takes too long. The processes of studies go with it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _Handler()) for number in _SIGNALS}
    try:
        yield
    finally:
        if not _Handler.asked:  # else the clean stop goes on, and a second one shall end it
            for number, handler in before.items():
                signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Handler:
    asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if _Handler.asked:
            os._exit(STOPPED)
        _Handler.asked = True
        clock = threading.Timer(_PATIENCE_S, os._exit, (STOPPED,))
        clock.daemon = True
        clock.start()
        raise KeyboardInterrupt
