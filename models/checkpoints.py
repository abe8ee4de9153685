"""Weights from files that may be hostile: tensors and plain numbers only, unless trusted."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radloom.errors import InputError, NotTrusted

__all__ = ["load_checkpoint", "sha256_of", "sha256_of_all"]


def load_checkpoint(path: Path, *, trust: bool = False) -> Any:
    """What :func:`torch.save` wrote, on the CPU.

    Read with ``weights_only=True``, and NumPy's scalars allowed besides: nnU-Net keeps its losses
    as such. Nothing else that a pickle can name is built, so that a file cannot run code.

    Args:
        path: the checkpoint.
        trust: whether a file that needs more may be read as a full pickle, which can run code.

    Raises:
        NotTrusted: the file names other classes, and `trust` is False.
        InputError: the file is not a checkpoint.
    """
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust:
            raise NotTrusted(
                f"<{path.name}>: expected tensors and numbers, got a pickle that names other "
                f"classes and so can run code ({_named(error)}); if you know where the file comes "
                "from, give --trust"
            ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise InputError(
            f"<{path.name}>: expected a checkpoint written by torch, got {error}; copy it anew"
        ) from error
    return torch.load(path, map_location="cpu", weights_only=False)


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex; hashed once as long as its size and time stay the same."""
    stat = path.stat()
    return _sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)


def sha256_of_all(paths: Iterable[Path], text: str = "") -> str:
    """One SHA-256 in hex over the files' hashes, in the order given, and `text`."""
    lines = [*(sha256_of(path) for path in paths), text]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 (they key the cache)
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _numpy_scalars() -> list[Any]:
    """What a NumPy scalar's pickle names, under NumPy 1's and NumPy 2's module names."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *dtypes,
    ]


def _named(error: Exception) -> str:
    """The class that the pickle wanted, out of torch's long message."""
    words = str(error).replace("`", " ").split()
    after = [b for a, b in pairwise(words) if a in ("GLOBAL", "global")]
    return after[0] if after else "unknown"
