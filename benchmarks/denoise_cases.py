"""What the denoisers are measured on: real scans, CT and spheres, each with its truth."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from generator_realism import ct_scan
from scipy import ndimage

from radloom.models.training.anatomies import load_anatomies
from radloom.pipelines.ingest import read_image
from radloom.shapes import affine_of, array_of
from radloom.transforms.synthesis.anatomy import Anatomy
from radloom.transforms.synthesis.anomalies import (
    AnomalyParameters,
    AnomalyRecipe,
    anomaly_shares,
)
from radloom.transforms.synthesis.artefacts import CTAcquisitionRecipe, MRAcquisitionRecipe
from radloom.transforms.synthesis.artefacts.beam_hardening import BeamHardeningRecipe
from radloom.transforms.synthesis.artefacts.kernel import KernelParameters, KernelRecipe
from radloom.transforms.synthesis.artefacts.noise import NoiseRecipe, add_rician_noise
from radloom.transforms.synthesis.artefacts.quantum_noise import (
    QuantumNoiseRecipe,
    fbp_noise,
    noise_map,
)
from radloom.transforms.synthesis.artefacts.slices import SliceRecipe
from radloom.transforms.synthesis.deformation import DeformationRecipe
from radloom.transforms.synthesis.edits import EditRecipe
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.mr import CONTRASTS
from radloom.transforms.synthesis.sample import (
    GridRecipe,
    SampleRecipe,
    draw_sample,
    render_sample,
)

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]

NOISE = {"real": (6, 9, 3, 15), "priors": (9,), "ct": (12, 24, 6), "anomalies": (9,)}
"""Per cent of the 99th percentile in the head; HU, root mean square in the head."""
FIRST = {
    "real": (
        "patient 01 T1",
        "patient 03 T2",
        "patient 04 FLAIR",
        "MPRAGE",
        "T1, skull-stripped",
    ),
    "priors": (),
    "ct": ("rendered anatomy_13", "body", "head"),
    "anomalies": (),
}
"""What a method that takes minutes a case is run on; all methods are compared on these."""
CROP = (128, 160, 16)
"""Voxels from the middle of the head that every method gets; the noise is added, and a level is
estimated, in the whole scan."""
PRIORS = ("MPRAGE", "T1, skull-stripped")
PRIOR_CROP = (64, 80, 16)
"""Of the same middle, for deep image priors, of which one takes a quarter of an hour on this."""
WINDOW_HU = (-160.0, 240.0)
"""In which the results for CT are compared."""
KERNEL = KernelParameters(0.7)
"""Of the noise that is added to CT."""
MS = (
    ("studies/ms01/date1/study1", "patient 01"),
    ("real/ms/patient03/study2", "patient 03"),
    ("real/ms/patient04/study1", "patient 04"),
)
SPHERES_MM = (3.0, 5.0, 8.0)
"""Diameters."""
SPHERES_EACH = 10
"""Of each diameter in one head."""
APART_MM = 13.0
"""Between centres of spheres."""
SPHERE_CONTRAST = (0.15, 0.5)
"""Over the 99th percentile, brighter or darker, log-uniform."""
SPHERE_GRID = (144, 176, 40)
FULL_HEAD = (192, 224, 192)


@dataclass(frozen=True)
class Sphere:
    """One anomaly: how much of each voxel it takes, and what it adds there."""

    diameter_mm: float
    contrast: float
    box: Box
    share: Floats


@dataclass(frozen=True)
class Case:
    """A volume with noise added; all (I, J, K), of the box unless named otherwise."""

    name: str
    part: str
    modality: str
    noise: float
    sigma: float
    peak: float
    spacing: tuple[float, float, float]
    truth: Floats
    noisy: Floats
    head: Mask
    whole: Floats
    """The noisy scan that the box was cut from."""
    box: Box
    spheres: tuple[Sphere, ...] = ()


def cases(part: str, data: Path) -> Iterator[tuple[str, float, Callable[[], Case]]]:
    """Name, noise and maker of each case of a part, those of `FIRST` before the others."""
    names = _SCANS[part](data)
    for core in (True, False):
        for noise in NOISE[part]:
            for name, scan in names.items():
                if (name in FIRST[part]) == core:
                    yield name, noise, partial(_MAKERS[part], name, scan, noise)


def mr_case(name: str, scan: Callable[[], tuple[Floats, Sequence[float]]], noise: float) -> Case:
    """A scan as it is, with Rician noise added to the whole of it."""
    truth, spacing = scan()
    head = head_of(truth)
    peak = float(np.percentile(truth[head], 99))
    sigma = noise / 100 * peak
    noisy = add_rician_noise(torch.from_numpy(truth), sigma, seeded(name, noise)).numpy()
    return _cropped(name, "real", "MR", noise, sigma, peak, spacing, (truth, noisy, head))


def prior_case(name: str, scan: Callable[[], tuple[Floats, Sequence[float]]], noise: float) -> Case:
    """The middle of an `mr_case`."""
    case = mr_case(name, scan, noise)
    starts = [(n - size) // 2 for n, size in zip(case.truth.shape, PRIOR_CROP, strict=True)]
    part = tuple(slice(a, a + size) for a, size in zip(starts, PRIOR_CROP, strict=True))
    i, j, k = (
        slice(b.start + p.start, b.start + p.stop) for b, p in zip(case.box, part, strict=True)
    )
    cut = {key: getattr(case, key)[part].copy() for key in ("truth", "noisy", "head")}
    return replace(case, part="priors", box=(i, j, k), **cut)


def ct_case(name: str, scan: Callable[[], tuple[Floats, Sequence[float]]], noise: float) -> Case:
    """A CT with the noise of filtered back-projection added, stronger behind bone."""
    hu, spacing = scan()
    head = ndimage.binary_opening(hu > -400)
    x, y, z = (float(s) for s in spacing)
    i, j, k = hu.shape
    grid = Grid((i, j, k), (x, y, z))
    tensor = torch.from_numpy(hu)[None]
    level = noise * noise_map(tensor, torch.from_numpy(head), grid, k)
    seed = zlib.crc32(f"{name} {noise}".encode())
    added = level * fbp_noise((i, j, k), grid, KERNEL, seed, torch.device("cpu"))
    noisy = (tensor + added)[0].round().numpy()
    peak = WINDOW_HU[1] - WINDOW_HU[0]
    return _cropped(name, "ct", "CT", noise, noise, peak, spacing, (hu, noisy, head))


def sphere_case(name: str, scan: Callable[[], SphereHead], noise: float) -> Case:
    """A rendered head with spheres in its brain and Rician noise."""
    clean, brain, head = scan()
    peak = float(np.percentile(clean[head], 99))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    spheres, truth = _painted(clean, brain, peak, rng)
    sigma = noise / 100 * peak
    noisy = add_rician_noise(torch.from_numpy(truth), sigma, seeded(name, noise)).numpy()
    box = (slice(None), slice(None), slice(None))
    return Case(
        name, "anomalies", "MR", noise, sigma, peak, (1, 1, 1), truth, noisy, head, noisy, box,
        spheres,
    )  # fmt: skip


_MAKERS = {"real": mr_case, "priors": prior_case, "ct": ct_case, "anomalies": sphere_case}
SphereHead = tuple[Floats, Mask, Mask]


def full_head() -> Floats:
    """A phantom of 1 mm on `FULL_HEAD`, with Rician noise of 6%."""
    from radloom.transforms.synthesis.phantom import make_head, render_mr

    generator = torch.Generator().manual_seed(0)
    head = make_head(generator, spacing_mm=1.0)
    clean = array_of(render_mr(head, "t1", noise=0.0, generator=generator))[0]
    padded = np.zeros(FULL_HEAD, np.float32)
    part = tuple(slice(0, min(a, b)) for a, b in zip(FULL_HEAD, clean.shape, strict=True))
    padded[part] = clean[part]
    sigma = 0.06 * float(np.percentile(padded[padded > 0], 99))
    return add_rician_noise(torch.from_numpy(padded), sigma, seeded("full", 6)).numpy()


def head_of(volume: Floats) -> Mask:
    """The largest thing above a seventh of the bright tissue, its holes filled slice by slice."""
    smooth = ndimage.uniform_filter(volume, 3)
    bright = ndimage.binary_opening(smooth > np.percentile(smooth[smooth > smooth.mean()], 99) / 7)
    pieces, n = ndimage.label(bright)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]) if n else bright
    return np.stack([ndimage.binary_fill_holes(s) for s in np.moveaxis(largest, 2, 0)], -1)


def seeded(name: str, noise: float) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{name} {noise}".encode()))


def _cropped(
    name: str,
    part: str,
    modality: str,
    noise: float,
    sigma: float,
    peak: float,
    spacing: Sequence[float],
    whole: tuple[Floats, Floats, Mask],
) -> Case:
    truth, noisy, head = whole
    box = middle_box(head)
    x, y, z = (float(s) for s in spacing)
    cut = (v[box].copy() for v in (truth, noisy))
    return Case(
        name, part, modality, noise, sigma, peak, (x, y, z), *cut, head[box].copy(), noisy, box
    )


def middle_box(head: Mask) -> Box:
    """`CROP` voxels about the middle of the head, or fewer where the volume ends."""
    slices = []
    for axis, size in enumerate(CROP):
        where = np.flatnonzero(head.any(tuple(a for a in range(3) if a != axis)))
        n = head.shape[axis]
        start = round((int(where[0]) + int(where[-1]) + 1 - size) / 2)
        start = min(max(start, 0), max(n - size, 0))
        slices.append(slice(start, min(start + size, n)))
    return slices[0], slices[1], slices[2]


def _real_scans(data: Path) -> dict[str, Callable[[], tuple[Floats, Sequence[float]]]]:
    scans = {
        f"{who} {contrast}": partial(scan_of, data / f"{stem}_{contrast}W.nii.gz")
        if contrast != "FLAIR"
        else partial(scan_of, data / f"{stem}_{contrast}.nii.gz")
        for contrast in ("T1", "T2", "FLAIR")
        for stem, who in MS
    }
    scans["MPRAGE"] = partial(scan_of, data / "studies" / "mprage")
    scans["T1, skull-stripped"] = partial(scan_of, data / "real" / "labelled" / "t1_brain.nii.gz")
    return scans


def _prior_scans(data: Path) -> dict[str, Callable[[], tuple[Floats, Sequence[float]]]]:
    scans = _real_scans(data)
    return {name: scans[name] for name in PRIORS}


def _ct_scans(data: Path) -> dict[str, Callable[[], tuple[Floats, Sequence[float]]]]:
    heads = {
        f"rendered {head.name}": partial(rendered_ct, head)
        for head in validation_heads(data / "anatomy" / "validation")
    }
    body = partial(scan_of, data / "real" / "body_ct" / "example_ct.nii.gz")
    return {**heads, "body": body, "head": partial(head_ct, data / "studies" / "ct_head_tilt")}


def _sphere_heads(data: Path) -> dict[str, Callable[[], SphereHead]]:
    heads = validation_heads(data / "anatomy" / "validation")
    contrasts = ("t1_mprage", "t2", "flair", "t1_mprage")
    return {
        f"{contrast} {head.name}": partial(rendered_mr, head, contrast)
        for head, contrast in zip(heads, contrasts, strict=True)
    }


@cache
def validation_heads(folder: Path) -> tuple[Anatomy, ...]:
    return tuple(load_anatomies(folder))


@cache
def scan_of(path: Path) -> tuple[Floats, tuple[float, ...]]:
    """A scan with its axes along right, anterior, superior."""
    volume = read_image(path)
    image = nib.as_closest_canonical(nib.Nifti1Image(array_of(volume)[0], affine_of(volume)))
    spacing = tuple(float(s) for s in nib.affines.voxel_sizes(image.affine))
    return np.ascontiguousarray(image.get_fdata(dtype=np.float32)), spacing


@cache
def head_ct(folder: Path) -> tuple[Floats, tuple[float, float, float]]:
    """The axial slices as one stack; their tilt and their uneven distances do not matter here."""
    volume, spacing = ct_scan(folder)
    return np.clip(volume, -1024, 3071), spacing


@cache
def rendered_ct(head: Anatomy) -> tuple[Floats, tuple[float, float, float]]:
    """A head as a scanner without noise shows it, in slices of 3 mm."""
    recipe = plain_recipe(
        GridRecipe((208, 240, 24), (0.9, 0.9), offset=0.0),
        ct_acquisition=CTAcquisitionRecipe(
            beam_hardening=BeamHardeningRecipe(probability=0),
            kernel=KernelRecipe(soft_mm=(0.7, 0.7), sharp_probability=0),
            slices=SliceRecipe(probability=0),
            noise=QuantumNoiseRecipe(probability=0),
            padding_probability=0,
        ),
    )
    drawn = draw_sample(head, recipe, torch.Generator().manual_seed(1))
    spacing = (0.9, 0.9, 3.0)
    drawn = replace(drawn, grid=replace(drawn.grid, spacing_mm=spacing, centre_mm=(0, 0, 25)))
    return render_sample(head, drawn, ("ct_clean",))["ct_clean"][0].numpy(), spacing


@cache
def rendered_mr(head: Anatomy, contrast: str) -> SphereHead:
    """A head without noise, 1 mm; where its brain and where its head are."""
    recipe = plain_recipe(
        GridRecipe(SPHERE_GRID, offset=0.0),
        mr=CONTRASTS[contrast],
        mr_acquisition=MRAcquisitionRecipe(nearly_clean=1.0, noise=NoiseRecipe(probability=0)),
    )
    drawn = draw_sample(head, recipe, torch.Generator().manual_seed(1))
    drawn = replace(drawn, grid=replace(drawn.grid, centre_mm=(0, 0, 25)))
    seen = render_sample(head, drawn, ("clean", "label", "structures"))
    label = seen["label"][0].numpy()
    brain = np.isin(label, (2, 3, 41, 42, 7, 8, 46, 47, 10, 49, 11, 50, 12, 51, 13, 52, 16))
    return seen["clean"][0].numpy(), brain, seen["structures"][0].numpy() > 0


def rendered_slices(
    head: Anatomy, contrast: str, slices: float, shape: tuple[int, int, int]
) -> tuple[Floats, Mask]:
    """A head without noise, pixels of 1 mm; where its head is."""
    quiet = MRAcquisitionRecipe(nearly_clean=1.0, noise=NoiseRecipe(probability=0))
    recipe = plain_recipe(
        GridRecipe(shape, offset=0.0), mr=CONTRASTS[contrast], mr_acquisition=quiet
    )
    drawn = draw_sample(head, recipe, torch.Generator().manual_seed(1))
    grid = replace(drawn.grid, spacing_mm=(1.0, 1.0, slices), centre_mm=(0, 0, 15))
    seen = render_sample(head, replace(drawn, grid=grid), ("clean", "structures"))
    return seen["clean"][0].numpy(), seen["structures"][0].numpy() > 0


def plain_recipe(grid: GridRecipe, **other: object) -> SampleRecipe:
    """No turns, no edits, no anomalies of the generator's own."""
    still = DeformationRecipe(
        rotation_degrees=(0, 0), scaling=(1, 1), translation_mm=(0, 0), extreme_probability=0,
        ventricle_probability=0,
    )  # fmt: skip
    whole = EditRecipe(flap_probability=0, resection_probability=0)
    plain = SampleRecipe(
        grid=grid, deformation=still, edits=whole, anomalies=AnomalyRecipe(probability=0)
    )
    return replace(plain, **other)  # type: ignore[arg-type]


_SCANS = {
    "real": _real_scans,
    "priors": _prior_scans,
    "ct": _ct_scans,
    "anomalies": _sphere_heads,
}


def _painted(
    clean: Floats, brain: Mask, peak: float, rng: np.random.Generator
) -> tuple[tuple[Sphere, ...], Floats]:
    """Spheres at random places of the brain, none near another, and the head with them."""
    i, j, k = clean.shape
    grid = Grid((i, j, k))
    deep = ndimage.distance_transform_edt(brain) > 2
    places = rng.permutation(np.argwhere(deep))
    diameters = [d for d in SPHERES_MM for _ in range(SPHERES_EACH)]
    chosen: list[npt.NDArray[np.int64]] = []
    spheres = []
    image = clean.copy()
    for place in places:
        if len(spheres) == len(diameters):
            break
        if chosen and min(np.linalg.norm(place - other) for other in chosen) < APART_MM:
            continue
        chosen.append(place)
        diameter = diameters[len(spheres)]
        contrast = _contrast(float(clean[tuple(place)]), peak, rng)
        centre = [float(p - (n - 1) / 2) for p, n in zip(place, clean.shape, strict=True)]
        one = AnomalyParameters(
            "any", "ellipsoid", (centre[0], centre[1], centre[2]), (diameter / 2,) * 3,
            1000, 80, 0.8, 30, edge_mm=1.0,
        )  # fmt: skip
        ((box, share),) = anomaly_shares([one], grid, "cpu")
        spheres.append(Sphere(diameter, contrast, box, share.numpy()))
        image[box] += contrast * share.numpy()
    return tuple(spheres), image


def _contrast(here: float, peak: float, rng: np.random.Generator) -> float:
    """What a sphere adds: to either side, as long as it stays between 0.02 and 1.3 of the peak."""
    low, high = np.log(SPHERE_CONTRAST)
    size = float(np.exp(rng.uniform(low, high))) * peak
    sign = 1 if rng.random() < 0.5 else -1
    if not 0.02 * peak <= here + sign * size <= 1.3 * peak:
        sign = -sign
    if here + sign * size < 0.02 * peak:
        size = here - 0.02 * peak
    return sign * size
