"""What the checks of the residual say of good, of too strong and of blunt denoising.

Heads rendered from anatomy/train (thresholds) or anatomy/validation (the table), three contrasts,
slices of 1 and 4 mm, Rician noise of 3, 9 and 15%, white, interpolated (zero-filled to 4/3 the
matrix) and uneven. Each is denoised as it should be, then with the noise level told 2 and 4 times
too high, and blurred
by a Gaussian. For each: the two numbers of `residual_structure`, and what was taken besides noise:
the root mean square of (noise-free image, with its bias, less result) over that of the noise.

Run from the repository root, with the data beside the checkout or their folder named::

    python benchmarks/denoise_checks.py [../shared/data] --anatomy train [--methods nlm tv]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from denoise_cases import rendered_slices, seeded
from scipy import ndimage

from radloom.models.denoising.methods import How, denoise_image
from radloom.models.denoising.residual import residual_structure
from radloom.models.training.anatomies import load_anatomies
from radloom.pipelines.denoise import MAX_AUTOCORRELATION, MAX_EDGE_CORRELATION
from radloom.transforms.synthesis.anatomy import Anatomy
from radloom.transforms.synthesis.artefacts.noise import (
    NoiseParameters,
    g_factor,
    magnitude_with_noise,
)

Floats = npt.NDArray[np.float32]

GRIDS = {1.0: (144, 176, 24), 4.0: (144, 176, 16)}
"""Distance of slices in mm -> voxels."""
KINDS = ("white", "interpolated", "uneven")


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    heads = load_anatomies(options.data / "anatomy" / options.anatomy)
    heads = [h for h in heads if not options.maps or h.name[-2:] in options.maps]
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for truth, noisy, sigma, spacing, kind in cases(heads, options.noise):
        for name, clean in results(noisy, sigma, spacing, options.methods):
            structure = residual_structure(noisy, clean)
            lost = float(np.std(truth - clean) / sigma)
            row = structure.autocorrelation, structure.edge_correlation, lost
            found[name].append(row)
            if options.each:
                numbers = " ".join(f"{value:.3f}" for value in row)
                print(name, kind, spacing[2], numbers, flush=True)
    print(
        "| | autocorrelation | edge correlation | error / noise | flagged |\n|---|---|---|---|---|"
    )
    for name, rows in found.items():
        array = np.array(rows)
        low, middle, high = np.percentile(array, (0, 50, 100), axis=0)
        ranges = (
            f"{m:.3f} ({a:.3f} to {b:.3f})" for a, m, b in zip(low, middle, high, strict=True)
        )
        flagged = (array[:, 0] > MAX_AUTOCORRELATION) | (array[:, 1] > MAX_EDGE_CORRELATION)
        print(f"| {name} | {' | '.join(ranges)} | {flagged.sum()} of {len(rows)} |")


def results(
    noisy: Floats, sigma: float, spacing: tuple[float, float, float], methods: list[str]
) -> Iterator[tuple[str, Floats]]:
    for method in methods:
        for factor in (1.0, 2.0, 4.0):
            how = How(method, sigma=factor * sigma)  # type: ignore[arg-type]
            yield f"{method} x{factor:g}", denoise_image(noisy, spacing, modality="MR", how=how)[0]
    finest = min(spacing)
    for width in (0.5, 0.7, 1.0):
        widths = [width * finest / s for s in spacing]
        yield f"Gaussian {width:g} mm", ndimage.gaussian_filter(noisy, widths)


def cases(
    heads: list[Anatomy], noise: list[float]
) -> Iterator[tuple[Floats, Floats, float, tuple[float, float, float], str]]:
    """Truth, noisy image, level, spacing, kind of noise."""
    contrasts = ("t1_mprage", "t2", "flair")
    for number, head in enumerate(heads):
        for slices, shape in GRIDS.items():
            truth, mask = rendered_slices(head, contrasts[number % 3], slices, shape)
            peak = float(np.percentile(truth[mask], 99))
            for level in noise:
                for kind in KINDS:
                    sigma = level / 100 * peak
                    generator = seeded(f"{head.name} {slices} {kind}", level)
                    noisy = with_noise(truth, sigma, kind, number, generator)
                    yield truth, noisy, sigma, (1.0, 1.0, slices), kind


def with_noise(
    truth: Floats, sigma: float, kind: str, number: int, generator: torch.Generator
) -> Floats:
    first, second = (torch.randn(truth.shape, generator=generator) for _ in range(2))
    if kind == "interpolated":
        first, second = (torch.from_numpy(interpolated(v.numpy())) for v in (first, second))
    i, j, k = truth.shape
    largest = 2.0 if kind == "uneven" else 1.0
    gain = g_factor((i, j, k), NoiseParameters(1, 0, 1, largest, number), torch.device("cpu"))[0]
    return magnitude_with_noise(
        torch.from_numpy(truth), sigma * gain.float(), first, second
    ).numpy()  # fmt: skip


def interpolated(white: Floats) -> Floats:
    """White noise of a matrix of three quarters, zero-filled to the grid in the plane."""
    spectrum = np.fft.fftn(white, axes=(0, 1))
    fi, fj = (np.abs(np.fft.fftfreq(n)) for n in white.shape[:2])
    spectrum *= ((fi[:, None] < 0.375) & (fj < 0.375))[..., None]
    noise = np.fft.ifftn(spectrum, axes=(0, 1)).real
    return np.asarray(noise / noise.std(), np.float32)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--anatomy", default="validation", choices=("train", "validation"))
    parser.add_argument("--maps", nargs="*", default=[], help="numbers, as 13 14; default: all")
    parser.add_argument("--methods", nargs="+", default=["nlm", "tv"])
    parser.add_argument("--noise", type=float, nargs="+", default=[3, 9, 15], help="per cent")
    parser.add_argument("--each", action="store_true", help="print each case too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
