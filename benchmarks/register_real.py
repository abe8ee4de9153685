"""Rigid registration of real scans against the transforms that their authors made.

Patients 01, 03 and 04 of open_ms_data (Lesjak et al., Neuroinformatics 2016), raw, thick slices on
three grids: T1 and T2 onto FLAIR of one date, and FLAIR of the second date onto that of the first
by way of the authors' common space. Their transforms are affine, ours rigid.

Reported of each pair: the mean and the largest distance between both maps over the head; normalised
mutual information of the scanner's own coordinates, their map and ours; what was flagged. With
``--pictures`` a checkerboard of each pair is written, fixed and warped moving by turns.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radloom.models.registration.coarse import at_spacing
from radloom.models.registration.foreground import head_mask
from radloom.models.registration.similarity import Similarity
from radloom.pipelines.register import register_images
from radloom.shapes import Volume, affine_of, array_of, make_volume
from radloom.transforms.itk_files import read_transform
from radloom.transforms.nifti import read_nifti
from radloom.transforms.spatial import Transform, grid_points, resample

SQUARE_MM = 25.0
DATES = {"01": (1, 2), "03": (2,), "04": (1,)}
"""Patient -> the dates whose scans are there."""


@dataclass(frozen=True)
class Pair:
    name: str
    fixed: Path
    moving: Path
    reference: Transform
    """moving_from_fixed as the authors found it."""


def pairs(data: Path) -> Iterator[Pair]:
    for patient, dates in DATES.items():
        theirs = data / "real" / "ms" / f"patient{patient}"
        scans = {
            (date, name): _scan(data, patient, date, name)
            for date in dates
            for name in ("FLAIR", "T1W", "T2W")
        }
        for date in dates:
            for name in ("T1W", "T2W"):
                text = theirs / f"study{date}_{name}_intrastudy_to_FLAIR.txt"
                reference = read_transform(text)
                title = f"patient {patient}, date {date}: {name} onto FLAIR"
                yield Pair(title, scans[date, "FLAIR"], scans[date, name], reference)
        if len(dates) == 2:
            first, second = (
                read_transform(theirs / f"study{date}_FLAIR_to_common_space.txt") for date in dates
            )
            yield Pair(
                f"patient {patient}: FLAIR of date 2 onto date 1",
                scans[1, "FLAIR"],
                scans[2, "FLAIR"],
                second @ first.inverse(),
            )


def _scan(data: Path, patient: str, date: int, name: str) -> Path:
    beside = data / "real" / "ms" / f"patient{patient}" / f"study{date}_{name}.nii.gz"
    return (
        beside
        if beside.is_file()
        else (data / "studies" / f"ms{patient}" / f"date{date}" / f"study{date}_{name}.nii.gz")
    )


def _read(path: Path) -> Volume:
    volume = read_nifti(path)
    return make_volume(array_of(volume), affine_of(volume), modality="MR", units="arbitrary")


def checkerboard(fixed: Volume, moving: Volume, found: Transform, path: Path) -> None:
    """Three planes through the middle of the head at 1 mm: squares of fixed and of moving."""
    import matplotlib.image

    mask = head_mask(at_spacing(fixed, 4.0))
    points = grid_points(affine_of(at_spacing(fixed, 4.0)), mask.shape)[mask]
    low, high = np.quantile(points, 0.001, axis=0), np.quantile(points, 0.999, axis=0)
    affine = np.eye(4)
    affine[:3, 3] = low
    i, j, k = (int(n) for n in np.ceil(high - low))
    both = [
        array_of(resample(volume, move, affine, (i, j, k)))[0]
        for volume, move in ((fixed, None), (moving, found))
    ]
    both = [np.clip(v / np.quantile(v[v > 0], 0.99), 0, 1) for v in both]
    squares = np.indices((i, j, k)) // SQUARE_MM
    mixed = np.where(squares.sum(axis=0) % 2 == 0, *both)
    planes = [mixed[i // 2], mixed[:, j // 2], mixed[:, :, k // 2]]
    tall = max(plane.shape[1] for plane in planes)
    shown = [np.pad(p, ((2, 2), (0, tall - p.shape[1]))).T[::-1] for p in planes]
    matplotlib.image.imsave(path, np.hstack(shown), cmap="gray", vmin=0, vmax=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pictures", type=Path, help="folder for checkerboards")


def run(options: argparse.Namespace) -> str:
    lines = [
        "| | apart, mean, mm | largest | NMI as scanned | theirs | ours | flagged |",
        "|---|---|---|---|---|---|---|",
    ]
    for n, pair in enumerate(pairs(options.data)):
        fixed, moving = _read(pair.fixed), _read(pair.moving)
        found = register_images(fixed, moving)
        coarse = at_spacing(fixed, 4.0)
        mask = head_mask(coarse)
        points = grid_points(affine_of(coarse), mask.shape)[mask]
        ours = found.moving_from_fixed
        apart = np.linalg.norm(ours.apply(points) - pair.reference.apply(points), axis=1)
        judge = Similarity.of(
            fixed, moving, spacing_mm=2.0, n_points=50_000, seed=9, between_voxels=True
        )
        values = [judge.measure(t)[0] for t in (Transform.identity(), pair.reference, ours)]
        flagged = ", ".join(check.name for check in found.checks if check.flagged)
        cells = " | ".join(f"{value:.4f}" for value in values)
        lines.append(
            f"| {pair.name} | {apart.mean():.2f} | {apart.max():.2f} | {cells} | {flagged} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)  # as they come
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            for name, move in (("ours", ours), ("theirs", pair.reference)):
                checkerboard(fixed, moving, move, options.pictures / f"{n}_{name}.png")
    return "\n".join(lines)
