"""Sliding windows of a network side by side on the CPU, a thread each."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer

from radloom.threads import MOST_WINDOWS, lone_threads

__all__ = ["SideBySideInferer"]


class SideBySideInferer(SlidingWindowInferer):  # type: ignore[misc]  # MONAI is not typed here
    """MONAI's `SlidingWindowInferer`; on the CPU as many windows at a time as there are threads.

    Threads that share the layers of one window wait for each other in each layer. And a window
    that one thread computes has the same bits whatever the number of threads.
    """

    def __call__(
        self, inputs: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor], **kwargs: Any
    ) -> Any:
        """The network's answer on all of `inputs` (B, C, I, J, K)."""
        n = min(torch.get_num_threads(), MOST_WINDOWS)
        if inputs.device.type != "cpu" or n == 1:
            return super().__call__(inputs, network, **kwargs)
        by_n = copy(self)
        by_n.sw_batch_size = n
        with_grad = torch.is_grad_enabled()

        def answer(window: torch.Tensor) -> torch.Tensor:
            with torch.set_grad_enabled(with_grad):  # each thread has a mode of its own
                return network(window)

        def answers(windows: torch.Tensor) -> torch.Tensor:
            return torch.cat([*pool.map(answer, windows.split(1))])

        before = torch.get_num_threads()
        try:
            with lone_threads(n) as pool:
                return SlidingWindowInferer.__call__(by_n, inputs, answers, **kwargs)
        finally:
            torch.set_num_threads(before)
