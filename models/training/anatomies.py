"""Heads to train on: label maps or packed anatomies from a folder.

To make an anatomy of a label map takes seconds, so it is done once and kept packed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from radloom.errors import InputError
from radloom.models.checkpoints import sha256_of
from radloom.shapes import affine_of, array_of
from radloom.transforms.nifti import read_nifti
from radloom.transforms.synthesis.anatomy import (
    Anatomy,
    anatomy_of_labels,
    pack_anatomy,
    unpack_anatomy,
)
from radloom.transforms.synthesis.tissues import LABEL_NAMES

__all__ = ["label_maps", "load_anatomies", "packed_anatomies"]

_NIFTI = (".nii", ".nii.gz")


def packed_anatomies(folder: Path) -> list[Path]:
    """The packed anatomies of a folder, by name."""
    return sorted(folder.glob("*.npz"))


def label_maps(folder: Path) -> list[Path]:
    """The NIfTI files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(_NIFTI))


def load_anatomies(folder: Path, cache: Path | None = None) -> list[Anatomy]:
    """All heads of a folder, in the order of their names, on the CPU.

    Args:
        folder: label maps of the generator's table (.nii, .nii.gz), packed anatomies (.npz).
        cache: where packed anatomies of label maps are kept for the next time; None: nowhere.

    Raises:
        InputError: no head in the folder, or a label map with labels that the table does not have.
    """
    packed = [unpack_anatomy(path.read_bytes()) for path in packed_anatomies(folder)]
    anatomies = packed + [_of_map(path, cache) for path in label_maps(folder)]
    if not anatomies:
        raise InputError(
            f"<{folder.name}>: expected label maps (.nii.gz) or packed anatomies (.npz), got "
            "neither; name the folder that holds them as dataset_dir"
        )
    return _named_apart(anatomies)


def _of_map(path: Path, cache: Path | None) -> Anatomy:
    kept = cache / f"{_stem(path)}-{sha256_of(path)[:12]}.npz" if cache is not None else None
    if kept is not None and kept.is_file():
        return unpack_anatomy(kept.read_bytes())
    volume = read_nifti(path, label=True)
    labels = array_of(volume)[0].astype(np.int32)
    known = set(LABEL_NAMES)
    if not known & set(np.unique(labels).tolist()) - {0}:
        raise InputError(
            f"<{path.name}>: expected a label map of the generator's table, got other values; to "
            "train on scans, list them in scans.tsv"
        )
    anatomy = anatomy_of_labels(_stem(path), labels, affine_of(volume))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}.new")
        fresh.write_bytes(pack_anatomy(anatomy))
        fresh.replace(kept)
    return anatomy


def _named_apart(anatomies: Sequence[Anatomy]) -> list[Anatomy]:
    """Parameters name the anatomy that they belong to, so no two may share a name."""
    seen: set[str] = set()
    for anatomy in anatomies:
        if anatomy.name in seen:
            raise InputError(f"<{anatomy.name}>: expected one head of this name, got two")
        seen.add(anatomy.name)
    return list(anatomies)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
