"""Torch's settings for one computation, and as they were afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

__all__ = ["MOST_WINDOWS", "lone_threads", "torch_settings"]

MOST_WINDOWS = 4
"""Windows of a network that are computed at a time at most, on a thread of the CPU each."""


@contextmanager
def torch_settings(n_threads: int) -> Iterator[None]:
    """`n_threads` of the CPU and reproducible cuDNN kernels within the block.

    cuDNN's benchmark mode picks the fastest kernel anew in each process, and with it the last bits
    of the result. nnU-Net sets threads and benchmark mode for the whole process.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.benchmark, cudnn.deterministic
    torch.set_num_threads(n_threads)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.benchmark, cudnn.deterministic = before[1:]


def lone_threads(n: int) -> ThreadPoolExecutor:
    """`n` threads that compute alone in PyTorch, so that no sum depends on how many there are.

    On busy cores PyTorch's own threads wait for each other: two took 80 times as long as one.
    """
    return ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,))
