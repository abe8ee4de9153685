"""What several coils added up in quadrature leave behind: found, and taken off, or not.

Heads of anatomy/validation, T1, T2 and FLAIR, 16 slices of 1 mm, with non-central chi noise of 3
and 9 % of the 99th percentile in each channel. Reported: the number of coils that is found, the
level found over the true one, and what the default method leaves of the bias in deviations of the
noise, in air and in dim tissue (5 to 30 % of that percentile), as it is and told that the noise is
Rician of the level found.

Run from the repository root, with the data beside the checkout or their folder named::

    python benchmarks/denoise_coils.py [../shared/data]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from denoise_cases import rendered_slices

from radloom.models.denoising.methods import How, denoise_image
from radloom.models.training.anatomies import load_anatomies

LOOKS = ("t1_mprage", "t2", "flair")
COILS = (1, 4, 8, 32)
NOISE = (3, 9)
SHAPE = (192, 208, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = load_anatomies(options.data / "anatomy" / "validation")
    scans = [
        rendered_slices(head, look, 1.0, SHAPE)[0] for head, look in zip(heads, LOOKS, strict=False)
    ]
    print("| noise | coils | found | level | bias in air | Rician | in dim tissue | Rician |")
    print("|---" * 8 + "|")
    for noise in NOISE:
        for n_coils in COILS:
            rows = [measured(scan, noise, n_coils) for scan in scans]
            found = ", ".join(str(int(row[0])) for row in rows)
            numbers = " | ".join(f"{value:.2f}" for value in np.mean(rows, axis=0)[1:])
            print(f"| {noise} % | {n_coils} | {found} | {numbers} |", flush=True)


def measured(clean: np.ndarray, noise: float, n_coils: int) -> list[float]:
    peak = float(np.percentile(clean[clean > clean.mean()], 99))
    sigma = noise / 100 * peak
    rng = np.random.default_rng(n_coils)
    in_phase = clean + sigma * rng.standard_normal(clean.shape)
    rest = sigma**2 * rng.chisquare(2 * n_coils - 1, clean.shape)
    noisy = np.sqrt(in_phase**2 + rest).astype(np.float32)
    result, told = denoise_image(noisy, (1, 1, 1), modality="MR")
    other, _ = denoise_image(noisy, (1, 1, 1), modality="MR", how=How(sigma=told.sigma))
    parts = (clean < 0.01 * peak, (clean > 0.05 * peak) & (clean < 0.3 * peak))
    biases = [
        float((volume - clean)[part].mean()) / sigma for part in parts for volume in (result, other)
    ]
    return [told.n_coils, told.sigma / sigma, *biases]


if __name__ == "__main__":
    main()
