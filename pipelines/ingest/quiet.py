"""Silence for pydicom, and for the native decoders behind it."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["native_messages", "quiet_dicom"]

STDERR = 2
"""The file descriptor that native code writes its remarks to, whatever `sys.stderr` is."""

_one_at_a_time = threading.RLock()


@contextmanager
def quiet_dicom() -> Iterator[None]:
    """Silence for what pydicom and highdicom say of the data sets they read and make.

    They quote values, and so could carry a patient's name or UIDs into a log.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def native_messages() -> Iterator[list[str]]:
    """The lines that native code writes to standard error meanwhile, which do not appear there.

    The list is filled at the end. Other threads' lines of that moment are caught as well; only one
    thread is in here at a time. Where the process has no standard error, nothing is caught.
    """
    lines: list[str] = []
    with _one_at_a_time:
        try:
            kept = os.dup(STDERR)
        except OSError:
            yield lines
            return
        try:
            with tempfile.TemporaryFile() as caught:
                os.dup2(caught.fileno(), STDERR)
                try:
                    yield lines
                finally:
                    os.dup2(kept, STDERR)
                caught.seek(0)
                lines += caught.read().decode("ascii", "replace").splitlines()
        finally:
            os.close(kept)
