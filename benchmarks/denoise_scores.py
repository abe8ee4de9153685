"""How near a denoised volume comes to its truth, and what is left of its spheres."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from denoise_cases import WINDOW_HU, Case, Sphere
from scipy import ndimage

Floats = npt.NDArray[np.float32]


def scores(case: Case, image: Floats) -> dict[str, Any]:
    """PSNR in dB and SSIM inside the head; for spheres what is left of each and of the noise."""
    truth, seen = _seen(case, case.truth), _seen(case, image)
    found = {"psnr": psnr(truth, seen, case), "ssim": ssim(truth, seen, case)}
    if case.spheres:
        found |= recovered(case, image)
    return found


def _seen(case: Case, image: Floats) -> Floats:
    return np.clip(image, *WINDOW_HU) if case.modality == "CT" else image


def psnr(truth: Floats, image: Floats, case: Case) -> float:
    error = np.mean((image[case.head] - truth[case.head]) ** 2, dtype=np.float64)
    return float(10 * np.log10(case.peak**2 / error))


def ssim(truth: Floats, image: Floats, case: Case) -> float:
    """Wang et al. 2004, windows of 7 x 7 x 7 voxels, the mean over those centred in the head."""
    from skimage.metrics import structural_similarity

    size = min(7, *(n if n % 2 else n - 1 for n in truth.shape))
    _, local = structural_similarity(truth, image, data_range=case.peak, win_size=size, full=True)
    return float(local[case.head].mean())


def recovered(case: Case, image: Floats) -> dict[str, Any]:
    """For each diameter the share of each sphere's contrast; the share of the error elsewhere.

    Contrast: the mean over the sphere, weighed by how much of a voxel it takes, less the mean over
    the shell of two voxels round it, both in what differs from the head without spheres.
    """
    background = case.truth.copy()
    anywhere = np.zeros(background.shape, bool)
    for sphere in case.spheres:
        background[sphere.box] -= sphere.contrast * sphere.share
        anywhere[sphere.box] |= sphere.share > 0
    off = case.head & ~ndimage.binary_dilation(anywhere, iterations=2)
    shares: dict[str, list[float]] = {}
    for sphere in case.spheres:
        here = contrast(image - background, anywhere, sphere)
        there = contrast(case.truth - background, anywhere, sphere)
        shares.setdefault(f"{sphere.diameter_mm:g}", []).append(round(here / there, 4))
    left, before = (rms((v - case.truth)[off]) for v in (image, case.noisy))
    return {"spheres": shares, "error_left": left / before}


def contrast(difference: Floats, anywhere: npt.NDArray[np.bool_], sphere: Sphere) -> float:
    box = tuple(
        slice(max(s.start - 2, 0), min(s.stop + 2, n))
        for s, n in zip(sphere.box, anywhere.shape, strict=True)
    )
    inside = np.zeros(anywhere.shape, np.float32)[box]
    offset = [s.start - b.start for s, b in zip(sphere.box, box, strict=True)]
    own = tuple(slice(o, o + n) for o, n in zip(offset, sphere.share.shape, strict=True))
    inside[own] = sphere.share
    shell = ndimage.binary_dilation(inside > 0, iterations=2) & ~anywhere[box]
    part = difference[box]
    return float((inside * part).sum() / inside.sum() - part[shell].mean())


def rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))
