"""The denoisers on heads with a known truth, against scikit-image's non-local means.

From each whole-head label map a slab is rendered in T1, T2 and FLAIR contrast: the signal equations
and relaxation times of the head phantom by label, texture within tissues, coil shading, a point
spread of 0.6 voxels that mixes the tissues at their borders. It gets Rician noise as a share of
the 99th percentile of the head. Slices are 1 mm, and 4 mm (the mean of four) for the thick ones.

Reported: PSNR inside the head (labels other than 0; peak: that 99th percentile) as the mean over
maps and contrasts, and processor seconds for a million voxels in one thread.

`--select` tries the grids of parameters instead, on anatomy/train only; docs/benchmarks.md says
what was chosen from them, and holds the table of anatomy/validation.

Run from the repository root, with the data beside the checkout or their folder named::

    python benchmarks/denoise_settings.py [../shared/data]
    python benchmarks/denoise_settings.py --select --maps 01 05 09 --slices 16
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from radloom.models.denoising.noise import estimate_noise
from radloom.transforms.denoising import nlm
from radloom.transforms.denoising.nlm import NonLocalMeans, non_local_means
from radloom.transforms.denoising.tv import total_variation
from radloom.transforms.synthesis.artefacts import add_rician_noise, bias_field
from radloom.transforms.synthesis.contrast import SEQUENCES, mr_signal
from radloom.transforms.synthesis.tissues import STRUCTURES, Code, Relaxation, Tissue

Floats = npt.NDArray[np.float32]

MARGIN = 12
"""Voxels of air that are kept around the head."""
POINT_SPREAD = 0.6
"""Voxels; the deviation of the Gaussian."""

LESION = Tissue(Relaxation(1400, 140, 0.85), 30)
SCALP = Tissue(Relaxation(700, 55, 0.75), 0, 0.05)  # skin and fat, which the maps hold as one
SET = {25: LESION, 57: LESION, 511: SCALP}
ON_THE_MAPS = {
    30: Code.ARTERY,
    62: Code.ARTERY,
    72: Code.CSF,
    530: Code.DURA,
    **dict.fromkeys((136, 137, 163, 164), Code.PUTAMEN),
    506: Code.VITREOUS,
    508: Code.LENS,
}
"""Labels that the phantom lacks or splits, and what they are taken for."""

PEER_H = 0.5
"""Decay of scikit-image's weights in units of sigma: its best on training maps at 1 mm.

The same with and without its Rician bias taken off.
"""


@dataclass(frozen=True)
class Sample:
    """One noisy render; `truth`, `noisy`, `head` are (I, J, K)."""

    truth: Floats
    noisy: Floats
    head: npt.NDArray[np.bool_]
    spacing: tuple[float, float, float]
    noise: float
    sigma: float
    peak: float

    def psnr(self, image: Floats) -> float:
        error = np.mean((image[self.head] - self.truth[self.head]) ** 2)
        return float(10 * np.log10(self.peak**2 / error))


def slab_of_labels(path: Path, n_planes: int) -> npt.NDArray[Any]:
    """Axial planes round the lateral ventricles, cropped to the head and `MARGIN`."""
    image = nib.as_closest_canonical(nib.load(path))
    labels = np.asarray(image.dataobj).astype(np.int16)
    centre = round(float(np.nonzero(np.isin(labels, (4, 43)))[2].mean()))
    start = min(max(centre - n_planes // 2, 0), labels.shape[2] - n_planes)
    slab = labels[:, :, start : start + n_planes]
    box = tuple(
        slice(max(int(where.min()) - MARGIN, 0), int(where.max()) + MARGIN + 1)
        for where in np.nonzero(slab)[:2]
    )
    return slab[box]


def tissue_of(label: int) -> Tissue:
    if label in SET:
        return SET[label]
    if label in ON_THE_MAPS:
        return STRUCTURES[ON_THE_MAPS[label]].tissue
    return next(s.tissue for s in STRUCTURES if label in s.label)


def render(labels: np.ndarray, contrast: str, seed: int) -> npt.NDArray[Any]:
    """The noise-free image (I, J, K) of a label map of 1 mm."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.standard_normal(labels.shape, np.float32), 1.5)
    texture /= texture.std()
    values, index = np.unique(labels, return_inverse=True)
    tissues = [tissue_of(int(value)) for value in values]
    level = np.array([mr_signal(t.at_3t, SEQUENCES[contrast]) for t in tissues], np.float32)
    ripple = level * np.array([t.texture for t in tissues], np.float32)
    index = index.reshape(labels.shape)
    image = level[index] + ripple[index] * texture
    image *= bias_field(np.eye(4), labels.shape, 0.12, torch.Generator().manual_seed(seed)).numpy()
    return ndimage.gaussian_filter(image, POINT_SPREAD)


def samples(
    renders: list[tuple[Path, str]], noise: list[float], n_slices: int, thickness: int
) -> Iterator[Sample]:
    """Every render at every noise level; the same arguments give the same voxels."""
    for seed, (path, contrast) in enumerate(renders):
        labels = slab_of_labels(path, n_slices * thickness)
        truth = render(labels, contrast, seed)
        truth = truth.reshape(*truth.shape[:2], n_slices, thickness).mean(-1)
        head = (labels > 0).reshape(*truth.shape, thickness).mean(-1) > 0.5
        peak = float(np.percentile(truth[head], 99))
        for n_level, level in enumerate(noise):
            sigma = level / 100 * peak
            generator = torch.Generator().manual_seed(100 * seed + n_level)
            noisy = add_rician_noise(torch.from_numpy(truth), sigma, generator).numpy()
            yield Sample(truth, noisy, head, (1.0, 1.0, float(thickness)), level, sigma, peak)


def ours_nlm(sample: Sample, sigma: float, **settings: Any) -> Floats:
    chosen = NonLocalMeans(rician=True, **settings)
    return non_local_means(sample.noisy, sigma, spacing=sample.spacing, settings=chosen)


def ours_tv(sample: Sample, sigma: float) -> Floats:
    return total_variation(sample.noisy, sigma, spacing=sample.spacing, rician=True)


def peer(sample: Sample, sigma: float, h: float = PEER_H) -> Floats:
    """scikit-image's, with the patch and search of ours: 3 x 3 x 3 in 5 x 5 x 5.

    It knows neither spacing nor Rician noise.
    """
    from skimage.restoration import denoise_nl_means

    return denoise_nl_means(
        sample.noisy, patch_size=3, patch_distance=2, h=h * sigma, sigma=sigma, fast_mode=True
    )


def unbiased(image: Floats, sigma: float, factor: float) -> Floats:
    return np.sqrt(np.maximum(image**2 - np.float32(factor * sigma**2), 0))


METHODS: dict[str, Callable[[Sample, float], Floats]] = {
    "nlm": ours_nlm,
    "tv": ours_tv,
    "scikit-image nlm": peer,
}


def compare(cases: Iterator[Sample]) -> str:
    """PSNR at each noise level, at the true and the estimated sigma, and time."""
    psnr: dict[tuple[str, float], list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for sample in cases:
        psnr["noisy", sample.noise].append(sample.psnr(sample.noisy))
        estimate = estimate_noise(sample.noisy, "MR")
        psnr["estimated / true sigma", sample.noise].append(estimate.sigma / sample.sigma)
        for name, denoise in METHODS.items():
            sigmas = {"true sigma": sample.sigma}
            if denoise is not peer:
                sigmas["estimated sigma"] = estimate.sigma
            for kind, sigma in sigmas.items():
                begin = time.process_time()
                clean = denoise(sample, sigma)
                spent = time.process_time() - begin
                seconds[f"{name}, {kind}"].append(spent / sample.noisy.size * 1e6)
                psnr[f"{name}, {kind}", sample.noise].append(sample.psnr(clean))
        fairer = sample.psnr(unbiased(clean, sample.sigma, 2.0))  # the last method is the peer
        psnr["the same, Rician bias taken off", sample.noise].append(fairer)
    ratios = {
        level: psnr.pop(("estimated / true sigma", level)) for level in {lev for _, lev in psnr}
    }
    spread = ", ".join(f"{n:g}%: {min(r):.3f} to {max(r):.3f}" for n, r in sorted(ratios.items()))
    return f"{table(psnr, seconds)}\n\nEstimated over true sigma: {spread}"


def trials(sample: Sample) -> Iterator[tuple[str, Floats]]:
    """Every setting on trial with its result, at the true sigma."""
    thick = sample.spacing[2] > nlm.THICK
    for patch, search in ((1, 1), (1, 2), (2, 2), (1, 3)):
        for strength in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2):
            if patch * search == 1 or strength in (0.6, 0.8, 1.0) or (patch, search) == (1, 2):
                settings = {"strength": strength, "patch_radius": patch, "search_radius": search}
                name = f"nlm patch {patch} search {search} strength {strength:g}"
                yield name, ours_nlm(sample, sample.sigma, **settings)
    for radii in ((2, 2, 0), (3, 3, 0), (2, 2, 1), (2, 2, 2), (3, 3, 2)) if thick else ():
        with mock.patch.object(nlm, "search_radii", return_value=radii):
            yield f"nlm strength 0.8 search {radii}", ours_nlm(sample, sample.sigma, strength=0.8)
    for strength in (0.4, 0.5, 0.6, 0.7):
        for spacing in {sample.spacing: "", (1.0, 1.0, 1.0): " across slices"}.items():
            smooth = total_variation(
                sample.noisy, sample.sigma, spacing=spacing[0], strength=strength
            )
            for factor in (1.0, 1.25, 1.5, 1.75, 2.0):
                name = f"tv strength {strength:g} bias {factor:g}{spacing[1]}"
                yield name, unbiased(smooth, sample.sigma, factor)
    for h in () if thick else (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.3):
        smooth = peer(sample, sample.sigma, h)
        yield f"scikit-image h {h:g}", smooth
        yield f"scikit-image h {h:g} bias taken off", unbiased(smooth, sample.sigma, 2.0)


def select(cases: Iterator[Sample]) -> str:
    psnr: dict[tuple[str, float], list[float]] = defaultdict(list)
    correlations: dict[float, list[float]] = defaultdict(list)
    for sample in cases:
        correlations[sample.noise].append(estimate_noise(sample.noisy, "MR").correlation)
        for name, image in trials(sample):
            psnr[name, sample.noise].append(sample.psnr(image))
    spread = ", ".join(f"{n:g}%: {min(c):.2f} to {max(c):.2f}" for n, c in correlations.items())
    return f"{table(psnr, {})}\n\nNoise two voxels apart over that of neighbours: {spread}"


def table(psnr: dict[tuple[str, float], list[float]], seconds: dict[str, list[float]]) -> str:
    noise = sorted({level for _, level in psnr})
    lines = ["| PSNR, dB | " + " | ".join(f"{level:g}%" for level in noise) + " | mean | s |"]
    lines.append("|---" * (len(noise) + 3) + "|")
    for name in dict.fromkeys(name for name, _ in psnr):
        means = [float(np.mean(psnr[name, level])) for level in noise]
        cells = " | ".join(f"{mean:.2f}" for mean in [*means, float(np.mean(means))])
        spent = f"{np.median(seconds[name]):.2f}" if name in seconds else ""
        lines.append(f"| {name} | {cells} | {spent} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--anatomy", type=Path, help="folder of label maps; see --select")
    parser.add_argument("--maps", nargs="*", default=[], help="numbers, as 13 14; default: all")
    parser.add_argument("--contrasts", nargs="*", default=list(SEQUENCES), choices=SEQUENCES)
    parser.add_argument("--noise", type=float, nargs="*", default=[3, 6, 9, 15], help="per cent")
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--thickness", type=int, nargs="*", default=[1, 4], help="of slices, mm")
    parser.add_argument("--select", action="store_true", help="try settings, on training maps")
    options = parser.parse_args()
    part = "train" if options.select else "validation"
    options.anatomy = options.anatomy or options.data / "anatomy" / part
    if options.select and options.anatomy.name != "train":
        parser.error("settings are chosen on anatomy/train only")
    return options


def main() -> None:
    options = arguments()
    paths = sorted(options.anatomy.glob("*.nii.gz"))
    paths = [p for p in paths if not options.maps or p.name.split(".")[0][-2:] in options.maps]
    if not paths:
        sys.exit(f"expected label maps *.nii.gz in {options.anatomy}")
    renders = [(path, contrast) for path in paths for contrast in options.contrasts]
    if options.select:  # one contrast a map, in turn
        renders = list(zip(paths, cycle(options.contrasts), strict=False))
    torch.set_num_threads(1)
    print(
        f"{dt.date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}; {len(paths)} maps, {len(renders)} renders of "
        f"{options.slices} slices; s: processor seconds for 10^6 voxels"
    )
    for thickness in options.thickness:
        cases = samples(renders, options.noise, options.slices, thickness)
        print(f"\n{thickness} mm slices\n\n{(select if options.select else compare)(cases)}")


if __name__ == "__main__":
    main()
