"""The user's own scans as a source: pairs of MR and CT, images with labels, noisy with clean.

A list ``scans.tsv`` has a row a case and a column a tensor, with paths relative to the list:

    image	ct_hu                      fixed_image	moving_image	fixed_label	moving_label
    a/mr.nii.gz	a/ct.nii.gz          a/t1.nii.gz	a/t2.nii.gz	a/t1_seg.nii.gz	a/t2_seg.nii.gz

Without a list, a BIDS tree is looked through: in each session every MR (``_T1w``, ``_T2w``,
``_FLAIR``, ``_PDw``) with the session's ``_ct`` and ``_dseg``; two MR of a session make a pair.

The files of a row share a world: they are registered, and need no common grid.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from radloom.errors import InputError
from radloom.geometry import Affine, corners
from radloom.shapes import Volume, affine_of, spatial_shape
from radloom.transforms.nifti import read_nifti
from radloom.transforms.spatial import resample
from radloom.transforms.synthesis.draws import choose

__all__ = ["Scans", "has_scans", "open_scans"]

_LIST = "scans.tsv"
_MR_SUFFIXES = ("T1w", "T2w", "FLAIR", "PDw")
_CT = frozenset(("ct", "ct_hu", "ct_clean"))
_OPTIONAL = frozenset(("structures", "anomaly", "sigma", "ct_sigma", "label", "displacement_mm"))
"""What a task can do without where scans do not have it."""


@dataclass(frozen=True)
class Scans:
    """Cases, each a mapping name -> file; whole volumes, which `crop_shape` cuts."""

    cases: tuple[dict[str, Path], ...]
    spacing_mm: float = 1.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def to(self, device: torch.device) -> Scans:
        """With samples on `device`."""
        return replace(self, device=device)

    def sample(
        self, wanted: Collection[str], generator: torch.Generator, *, pair: bool
    ) -> dict[str, torch.Tensor]:
        """One of the cases that have what is wanted.

        Raises:
            InputError: none has.
        """
        names = [f"{side}_{name}" for side in ("fixed", "moving") for name in wanted]
        names = names if pair else list(wanted)
        needed = [n for n in names if n.split("_", 1)[-1] not in _OPTIONAL and n not in _OPTIONAL]
        cases = [case for case in self.cases if all(name in case for name in needed)]
        if not cases:
            raise InputError(
                f"expected scans with {', '.join(needed)}, got {len(self.cases)} cases that lack "
                f"one of them; list them as columns of {_LIST}"
            )
        case = choose(generator, cases)
        files = tuple((name, case[name]) for name in names if name in case)
        tensors = _loaded(files, self.spacing_mm)
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}


def has_scans(folder: Path) -> bool:
    """Whether a folder holds a list of scans or a BIDS tree."""
    return (folder / _LIST).is_file() or any(folder.glob("sub-*/"))


def open_scans(folder: Path, *, spacing_mm: float = 1.0) -> Scans:
    """The cases of a folder.

    Raises:
        InputError: a file of the list is not there, or nothing is.
    """
    listed = folder / _LIST
    cases = tuple(_of_list(listed) if listed.is_file() else _of_bids(folder))
    if not cases:
        raise InputError(f"<{folder.name}>: expected scans, got none; see {_LIST} in the docs")
    return Scans(cases, spacing_mm)


def _of_list(path: Path) -> Iterator[dict[str, Path]]:
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            case = {name: path.parent / value for name, value in row.items() if value}
            for file in case.values():
                if not file.is_file():
                    raise InputError(
                        f"<{path.name}>: expected the file {file.name}, which is absent"
                    )
            yield case


def _of_bids(folder: Path) -> Iterator[dict[str, Path]]:
    files = sorted(folder.rglob("sub-*_*.nii.gz"))
    sessions = sorted({_session(path) for path in files})
    for session in sessions:
        own = [path for path in files if _session(path) == session]
        images = [path for path in own if _suffix(path) in _MR_SUFFIXES]
        ct = next((path for path in own if _suffix(path) == "ct"), None)
        label = next((path for path in own if _suffix(path) == "dseg"), None)
        more = {"ct_hu": ct, "label": label}
        for image in images:
            yield {"image": image, **{name: path for name, path in more.items() if path}}
        for fixed, moving in combinations(images, 2):
            yield {"fixed_image": fixed, "moving_image": moving}


def _session(path: Path) -> str:
    parts = path.name.split("_")
    return "_".join(part for part in parts if part.startswith(("sub-", "ses-")))


def _suffix(path: Path) -> str:
    return path.name.removesuffix(".nii.gz").rpartition("_")[-1]


@lru_cache(maxsize=32)
def _loaded(files: tuple[tuple[str, Path], ...], spacing_mm: float) -> dict[str, torch.Tensor]:
    """The volumes of a case on one isotropic RAS+ grid over the box of the first."""
    grid: tuple[Affine, tuple[int, int, int]] | None = None
    tensors = {}
    for name, path in files:
        volume = _read(name, path)
        grid = grid or _box(volume, spacing_mm)
        tensors[name] = _normalised(name, resample(volume, None, *grid).as_tensor())
    return tensors


def _read(name: str, path: Path) -> Volume:
    if name.endswith("label"):
        return read_nifti(path, label=True)
    is_ct = name in _CT
    return read_nifti(path, modality="CT", units="HU") if is_ct else read_nifti(path)


def _box(volume: Volume, spacing_mm: float) -> tuple[Affine, tuple[int, int, int]]:
    points = corners(affine_of(volume), spatial_shape(volume))
    low, high = points.min(0), points.max(0)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = low
    i, j, k = (max(1, round(n / spacing_mm)) for n in (high - low).tolist())
    return affine, (i, j, k)


def _normalised(name: str, volume: torch.Tensor) -> torch.Tensor:
    """MR with its 99th percentile (of what is above 0) at 1, as the generator's; HU as they are."""
    if name.endswith("label") or name in _CT:
        return volume
    inside = volume[volume > 0]
    if not len(inside):
        return volume
    return volume / torch.quantile(inside[:: max(1, len(inside) // 2**20)], 0.99)
