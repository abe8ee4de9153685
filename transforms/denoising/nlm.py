"""Non-local means in 3D, exact in parallel, for grids with thick slices too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from radloom.errors import InputError
from radloom.transforms.denoising.inputs import checked_volume

__all__ = ["NonLocalMeans", "non_local_means", "patch_radii", "search_radii"]

Floats = npt.NDArray[np.float32]
Triple = tuple[int, int, int]

THICK = 2.0
"""Slices are thick above this ratio of their distance to the finest spacing (set, not tuned)."""

SLAB_PLANES = 16
"""Planes of axis I that one thread works on at once.

The result is the same for every value. Measured at 192 x 192 planes: 4 planes 9.3, 8 planes 7.4,
16 planes 7.0 ns for a voxel and pair of shifts; above that the buffers only grow.
"""


@dataclass(frozen=True)
class NonLocalMeans:
    """What non-local means needs to know besides image, noise level and spacing.

    The defaults have the best mean PSNR inside the head of those tried on three training maps (T1,
    T2 and FLAIR, slices of 1 mm, Rician noise of 3, 6, 9 and 15%; `benchmarks/denoise_settings.py
    --select`): 30.24 dB, and within 0.4 dB of the best strength at every level. Strength 0.8 has
    30.16, 1 has 30.22 dB; a search radius of 3 at best 30.14, of 1 29.86, a patch radius of 2
    29.05 dB.
    """

    strength: float = 0.9
    """Decay h of the weights in units of sigma; larger smooths more."""
    patch_radius: int = 1
    """Voxels to each side along the finest axis: 1 compares patches of 3 x 3 x 3."""
    search_radius: int = 2
    """Voxels to each side along the finest axis: 2 averages over 5 x 5 x 5."""
    rician: bool = False
    """Whether the image is a magnitude image; then the bias of Rician noise is removed."""

    def __post_init__(self) -> None:
        if self.strength <= 0 or self.patch_radius < 0 or self.search_radius < 1:
            raise InputError(
                "expected strength > 0, patch_radius >= 0 and search_radius >= 1, got "
                f"{self.strength:g}, {self.patch_radius} and {self.search_radius}"
            )


def patch_radii(radius: int, spacing: Sequence[float]) -> Triple:
    """Voxels to each side along I, J, K: as far in mm as `radius` voxels of the finest axis.

    >>> patch_radii(1, (1.0, 1.0, 1.2)), patch_radii(1, (1.0, 1.0, 3.0))
    ((1, 1, 1), (1, 1, 0))
    """
    finest = min(spacing)
    i, j, k = (int(np.floor(radius * finest / s + 0.5)) for s in spacing)
    return i, j, k


def search_radii(radius: int, spacing: Sequence[float]) -> Triple:
    """Voxels to each side along I, J, K that keep the number of voxels at thick slices too.

    Where slices are more than twice as thick as their pixels are wide, the search takes in the two
    neighbouring slices and one more voxel within the slice. Mean PSNR of three training maps at
    slices of 4 mm, strength 0.8: 29.1 dB; without neighbours 28.6 dB; two slices to each side
    29.1 dB (`benchmarks/denoise_settings.py --select`).

    >>> search_radii(2, (1.0, 1.0, 1.2)), search_radii(2, (1.0, 1.0, 3.0))
    ((2, 2, 2), (3, 3, 1))
    """
    thick = [s > THICK * min(spacing) for s in spacing]
    wide = radius + 1 if any(thick) else radius
    i, j, k = (1 if t else wide for t in thick)
    return i, j, k


def non_local_means(
    image: npt.ArrayLike,
    sigma: float,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    settings: NonLocalMeans | None = None,
    n_threads: int = 1,
) -> Floats:
    r"""The image (I, J, K) as float32, each voxel averaged with those that look alike around.

    .. math::
        \hat u(x) = \frac{\sum_y w(x, y)\, u(y)}{\sum_y w(x, y)}, \quad
        w(x, y) = \exp\left(-\frac{\max(d(x, y) - 2\sigma^2, 0)}{(s \sigma)^2}\right)

    with d the mean squared difference of the patches round x and y, which noise alone makes
    2 sigma^2, and y within the search radius of x (Buades et al. 2005, doi:10.1109/CVPR.2005.38).
    For magnitude MR (`rician`) the squares are averaged and their bias 2 sigma^2 taken off
    (Wiest-Daessle et al. 2008, doi:10.1007/978-3-540-85990-1_21):
    :math:`\sqrt{\max(\overline{u^2} - 2\sigma^2, 0)}`.

    Where slices are thick, patches lie within the slice and the search takes in the two next to it
    (`patch_radii`, `search_radii`).
    Beyond its border the image is reflected. The result, to the last bit, does not depend on
    `n_threads`.

    Args:
        image: (I, J, K), finite; never changed.
        sigma: standard deviation of the noise, in the image's unit; 0 gives a copy.
        spacing: millimetres along I, J, K; only their ratios matter.
        settings: strength, radii and the kind of noise.
        n_threads: threads that work on slabs of the image.

    Raises:
        InputError: the image is not 3D, or sigma is negative or not finite.

    >>> noisy = np.random.default_rng(0).normal(100, 5, (16, 16, 16))
    >>> bool(non_local_means(noisy, 5.0).std() < 1)
    True
    """
    settings = settings or NonLocalMeans()
    values = checked_volume(image, sigma)
    if sigma == 0 or values.size == 0:
        return np.array(values)
    patch = patch_radii(settings.patch_radius, spacing)
    search = search_radii(settings.search_radius, spacing)
    scale = float(np.abs(values).max()) or 1.0  # so that no square leaves float32
    padded = np.pad(values / np.float32(scale), [(r, r) for r in _reach(patch, search)], "reflect")
    result = np.empty_like(values)

    def work(start: int) -> None:
        stop = min(start + SLAB_PLANES, values.shape[0])
        slab = padded[start : stop + 2 * _reach(patch, search)[0]]
        result[start:stop] = _average(slab, sigma / scale, patch, search, settings)

    with ThreadPoolExecutor(max(1, n_threads)) as pool:
        list(pool.map(work, range(0, values.shape[0], SLAB_PLANES)))
    result *= np.float32(scale)
    return result


def _reach(patch: Triple, search: Triple) -> Triple:
    """How far round a voxel its result looks."""
    return patch[0] + search[0], patch[1] + search[1], patch[2] + search[2]


def _average(
    slab: Floats, sigma: float, patch: Triple, search: Triple, settings: NonLocalMeans
) -> Floats:
    """The denoised inside of a slab that holds `_reach` more voxels on each side.

    The slab is worked on as one line of voxels: a shift in space is then a shift along the line,
    every operation runs over unbroken memory, and what wraps round at the ends of rows falls into
    the margin that is cut off.
    """
    shape = slab.shape
    strides = (shape[1] * shape[2], shape[2], 1)
    line = np.ascontiguousarray(slab).ravel()
    values = line * line if settings.rician else line
    total, weights = values.copy(), np.ones_like(line)
    n_patch = int(np.prod([2 * r + 1 for r in patch]))
    first = sum(r * s for r, s in zip(patch, strides, strict=True))
    noise = np.float32(2 * sigma**2 * n_patch)
    decay = np.float32(-1 / ((settings.strength * sigma) ** 2 * n_patch))
    buffers = (np.empty_like(line), np.empty_like(line))
    for shift in _half_of_shifts(search, strides):
        weight = _patch_distance(line, shift, patch, strides, buffers)
        weight -= noise
        np.maximum(weight, 0, out=weight)
        weight *= decay
        np.exp(weight, out=weight)
        here = slice(first, first + weight.size)
        there = slice(first + shift, first + shift + weight.size)
        weights[here] += weight
        weights[there] += weight
        total[here] += weight * values[there]
        total[there] += weight * values[here]
    total /= weights
    if settings.rician:
        total -= np.float32(2 * sigma**2)
        np.sqrt(np.maximum(total, 0, out=total), out=total)
    margin = zip(_reach(patch, search), shape, strict=True)
    inside = tuple(slice(r, n - r) for r, n in margin)
    return np.asarray(total.reshape(shape)[inside])


def _half_of_shifts(search: Triple, strides: Triple) -> Iterator[int]:
    """One of each pair of opposite shifts, as steps along the line; the pair shares its weight."""
    for shift in product(*(range(-r, r + 1) for r in search)):
        if shift > (0, 0, 0):
            yield sum(a * s for a, s in zip(shift, strides, strict=True))


def _patch_distance(
    line: Floats, shift: int, patch: Triple, strides: Triple, buffers: tuple[Floats, Floats]
) -> Floats:
    """Sums of squared differences over patches, in one of `buffers`, from the first whole patch."""
    now, spare = buffers
    now = now[: line.size - shift]
    np.subtract(line[: line.size - shift], line[shift:], out=now)
    np.multiply(now, now, out=now)
    for radius, stride in zip(patch, strides, strict=True):
        if radius == 0:
            continue
        size = now.size - 2 * radius * stride
        box = spare[:size]
        np.add(now[:size], now[stride : stride + size], out=box)
        for step in range(2, 2 * radius + 1):
            box += now[step * stride : step * stride + size]
        now, spare = box, _owner(now, buffers)
    return now


def _owner(view: Floats, buffers: tuple[Floats, Floats]) -> Floats:
    """The whole buffer that `view` is the beginning of."""
    return buffers[0] if view.base is buffers[0] else buffers[1]
