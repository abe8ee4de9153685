"""BM4D where the user has it installed: its licence forbids other than research use."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from radloom.errors import ConfigError
from radloom.transforms.denoising.rician import signal_of_mean

__all__ = ["block_matching"]


def block_matching(
    image: npt.ArrayLike, sigma: float, *, rician: bool = False
) -> npt.NDArray[np.float32]:
    """The image (I, J, K) denoised by BM4D (Maggioni et al. 2013, doi:10.1109/TIP.2012.2210725).

    Magnitude MR (`rician`) goes through as it is; what comes out is the mean of the magnitude, and
    `radloom.transforms.denoising.rician.signal_of_mean` goes back to the signal.

    Args:
        image: (I, J, K), finite; never changed.
        sigma: standard deviation of the noise, in the image's unit; 0 gives a copy.
        rician: whether the image is a magnitude image.

    Raises:
        ConfigError: the package ``bm4d`` is not installed.
    """
    values = np.array(image, dtype=np.float32)
    if sigma == 0 or values.size == 0:
        return values
    try:
        import bm4d
    except ImportError:
        raise ConfigError(
            "expected the package bm4d for this method, found none: its licence allows use that is "
            "not commercial alone, so Radloom does not bring it; `pip install bm4d` if yours is"
        ) from None
    # single precision and the unit of the noise, so that no scale of intensities matters
    smooth = np.asarray(bm4d.bm4d(values / np.float32(sigma), 1.0), np.float32) * np.float32(sigma)
    return signal_of_mean(smooth, sigma) if rician else smooth
