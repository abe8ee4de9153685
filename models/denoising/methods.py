"""One way in to every denoiser: estimate the noise, or be told it, then take it out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from radloom.errors import ConfigError, GridMismatch, InputError
from radloom.geometry import spacing_of
from radloom.models.denoising.bm4d import block_matching
from radloom.models.denoising.learned import Denoiser, denoise_with_network, shipped_denoiser
from radloom.models.denoising.noise import NoiseEstimate, estimate_noise
from radloom.models.denoising.noise_map import estimate_noise_map
from radloom.models.denoising.prior import DeepPrior, deep_image_prior
from radloom.shapes import affine_of, array_of
from radloom.transforms.denoising.nlb import non_local_bayes
from radloom.transforms.denoising.nlm import NonLocalMeans, non_local_means
from radloom.transforms.denoising.rician import mean_magnitude, signal_of_mean
from radloom.transforms.denoising.shrinkage import cosine_shrinkage
from radloom.transforms.denoising.tv import total_variation

__all__ = ["METHODS", "Denoised", "How", "Method", "denoise_image", "suitable_method"]

Floats = npt.NDArray[np.float32]

Method: TypeAlias = Literal["network", "dip", "nlb", "dct", "nlm", "tv", "bm4d"]

METHODS: tuple[str, ...] = get_args(Method)
"""Trained network, deep image prior, non-local Bayes, cosine shrinkage, non-local means, total
variation, BM4D."""

UNEVEN = 1.45
"""A `NoiseMap.unevenness` above which noise counts as uneven.

On three training maps (`benchmarks/denoise_noise_map.py`) even noise is found to have 1.07 to 1.44,
noise whose largest level is twice its smallest 1.42 to 1.72. Non-local means gains by the map 0.1
to 0.5 dB there, 0.5 to 1.1 dB at three times; on even noise it would lose 0.02 to 0.2 dB.
"""

MIN_RELATIVE = 0.05
"""A given map counts as no less than this times its median: nothing is divided by zero."""

FAST_SEARCH_RADIUS = 1
"""With `fast`, non-local means averages over 3 x 3 x 3 in place of 5 x 5 x 5 voxels."""

FAST_ITERATIONS = 8
"""With `fast`, total variation stops after so many iterations in place of 60."""

FAST_STEPS = 40
"""With `fast`, the deep image prior stops after so many steps at the latest."""


@dataclass(frozen=True, eq=False)
class How:
    """How an image is denoised; every field has a default that suits most."""

    method: Method | None = None
    """network, dip (deep image prior), nlb (non-local Bayes), dct (shrinkage of cosine
    coefficients), nlm (non-local means), tv (total variation) or bm4d; None: as
    `suitable_method` says."""
    sigma: float | npt.ArrayLike | None = None
    """Standard deviation of the noise in the image's units, one number or a map (I, J, K); None: it
    is estimated."""
    uneven: bool | None = None
    """Whether an estimate is a map; None: where noise is found to be more uneven than `UNEVEN`, and
    air tells of one coil."""
    fast: bool = False
    """Less work for a weaker result; the network, nlb, dct and BM4D know no less."""
    n_threads: int = 1
    """Of the CPU; the results of nlb, dct, nlm and tv do not depend on it."""
    device: torch.device | None = None
    """Where network and deep image prior run; None: the CPU."""
    guide: npt.ArrayLike | None = None
    """For dip: another image (I, J, K) of the same patient on the same grid."""
    denoiser: Denoiser | None = None
    """For network: whose weights; None: the bundle that Radloom ships for the modality."""

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in METHODS:
            raise ConfigError(f"expected a denoising method of {METHODS}, got {self.method!r}")
        if self.guide is not None and self.method != "dip":
            got = self.method or "no method"
            raise ConfigError(f"expected a guide with the method dip, got one with {got}")
        if self.sigma is not None:
            levels = np.asarray(self.sigma, np.float32)
            if not (np.isfinite(levels).all() and (levels >= 0).all()):
                raise ConfigError(
                    "expected a finite noise level of 0 or more, got "
                    f"{self.sigma if levels.ndim == 0 else 'a map with others in it'}"
                )


def suitable_method(modality: str, *, fast: bool = False) -> Method:
    """The method where none is asked for: non-local Bayes for MR, non-local means for the rest.

    On real MR non-local Bayes is 1.1 dB above non-local means and takes 18 times as long, so
    `fast` does without it; the noise of CT is correlated, which it knows nothing of.

    >>> suitable_method("MR"), suitable_method("MR", fast=True), suitable_method("CT")
    ('nlb', 'nlm', 'nlm')
    """
    return "nlb" if modality == "MR" and not fast else "nlm"


def denoise_image(
    image: npt.ArrayLike, spacing: Sequence[float], *, modality: str, how: How | None = None
) -> tuple[Floats, NoiseEstimate]:
    """The image (I, J, K) with its noise removed, in the same unit, and the noise level.

    Magnitude MR loses the bias of Rician noise with it, or of non-central chi noise where air tells
    that several coils were added up; CT and the rest are taken as Gaussian.
    Where the noise is uneven, the network is told a map of it; the other methods get the image
    divided by that map (relative to its level), in which the noise is even, and their result is
    multiplied by it: the map varies so slowly that edges and textures do not change by it.

    Args:
        image: (I, J, K), finite; never changed.
        spacing: millimetres along I, J, K.
        modality: DICOM code: MR, CT, PT, ...
        how: the method and what it is told; None: `suitable_method`, the noise estimated.

    Raises:
        InputError: the image is not 3D or not finite.
        GridMismatch: the guide, or the noise map, has another shape.
        MissingWeights: the network has no weights here.
        ConfigError: BM4D is not installed.
    """
    how = how or How()
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError("expected finite values, got NaN or infinity: mask or replace them first")
    if how.method is None:
        how = replace(how, method=suitable_method(modality, fast=how.fast))
    noise, relative = _noise(values, spacing, modality, how)
    if how.method == "network":
        denoiser = how.denoiser or shipped_denoiser(modality, how.device or torch.device("cpu"))
        level = noise.sigma if relative is None else noise.sigma * relative
        clean = denoise_with_network(values, level, spacing, denoiser, modality=modality)
    else:
        even = values if relative is None else values / relative
        clean = _without_weights(even, spacing, noise.sigma, modality == "MR", how)
        clean = clean if relative is None else clean * relative
    if noise.n_coils > 1:  # all methods take magnitudes for those of one coil
        mean = mean_magnitude(clean, noise.sigma)
        clean = signal_of_mean(mean, noise.sigma, noise.n_coils)
    return clean, noise


def _noise(
    values: Floats, spacing: Sequence[float], modality: str, how: How
) -> tuple[NoiseEstimate, Floats | None]:
    """The level, and what to multiply it by in each voxel; None: by nothing."""
    if how.sigma is not None:
        given = np.asarray(how.sigma, dtype=np.float32)
        if given.ndim == 0:
            return NoiseEstimate(float(given), "given"), None
        return _given_map(given, values)
    noise = estimate_noise(values, modality)
    # a map takes air of several coils for less noise
    never = modality != "MR" or noise.n_coils > 1
    if noise.sigma == 0 or how.uneven is False or (how.uneven is None and never):
        return noise, None
    found = estimate_noise_map(values, spacing, noise.sigma, rician=modality == "MR")
    if how.uneven is None and found.unevenness < UNEVEN:
        return noise, None
    told = replace(noise, sigma=found.level, unevenness=found.unevenness, n_coils=1)
    return told, found.sigma / np.float32(found.level)


def _given_map(given: Floats, values: Floats) -> tuple[NoiseEstimate, Floats | None]:
    if given.shape != values.shape:
        raise GridMismatch(f"expected a noise map of shape {values.shape}, got {given.shape}")
    level = float(np.median(given[given > 0])) if given.any() else 0.0
    if level == 0:
        return NoiseEstimate(0.0, "given"), None
    relative = np.maximum(given / np.float32(level), np.float32(MIN_RELATIVE))
    low, high = np.percentile(relative, (5, 95))
    return NoiseEstimate(level, "given", unevenness=float(high / low)), relative


def _without_weights(
    values: Floats,
    spacing: Sequence[float],
    sigma: float,
    rician: bool,  # noqa: FBT001
    how: How,
) -> Floats:
    if how.method == "dip":
        settings = DeepPrior(max_steps=FAST_STEPS) if how.fast else DeepPrior()
        return deep_image_prior(
            values,
            sigma,
            spacing=spacing,
            guide=how.guide,
            rician=rician,
            settings=settings,
            device=how.device or torch.device("cpu"),
            n_threads=how.n_threads,
        )
    if how.method in ("nlb", "dct"):
        method = non_local_bayes if how.method == "nlb" else cosine_shrinkage
        return method(values, sigma, spacing=spacing, rician=rician, n_threads=how.n_threads)
    if how.method == "bm4d":
        return block_matching(values, sigma, rician=rician)
    if how.method == "tv":
        iterations = FAST_ITERATIONS if how.fast else 60
        return total_variation(
            values, sigma, spacing=spacing, rician=rician, n_iterations=iterations
        )
    chosen = NonLocalMeans(search_radius=FAST_SEARCH_RADIUS if how.fast else 2, rician=rician)
    return non_local_means(values, sigma, spacing=spacing, settings=chosen, n_threads=how.n_threads)


class Denoised(MapTransform):  # type: ignore[misc]
    """`denoise_image` for each channel of `keys`: (C, I, J, K) MetaTensors, their meta kept.

    Args:
        keys: of the volumes.
        modality: DICOM code.
        method: as in `How`.
        n_threads: of the CPU.
        network: for the method network: a module without its weights.
        inferer: a MONAI Inferer for it.
        weights: file with its weights.
        device: where it runs.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modality: str = "MR",
        method: Method | None = None,
        n_threads: int = 1,
        network: torch.nn.Module | None = None,
        inferer: Any = None,
        weights: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(keys)
        self.modality = modality
        denoiser = None
        if method == "network" and network is not None and weights is not None:
            denoiser = Denoiser.of_file(network, inferer, weights, device or torch.device("cpu"))
        self.how = How(method=method, n_threads=n_threads, device=device, denoiser=denoiser)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of `data` with the volumes of `keys` denoised."""
        result = dict(data)
        for key in self.key_iterator(result):
            volume = cast("MetaTensor", result[key])
            spacing = spacing_of(affine_of(volume)).tolist()
            clean = [
                denoise_image(c, spacing, modality=self.modality, how=self.how)[0]
                for c in array_of(volume)
            ]
            result[key] = MetaTensor(np.stack(clean), meta=volume.meta)
        return result
