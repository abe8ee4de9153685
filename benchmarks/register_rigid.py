"""Rigid registration of rendered heads that were moved by known random moves.

Each pair is one head of anatomy/validation, rendered twice by the generator: the fixed look is a T1
at rest on a grid of 1 mm; the moving one a T1, T2, FLAIR or PD by another draw of the scanner's
effects, or a CT, turned about a random axis by up to 45 degrees and shifted in a random direction
by up to 60 mm. The head is moved before the scanner sees it, so that noise, shading, slices and
beam hardening lie in the scanner's frame and no voxel is interpolated twice. In turn the moving
voxels are 1 mm, or slices of 4 mm with 1 mm pixels; the moving field of view follows the head to
within 20 mm, or stays where the fixed one is and cuts off what was moved out of it.

Reported: target registration error, which is the distance between where the map found and the
true one take a point, over all points of the head: the mean over a pair's points, and of these
means the mean, the 95th percentile and the share above 2 mm; how many pairs are flagged by the
checks of `radloom register`, and how many of those that failed; processor seconds in one process.

Peers on the same pairs: elastix with its default rigid map, its moments initialisation, on the
volumes as they are; with ``--ants PYTHON`` (an interpreter that has antspyx), ANTs' ``Rigid``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from radloom.errors import RadloomError
from radloom.geometry import apply_affine
from radloom.models.registration.itk_elastix import _itk_class, linear_transform, run_elastix
from radloom.models.training.anatomies import load_anatomies
from radloom.pipelines.register import register_images
from radloom.shapes import Volume, make_volume
from radloom.transforms.itk_files import read_transform
from radloom.transforms.nifti import write_nifti
from radloom.transforms.spatial import Transform
from radloom.transforms.synthesis.anatomy import Anatomy, coarsened
from radloom.transforms.synthesis.anomalies import AnomalyRecipe
from radloom.transforms.synthesis.artefacts import CTAcquisitionRecipe, MRAcquisitionRecipe
from radloom.transforms.synthesis.artefacts.field_of_view import FieldOfViewRecipe
from radloom.transforms.synthesis.artefacts.masking import MaskRecipe
from radloom.transforms.synthesis.artefacts.motion import MotionRecipe
from radloom.transforms.synthesis.artefacts.slices import SliceRecipe
from radloom.transforms.synthesis.deformation import DeformationParameters
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.mr import MRRecipe
from radloom.transforms.synthesis.sample import (
    GridRecipe,
    SampleParameters,
    SampleRecipe,
    draw_sample,
    render_sample,
)

SHAPE = (200, 248, 240)
"""Of 1 mm voxels: a whole head and some air."""
MOST_DEGREES = 45.0
MOST_MM = 60.0
FAILURE_MM = 2.0
SLICE_MM = 4.0
FIXED_PROTOCOLS = ("t1_mprage", "t1_spoiled")
MOVING_PROTOCOLS = ("t2_spin_echo", "flair", "pd_spin_echo", "t1_spin_echo")
N_TARGETS = 4000


@dataclass(frozen=True)
class Pair:
    """Two looks at one head, and the truth."""

    kind: str
    """``MR-MR, 1 mm`` or the like."""
    fixed: Volume
    moving: Volume
    truth: Transform
    targets: np.ndarray
    """(N, 3) points of the fixed head, RAS+ mm."""

    def error_mm(self, found: Transform) -> float:
        away = found.apply(self.targets) - self.truth.apply(self.targets)
        return float(np.linalg.norm(away, axis=1).mean())


def recipe_of(protocols: Sequence[str], shape: tuple[int, int, int]) -> SampleRecipe:
    """The generator's own, but with nothing that has no single truth: no movement while the
    scanner reads, nothing wrapped or stripped, and nothing that only one look shows. Slices are
    as thick as the grid's."""
    return SampleRecipe(
        grid=GridRecipe(shape, offset=0.0),
        anomalies=AnomalyRecipe(probability=0),
        mr=MRRecipe(physics_probability=1, protocols=tuple(protocols)),
        mr_acquisition=MRAcquisitionRecipe(
            field_of_view=FieldOfViewRecipe(crop_probability=0, wrap_probability=0),
            motion=MotionRecipe(probability=0),
            mask=MaskRecipe(brain_probability=0, face_probability=0, air_probability=0),
            slices=SliceRecipe(probability=0),
        ),
        ct_acquisition=CTAcquisitionRecipe(slices=SliceRecipe(probability=0)),
    )


def random_move(random: np.random.Generator) -> Transform:
    """A turn about a random axis and a shift in a random direction, each evenly up to its most."""
    axis, direction = (v / np.linalg.norm(v) for v in random.normal(size=(2, 3)))
    degrees, mm = random.uniform(0, MOST_DEGREES), random.uniform(0, MOST_MM)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
    matrix[:3, 3] = mm * direction
    return Transform(matrix)


def posed(parameters: SampleParameters, move: Transform, grid: Grid) -> SampleParameters:
    """The same look at the head after a move, with nothing else done to its shape."""
    turn = Rotation.from_matrix(move.matrix[:3, :3]).as_euler("xyz", degrees=True)
    still = DeformationParameters(
        rotation_degrees=tuple(turn.tolist()), translation_mm=tuple(move.matrix[:3, 3].tolist())
    )
    return replace(parameters, deformation=still, grid=grid)


def make_pair(anatomy: Anatomy, n: int, seed: int) -> Pair:
    """Pair `n` of a sequence: MR and CT, voxel sizes and fields of view in turn.

    Voxels are as large as the anatomy's.
    """
    size = anatomy.spacing_mm
    rows, columns, slices = (int(length / size) for length in SHAPE)
    generator = torch.Generator().manual_seed(1000 * seed + n)
    random = np.random.default_rng((seed, n))
    is_ct, is_thick, follows = n % 2 == 1, n // 2 % 2 == 1, n // 4 % 2 == 0
    still = Grid((rows, columns, slices), (size,) * 3)
    fixed = draw_sample(anatomy, recipe_of(FIXED_PROTOCOLS, still.shape), generator)
    other = draw_sample(anatomy, recipe_of(MOVING_PROTOCOLS, still.shape), generator)
    other = replace(other, edits=fixed.edits, composition=fixed.composition)
    move = random_move(random)
    centre = (
        move.matrix[:3, 3] + random.uniform(-20, 20, 3) / np.sqrt(3) if follows else np.zeros(3)
    )
    thickness = max(SLICE_MM, size) if is_thick else size
    spacing = (size, size, thickness)
    shape = (rows, columns, int(SHAPE[2] / thickness))
    seen = Grid(shape, spacing, tuple(centre.tolist()))
    rendered = render_sample(anatomy, posed(fixed, Transform.identity(), still), ("image", "label"))
    name = "ct" if is_ct else "image"
    picture = render_sample(anatomy, posed(other, move, seen), (name,))[name]
    index = np.argwhere(rendered["label"][0].numpy() > 0)
    chosen = random.choice(len(index), N_TARGETS, replace=False)
    return Pair(
        f"MR-{'CT' if is_ct else 'MR'}, {thickness:g} mm{' slices' if is_thick else ''}",
        make_volume(rendered["image"], still.affine, modality="MR", units="arbitrary"),
        make_volume(
            picture,
            seen.affine,
            modality="CT" if is_ct else "MR",
            units="HU" if is_ct else "arbitrary",
        ),
        move,
        apply_affine(still.affine, index[chosen]),
    )


def ours(pair: Pair) -> tuple[Transform, bool]:
    found = register_images(pair.fixed, pair.moving, n_threads=1)
    return found.moving_from_fixed, any(check.flagged for check in found.checks)


def elastix_default(pair: Pair) -> tuple[Transform, bool]:
    maps = dict(
        _itk_class("elastixParameterObject", "elxParameterObject")
        .New()
        .GetDefaultParameterMap("rigid")
    )
    maps |= {
        "AutomaticTransformInitialization": ("true",),
        "AutomaticTransformInitializationMethod": ("CenterOfGravity",),
        "WriteResultImage": ("false",),
    }
    found = linear_transform(run_elastix(pair.fixed, pair.moving, [maps]))
    assert found is not None
    return found, False


ANTS = """\
import json, shutil, sys, time
import ants
fixed, moving, out = sys.argv[1:]
fixed, moving = ants.image_read(fixed), ants.image_read(moving)
begin = time.process_time()
found = ants.registration(fixed, moving, type_of_transform="Rigid", random_seed=1)
print(json.dumps({"seconds": time.process_time() - begin}))
shutil.copy(found["fwdtransforms"][0], out)
"""


def ants_rigid(python: Path) -> Callable[[Pair], tuple[Transform, bool]]:
    def run(pair: Pair) -> tuple[Transform, bool]:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / name for name in ("f.nii.gz", "m.nii.gz", "t.mat")]
            write_nifti(pair.fixed, paths[0])
            write_nifti(pair.moving, paths[1])
            environment = {**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
            subprocess.run(
                [python, "-c", ANTS, *paths], check=True, capture_output=True, env=environment
            )
            return read_transform(paths[2]), False

    return run


def measure(
    pairs: Iterator[Pair], methods: dict[str, Callable[[Pair], tuple[Transform, bool]]], log: Path
) -> list[dict[str, object]]:
    """A row a pair and method; each is also written to `log` as it comes."""
    rows = []
    for n, pair in enumerate(pairs):
        for name, method in methods.items():
            before = os.times()
            begin = time.perf_counter()
            try:
                found, flagged = method(pair)
                error = pair.error_mm(found)
            except (
                RadloomError,
                subprocess.CalledProcessError,
            ) as problem:  # a peer that gives up is a failure, not the end
                found, flagged, error = (
                    Transform.identity(),
                    True,
                    pair.error_mm(Transform.identity()),
                )
                print(f"{name}, pair {n}: {type(problem).__name__}: {str(problem)[:200]}")
            after = os.times()
            spent = sum(after[:4]) - sum(before[:4])
            rows.append(
                {
                    "n": n,
                    "kind": pair.kind,
                    "method": name,
                    "error_mm": round(error, 4),
                    "flagged": flagged,
                    "cpu_s": round(spent, 2),
                    "wall_s": round(time.perf_counter() - begin, 2),
                }
            )
            with log.open("a") as sink:
                sink.write(json.dumps(rows[-1]) + "\n")
    return rows


def table(rows: Sequence[dict[str, object]]) -> str:
    groups: dict[tuple[str, str], list[dict[str, object]]] = defaultdict(list)
    for row in rows:
        groups[str(row["method"]), str(row["kind"])].append(row)
        groups[str(row["method"]), "all"].append(row)
    lines = [
        "| | pairs | n | mean, mm | 95th percentile | largest | above 2 mm | flagged | of the "
        "failed | CPU, s |",
        "|---" * 10 + "|",
    ]
    for method, kind in sorted(groups, key=lambda key: (key[0], key[1] == "all", key[1])):
        group = groups[method, kind]
        errors = np.array([float(str(row["error_mm"])) for row in group])
        failed = errors > FAILURE_MM
        flags = np.array([bool(row["flagged"]) for row in group])
        caught = f"{int((flags & failed).sum())} of {int(failed.sum())}"
        seconds = np.median([float(str(row["cpu_s"])) for row in group])
        lines.append(
            f"| {method} | {kind} | {len(group)} | {errors.mean():.2f} "
            f"| {np.quantile(errors, 0.95):.2f} | {errors.max():.2f} | {failed.mean():.2f} "
            f"| {int(flags.sum())} | {caught} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first move")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--train", action="store_true", help="anatomy/train: to try settings")
    parser.add_argument("--coarse", action="store_true", help="2 mm instead of 1: a quick look")
    parser.add_argument("--ants", type=Path, help="interpreter that has antspyx")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache", type=Path, help="folder for packed anatomies")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="a row of JSON a result")


def run(options: argparse.Namespace) -> str:
    torch.set_num_threads(1)
    folder = options.data / "anatomy" / ("train" if options.train else "validation")
    anatomies = load_anatomies(folder, options.cache)
    if options.coarse:
        anatomies = [coarsened(anatomy, 2) for anatomy in anatomies]
    numbers = range(options.first, options.first + options.moves)
    pairs = (make_pair(anatomies[(n + n // 8) % len(anatomies)], n, options.seed) for n in numbers)
    methods = {"radloom": ours}
    if options.peers:
        methods["elastix, default rigid map, moments"] = elastix_default
    if options.ants:
        methods["ANTs, Rigid"] = ants_rigid(options.ants)
    return table(measure(pairs, methods, options.log))
