"""The user's own pairs of MR and CT, registered before they are learnt from."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from radloom.errors import InputError
from radloom.models.checkpoints import sha256_of_all
from radloom.models.registration.elastix import TransformKind, register
from radloom.models.registration.similarity import Similarity
from radloom.models.training.scans import Scans, open_scans
from radloom.shapes import Volume, affine_of, spatial_shape
from radloom.transforms.nifti import read_nifti, write_nifti
from radloom.transforms.spatial import resample

__all__ = ["NOT_SEEN_HU", "open_registered_pairs", "register_pair"]

NOT_SEEN_HU = -3024.0
"""What a registered CT holds outside its field of view; training leaves it out."""

LEAST_ALIKE = 1.03
"""Normalised mutual information below which a pair is left out; as the register stage flags it."""

_log = logging.getLogger(__name__)


def register_pair(
    mr: Volume, ct: Volume, *, transform: TransformKind = "rigid", n_threads: int = 1
) -> tuple[Volume, float]:
    """The CT on the grid of the MR, and how alike the two then are.

    Args:
        mr: (1, I, J, K), fixed.
        ct: (1, I, J, K) in HU, moving.
        transform: what the map may do. A head is rigid; a neck is not, and a deformable map may
            invent anatomy.
        n_threads: of resampling.

    Returns:
        The CT, `NOT_SEEN_HU` outside its field of view; normalised mutual information from 1.
    """
    moving_from_fixed = register(mr, ct, transform=transform, n_threads=n_threads)
    registered = resample(
        ct,
        moving_from_fixed,
        affine_of(mr),
        spatial_shape(mr),
        default=NOT_SEEN_HU,
        n_threads=n_threads,
    )
    judge = Similarity.of(mr, ct, spacing_mm=3.0, n_points=20_000, seed=2, between_voxels=True)
    return registered, judge.measure(moving_from_fixed)[0]


def open_registered_pairs(
    dataset_dir: str | None,
    cache_dir: str,
    *,
    transform: TransformKind = "rigid",
    n_threads: int = 1,
    scan_spacing_mm: float = 1.0,
    least_alike: float = LEAST_ALIKE,
) -> Scans | None:
    """The pairs of a folder (`radloom.models.training.scans`), each CT on its MR; None for none.

    What was registered stays in `cache_dir` for the next time, with ``pairs.tsv``: look at the
    pairs that stand low in it.

    Args:
        dataset_dir: a list ``scans.tsv`` with ``image`` and ``ct_hu``, or a BIDS tree.
        cache_dir: for the registered CTs.
        transform: as in `register_pair`.
        n_threads: of the CPU.
        scan_spacing_mm: scans are brought to this isotropic spacing.
        least_alike: pairs that are less alike after registration are left out.

    Raises:
        InputError: no pair is left.
    """
    if dataset_dir is None:
        return None
    scans = open_scans(Path(dataset_dir), spacing_mm=scan_spacing_mm)
    cases = [case for case in scans.cases if {"image", "ct_hu"} <= set(case)]
    cache = Path(cache_dir)
    cache.mkdir(parents=True, exist_ok=True)
    kept, rows = [], []
    for case, path, alike in _registered(cases, cache, transform, n_threads):
        rows.append({"image": case["image"].name, "ct_hu": path.name, "similarity": f"{alike:.4f}"})
        if alike >= least_alike:
            kept.append({"image": case["image"], "ct_hu": path})
        else:
            _log.warning("%s: left out, similarity %.3f", case["image"].name, alike)
    _write_table(rows, cache / "pairs.tsv")
    if not kept:
        raise InputError(
            f"<{Path(dataset_dir).name}>: expected pairs of image and ct_hu that are alike once "
            f"registered ({least_alike:g} or more), got {len(rows)} pairs and none of them; look "
            "at pairs.tsv"
        )
    return replace(scans, cases=tuple(kept))


def _registered(
    cases: list[dict[str, Path]], cache: Path, transform: TransformKind, n_threads: int
) -> Iterator[tuple[dict[str, Path], Path, float]]:
    """Each case, its registered CT and how alike the two are; done before, it is only read."""
    for case in cases:
        digest = sha256_of_all([case["image"], case["ct_hu"]], transform)[:16]
        path, said = cache / f"{digest}_ct.nii.gz", cache / f"{digest}.txt"
        if not said.is_file():
            ct, alike = register_pair(
                read_nifti(case["image"]),
                read_nifti(case["ct_hu"], modality="CT", units="HU"),
                transform=transform,
                n_threads=n_threads,
            )
            write_nifti(ct, path)
            said.write_text(f"{alike:.6f}\n", encoding="ascii")
        yield case, path, float(said.read_text(encoding="ascii"))


def _write_table(rows: list[dict[str, str]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, ("image", "ct_hu", "similarity"), delimiter="\t")
        table.writeheader()
        table.writerows(rows)
