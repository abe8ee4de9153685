"""Messages between a worker and the process of a study: pickled tuples over two pipes.

To the process: ``("path", sys.path)`` once, ``("job", bytes)`` for each study, ``("go", bytes that
it may take)`` or ``("no", bytes that it holds, bytes for the run)`` when it asked whether it
may compute. From it: ``("enters", stage)``, ``("asks", bytes needed, bytes at least, device or
"")``, ``("computed",)``, ``("over", outcome)``.
"""

from __future__ import annotations

import pickle
import struct
from typing import IO, Any

__all__ = ["receive", "send"]

_LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], *message: Any) -> None:
    """The message on its way.

    Raises:
        OSError: nobody listens any more.
    """
    content = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[Any, ...] | None:
    """The next message; None where the other end is gone, perhaps in the middle of one."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    content = stream.read(length)
    if len(content) < length:
        return None
    message: tuple[Any, ...] = pickle.loads(content)  # noqa: S301  # from our own process
    return message
