"""Pseudo-CT of rendered heads whose CT is known, against maps that need no training.

Heads of anatomy/validation, each rendered by the generator at 1 mm, as far down as its label map
goes and with 8 mm of air round it elsewhere, under physics-based protocols: T1, T2, FLAIR and PD
with shading and weak noise; T1 with Rician noise of 9 % of the 99th percentile; T1 in slices of 4
mm (the mean of four; its CT likewise). No deformation, no anomalies.

Methods: a head of uniform water; three tissue classes guessed from the MR's grey values (dark
within the head: bone where thin, air where thick); three classes by the true CT, what no class map
can beat; the best atlas, other people's CT warped by deformable registration of their T1 (of the
first heads of anatomy/train the one that comes nearest to the truth); the procedural phantom as the
atlas; and the bundle's network, where its weights are here.

Reported, in the head (true class other than air, filled) unless a tissue is named: MAE and ME in
HU, PSNR and SSIM over 3000 HU, MAE in bone, soft tissue and air of the head, Dice of bone above
250 HU; error of 500 line integrals at 511 keV through the head in per cent; and, of the rigid
registration of CT to MR, how far points of the head end from where they should, in mm, directly by
mutual information and through the pseudo-CT (`--rigid`); of the network besides the mean
error that it expects in the head, and the share of voxels within its bounds of 90 %.

Run from the repository root, with the data beside the checkout or their folder named::

    python benchmarks/translate.py [../shared/data] --rigid
    python benchmarks/translate.py --anatomies 1 --cases t1 --atlases 1 --methods water classes
    python benchmarks/translate.py --cases t1 --rigid network --json a.json
    python benchmarks/translate.py --merge a.json b.json
    python benchmarks/translate.py --speed --device cuda
    python benchmarks/translate.py --pictures OUT

`--merge` prints one table of several runs, as of one case each in processes side by side.
`--deformable hybrid` names what warps atlases (elastix and elastix-fast are others);
MODULE:FUNCTION names another, a function of fixed and moving that gives ``moving_from_fixed``.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu

from radloom.errors import MissingWeights
from radloom.geometry import spacing_of
from radloom.models.bundles import find_bundle, weights_path
from radloom.models.registration.coarse import at_spacing, block_mean
from radloom.models.registration.elastix import register
from radloom.models.training.anatomies import load_anatomies
from radloom.models.translation.attenuation import attenuation_511kev
from radloom.models.translation.tissues import TYPICAL_HU, classes_of_hu
from radloom.pipelines.ingest import read_image
from radloom.pipelines.register import register_images
from radloom.pipelines.translate import checks_of_input, translate
from radloom.shapes import Volume, affine_of, array_of, make_volume, spatial_shape
from radloom.transforms.spatial import Transform, resample
from radloom.transforms.synthesis.anatomy import Anatomy
from radloom.transforms.synthesis.anomalies import AnomalyRecipe
from radloom.transforms.synthesis.artefacts import MRAcquisitionRecipe, add_rician_noise
from radloom.transforms.synthesis.deformation import DeformationParameters
from radloom.transforms.synthesis.edits import EditParameters
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.mr import CONTRASTS
from radloom.transforms.synthesis.phantom import make_head, render_ct, render_mr
from radloom.transforms.synthesis.sample import (
    GridRecipe,
    SampleRecipe,
    draw_sample,
    render_sample,
)

Floats = npt.NDArray[np.float32]
Register = Callable[[Volume, Volume], Transform]

AIR_MM = 8
"""Round the head; below it there is none, for there the map ends and the neck goes on."""
CASES = ("t1", "t2", "flair", "pd", "t1 noise 9 %", "t1 slices 4 mm")
METHODS = ("water", "classes", "true classes", "atlas", "phantom atlas", "network")
REGISTERED = ("classes", "atlas", "phantom atlas", "network")
"""What `--rigid` alone registers CT through, beside directly."""
HU_SPAN = 3000.0
"""From -1000 to 2000 HU: the peak of PSNR and the range of SSIM."""
WORK_MM = 2.0
"""Grid of the maps that are guessed from grey values."""


@dataclass(frozen=True, eq=False)
class Case:
    """One head as MR and CT, on one grid."""

    name: str
    number: int
    mr: Volume
    ct: Volume
    """True HU, without noise."""
    scan: Volume
    """The CT as a scanner gives it."""

    def head(self) -> npt.NDArray[np.bool_]:
        """(I, J, K) bool: all that is no air, and what it encloses."""
        solid = ndimage.binary_closing(array_of(self.ct)[0] > -400, iterations=3)
        return filled(solid)


def filled(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Holes in every axial plane closed."""
    planes = [ndimage.binary_fill_holes(mask[:, :, k]) for k in range(mask.shape[2])]
    return np.stack(planes, axis=2)


def rendered(anatomy: Anatomy, contrast: str, seed: int) -> dict[str, torch.Tensor]:
    i, j, k = (n + 2 * AIR_MM for n in anatomy.grid.shape)
    recipe = SampleRecipe(
        grid=GridRecipe((i, j, k), offset=0.0),
        mr=CONTRASTS[contrast],
        anomalies=AnomalyRecipe(probability=0.0),
        mr_acquisition=MRAcquisitionRecipe(nearly_clean=1.0),
    )
    drawn = draw_sample(anatomy, recipe, torch.Generator().manual_seed(seed))
    still = {"edits": EditParameters(), "deformation": DeformationParameters()}
    drawn = replace(drawn, grid=Grid((i, j, k)), **still)
    seen = render_sample(anatomy, drawn, ("image", "ct", "ct_hu"))
    return {name: volume[..., AIR_MM + 2 :] for name, volume in seen.items()}


def case_of(anatomy: Anatomy, name: str, number: int) -> Case:
    """The same arguments give the same voxels."""
    contrast, *more = name.split(" ")
    seen = rendered(anatomy, contrast, 100 * number + CASES.index(name))
    image = seen["image"]
    if more[:1] == ["noise"]:
        generator = torch.Generator().manual_seed(number)
        image = add_rician_noise(image[0], float(more[1]) / 100, generator)[None]
    affine = np.eye(4)
    affine[:3, 3] = -(np.array(image.shape[1:]) - 1) / 2
    volumes = [
        make_volume(image, affine, modality="MR", units="arbitrary"),
        make_volume(seen["ct_hu"], affine, modality="CT", units="HU"),
        make_volume(seen["ct"], affine, modality="CT", units="HU"),
    ]
    if more[:1] == ["slices"]:
        volumes = [block_mean(volume, (1, 1, int(more[1]))) for volume in volumes]
    return Case(name, number, *volumes)


def hull(mr: Volume) -> tuple[npt.NDArray[np.bool_], Volume]:
    """Where the head is in an MR, filled, on a coarser grid, and the MR there."""
    coarse = at_spacing(mr, WORK_MM)
    values = array_of(coarse)[0]
    bright = values > 0.5 * threshold_otsu(values)
    whole = bright | filled(bright)
    for turned in (whole.transpose(2, 0, 1), whole.transpose(1, 2, 0)):
        turned |= filled(turned)  # writes to whole
    opened = ndimage.binary_opening(whole, iterations=2)
    parts, _ = ndimage.label(opened)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax(), coarse


def on_grid_of(values: npt.NDArray[Any], coarse: Volume, mr: Volume) -> Floats:
    volume = make_volume(values, affine_of(coarse), modality="CT", units="HU")
    return array_of(resample(volume, None, affine_of(mr), spatial_shape(mr)))[0]


def water(case: Case) -> Floats:
    inside, coarse = hull(case.mr)
    return on_grid_of(np.where(inside, 0.0, -1000.0), coarse, case.mr)


def guessed_classes(case: Case) -> Floats:
    inside, coarse = hull(case.mr)
    values = array_of(coarse)[0]
    dark = inside & (values < 0.3 * np.median(values[inside]))
    thick = ndimage.binary_opening(dark, iterations=3)
    air, soft, bone = TYPICAL_HU
    hu = np.where(inside, np.where(thick, air, np.where(dark, bone, soft)), air)
    return on_grid_of(hu, coarse, case.mr)


def true_classes(case: Case) -> Floats:
    return np.array(TYPICAL_HU, np.float32)[classes_of_hu(array_of(case.ct)[0])]


def warped(case: Case, atlases: Sequence[tuple[Volume, Volume]], deform: Register) -> Floats:
    """The CT of the atlas that comes nearest to the truth: the most that an atlas can do."""
    grid = affine_of(case.mr), spatial_shape(case.mr)
    found = [array_of(resample(ct, deform(case.mr, mr), *grid))[0] for mr, ct in atlases]
    return min(found, key=lambda hu: float(np.abs(hu - array_of(case.ct)[0])[case.head()].mean()))


def network(case: Case, device: str) -> Floats:
    found = translate(case.mr, device=torch.device(device))
    hu = array_of(found.hu)[0]
    if found.uncertainty is not None:
        expected = array_of(found.uncertainty)[0]
        solid = array_of(found.classes)[0] > 0
        head = case.head()
        error = np.abs(hu - array_of(case.ct)[0])
        _DOUBTS[case] = {
            "expected": float(expected[solid].mean()),
            "within 90 %": float(100 * (error <= np.log(10) * expected)[head].mean()),
        }
    return hu


_DOUBTS: dict[Case, dict[str, float]] = {}
"""Of the case at hand: the mean error that the network expects in the head, as the stage checks it;
and the share of the head's voxels that lie within what it gives as the bounds of 90 %."""


def scores(hu: Floats, case: Case, head: npt.NDArray[np.bool_]) -> dict[str, float]:
    from skimage.metrics import structural_similarity

    true = array_of(case.ct)[0]
    error = hu[head] - true[head]
    classes = classes_of_hu(true)
    low, high = -1000.0, 2000.0
    near = ndimage.find_objects(ndimage.binary_dilation(head, iterations=4).astype(np.uint8))[0]
    _, similar = structural_similarity(
        true[near].clip(low, high), hu[near].clip(low, high), data_range=HU_SPAN, full=True
    )
    found, bone = hu > 250, true > 250
    values = {
        "MAE": np.abs(error).mean(),
        "ME": error.mean(),
        "PSNR": 10 * np.log10(HU_SPAN**2 / np.mean(error**2)),
        "SSIM": similar[head[near]].mean(),
    }
    for n, name in ((2, "bone"), (1, "soft"), (0, "air")):
        of_class = head & (classes == n)
        values[f"MAE {name}"] = np.abs(hu - true)[of_class].mean() if of_class.any() else np.nan
    values["Dice bone"] = 2 * (found & bone).sum() / max(1, found.sum() + bone.sum())
    values["lines %"] = line_error(hu, case)
    return {name: float(value) for name, value in values.items()}


def line_error(hu: Floats, case: Case, n: int = 500) -> float:
    """Mean absolute error in per cent of integrals along lines that meet tissue for 5 cm or more.

    Each goes through two points drawn in the head.
    """
    random = np.random.default_rng(case.number)
    inside = np.argwhere(array_of(case.ct)[0] > -400)
    ends = inside[random.integers(0, len(inside), (2, n))].astype(float)
    affine = affine_of(case.ct)
    first, second = (end @ affine[:3, :3].T + affine[:3, 3] for end in ends)
    ways = second - first
    ways /= np.linalg.norm(ways, axis=1, keepdims=True).clip(1e-6)
    steps = np.arange(-300.0, 300.0, 1.0)
    points = first[:, None] + steps[None, :, None] * ways[:, None]
    to_index = np.linalg.inv(affine)
    index = np.moveaxis(points @ to_index[:3, :3].T + to_index[:3, 3], -1, 0)
    integrals = [
        ndimage.map_coordinates(attenuation_511kev(values), index, order=1).sum(axis=1) * 0.1
        for values in (array_of(case.ct)[0], hu)
    ]
    counted = integrals[0] > 0.5
    relative = np.abs(integrals[1] - integrals[0])[counted] / integrals[0][counted]
    return float(100 * relative.mean())


def rigid_errors(case: Case, hu: Floats | None, seed: int = 0) -> float:
    """How far points of the head end from where they should, mm; `hu` None: CT to MR directly."""
    random = np.random.default_rng(seed + case.number)
    angles, shift = np.radians(random.uniform(-8, 8, 3)), random.uniform(-10, 10, 3)
    moving_from_fixed = np.eye(4)
    for axis, angle in enumerate(angles):
        turn = np.eye(4)
        a, b = [n for n in range(3) if n != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        moving_from_fixed = moving_from_fixed @ turn
    moving_from_fixed[:3, 3] = shift
    grid = np.diag([1.1, 1.1, 1.6, 1.0])
    grid[:3, 3] = affine_of(case.scan)[:3, 3] + 0.4
    size = np.array(spatial_shape(case.scan)) * spacing_of(affine_of(case.scan))
    i, j, k = (int(n) for n in size / (1.1, 1.1, 1.6))
    other = resample(case.scan, None, grid, (i, j, k))
    moving = make_volume(other.as_tensor(), moving_from_fixed @ grid, modality="CT", units="HU")
    fixed = case.mr
    if hu is not None:
        fixed = make_volume(hu, affine_of(case.mr), modality="CT", units="HU")
    found = register(fixed, moving, transform="rigid").matrix
    index = np.argwhere(array_of(case.ct)[0] > -400)[::997]
    affine = affine_of(case.ct)
    points = np.column_stack([index @ affine[:3, :3].T + affine[:3, 3], np.ones(len(index))])
    return float(np.linalg.norm((points @ (found - moving_from_fixed).T)[:, :3], axis=1).mean())


def made(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[Case], Floats]]:
    """Name -> method, of those that can work here."""
    deform = deformable(options.deformable)
    methods: dict[str, Callable[[Case], Floats]] = {
        "water": water,
        "classes": guessed_classes,
        "true classes": true_classes,
        "atlas": lambda case: warped(case, people(options, folder), deform),
        "phantom atlas": lambda case: warped(case, phantoms(options.atlases), deform),
        "network": partial(network, device=options.device),
    }
    chosen = {name: methods[name] for name in options.methods}
    try:
        weights_path(find_bundle("head_mr_to_ct_translation"))
    except MissingWeights as error:
        if chosen.pop("network", None):
            print(f"no network: {error}\n", file=sys.stderr)
    return chosen


def deformable(name: str) -> Register:
    if name == "hybrid":
        return hybrid
    if name in ("elastix", "elastix-fast"):
        return partial(register, transform="deformable", fast=name != "elastix")
    module, _, function = name.partition(":")
    found: Register = getattr(import_module(module), function)
    return found


def hybrid(fixed: Volume, moving: Volume) -> Transform:
    found = register_images(fixed, moving, method="hybrid", transform="deformable")
    return found.moving_from_fixed


_PEOPLE: dict[Path, list[tuple[Volume, Volume]]] = {}


def people(options: argparse.Namespace, folder: Path) -> list[tuple[Volume, Volume]]:
    """T1 and CT of the first heads of anatomy/train."""
    train = options.data / "anatomy" / "train"
    if train not in _PEOPLE:
        heads = anatomies(train, options.atlases, folder)
        cases = [case_of(head, "t1", 50 + n) for n, head in enumerate(heads)]
        _PEOPLE[train] = [(case.mr, case.ct) for case in cases]
    return _PEOPLE[train]


def anatomies(source: Path, n: int, folder: Path) -> list[Anatomy]:
    """The first heads of a folder of label maps; `folder` keeps them prepared."""
    with tempfile.TemporaryDirectory() as chosen:
        for path in sorted(source.glob("*.nii.gz"))[:n]:
            Path(chosen, path.name).symlink_to(path.resolve())
        return load_anatomies(Path(chosen), folder / "anatomies")


@lru_cache(maxsize=1)
def phantoms(n: int) -> tuple[tuple[Volume, Volume], ...]:
    made = []
    for seed in range(n):
        head = make_head(torch.Generator().manual_seed(seed))
        mr = render_mr(head, "t1", generator=torch.Generator().manual_seed(seed))
        made.append((mr, render_ct(head, noise=0.0, generator=torch.Generator())))
    return tuple(made)


def cases(options: argparse.Namespace, folder: Path) -> Iterator[Case]:
    heads = anatomies(options.data / "anatomy" / "validation", options.anatomies, folder)
    for number, anatomy in enumerate(heads):
        for name in options.cases:
            yield case_of(anatomy, name, number)


def compare(options: argparse.Namespace) -> None:
    rows: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.cache or temporary)
        methods = made(options, folder)
        for case in cases(options, folder):
            head = case.head()
            if options.rigid is not None:
                rows["CT to MR directly", case.name].append({"rigid mm": rigid_errors(case, None)})
            for name, method in methods.items():
                begun = time.process_time()
                hu = method(case)
                spent = time.process_time() - begun
                found = {**scores(hu, case, head), "cpu s": spent}
                if name == "network":
                    found |= _DOUBTS.pop(case, {})
                if options.rigid is not None and name in (options.rigid or REGISTERED):
                    found["rigid mm"] = rigid_errors(case, hu)
                rows[name, case.name].append(found)
                print(f"{case.number} {case.name}: {name} {found}", file=sys.stderr, flush=True)
                if options.sheets:
                    sheet(
                        case.mr,
                        hu,
                        array_of(case.ct)[0],
                        options.sheets,
                        f"{name}-{case.number}-{case.name}",
                    )
            if options.json:
                said = {f"{method} | {case}": found for (method, case), found in rows.items()}
                options.json.write_text(json.dumps(said, indent=1), encoding="utf-8")
    print(table(rows, options.cases))


def merge(options: argparse.Namespace) -> None:
    rows: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for path in options.merge:
        for name, found in json.loads(path.read_text(encoding="utf-8")).items():
            method, case = name.split(" | ")
            rows[method, case] += found
    print(table(rows, CASES))


def table(rows: Mapping[tuple[str, str], list[dict[str, float]]], names: Sequence[str]) -> str:
    """Means over the heads: a row a method and case, and one for all cases of a method."""
    columns = list(dict.fromkeys(n for found in rows.values() for one in found for n in one))
    lines = ["| method | case | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for method in dict.fromkeys(method for method, _ in rows):
        parts = {case: rows[method, case] for case in names if (method, case) in rows}
        everything = [one for found in parts.values() for one in found]
        for case, found in [*parts.items(), ("all", everything)]:
            cells = [mean_of(found, column) for column in columns]
            lines.append(f"| {method} | {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_of(found: Sequence[Mapping[str, float]], column: str) -> str:
    values = [one[column] for one in found if column in one]
    digits = {"SSIM": 3, "Dice bone": 3, "lines %": 2, "rigid mm": 2}.get(column, 1)
    return f"{np.nanmean(values):.{digits}f}" if values else ""


def sheet(mr: Volume, hu: Floats, true: Floats | None, folder: Path, name: str) -> None:
    """Axial, coronal and sagittal planes of MR and CT at brain and bone windows as PNG."""
    from PIL import Image

    top = float(np.percentile(array_of(mr), 99))
    shown = [(array_of(mr)[0], 0.0, 1.2 * top)]
    for values in (hu, true):
        if values is not None:
            shown += [(values, -20.0, 100.0), (values, -500.0, 1500.0)]
    planes = [tiles((values - low) / (high - low)) for values, low, high in shown]
    folder.mkdir(parents=True, exist_ok=True)
    page = (255 * np.concatenate(planes).clip(0, 1)).astype(np.uint8)
    Image.fromarray(page).save(folder / f"{name.replace(' ', '_').replace('%', 'percent')}.png")


def tiles(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    i, j, k = (n // 2 for n in values.shape)
    planes = [values[::-1, ::-1, k].T, values[::-1, j, ::-1].T, values[i, ::-1, ::-1].T]
    height = max(plane.shape[0] for plane in planes)
    padded = [np.pad(p, ((0, height - p.shape[0]), (0, 0))) for p in planes]
    return np.concatenate(padded, axis=1)


def pictures(options: argparse.Namespace) -> None:
    """The network on every real MR of a head: look at each."""
    data = options.data
    paths = [p for p in (data / "real" / "ms").rglob("*.nii.gz") if p.name != "gt.nii.gz"]
    paths += [*(data / "studies" / "ms01").rglob("*.nii.gz")]
    paths += [data / "real" / "labelled" / "t1_brain.nii.gz", data / "studies" / "mprage"]
    paths += [data / "studies" / "mr_sagittal_mixed" / "3_t1_fl2d_sag"]
    options.pictures.mkdir(parents=True, exist_ok=True)
    for path in sorted(paths):
        name = "-".join(path.parts[-2:]).split(".")[0]
        if not all(word in name for word in options.names):
            continue
        mr = read_image(path)
        device = torch.device(options.device)
        found = translate(mr, device=device, n_threads=os.cpu_count() or 1)
        expected = found.uncertainty if found.uncertainty is not None else found.hu
        solid = array_of(found.classes) > 0
        flags = [check.name for check in checks_of_input(mr) if check.flagged]
        said = f"expects {float(array_of(expected)[solid].mean()):.0f} HU in the head"
        print(f"{name}: {said}; flagged: {', '.join(flags) or 'nothing'}", flush=True)
        top = float(np.percentile(array_of(mr), 99))
        shown = [(mr, 0.0, 1.2 * top), (found.hu, -20.0, 100.0), (found.hu, -500.0, 1500.0)]
        page([*shown, (expected, 0.0, 300.0)], options.pictures / f"{name}.png")


def page(shown: Sequence[tuple[Volume, float, float]], path: Path, step_mm: float = 1.25) -> None:
    """A row a volume with its window: six axial planes, two sagittal, two coronal ones, as PNG."""
    from PIL import Image

    first = shown[0][0]
    ends = np.array(list(itertools.product(*[(0, n - 1) for n in spatial_shape(first)])))
    world = ends @ affine_of(first)[:3, :3].T + affine_of(first)[:3, 3]
    low, high = world.min(axis=0), world.max(axis=0)
    grid = np.diag([step_mm, step_mm, step_mm, 1.0])
    grid[:3, 3] = low
    i, j, k = (int(n) for n in np.ceil((high - low) / step_mm) + 1)
    rows = []
    for volume, dark, bright in shown:
        seen = array_of(resample(volume, None, grid, (i, j, k)))[0]
        grey = ((seen - dark) / (bright - dark)).clip(0, 1)
        planes = [grey[::-1, ::-1, int(k * at)].T for at in (0.15, 0.3, 0.45, 0.6, 0.75, 0.88)]
        planes += [grey[int(i * at), ::-1, ::-1].T for at in (0.5, 0.35)]
        planes += [grey[::-1, int(j * at), ::-1].T for at in (0.45, 0.7)]
        height = max(plane.shape[0] for plane in planes)
        padded = [np.pad(p, ((0, height - p.shape[0]), (0, 0))) for p in planes]
        rows.append(np.concatenate(padded, axis=1))
    Image.fromarray((255 * np.concatenate(rows)).astype(np.uint8)).save(path)


def speed(options: argparse.Namespace) -> None:
    """Seconds and memory of `translate` for 256^3 of 1 mm, on all cores."""
    import resource

    device = torch.device(options.device)
    noise = torch.rand(1, 256, 256, 256, generator=torch.Generator().manual_seed(0))
    mr = make_volume(noise, np.eye(4), modality="MR", units="arbitrary")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for what in ("first", "second"):
        begun, spent = time.perf_counter(), time.process_time()
        translate(mr, device=device, n_threads=os.cpu_count() or 1)
        seconds = f"{time.perf_counter() - begun:.1f} s"
        print(f"{what} 256^3: {seconds}, {time.process_time() - spent:.1f} s of the processor")
    if device.type == "cuda":
        print(f"peak on the GPU: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    print(
        f"peak of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--anatomies", type=int, default=4, help="of anatomy/validation")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--atlases", type=int, default=3, help="heads tried as atlas")
    parser.add_argument("--deformable", default="hybrid", metavar="NAME", help="see above")
    parser.add_argument(
        "--rigid", nargs="*", choices=REGISTERED, help="register CT to MR as well, through these"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="every number, to this file")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="JSON", help="only: one table")
    parser.add_argument("--sheets", type=Path, help="a picture of each result, to this folder")
    parser.add_argument("--cache", type=Path, help="folder that keeps prepared heads")
    parser.add_argument("--pictures", type=Path, help="only: real MR, to this folder")
    parser.add_argument("--names", nargs="*", default=[], help="of pictures: words of their names")
    parser.add_argument("--speed", action="store_true", help="only: time and memory")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    print(
        f"{dt.date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}"
    )
    if options.merge:
        merge(options)
    elif options.speed:
        speed(options)
    elif options.pictures:
        pictures(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
