"""The noise level of a volume: Rician for magnitude MR, Gaussian for CT and the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radloom.errors import InputError

__all__ = [
    "NoiseEstimate",
    "estimate_ct_noise",
    "estimate_mr_noise",
    "estimate_noise",
    "head_mask",
    "high_pass",
    "rician_correction",
]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MIN_VOXELS = 500
"""Fewer voxels than this give no estimate."""

MAD_TO_SIGMA = 1.4826
"""A Gaussian's standard deviation over its median absolute deviation."""

AGREE = 1.25
"""Background and head are averaged where they differ by less than this factor."""

CORRELATED = 1.5
"""Noise two voxels apart over noise between neighbours, above which it counts as interpolated.

Set by looking at a few clinical scans, as was `MAX_RAISE`; neither was tuned on heads of known
truth or tested on scans of known noise. White noise of 3 to 15% on three rendered training heads
has ratios of 0.99 to 1.05, and up to 1.41 (at 3%) where slices are 4 mm: structure adds to it.
"""

MAX_RAISE = 2.0
"""Interpolated noise counts for at most this times the noise between neighbours (see above)."""

COILS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of coils, added up in quadrature, with which air that is not Rayleigh's is compared."""

COILS_AT = (0.05, 0.25, 0.4)
"""Shares of air whose quantiles tell the number of coils: dark tissue within it lies above them."""

COILS_FIT = 1.08
"""Within this factor of each other are the levels that these quantiles give, and their mean and the
level of tissue within its square; set on three rendered training heads, of which 0.1 to 0.5 of what
counts as air is dark tissue."""

SOFT_TISSUE_HU = (-20.0, 120.0)
"""Brain, muscle and blood; fat and bone are outside."""


@dataclass(frozen=True)
class NoiseEstimate:
    """A noise level in the volume's unit and where it came from."""

    sigma: float
    """Standard deviation of the noise; for MR that of each quadrature channel."""
    rule: str
    """background+head, head, background, soft tissue, everywhere or none."""
    background: float = float("nan")
    """The Rayleigh estimate from air; NaN where the scanner left no noise there."""
    head: float = float("nan")
    """The estimate from the flat parts of the tissue."""
    correlation: float = float("nan")
    """For MR, noise two voxels apart over noise between neighbours, in tissue; see `CORRELATED`."""
    unevenness: float = 1.0
    """Of the map of the noise that was used; 1: one level served the whole volume."""
    n_coils: int = 1
    """How many coils were added up in quadrature, as air tells; 1: Rician, or not to be told."""


def estimate_noise(image: npt.ArrayLike, modality: str) -> NoiseEstimate:
    """The noise level of a volume (I, J, K) of a DICOM `modality` (MR, CT, ...).

    Raises:
        InputError: the image is not 3D.
    """
    values = np.asarray(image, dtype=np.float32)
    if values.ndim != 3:
        raise InputError(f"expected an image (I, J, K), got shape {values.shape}")
    if values.size == 0 or values.min() == values.max():
        return NoiseEstimate(0.0, "none")
    if modality == "MR":
        return estimate_mr_noise(values)
    if modality == "CT":
        return estimate_ct_noise(values)
    return _everywhere(values)


def estimate_mr_noise(image: Floats) -> NoiseEstimate:
    """The Rician sigma of a magnitude image (I, J, K), from air and tissue together.

    Tissue: the median absolute value of `high_pass` over the flattest fifth of the head (after
    Coupe et al. 2010, doi:10.1016/j.media.2010.03.001, with second differences in place of
    wavelets), made Rician by `rician_correction`. Noise that the scanner interpolated is weak
    between neighbours: where differences two voxels apart are more than `CORRELATED` times as
    large, they count instead, divided by that, up to `MAX_RAISE` times the others.

    Air: the median of a Rayleigh distribution, used only where the quartiles are Rayleigh's too:
    scanners that set air to zero, filter or leave ghosts fail that. Where both are there and
    within `AGREE`, their geometric mean; else tissue, since that is what gets denoised. Where air
    is not Rayleigh's, but as several coils make it (a chi distribution) of the noise that tissue
    has, the noise is non-central chi (`NoiseEstimate.n_coils`).
    """
    smooth = _box(image)
    mask = head_mask(smooth)
    head, correlation = _tissue_sigma(image, smooth, mask)
    air = _air_of(image, mask)
    level = _rayleigh(air)
    if np.isfinite(level) and np.isfinite(head) and max(level, head) < AGREE * min(level, head):
        both = float(np.sqrt(level * head))
        return NoiseEstimate(both, "background+head", level, head, correlation)
    if np.isfinite(head):
        n_coils = 1 if np.isfinite(level) else _n_coils(air, head)
        return NoiseEstimate(head, "head", level, head, correlation, n_coils=n_coils)
    if np.isfinite(level):
        return NoiseEstimate(level, "background", level, head)
    return _everywhere(image)


def estimate_ct_noise(image_hu: Floats) -> NoiseEstimate:
    """The global noise level of a CT (I, J, K) in HU.

    The mode of the standard deviations in 5 x 5 windows of IJ slices that lie wholly in soft
    tissue (Christianson et al. 2015, doi:10.2214/AJR.14.13613): unlike differences of neighbours
    it sees the long-ranged part of the noise that reconstruction kernels leave.
    """
    from scipy import ndimage

    size = (5 if image_hu.shape[0] >= 5 else 1, 5 if image_hu.shape[1] >= 5 else 1, 1)
    mean = ndimage.uniform_filter(image_hu, size)
    soft = (mean > SOFT_TISSUE_HU[0]) & (mean < SOFT_TISSUE_HU[1])
    within = ndimage.binary_erosion(soft, np.ones(size, bool))
    if within.sum() < MIN_VOXELS:
        return _everywhere(image_hu)
    n = int(np.prod(size))
    shifted = image_hu - np.float32(50)
    square = ndimage.uniform_filter(shifted * shifted, size)
    variance = (square - (mean - np.float32(50)) ** 2)[within] * n / max(n - 1, 1)
    return NoiseEstimate(_mode(np.sqrt(np.maximum(variance, 0))), "soft tissue")


def head_mask(smooth: Floats) -> Mask:
    """Where the smoothed image (I, J, K) is above Otsu's threshold between air and tissue."""
    from skimage.filters import threshold_otsu

    capped = np.minimum(smooth, np.percentile(smooth[::2, ::2, ::2], 99))
    if capped.min() == capped.max():
        return np.ones(smooth.shape, bool)
    return np.asarray(smooth > threshold_otsu(capped.ravel()))


def high_pass(image: Floats, stride: int = 1) -> Floats:
    """Second differences along every axis of the image (I, J, K), scaled to keep white noise.

    The differences are between voxels `stride` apart.

    The mask [1, -2, 1] along I, J and K together (Immerkaer 1996, doi:10.1006/cviu.1996.0060, in
    3D) is blind to planes, edges along an axis and quadratic shading. Axes too short
    for the mask are left out.
    """
    from scipy import ndimage

    for axis, size in enumerate(image.shape):
        if size >= 2 * stride + 1:
            kernel = np.zeros(2 * stride + 1)
            kernel[[0, stride, -1]] = np.array([1.0, -2.0, 1.0]) / np.sqrt(6.0)
            image = ndimage.correlate1d(image, kernel, axis=axis, mode="reflect")
    return image


def rician_correction(sd: float, mean: float) -> float:
    """The Rician sigma behind a measured standard deviation `sd` at a measured `mean`.

    The fixed point of Koay and Basser (2006, doi:10.1016/j.jmr.2006.01.016).

    >>> round(rician_correction(1.0, 100.0), 3)
    1.0
    >>> round(rician_correction((2 - np.pi / 2) ** 0.5, (np.pi / 2) ** 0.5), 1)  # air
    1.0
    """
    from scipy.special import ive

    if sd <= 0:
        return 0.0
    ratio, snr = mean / sd, mean / sd
    xi = 1.0
    for _ in range(100):
        half = snr**2 / 4
        bracket = (2 + snr**2) * ive(0, half) + snr**2 * ive(1, half)
        xi = float(2 + snr**2 - np.pi / 8 * bracket**2)
        snr = float(np.sqrt(max(xi * (1 + ratio**2) - 2, 0.0)))
    return float(sd / np.sqrt(xi))


def _box(image: Floats) -> Floats:
    """The mean over 3 x 3 x 3 voxels: uncorrelated with `high_pass` for white noise."""
    from scipy import ndimage

    return np.asarray(ndimage.uniform_filter(image, 3, mode="reflect"))


def _tissue_sigma(image: Floats, smooth: Floats, mask: Mask) -> tuple[float, float]:
    """The level in the flattest fifth of the head and its `NoiseEstimate.correlation`."""
    from scipy import ndimage

    inside = ndimage.binary_erosion(mask, iterations=1)
    if inside.sum() < MIN_VOXELS:
        return float("nan"), float("nan")
    slope = np.zeros_like(smooth)
    for axis, size in enumerate(image.shape):
        if size >= 3:
            slope += ndimage.correlate1d(smooth, [-1.0, 0.0, 1.0], axis=axis) ** 2
    flat = inside & (slope <= np.percentile(slope[inside], 20))
    fine, coarse = (
        MAD_TO_SIGMA * float(np.median(np.abs(high_pass(image, stride)[flat]))) for stride in (1, 2)
    )
    sd = float(np.clip(coarse / CORRELATED, fine, MAX_RAISE * fine))
    correlation = coarse / fine if fine > 0 else float("nan")
    return rician_correction(sd, float(np.median(smooth[flat]))), correlation


def _air_of(image: Floats, mask: Mask) -> Floats:
    """(N,) the voxels of air; none where there are few, or where the scanner set them to zero."""
    from scipy import ndimage

    air = image[~ndimage.binary_dilation(mask, iterations=4)]
    usable = air.size >= MIN_VOXELS and (air <= 0).mean() <= 0.05
    return air if usable else np.empty(0, np.float32)


def _rayleigh(air: Floats) -> float:
    """The level by the median of air; NaN where its quartiles are not those of one coil."""
    if air.size == 0:
        return float("nan")
    shares = (0.25, 0.5, 0.75)
    levels = np.quantile(air, shares) / _quantiles(1, shares)
    return float("nan") if levels.max() > 1.1 * levels.min() else float(levels[1])


def _n_coils(air: Floats, sigma: float) -> int:
    """How many coils make air like this of noise of deviation `sigma`; 1: it cannot be told."""
    if air.size == 0 or sigma == 0:
        return 1
    found = np.quantile(air, COILS_AT)
    levels = {n: found / _quantiles(n, COILS_AT) for n in COILS}
    off = {n: float(abs(np.log(levels[n].mean() / sigma))) for n in COILS}
    best = min(off, key=lambda n: off[n])
    fits = levels[best].max() <= COILS_FIT * levels[best].min()
    return best if fits and off[best] <= 2 * np.log(COILS_FIT) else 1


def _quantiles(n_coils: int, shares: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Of the noise of so many coils, added up in quadrature (chi), in deviations of each.

    >>> _quantiles(1, (0.5,)).round(4).tolist()  # Rayleigh
    [1.1774]
    """
    from scipy.special import gammaincinv

    return np.asarray(np.sqrt(2 * gammaincinv(n_coils, shares)))


def _mode(values: Floats) -> float:
    """The peak of the distribution, by the half-sample method on a histogram of 200 bins."""
    from scipy import ndimage

    top = float(np.percentile(values, 90))
    if top <= 0:
        return 0.0
    counts, edges = np.histogram(values, bins=200, range=(0.0, top))
    peak = int(np.argmax(ndimage.gaussian_filter1d(counts.astype(float), 4.0)))
    return float((edges[peak] + edges[peak + 1]) / 2)


def _everywhere(image: Floats) -> NoiseEstimate:
    """From the differences of all voxels; zero where more than half of the volume is flat."""
    inside = tuple(slice(1, -1) if size >= 3 else slice(None) for size in image.shape)
    sd = MAD_TO_SIGMA * float(np.median(np.abs(high_pass(image)[inside])))
    return NoiseEstimate(sd, "everywhere")
