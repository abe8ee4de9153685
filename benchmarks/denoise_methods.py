"""The denoisers side by side: ours at the true and at their own noise level, and the peers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from denoise_cases import Case
from denoise_scores import psnr

from radloom.models.denoising.learned import Denoiser
from radloom.models.denoising.methods import UNEVEN, How, Method, denoise_image
from radloom.models.denoising.noise import estimate_noise
from radloom.models.denoising.noise_map import estimate_noise_map
from radloom.transforms.denoising.rician import signal_of_mean

Floats = npt.NDArray[np.float32]
Denoise = Callable[[Case], Floats]

PEER_H = 0.5
"""Decay of scikit-image's weights in units of sigma: its best on training maps at 1 mm, with and
without its Rician bias taken off (`denoise_settings.py --select`)."""
DEEPINV_CHANNELS = 32
"""Of deepinv's decoder, an eighth of its own number, for a sixty-fourth of the work."""
DEEPINV_STEPS = 2500
FACTORS = (0.5, 0.7, 1.4)
"""Of the noise level that the weak and strong variants are told."""


@dataclass(frozen=True)
class Tools:
    """What some methods need."""

    bm4d: Path | None = None
    """An interpreter that has bm4d."""
    deepinv: Path | None = None
    """An interpreter that has deepinv."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (it is immutable)
    bundle: Path | None = None
    """Folder of bundles with weights; None: the ones that Radloom ships."""
    n_threads: int = 1


def methods(tools: Tools) -> dict[str, Denoise]:
    """By name; `x0.7` is told 0.7 times the true noise level."""
    told: dict[str, Denoise] = {"noisy": lambda case: case.noisy}
    for method in ("network", "dip", "nlb", "dct", "nlm", "tv", "bm4d"):
        told[method] = partial(ours, method=method, tools=tools)
        for factor in FACTORS:
            told[f"{method} x{factor:g}"] = partial(ours, method=method, tools=tools, factor=factor)
    for method in ("network", "nlb", "dct", "nlm", "tv"):
        told[f"{method}, blind"] = partial(ours, method=method, tools=tools, factor=None)
    told["scikit-image nlm"] = scikit_image
    told["deepinv, best step"] = partial(deepinv, tools=tools)
    return told


def ours(case: Case, *, method: Method, tools: Tools, factor: float | None = 1.0) -> Floats:
    """`denoise_image`, told the true level times `factor`, or (None) the estimate in the scan."""
    if method == "bm4d":
        lend_bm4d(tools)
    level = estimated(case) if factor is None else factor * case.sigma
    how = How(
        method,
        sigma=level,
        n_threads=tools.n_threads,
        device=tools.device,
        denoiser=network(case.modality, tools) if method == "network" else None,
    )
    return denoise_image(case.noisy, case.spacing, modality=case.modality, how=how)[0]


def estimated(case: Case) -> float | Floats:
    """What `denoise_image` would find in the whole scan, cut to the case's box."""
    level = estimate_noise(case.whole, case.modality).sigma
    if case.modality != "MR":
        return level
    found = estimate_noise_map(case.whole, case.spacing, level, rician=True)
    return found.sigma[case.box] if found.unevenness >= UNEVEN else level


def network(modality: str, tools: Tools) -> Denoiser | None:
    if tools.bundle is None:
        return None
    from radloom.models.bundles import load_bundle
    from radloom.models.denoising.learned import bundle_of

    bundle = load_bundle(tools.bundle / bundle_of(modality), device=tools.device)
    return Denoiser.of_inferer(bundle.network, bundle.inferer, bundle.device)


def scikit_image(case: Case) -> Floats:
    """scikit-image's, with the patch and search of ours, the bias of magnitudes taken off.

    It knows neither spacing nor Rician noise.
    """
    from skimage.restoration import denoise_nl_means

    smooth = denoise_nl_means(
        case.noisy,
        patch_size=3,
        patch_distance=2,
        h=PEER_H * case.sigma,
        sigma=case.sigma,
        fast_mode=True,
    )
    return signal_of_mean(smooth, case.sigma) if case.modality == "MR" else smooth


def deepinv(case: Case, *, tools: Tools) -> Floats:
    """Its answer at the step where the truth is nearest, the bias of magnitudes taken off.

    No user knows that step: what follows is the most that stopping at any step could give.
    """
    if tools.deepinv is None:
        raise SystemExit("name an interpreter that has deepinv: --deepinv PYTHON")
    script = Path(__file__).with_name("denoise_deepinv.py")
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "in.npy", Path(folder) / "out.npy"
        np.save(given, (case.noisy / case.peak).astype(np.float32))
        command = [str(tools.deepinv), str(script), str(given), str(made)]
        command += ["--channels", str(DEEPINV_CHANNELS), "--steps", str(DEEPINV_STEPS)]
        subprocess.run([*command, "--threads", str(tools.n_threads)], check=True)
        answers = np.load(made) * np.float32(case.peak)
    seen = [signal_of_mean(v, case.sigma) if case.modality == "MR" else v for v in answers]
    found = [psnr(case.truth, image, case) for image in seen]
    print("deepinv:", " ".join(f"{value:.2f}" for value in found[3::4]), file=sys.stderr)
    return seen[int(np.argmax(found))]


def lend_bm4d(tools: Tools) -> None:
    """Lets `denoise_image` find BM4D in another interpreter."""
    if "bm4d" in sys.modules:
        return
    if tools.bm4d is None:
        raise SystemExit("name an interpreter that has bm4d: --bm4d PYTHON")
    python, script = str(tools.bm4d), str(Path(__file__).with_name("denoise_bm4d.py"))

    def run(numbers: Floats, sigma: float) -> Floats:
        if sigma != 1:
            raise ValueError(f"expected numbers in units of the noise, got sigma {sigma}")
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder) / "in.npy", Path(folder) / "out.npy"
            np.save(given, numbers)
            subprocess.run([python, script, str(given), str(made)], check=True)
            return np.asarray(np.load(made), np.float32)

    module = types.ModuleType("bm4d")
    module.bm4d = run  # type: ignore[attr-defined]
    sys.modules["bm4d"] = module
