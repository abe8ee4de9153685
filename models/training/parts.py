"""Checkpoints as a manifest and parts of at most 16 MiB, which any store of files takes.

::

    step-00001200/
        manifest.json       the tree of the state, where each tensor lies, each part's SHA-256
        part-000.pt ...     one uint8 tensor each: the bytes of all tensors, one after the other

A checkpoint is there whole or not at all: it is written beside and renamed. It holds tensors and
plain values only, and is read with ``weights_only=True``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from radloom.errors import InputError
from radloom.models.checkpoints import load_checkpoint, sha256_of

__all__ = ["MAX_PART_BYTES", "latest_parts", "read_parts", "remove_old_parts", "write_parts"]

MAX_PART_BYTES = 16 * 2**20
"""The largest file of a checkpoint."""

_OVERHEAD_BYTES = 2**16
"""What torch's container adds to the bytes of a part, rounded up."""

_MANIFEST = "manifest.json"
_PREFIX = "step-"


def write_parts(
    root: Path,
    step: int,
    state: Mapping[str, Any],
    *,
    max_part_bytes: int = MAX_PART_BYTES,
) -> Path:
    """The folder ``root/step-NNNNNNNN``, new and whole.

    Args:
        root: made if absent.
        step: of the training.
        state: nested mappings, lists, tensors and plain values.
        max_part_bytes: the largest file.
    """
    folder, fresh = root / f"{_PREFIX}{step:08d}", root / f".{_PREFIX}{step:08d}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors: list[torch.Tensor] = []
    tree = _packed(state, tensors, {})
    parts = []
    for n, content in enumerate(_cut(tensors, max_part_bytes - _OVERHEAD_BYTES)):
        path = fresh / f"part-{n:03d}.pt"
        torch.save(content, path)
        parts.append({"file": path.name, "sha256": sha256_of(path)})
    places = [{"dtype": _name(t.dtype), "shape": list(t.shape)} for t in tensors]
    manifest = {"step": step, "state": tree, "tensors": places, "parts": parts}
    (fresh / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder


def read_parts(folder: Path) -> tuple[int, dict[str, Any]]:
    """The step and the state that `write_parts` wrote, on the CPU.

    Raises:
        InputError: a part is missing, cut or changed.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"<{folder.name}>: expected a checkpoint with {_MANIFEST}, got {error}; copy it anew"
        ) from error
    contents = [torch.empty(0, dtype=torch.uint8)]
    for part in manifest["parts"]:
        path = folder / part["file"]
        if not path.is_file() or sha256_of(path) != part["sha256"]:
            raise InputError(
                f"<{folder.name}/{path.name}>: expected the part that the manifest names, got "
                "another or none; copy the checkpoint anew, or remove it to resume from an older"
            )
        contents.append(load_checkpoint(path))
    tensors = list(_tensors(manifest["tensors"], torch.cat(contents)))
    return int(manifest["step"]), _unpacked(manifest["state"], tensors)


def latest_parts(root: Path) -> Path | None:
    """The newest whole checkpoint below `root`; None where there is none."""
    return next(iter(_newest_first(root)), None)


def remove_old_parts(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for folder in _newest_first(root)[keep:]:
        shutil.rmtree(folder)


def _newest_first(root: Path) -> list[Path]:
    found = root.glob(f"{_PREFIX}*/{_MANIFEST}")
    return sorted((path.parent for path in found), reverse=True)


def _packed(value: Any, tensors: list[torch.Tensor], known: dict[Any, int]) -> Any:
    """`value` as JSON holds it; tensors go to the list, one with two names once, leave an index."""
    if isinstance(value, torch.Tensor):
        place = (value.data_ptr(), value.shape, value.dtype) if value.numel() else id(value)
        if place not in known:
            known[place] = len(tensors)
            tensors.append(value.detach().cpu().contiguous())
        return {"tensor": known[place]}
    if isinstance(value, Mapping):
        return {"map": [[key, _packed(item, tensors, known)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_packed(item, tensors, known) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"expected tensors and plain values in a checkpoint, got {type(value)}")


def _unpacked(value: Any, tensors: list[torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "list" in value:
        return [_unpacked(item, tensors) for item in value["list"]]
    return {key: _unpacked(item, tensors) for key, item in value["map"]}


def _cut(tensors: list[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """The bytes of all tensors in pieces of `size`."""
    flat = [tensor.reshape(-1).view(torch.uint8) for tensor in tensors]
    for piece in torch.cat(flat).split(size) if flat else ():
        yield piece.clone()


def _tensors(places: list[dict[str, Any]], content: torch.Tensor) -> Iterator[torch.Tensor]:
    start = 0
    for place in places:
        dtype = getattr(torch, place["dtype"])
        end = start + math.prod(place["shape"]) * dtype.itemsize
        yield content[start:end].clone().view(dtype).reshape(place["shape"])
        start = end


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
