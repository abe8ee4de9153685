"""How far rendered heads lie from real scans: grey values, edges, spectra.

Real: T1, T2 and FLAIR of two patients (real/ms), and the slices of a head CT (studies/ct_head_tilt,
whose pixels count here, not its geometry). Rendered: heads of anatomy/validation on the voxels of
those scans, in the contrast of that name, with anomalies and edits as in training; once by a good
acquisition (shading, weak noise), once by those of training, without what people take out of
pictures. The same steps measure all, within the head:

- grey values: over the 99th percentile (CT: HU / 1000); Wasserstein distance of distributions;
- edges: length of the in-plane gradient per mm, in the same units; distance of the distributions of
  its logarithm (base 10);
- spectrum: mean power of the slices in rings of 0.05 to 0.5 cycles a mm, in dB to the first ring;
  root of the mean square of the difference.

To judge a distance: between the two patients, and between a scan and one of another contrast.
Nothing was tuned on these scans. Run from the repository root, with the data beside the checkout::

    python benchmarks/generator_realism.py [../shared/data] [--anatomies PACKED] [--sheet OUT.png]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
import torch
from PIL import Image
from scipy import ndimage, stats

from radloom.models.training.anatomies import load_anatomies
from radloom.transforms.synthesis.anatomy import Anatomy
from radloom.transforms.synthesis.artefacts import CTAcquisitionRecipe, MRAcquisitionRecipe
from radloom.transforms.synthesis.artefacts.beam_hardening import BeamHardeningRecipe
from radloom.transforms.synthesis.artefacts.kernel import KernelRecipe
from radloom.transforms.synthesis.artefacts.masking import MaskRecipe
from radloom.transforms.synthesis.artefacts.quantum_noise import QuantumNoiseRecipe
from radloom.transforms.synthesis.deformation import DeformationRecipe
from radloom.transforms.synthesis.mr import CONTRASTS
from radloom.transforms.synthesis.sample import (
    GridRecipe,
    SampleRecipe,
    draw_sample,
    render_sample,
)

Floats = npt.NDArray[np.float32]

CONTRAST = {"T1W": "t1", "T2W": "t2", "FLAIR": "flair"}
PATIENTS = (("patient03", "study2"), ("patient04", "study1"))
ACQUISITIONS = {
    "good scan": (
        MRAcquisitionRecipe(nearly_clean=1.0),
        CTAcquisitionRecipe(
            beam_hardening=BeamHardeningRecipe(probability=0),
            kernel=KernelRecipe(sharp_probability=0),
            noise=QuantumNoiseRecipe(hu=(2.0, 6.0)),
        ),
    ),
    "training": (
        MRAcquisitionRecipe(mask=MaskRecipe(0, face_probability=0)),
        CTAcquisitionRecipe(),
    ),
}
RINGS = np.linspace(0.05, 0.5, 19)
N_VALUES = 20_000


@dataclass(frozen=True)
class Look:
    """What is compared of one volume."""

    values: Floats
    edges: Floats
    spectrum: Floats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"))
    parser.add_argument("--anatomies", type=Path, help="packed ones, instead of anatomy/validation")
    parser.add_argument("--draws", type=int, default=1, help="of each anatomy and contrast")
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    heads = load_anatomies(args.anatomies or args.data / "anatomy" / "validation")
    scans = {
        name: [mr_scan(args.data, *patient, name) for patient in PATIENTS] for name in CONTRAST
    }
    scans["CT"] = [ct_scan(args.data / "studies" / "ct_head_tilt")]
    pictures = []
    real: dict[str, list[Look]] = {}
    rendered: dict[str, dict[str, list[Look]]] = {kind: {} for kind in ACQUISITIONS}
    for name, own in scans.items():
        real[name] = [look(volume, spacing, hu=name == "CT") for volume, spacing in own]
        row = [volume for volume, _ in own]
        for kind, recipe in ACQUISITIONS.items():
            renders = [
                render(h, name, *own[0], n, recipe) for h in heads for n in range(args.draws)
            ]
            rendered[kind][name] = [look(v, own[0][1], hu=name == "CT") for v in renders]
            row += renders[:2] if len(own) == 2 or kind == "training" else renders[:3]
        pictures.append(row)
    report(real, rendered)
    if args.sheet:
        save_sheet(pictures, args.sheet)


def report(real: dict[str, list[Look]], rendered: dict[str, dict[str, list[Look]]]) -> None:
    others = {"T1W": "T2W", "T2W": "T1W", "FLAIR": "T1W"}
    print("| | | rendered, good scan | rendered, as trained on | real to real | other contrast |")
    print("|---|---|---|---|---|---|")
    for name, scans in real.items():
        of_kind = {
            **{kind: mean_distance(looks[name], scans) for kind, looks in rendered.items()},
            "real": distance(*scans) if len(scans) == 2 else None,
            "other": mean_distance(real[others[name]], scans) if name in others else None,
        }
        for number, what in enumerate(("grey values", "edges", "spectrum, dB")):
            cells = ["-" if d is None else f"{d[number]:.3f}" for d in of_kind.values()]
            print(f"| {name} | {what} | " + " | ".join(cells) + " |")


def mean_distance(first: list[Look], second: list[Look]) -> Floats:
    return np.mean([distance(a, b) for a, b in product(first, second)], axis=0)


def distance(first: Look, second: Look) -> Floats:
    return np.array(
        [
            stats.wasserstein_distance(first.values, second.values),
            stats.wasserstein_distance(first.edges, second.edges),
            np.sqrt(np.mean((first.spectrum - second.spectrum) ** 2)),
        ],
        np.float32,
    )


def look(volume: Floats, spacing: tuple[float, float, float], *, hu: bool = False) -> Look:
    """The statistics of a volume (I, J, K) whose slices are (I, J)."""
    if hu:
        head = head_of(volume + 1000, 0.5 * 1000)
        scaled = np.clip(volume, -1000, 2000) / 1000
    else:
        top = np.percentile(volume[volume > volume.mean()], 99)
        head = head_of(volume, 0.1 * top)
        top = np.percentile(volume[head], 99)
        scaled = volume / top
    gradient = np.hypot(*(np.gradient(scaled, spacing[a], axis=a) for a in (0, 1)))
    rng = np.random.default_rng(0)
    chosen = rng.choice(np.flatnonzero(head), N_VALUES)
    edges = np.log10(np.maximum(gradient.ravel()[chosen], 1e-4))
    values = scaled.ravel()[chosen]
    return Look(
        values.astype(np.float32), edges.astype(np.float32), spectrum(scaled, head, spacing)
    )


def head_of(volume: Floats, level: float) -> npt.NDArray[np.bool_]:
    """The largest thing brighter than `level`, its holes filled slice by slice."""
    bright = ndimage.binary_opening(ndimage.gaussian_filter(volume, (1, 1, 0)) > level)
    pieces, n = ndimage.label(bright)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]) if n else bright
    closed = ndimage.binary_closing(largest, np.ones((5, 5, 1)))
    return np.stack([ndimage.binary_fill_holes(s) for s in np.moveaxis(closed, 2, 0)], -1)


def spectrum(
    scaled: Floats, head: npt.NDArray[np.bool_], spacing: tuple[float, float, float]
) -> Floats:
    """Power in `RINGS`, dB to the first, mean over the slices with most of the head."""
    full = np.argsort(-head.sum((0, 1)))[:12]
    slices = np.where(head, scaled, 0)[:, :, full]
    power = (np.abs(np.fft.fft2(slices, axes=(0, 1))) ** 2).mean(2)
    fi, fj = (np.fft.fftfreq(n, s) for n, s in zip(power.shape, spacing, strict=False))
    ring = np.digitize(np.hypot(fi[:, None], fj[None]), RINGS)
    mean = np.array([power[ring == r].mean() for r in range(1, len(RINGS))])
    return (10 * np.log10(mean / mean[0])).astype(np.float32)


def mr_scan(
    data: Path, patient: str, study: str, name: str
) -> tuple[Floats, tuple[float, float, float]]:
    image = nib.as_closest_canonical(
        nib.load(data / "real" / "ms" / patient / f"{study}_{name}.nii.gz")
    )
    x, y, z = (float(s) for s in image.header.get_zooms()[:3])
    return np.asarray(image.dataobj, np.float32), (x, y, z)


def ct_scan(folder: Path) -> tuple[Floats, tuple[float, float, float]]:
    """The axial slices, (I, J, K) with I to the right and J to the front."""
    slices = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        dataset = pydicom.dcmread(path, force=True)
        if "PixelData" in dataset and dataset.Rows == dataset.Columns:
            hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
            slices.append((float(dataset.ImagePositionPatient[2]), hu, dataset.PixelSpacing[0]))
    slices.sort(key=lambda s: s[0])
    volume = np.stack([hu.T[::-1, ::-1] for _, hu, _ in slices], -1).astype(np.float32)
    pixel = float(slices[0][2])
    steps = np.diff([z for z, _, _ in slices])
    return volume, (pixel, pixel, float(np.median(np.abs(steps))))


def render(
    head: Anatomy,
    name: str,
    scan: Floats,
    spacing: tuple[float, float, float],
    number: int,
    acquisitions: tuple[MRAcquisitionRecipe, CTAcquisitionRecipe],
) -> Floats:
    """A head in a contrast, on the voxels of a scan."""
    shape = (scan.shape[0], scan.shape[1], scan.shape[2])
    recipe = SampleRecipe(
        grid=GridRecipe(shape, offset=0.0),
        deformation=DeformationRecipe(rotation_degrees=(-6, 6), extreme_probability=0),
        mr=CONTRASTS.get(CONTRAST.get(name, ""), CONTRASTS["t1"]),
        mr_acquisition=acquisitions[0],
        ct_acquisition=acquisitions[1],
    )
    seed = 1000 * number + sum(map(ord, head.name + name))
    drawn = draw_sample(head, recipe, torch.Generator().manual_seed(seed))
    top = (head.grid.shape[2] * head.spacing_mm - shape[2] * spacing[2]) / 2 + 8
    drawn = replace(drawn, grid=replace(drawn.grid, spacing_mm=spacing, centre_mm=(0, 0, top)))
    wanted = "ct" if name == "CT" else "image"
    return render_sample(head, drawn, (wanted,))[wanted][0].numpy()


def save_sheet(rows: list[list[Floats]], path: Path) -> None:
    """Middle slices: the real scans first, then rendered ones."""
    tiles = []
    for row in rows:
        line = []
        for volume in row:
            middle = np.rot90(volume[:, :, int(volume.shape[2] * 0.55)])[:, ::-1]
            low, high = (-100, 200) if middle.min() < -500 else (0, np.percentile(volume, 99.7))
            grey = (255 * np.clip((middle - low) / (high - low), 0, 1)).astype(np.uint8)
            line.append(np.asarray(Image.fromarray(grey).resize((240, 240))))
        tiles.append(np.hstack(line))
    Image.fromarray(np.vstack(tiles)).save(path)


if __name__ == "__main__":
    main()
