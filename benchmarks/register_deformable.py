"""Deformable registration of rendered heads of different persons.

Each pair is two heads of a folder of whole-head label maps, each rendered by the generator on a
grid of 1 mm with shading and weak noise, turned and shifted at random by up to 8 degrees and 8 mm
along each axis. The fixed head is a T1; the moving one in turn a T1, a T2, a FLAIR and a contrast
drawn at random. Ordered pairs are taken round the heads until there are `--pairs`.

Reported, as means over the pairs: Dice over the brain's structures (the classes of
brain_mr_segmentation below 500, each that the fixed head has), with the moving labels carried by
nearest neighbour; the 95th percentile of the distance of their surfaces, in mm; the share of folded
voxels; how far there and back misses, median in mm over the brain; processor seconds of all
threads; the peak memory of a process that runs the method on all pairs.

`hybrid` is guided by brain_mr_segmentation where this release holds its weights, and tries the
start of head_mr_registration where it holds those; `hybrid, images alone` is not guided; `hybrid,
search alone` is, but has no start from the registration network; with `--weights FILE` there is one
more, guided by other weights of the segmentation network.

Peers: elastix with its default maps (rigid, affine, B-spline); ConvexAdam (MIND) after our affine
map, where `--convexadam FOLDER` names the folder that `pip install --no-deps --target FOLDER
convexAdam` made.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from radloom.errors import MissingWeights
from radloom.models.segmentation.classes import CLASSES, class_of_label
from radloom.models.training.anatomies import load_anatomies
from radloom.shapes import Volume, affine_of, array_of, make_label, make_volume, spatial_shape
from radloom.transforms.spatial import Transform, grid_points, resample
from radloom.transforms.synthesis.anatomy import Anatomy
from radloom.transforms.synthesis.anomalies import AnomalyRecipe
from radloom.transforms.synthesis.artefacts import MRAcquisitionRecipe
from radloom.transforms.synthesis.deformation import DeformationParameters
from radloom.transforms.synthesis.edits import EditParameters
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.mr import CONTRASTS
from radloom.transforms.synthesis.sample import (
    GridRecipe,
    SampleRecipe,
    draw_sample,
    render_sample,
)

GRID = Grid((200, 248, 240))
"""Of 1 mm: a whole head and some air."""
MOVING = ("t1", "t2", "flair", "random")
BRAIN = tuple(n for n, item in enumerate(CLASSES) if 0 < item.label < 500)
DEGREES, SHIFT_MM = 8.0, 8.0


@dataclass(frozen=True)
class Result:
    """Of one method on one pair."""

    transform: Transform
    seconds: float
    back: Transform | None = None
    """The map back, where the method gives one."""


@dataclass(frozen=True)
class Pair:
    """Two persons' heads."""

    name: str
    fixed: Volume
    moving: Volume
    fixed_classes: Volume
    moving_classes: Volume

    @staticmethod
    def read(path: Path) -> Pair:
        with np.load(path) as stored:
            fixed, moving = (
                make_volume(stored[key], GRID.affine, modality="MR", units="arbitrary")
                for key in ("fixed", "moving")
            )
            labels = [make_label(stored[f"{k}_classes"], GRID.affine) for k in ("fixed", "moving")]
        return Pair(path.stem, fixed, moving, labels[0], labels[1])


def rendered(head: Anatomy, contrast: str, seed: int) -> dict[str, npt.NDArray[Any]]:
    """``image`` and ``classes`` of one head."""
    recipe = SampleRecipe(
        grid=GridRecipe(GRID.shape, offset=0.0),
        mr=CONTRASTS[contrast],
        anomalies=AnomalyRecipe(probability=0.0),
        mr_acquisition=MRAcquisitionRecipe(nearly_clean=1.0),
    )
    random = np.random.default_rng(seed)
    turned = DeformationParameters(
        rotation_degrees=tuple(random.uniform(-DEGREES, DEGREES, 3).tolist()),
        translation_mm=tuple(random.uniform(-SHIFT_MM, SHIFT_MM, 3).tolist()),
    )
    drawn = draw_sample(head, recipe, torch.Generator().manual_seed(seed))
    drawn = replace(drawn, grid=GRID, edits=EditParameters(), deformation=turned)
    seen = render_sample(head, drawn, ("image", "label"))
    return {
        "image": seen["image"][0].numpy(),
        "classes": class_of_label(seen["label"])[0].numpy(),
    }


def render_pairs(heads: list[Anatomy], n_pairs: int, folder: Path) -> list[Path]:
    """One file a pair, in `folder`."""
    n, paths = len(heads), []
    steps = [(a, (a + step) % n) for step in range(1, n) for a in range(n)]
    for number, (a, b) in enumerate(steps[:n_pairs]):
        contrast = MOVING[number % len(MOVING)]
        fixed = rendered(heads[a], "t1", 1000 + 2 * number)
        moving = rendered(heads[b], contrast, 1001 + 2 * number)
        path = folder / f"{number:02d}_{contrast}.npz"
        np.savez(
            path,
            fixed=fixed["image"],
            moving=moving["image"],
            fixed_classes=fixed["classes"],
            moving_classes=moving["classes"],
        )
        paths.append(path)
    return paths


def nothing(pair: Pair) -> Result:
    """The scanners' coordinates."""
    del pair
    return Result(Transform.identity(), 0.0)


def elastix(pair: Pair, maps: tuple[str, ...]) -> Result:
    """Elastix's default parameter maps, as a user starts them."""
    from radloom.models.registration.itk_elastix import (
        _itk_class,
        displacement_transform,
        linear_transform,
        run_elastix,
    )

    defaults = _itk_class("elastixParameterObject", "elxParameterObject")
    files = [dict(defaults.GetDefaultParameterMap(name)) for name in maps]
    begin = time.process_time()
    stages = run_elastix(pair.fixed, pair.moving, files)
    found = linear_transform(stages) or displacement_transform(
        stages, affine_of(pair.fixed), spatial_shape(pair.fixed)
    )
    return Result(found, time.process_time() - begin)


def ours(pair: Pair, method: str, transform: str) -> Result:
    """`radloom register --method METHOD --transform TRANSFORM`."""
    from radloom.pipelines.register import register_images

    begin = time.process_time()
    found = register_images(pair.fixed, pair.moving, method=method, transform=transform)
    seconds = time.process_time() - begin
    return Result(found.moving_from_fixed, seconds, found.fixed_from_moving)


def hybrid(pair: Pair, *, segmenter: Path | bool, network: bool = True) -> Result:
    """Hybrid with the networks that are named.

    Args:
        pair: of two heads.
        segmenter: the segmentation network's weights; True: those shipped; False: none.
        network: whether the registration network gives a second start, where it has weights.
    """
    from radloom.models.registration.deformable import deform, registrar_for, segmenter_for
    from radloom.models.registration.elastix import register
    from radloom.models.registration.structures import segmenter_from

    cpu = torch.device("cpu")
    guide = segmenter_for(pair.fixed, pair.moving, cpu) if segmenter is True else None
    if isinstance(segmenter, Path):
        guide = segmenter_from(segmenter, cpu)
    begin = time.process_time()
    affine = register(pair.fixed, pair.moving, transform="affine")
    found = deform(
        pair.fixed,
        pair.moving,
        affine,
        registrar=registrar_for("hybrid", cpu) if network else None,
        segmenter=guide,
    )
    seconds = time.process_time() - begin
    return Result(found.moving_from_fixed, seconds, found.fixed_from_moving)


def convexadam(pair: Pair, folder: Path) -> Result:
    """ConvexAdam's default settings after our affine map; its seconds include that."""
    from radloom.models.registration.elastix import register

    sys.path.insert(0, str(folder))
    from convexAdam.convex_adam_MIND import convex_adam_pt

    begin = time.process_time()
    affine = register(pair.fixed, pair.moving, transform="affine")
    shape = spatial_shape(pair.fixed)
    aligned = resample(pair.moving, affine, affine_of(pair.fixed), shape)
    images = [array_of(volume)[0].copy() for volume in (pair.fixed, aligned)]
    found = convex_adam_pt(*images, dtype=torch.float32, device=torch.device("cpu"))
    field = np.moveaxis(np.asarray(found, dtype=np.float32), -1, 0)
    total = affine @ Transform(np.eye(4), field, affine_of(pair.fixed))
    return Result(total, time.process_time() - begin)


def methods(
    convexadam_folder: Path | None, weights: Path | None = None
) -> dict[str, Callable[[Pair], Result]]:
    """By the name in the table."""
    table: dict[str, Callable[[Pair], Result]] = {
        "none": nothing,
        "elastix, its maps: rigid": partial(elastix, maps=("rigid",)),
        "elastix, its maps: rigid, affine": partial(elastix, maps=("rigid", "affine")),
        "elastix, its maps: rigid, affine, B-spline": partial(
            elastix, maps=("rigid", "affine", "bspline")
        ),
        "elastix, ours: affine": partial(ours, method="elastix", transform="affine"),
        "elastix, ours: affine, B-spline": partial(ours, method="elastix", transform="deformable"),
        "voxelmorph": partial(ours, method="voxelmorph", transform="deformable"),
        "hybrid": partial(ours, method="hybrid", transform="deformable"),
        "hybrid, images alone": partial(hybrid, segmenter=False),
        "hybrid, search alone": partial(hybrid, segmenter=True, network=False),
    }
    if weights is not None:
        table["hybrid, weights given"] = partial(hybrid, segmenter=weights)
    if convexadam_folder is not None:
        table["ConvexAdam after our affine"] = partial(convexadam, folder=convexadam_folder)
    return table


def measured(pair: Pair, result: Result) -> dict[str, float]:
    """All that is reported of one result."""
    shape = spatial_shape(pair.fixed)
    warped = resample(pair.moving_classes, result.transform, affine_of(pair.fixed), shape)
    fixed, moved = array_of(pair.fixed_classes)[0], array_of(warped)[0]
    there = [n for n in BRAIN if (fixed == n).any()]
    values = {
        "dice": float(np.mean([dice(fixed == n, moved == n) for n in there])),
        "hd95": float(np.mean([surface_distance(fixed == n, moved == n) for n in there])),
        "folded": result.transform.folded_share(),
        "seconds": result.seconds,
    }
    if result.back is not None:
        points = grid_points(affine_of(pair.fixed), shape)[np.isin(fixed, BRAIN)][::97]
        again = result.back.apply(result.transform.apply(points))
        values["there_and_back"] = float(np.median(np.linalg.norm(again - points, axis=1)))
    return values


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def surface_distance(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """95th percentile of the distances between two surfaces, both ways, in voxels of 1 mm."""
    if not other.any():
        return float(np.linalg.norm(one.shape))
    where = np.nonzero(one | other)
    box = tuple(slice(max(0, axis.min() - 1), axis.max() + 2) for axis in where)
    edges = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (one, other)]
    to = [ndimage.distance_transform_edt(~edge) for edge in edges]
    return float(np.percentile(np.concatenate([to[1][edges[0]], to[0][edges[1]]]), 95))


def work(
    name: str,
    convexadam_folder: Path | None,
    weights: Path | None,
    paths: list[Path],
    out: Path,
) -> None:
    """One method on all pairs, in a process of its own: one line of JSON a pair."""
    torch.set_num_threads(1)
    method = methods(convexadam_folder, weights)[name]
    for path in paths:
        pair = Pair.read(path)
        try:
            result = method(pair)
        except MissingWeights:
            return
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        line = {"method": name, "pair": pair.name, "gib": peak, **measured(pair, result)}
        with out.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def table(lines: list[dict[str, Any]], names: list[str]) -> str:
    head = (
        "method", "Dice", *(f"T1 <- {contrast}" for contrast in MOVING), "lowest", "95% Hausdorff",
        "folded, %", "there and back, mm", "s", "GiB",
    )  # fmt: skip
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in names:
        own = [line for line in lines if line["method"] == name]
        if own:
            rows.append("| " + " | ".join([name, *_cells(own)]) + " |")
    return "\n".join(rows)


def _cells(own: list[dict[str, Any]]) -> Iterator[str]:
    def mean(key: str, kind: str = "") -> float:
        chosen = [line[key] for line in own if key in line and line["pair"].endswith(kind)]
        return float(np.mean(chosen)) if chosen else float("nan")

    yield f"{mean('dice'):.3f}"
    for contrast in MOVING:
        yield f"{mean('dice', '_' + contrast):.3f}"
    yield f"{min(line['dice'] for line in own):.3f}"
    yield f"{mean('hd95'):.2f}"
    yield f"{100 * mean('folded'):.4f}"
    yield f"{mean('there_and_back'):.3f}" if "there_and_back" in own[0] else ""
    yield f"{mean('seconds'):.0f}"
    yield f"{max(line['gib'] for line in own):.1f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--anatomy", type=Path, help="folder of label maps; default: validation")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--methods", nargs="*", default=[], help="parts of names; default: all")
    parser.add_argument("--convexadam", type=Path, help="where ConvexAdam is installed")
    parser.add_argument("--weights", type=Path, help="of brain_mr_segmentation, to guide hybrid by")
    parser.add_argument("--lines", type=Path, help="also keep one line of JSON a result here")


def run(options: argparse.Namespace) -> str:
    folder = options.anatomy or options.data / "anatomy" / "validation"
    names = [
        name
        for name in methods(options.convexadam, options.weights)
        if not options.methods or any(part in name for part in options.methods)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        paths = render_pairs(load_anatomies(folder), options.pairs, Path(scratch))
        out = options.lines or Path(scratch) / "lines.jsonl"
        for name in names:
            child = multiprocessing.get_context("spawn").Process(
                target=work, args=(name, options.convexadam, options.weights, paths, out)
            )
            child.start()
            child.join()
        lines = [json.loads(line) for line in out.read_text().splitlines()]
    return table(lines, names)
