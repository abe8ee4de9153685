"""Pictures of what denoising removes from scans as they are: no anatomy should be in them.

One row a scan: the scan, the result, what was removed in a window of three times its noise level
to either side, and the level over the slice, black 0, white twice the scan's. No noise is added;
the level is estimated as `radloom denoise` does. docs/images/denoise_<method>.png was made by

    python benchmarks/denoise_pictures.py ../shared/data docs/images --method nlm

Run from the repository root, with the data beside the checkout or their folder named.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from denoise_cases import head_ct, scan_of
from denoise_methods import Tools, network
from PIL import Image

from radloom.errors import MissingWeights
from radloom.models.denoising.methods import METHODS, UNEVEN, How, denoise_image
from radloom.models.denoising.noise import estimate_noise
from radloom.models.denoising.noise_map import estimate_noise_map

Floats = npt.NDArray[np.float32]

SLAB = 9
"""Slices about the one shown that are denoised."""
WINDOW_HU = (-20.0, 100.0)
GREYS = 31
"""Steps from black to white: noise is what fills a file."""
SIDE = 176
"""Voxels of a picture at most, and its pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/images"))
    parser.add_argument("--method", default="nlm", choices=METHODS)
    parser.add_argument("--bundles", type=Path, help="folder of bundles, for weights not shipped")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ms, studies = options.data / "real" / "ms", options.data / "studies"
    scans = [
        (*scan_of(studies / "mprage"), "MR"),
        (*scan_of(ms / "patient04" / "study1_FLAIR.nii.gz"), "MR"),
        (*scan_of(ms / "patient03" / "study2_T2W.nii.gz"), "MR"),
        (*head_ct(studies / "ct_head_tilt"), "CT"),
    ]
    tools = Tools(bundle=options.bundles)
    rows = []
    for scan, spacing, kind in scans:
        with suppress(MissingWeights):  # there may be weights for MR alone
            rows.append(row(scan, spacing, kind, options.method, tools))
    picture = np.vstack(rows)
    Image.fromarray(picture).save(options.out / f"denoise_{options.method}.png", optimize=True)


def row(
    scan: Floats, spacing: tuple[float, ...], modality: str, method: str, tools: Tools
) -> npt.NDArray[np.uint8]:
    level = estimate_noise(scan, modality).sigma
    sigma = np.full_like(scan, level)
    if modality == "MR":
        found = estimate_noise_map(scan, spacing, level, rician=True)
        print(f"{scan.shape}: level {found.level:.3g}, unevenness {found.unevenness:.2f}")
        level, sigma = (found.level, found.sigma) if found.unevenness > UNEVEN else (level, sigma)
    start = max(min(round(0.55 * scan.shape[2]) - SLAB // 2, scan.shape[2] - SLAB), 0)
    slab = (slice(None), slice(None), slice(start, start + SLAB))
    how = How(
        method,  # type: ignore[arg-type]
        sigma=sigma[slab],
        denoiser=network(modality, tools) if method == "network" else None,
    )
    clean = denoise_image(scan[slab], spacing, modality=modality, how=how)[0]
    before, after, local = (v[:, :, SLAB // 2] for v in (scan[slab], clean, sigma[slab]))
    low, high = WINDOW_HU if modality == "CT" else (0.0, float(np.percentile(scan, 99.5)))
    far = 3 * level
    pictures = (
        (before, low, high),
        (after, low, high),
        (before - after, -far, far),
        (local, 0.0, 2 * level),
    )
    return np.hstack([grey(*one) for one in pictures])


def grey(plane: Floats, low: float, high: float) -> npt.NDArray[np.uint8]:
    """The plane's middle, front up, not resampled: each voxel is a pixel."""
    cut = tuple(slice(max((n - SIDE) // 2, 0), max((n - SIDE) // 2, 0) + SIDE) for n in plane.shape)
    levels = np.round(GREYS * np.clip((plane[cut] - low) / (high - low), 0, 1)) * (255 // GREYS)
    framed = np.zeros((SIDE, SIDE), np.uint8)
    turned = levels.T[::-1].astype(np.uint8)
    framed[: turned.shape[0], : turned.shape[1]] = turned
    return framed


if __name__ == "__main__":
    main()
