"""Batches in the order of the steps, made on the spot or ahead in a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Batch", "BatchStream"]

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Ready:
    batches: list[Batch]
    event: Any
    """A CUDA event after which the tensors may be read; None on the CPU."""


class BatchStream:
    """The batches of step `start`, `start` + 1, ... without end.

    On a GPU they are made on a CUDA stream of their own, so that making the next batch and training
    on this one overlap.

    Args:
        draw: step -> the batches of the step, on `device`.
        device: where they lie.
        start: the first step.
        prefetch: how many steps are made ahead; 0: none, no thread.
    """

    def __init__(
        self, draw: Callable[[int], list[Batch]], device: torch.device, start: int, prefetch: int
    ) -> None:
        self._draw, self._device, self._step = draw, device, start
        self._queue: queue.Queue[_Ready | BaseException] = queue.Queue(max(1, prefetch))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._ahead = prefetch > 0
        if self._ahead:
            self._thread.start()

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if not self._ahead:
            self._step += 1
            return _plain(self._draw, self._step - 1)
        ready = self._queue.get()
        if isinstance(ready, BaseException):
            raise ready
        if ready.event is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(ready.event)
            for tensor in (t for batch in ready.batches for t in batch.values()):
                tensor.record_stream(current)
        return ready.batches

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        while self._ahead and self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.05)

    def _work(self) -> None:
        try:
            side = None
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)
                side = torch.cuda.Stream(self._device)
            while not self._stop.is_set():
                self._queue.put(self._make(side))
                self._step += 1
        except BaseException as error:  # noqa: BLE001 (it is raised where the batch is awaited)
            self._queue.put(error)

    def _make(self, side: Any) -> _Ready:
        if side is None:
            return _Ready(_plain(self._draw, self._step), None)
        with torch.cuda.stream(side):
            batches = _plain(self._draw, self._step)
            event = torch.cuda.Event()
            event.record(side)
        return _Ready(batches, event)


def _plain(draw: Callable[[int], list[Batch]], step: int) -> list[Batch]:
    """The batches of a step, drawn without autograd's book-keeping, usable by it."""
    with torch.inference_mode():
        batches = draw(step)
    return [{key: tensor.clone() for key, tensor in batch.items()} for batch in batches]
