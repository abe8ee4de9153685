"""Which numbers a place in the training gets: a function of where it is, not of what came before.

So a run that was stopped and resumed draws what a run in one piece draws, on any number of
prefetching threads.
"""

from __future__ import annotations

from hashlib import blake2b

import torch

__all__ = ["generator_at", "seed_at"]


def seed_at(*place: int | str) -> int:
    """A seed below 2**63 that belongs to this place alone.

    Example:
        >>> seed_at(0, 7, 0, 1) == seed_at(0, 7, 0, 1), seed_at(0, 7, 0, 1) == seed_at(0, 7, 1, 0)
        (True, False)
    """
    digest = blake2b(repr(place).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_at(*place: int | str) -> torch.Generator:
    """A CPU generator for one place: seed, step, rank, slot in the batch."""
    return torch.Generator().manual_seed(seed_at(*place))
