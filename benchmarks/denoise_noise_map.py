"""Whether one noise level or a map of it serves better, where the true map is known.

Heads rendered from anatomy/train or, for the table, anatomy/validation in three contrasts, 1 mm and
slices of 4 mm; Rician noise that is even, or uneven as the generator's parallel imaging makes it
(largest over smallest deviation 1.5, 2, 3). Reported for each: the unevenness that is found; the
mean error of the level in a voxel of the head, as a factor, of the map and of one number; PSNR of
non-local means told the true map, the found map, the found number.

Run from the repository root, with the data beside the checkout or their folder named::

    python benchmarks/denoise_noise_map.py [../shared/data] --anatomy train --maps 01 05 09
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from denoise_cases import rendered_slices, seeded

from radloom.models.denoising.methods import How, denoise_image
from radloom.models.denoising.noise import estimate_noise
from radloom.models.denoising.noise_map import estimate_noise_map
from radloom.models.training.anatomies import load_anatomies
from radloom.transforms.synthesis.anatomy import Anatomy
from radloom.transforms.synthesis.artefacts.noise import (
    NoiseParameters,
    g_factor,
    magnitude_with_noise,
)

Floats = npt.NDArray[np.float32]

GRIDS = {1.0: (160, 200, 48), 4.0: (160, 200, 24)}
"""Distance of slices in mm -> voxels."""
LARGEST = (1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Case:
    truth: Floats
    noisy: Floats
    sigma: Floats
    head: npt.NDArray[np.bool_]
    spacing: tuple[float, float, float]
    noise: float
    largest: float

    def psnr(self, image: Floats) -> float:
        peak = np.percentile(self.truth[self.head], 99)
        error = np.mean((image - self.truth)[self.head] ** 2)
        return float(10 * np.log10(peak**2 / error))


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    heads = load_anatomies(options.data / "anatomy" / options.anatomy)
    heads = [h for h in heads if not options.maps or h.name[-2:] in options.maps]
    rows: dict[tuple[float, float, float], list[list[float]]] = defaultdict(list)
    for case in cases(heads, options.noise):
        rows[case.spacing[2], case.largest, case.noise].append(measured(case))
    print("| slices, mm | largest / smallest | noise | found | map off | number off | PSNR: true")
    for (slices, largest, noise), found in sorted(rows.items()):
        mean = np.mean(found, 0)
        extremes = f"{np.min(found, 0)[0]:.2f} to {np.max(found, 0)[0]:.2f}"
        cells = " | ".join(f"{value:.3f}" for value in mean[1:3])
        gains = " | ".join(f"{value:.2f}" for value in mean[3:])
        print(f"| {slices:g} | {largest:g} | {noise:g}% | {extremes} | {cells} | {gains} |")


def measured(case: Case) -> list[float]:
    level = estimate_noise(case.noisy, "MR").sigma
    found = estimate_noise_map(case.noisy, case.spacing, level, rician=True)
    told = (case.sigma, found.sigma, level)
    off = [
        float(np.exp(np.abs(np.log(sigma / case.sigma))[case.head].mean()))
        for sigma in (found.sigma, np.full_like(case.sigma, level))
    ]
    gains = [
        case.psnr(denoise_image(case.noisy, case.spacing, modality="MR", how=How(sigma=sigma))[0])
        for sigma in told
    ]
    return [found.unevenness, *off, *gains]


def cases(heads: list[Anatomy], noise: list[float]) -> Iterator[Case]:
    contrasts = ("t1_mprage", "t2", "flair")
    for number, head in enumerate(heads):
        for slices, shape in GRIDS.items():
            contrast = contrasts[number % 3]
            truth, mask = rendered_slices(head, contrast, slices, shape)
            peak = float(np.percentile(truth[mask], 99))
            for level in noise:
                for largest in LARGEST:
                    drawn = NoiseParameters(level / 100, 0, 1, largest, number)
                    gain = g_factor(shape, drawn, torch.device("cpu"))[0].float()
                    sigma = gain * (level / 100 * peak)
                    generator = seeded(f"{head.name} {slices} {largest}", level)
                    first, second = (torch.randn(shape, generator=generator) for _ in range(2))
                    noisy = magnitude_with_noise(torch.from_numpy(truth), sigma, first, second)
                    spacing = (1.0, 1.0, slices)
                    yield Case(
                        truth, noisy.numpy(), sigma.numpy(), mask, spacing, level, largest
                    )  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--anatomy", default="validation", choices=("train", "validation"))
    parser.add_argument("--maps", nargs="*", default=[], help="numbers, as 13 14; default: all")
    parser.add_argument("--noise", type=float, nargs="*", default=[3, 9], help="per cent")
    return parser.parse_args()


if __name__ == "__main__":
    main()
