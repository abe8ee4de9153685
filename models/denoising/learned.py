"""Denoising by a trained network, on any grid, in the image's own units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from radloom.errors import InputError, MissingWeights
from radloom.models.bundles import bundle_sha256, find_bundle, load_bundle
from radloom.models.denoising.network import FLOOR, HU_UNIT
from radloom.models.inference import load_weights
from radloom.transforms.denoising.shrinkage import thickest_axis

__all__ = ["BUNDLES", "Denoiser", "bundle_of", "denoise_with_network", "shipped_denoiser"]

Floats = npt.NDArray[np.float32]

BUNDLES = {"MR": "head_mr_denoising", "CT": "head_ct_denoising"}
"""DICOM modality -> the bundle that was trained for it."""

STRIDE = 8
"""Windows are padded to multiples of this, which the network's own halvings ask for."""


@dataclass(frozen=True)
class Denoiser:
    """A network (B, 2, I, J, K) -> (B, 1, I, J, K): image and noise level -> clean image."""

    network: torch.nn.Module = field(repr=False)
    """With its weights, on `device`, in evaluation mode."""
    window: tuple[int, int, int] = (128, 128, 128)
    """The largest part of an image that goes through at once."""
    overlap: float = 0.25
    """Of neighbouring windows, which are blended by a Gaussian."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def of_file(
        cls, network: torch.nn.Module, inferer: Any, weights: str, device: torch.device
    ) -> Denoiser:
        """A network, its weights from a file and its windows from a MONAI SlidingWindowInferer.

        Raises:
            MissingWeights: the file is not there.
        """
        load_weights(network, weights)
        return cls.of_inferer(network, inferer, device)

    @classmethod
    def of_inferer(cls, network: torch.nn.Module, inferer: Any, device: torch.device) -> Denoiser:
        """A network with its weights, and the windows of a MONAI SlidingWindowInferer."""
        network = network.to(device).eval()
        if inferer is None:
            return cls(network, device=device)
        i, j, k = inferer.roi_size
        return cls(network, (int(i), int(j), int(k)), float(inferer.overlap), device)


def bundle_of(modality: str) -> str:
    """The name of the bundle for images of a DICOM modality.

    Raises:
        MissingWeights: no network was ever meant for it.
    """
    if modality not in BUNDLES:
        raise MissingWeights(
            f"expected an image of {' or '.join(BUNDLES)} for the network, got {modality!r}: "
            "choose another method"
        )
    return BUNDLES[modality]


def shipped_denoiser(modality: str, device: torch.device) -> Denoiser:
    """The network that Radloom ships for a DICOM modality, loaded once in a process's life.

    Raises:
        MissingWeights: this release holds no weights for it.
    """
    folder = find_bundle(bundle_of(modality))
    return _loaded(folder, bundle_sha256(folder), str(device))


@lru_cache(maxsize=2)
def _loaded(
    folder: Path,
    digest: str,  # noqa: ARG001 (keys the cache: other files, another network)
    device: str,
) -> Denoiser:
    bundle = load_bundle(folder, device=torch.device(device))
    return Denoiser.of_inferer(bundle.network, bundle.inferer, bundle.device)


def denoise_with_network(
    image: npt.ArrayLike,
    sigma: float | npt.ArrayLike,
    spacing: Sequence[float],
    denoiser: Denoiser,
    *,
    modality: str,
) -> Floats:
    """The image (I, J, K) without its noise, float32 in the same units.

    The network sees MR over its 99th percentile and CT in thousands of HU, and the noise level
    beside it, the axis of the thickest slices last (`shrinkage.BLOCK`). Larger images go through in
    windows that a Gaussian blends.

    Args:
        image: (I, J, K), finite; never changed.
        sigma: standard deviation of the noise in the image's units, one number or a map (I, J, K).
        spacing: millimetres along I, J, K.
        denoiser: the network.
        modality: DICOM code.

    Raises:
        InputError: the image is not 3D, or the map has another shape.
    """
    values = np.array(image, dtype=np.float32)
    level = np.asarray(sigma, dtype=np.float32)
    if values.ndim != 3 or level.shape not in ((), values.shape):
        raise InputError(
            f"expected an image (I, J, K) and one noise level or a map of it, got {values.shape} "
            f"and {level.shape}"
        )
    scale = HU_UNIT if modality == "CT" else float(np.percentile(values, 99))
    if values.size == 0 or scale <= 0 or not level.any():
        return values
    told = np.maximum(level / np.float32(scale), np.float32(FLOOR))
    pair = np.stack([values / np.float32(scale), np.broadcast_to(told, values.shape)])
    thickest = thickest_axis(spacing)
    turned = np.ascontiguousarray(pair.swapaxes(1 + thickest, 3))
    clean = _in_windows(torch.from_numpy(turned), denoiser).numpy().swapaxes(thickest, 2)
    return np.asarray(clean * np.float32(scale), dtype=np.float32)


def _in_windows(pair: torch.Tensor, denoiser: Denoiser) -> torch.Tensor:
    """(I, J, K) of a pair (2, I, J, K), on the CPU; on the GPU while its memory lasts."""
    from monai.inferers import sliding_window_inference

    shape = pair.shape[1:]
    window, overlap = zip(
        *(_windows_of(n, m, denoiser.overlap) for n, m in zip(shape, denoiser.window, strict=True)),
        strict=True,
    )
    missing = [max(0, w - size) for w, size in zip(window, shape, strict=True)]
    padding = [n for m in reversed(missing) for n in (0, m)]
    batch = functional.pad(pair[None], padding, mode="replicate")

    def through(network: Callable[..., torch.Tensor], device: torch.device) -> torch.Tensor:
        return sliding_window_inference(
            batch,
            window,
            1,
            network,
            overlap=overlap,
            mode="gaussian",
            sw_device=device,
            device=torch.device("cpu"),
        )

    with torch.inference_mode():
        try:
            clean = through(denoiser.network, denoiser.device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            clean = through(denoiser.network.cpu(), torch.device("cpu"))
            denoiser.network.to(denoiser.device)
    i, j, k = shape
    return clean[0, 0, :i, :j, :k].float()


def _windows_of(size: int, most: int, overlap: float) -> tuple[int, float]:
    """Size and overlap, as a share of it, of the fewest and then smallest windows along an axis.

    Neighbours share as many voxels as `overlap` of the largest window, `most`, has.
    """
    shared = overlap * most
    n = 1 if size <= most else math.ceil((size - shared) / (most - shared))
    window = math.ceil((size + (n - 1) * shared) / n / STRIDE) * STRIDE
    return window, shared / window if n > 1 else 0.0
