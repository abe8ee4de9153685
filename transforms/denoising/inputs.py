"""What every denoiser of a known noise level is given."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from radloom.errors import InputError

__all__ = ["checked_volume"]


def checked_volume(image: npt.ArrayLike, sigma: float) -> npt.NDArray[np.float32]:
    """The image (I, J, K) as float32, not copied where it is that already.

    Raises:
        InputError: the image is not 3D, or sigma is negative or not finite.
    """
    values = np.asarray(image, dtype=np.float32)
    if values.ndim != 3:
        raise InputError(f"expected an image (I, J, K), got shape {values.shape}")
    if not np.isfinite(sigma) or sigma < 0:
        raise InputError(f"expected a finite noise level of 0 or more, got {sigma}")
    return values
