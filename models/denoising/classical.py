"""Denoising without weights: estimate the noise, then average it away."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from radloom.errors import ConfigError, InputError
from radloom.geometry import spacing_of
from radloom.models.denoising.noise import NoiseEstimate, estimate_noise
from radloom.shapes import affine_of, array_of
from radloom.transforms.denoising.nlm import NonLocalMeans, non_local_means
from radloom.transforms.denoising.tv import total_variation

__all__ = ["METHODS", "Denoised", "Method", "denoise_image"]

Method: TypeAlias = Literal["nlm", "tv"]

METHODS: tuple[str, ...] = get_args(Method)
"""Non-local means and total variation."""

FAST_SEARCH_RADIUS = 1
"""With `fast`, non-local means averages over 3 x 3 x 3 in place of 5 x 5 x 5 voxels."""

FAST_ITERATIONS = 8
"""With `fast`, total variation stops after so many iterations in place of 60."""


def denoise_image(
    image: npt.ArrayLike,
    spacing: Sequence[float],
    *,
    modality: str,
    method: Method = "nlm",
    fast: bool = False,
    n_threads: int = 1,
) -> tuple[npt.NDArray[np.float32], NoiseEstimate]:
    """The image (I, J, K) with its noise removed, in the same unit, and the noise level found.

    Magnitude MR loses the bias of Rician noise with it; CT and the rest are taken as Gaussian.

    Args:
        image: (I, J, K), finite; never changed.
        spacing: millimetres along I, J, K.
        modality: DICOM code: MR, CT, PT, ...
        method: nlm (non-local means) or tv (total variation).
        fast: less work for a weaker result, see `FAST_SEARCH_RADIUS` and `FAST_ITERATIONS`.
        n_threads: threads for non-local means; the result does not depend on it.

    Raises:
        ConfigError: an unknown method.
        InputError: the image is not 3D or not finite.
    """
    if method not in METHODS:
        raise ConfigError(f"expected a denoising method of {METHODS}, got {method!r}")
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError("expected finite values, got NaN or infinity: mask or replace them first")
    noise = estimate_noise(values, modality)
    rician = modality == "MR"
    if method == "tv":
        iterations = FAST_ITERATIONS if fast else 60
        return total_variation(
            values, noise.sigma, spacing=spacing, rician=rician, n_iterations=iterations
        ), noise
    settings = NonLocalMeans(search_radius=FAST_SEARCH_RADIUS if fast else 2, rician=rician)
    return non_local_means(
        values, noise.sigma, spacing=spacing, settings=settings, n_threads=n_threads
    ), noise


class Denoised(MapTransform):  # type: ignore[misc]
    """`denoise_image` for each channel of `keys`: (C, I, J, K) MetaTensors, their meta kept."""

    def __init__(
        self, keys: KeysCollection, modality: str = "MR", method: str = "nlm", n_threads: int = 1
    ) -> None:
        super().__init__(keys)
        self.modality, self.method, self.n_threads = modality, method, n_threads

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of `data` with the volumes of `keys` denoised."""
        result = dict(data)
        for key in self.key_iterator(result):
            volume = cast("MetaTensor", result[key])
            spacing = spacing_of(affine_of(volume)).tolist()
            options: Any = {"method": self.method, "n_threads": self.n_threads}
            clean = [
                denoise_image(c, spacing, modality=self.modality, **options)[0]
                for c in array_of(volume)
            ]
            result[key] = MetaTensor(np.stack(clean), meta=volume.meta)
        return result
