r"""Non-local Bayes in 3D: blocks that look alike are a sample of one Gaussian; no weights.

.. math:: \hat u = \bar y + C\,(C + \sigma^2)^{-1} (y - \bar y)

for each block y of a group of similar ones, with :math:`\bar y` their mean and C the covariance of
the same blocks in an estimate without noise (Lebrun, Buades, Morel 2013, doi:10.1137/120874989,
equation of the second step). Here that estimate is the first step of the shrinkage of cosine
coefficients (`radloom.transforms.denoising.shrinkage`), then the result itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from radloom.threads import lone_threads
from radloom.transforms.denoising.inputs import checked_volume
from radloom.transforms.denoising.rician import signal_of_mean
from radloom.transforms.denoising.shrinkage import MOST_TILES, cosine_shrinkage, thickest_axis

__all__ = ["non_local_bayes"]

BLOCK: Final = (4, 4, 2)
"""Voxels of a block along I, J, K; the last axis is that of the thickest slices.

Block, search, group and passes were chosen at Rician noise of 9% on two rendered training heads and
a T1 of 5 mm slices that stands in no table. Groups of 64 lose 0.12 dB in the mean of the three,
other blocks of two or three planes and wider searches change it by less than 0.1 dB; a second pass
gains 0.14 dB, a third 0.02 dB. The second step of the shrinkage before it changes it by -0.04 to
0.01 dB.
"""

SEARCH: Final = (4, 4, 2)
"""How far to each side the blocks of a group may lie, in voxels."""

GROUP: Final = 40
"""Blocks of a group: the nearest in the estimate without noise, the block itself among them."""

PASSES: Final = 2

_TILE: Final = (64, 64, 32)
"""Voxels whose groups are computed at a time: some 200 MiB."""

_MOST_POWER: Final = 1e5
"""Of a group in units of the noise's, above which float32 does not tell the noise from rounding."""

_ROUNDING: Final = 1e-14
"""Of float64, as a share of a group's power: added to the noise where there is next to none."""


def non_local_bayes(
    image: npt.ArrayLike,
    sigma: float,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    rician: bool = False,
    n_threads: int = 1,
) -> npt.NDArray[np.float32]:
    """The image (I, J, K) as float32, each block estimated from `GROUP` blocks that look like it.

    Magnitude MR (`rician`) goes through as it is; what comes out is the mean of the magnitude, and
    `radloom.transforms.denoising.rician.signal_of_mean` goes back to the signal. The result, to the
    last bit, does not depend on `n_threads`.

    Args:
        image: (I, J, K), finite; never changed.
        sigma: standard deviation of the noise, in the image's unit; 0 gives a copy.
        spacing: millimetres along I, J, K; only their order matters.
        rician: whether the image is a magnitude image.
        n_threads: threads that compute a tile each, `MOST_TILES` at most.

    Raises:
        InputError: the image is not 3D, or sigma is negative or not finite.

    >>> noisy = np.random.default_rng(0).normal(100, 5, (16, 16, 16))
    >>> bool(non_local_bayes(noisy, 5.0).std() < 1.5)
    True
    """
    values = checked_volume(image, sigma)
    if sigma == 0 or values.size == 0:
        return np.array(values)
    thickest = thickest_axis(spacing)
    shrunk = cosine_shrinkage(values, sigma, spacing=spacing, wiener=False, n_threads=n_threads)
    noisy, clean = (
        _at_least_a_block(torch.from_numpy(v / np.float32(sigma)).swapaxes(thickest, 2))
        for v in (values, shrunk)
    )
    with lone_threads(min(n_threads, MOST_TILES)) as pool:
        for _ in range(PASSES):
            clean = _estimated(noisy, clean, pool)
    i, j, k = np.swapaxes(values, thickest, 2).shape
    smooth = (clean[:i, :j, :k] * sigma).swapaxes(thickest, 2).numpy()
    return signal_of_mean(smooth, sigma) if rician else np.ascontiguousarray(smooth)


def _at_least_a_block(volume: torch.Tensor) -> torch.Tensor:
    """The last planes repeated where there are fewer than a block has."""
    missing = [max(b - n, 0) for b, n in zip(BLOCK, volume.shape, strict=True)]
    pads = [n for size in reversed(missing) for n in (0, size)]
    return functional.pad(volume[None, None], pads, mode="replicate")[0, 0].contiguous()


def _estimated(noisy: torch.Tensor, clean: torch.Tensor, pool: ThreadPoolExecutor) -> torch.Tensor:
    """One pass: the mean of all estimates of a voxel.

    Args:
        noisy: (I, J, K) in units of the noise.
        clean: the same without noise, as far as is known.
        pool: threads that compute alone.
    """
    places = [[*range(0, n - b, b), n - b] for n, b in zip(noisy.shape, BLOCK, strict=True)]
    sizes = zip(noisy.shape, BLOCK, SEARCH, strict=True)
    size = min(GROUP, math.prod(min(n - block, reach) + 1 for n, block, reach in sizes))
    tiles = list(product(*(_runs(p, t) for p, t in zip(places, _TILE, strict=True))))
    total, number = torch.zeros_like(noisy), torch.zeros_like(noisy)
    for box, blocks, times in pool.map(partial(_tile, noisy, clean, size), tiles):
        total[box] += blocks
        number[box] += times
    return total / number


def _tile(
    noisy: torch.Tensor, clean: torch.Tensor, size: int, places: Sequence[list[int]]
) -> tuple[tuple[slice, ...], torch.Tensor, torch.Tensor]:
    """A box round the blocks at `places`, the sums of estimates in it, and how many each voxel has.

    Args:
        noisy: (I, J, K) in units of the noise.
        clean: (I, J, K).
        size: of a group.
        places: of the blocks' first voxels along I, J, K, near each other.
    """
    box = tuple(
        slice(max(p[0] - r, 0), p[-1] + r + b)
        for p, r, b in zip(places, SEARCH, BLOCK, strict=True)
    )
    given, known = noisy[box].contiguous(), clean[box].contiguous()
    here = [[n - s.start for n in p] for p, s in zip(places, box, strict=True)]
    voxels = _groups(known, here, size)
    blocks = _bayes(given.reshape(-1)[voxels], known.reshape(-1)[voxels])
    sums = [
        torch.zeros(given.numel()).index_add_(0, voxels.reshape(-1), added.reshape(-1))
        for added in (blocks, torch.ones_like(blocks))
    ]
    return box, sums[0].reshape(given.shape), sums[1].reshape(given.shape)


def _runs(places: list[int], size: int) -> list[list[int]]:
    """The places in runs that are no longer than `size` voxels."""
    runs: dict[int, list[int]] = {}
    for place in places:
        runs.setdefault(place // size, []).append(place)
    return list(runs.values())


def _groups(clean: torch.Tensor, places: Sequence[list[int]], size: int) -> torch.Tensor:
    """(blocks, `size`, voxels of a block): indices into the flat volume of each block's group.

    Args:
        clean: (I, J, K), in which blocks are compared.
        places: of the blocks' first voxels along I, J, K.
        size: no more than the blocks that the search finds in a corner.
    """
    strides = clean.stride()
    outside = [n for reach in reversed(SEARCH) for n in (reach, reach)]
    padded = functional.pad(clean, outside, value=math.inf)
    n_blocks = math.prod(map(len, places))
    distances, steps = [], []
    for shift in product(*(range(-reach, reach + 1) for reach in SEARCH)):
        begin = (reach + s for reach, s in zip(SEARCH, shift, strict=True))
        moved = padded[tuple(slice(b, b + n) for b, n in zip(begin, clean.shape, strict=True))]
        square = (clean - moved).square()
        for axis, (where, block) in enumerate(zip(places, BLOCK, strict=True)):
            square = sum(square.index_select(axis, torch.tensor(where) + n) for n in range(block))
        # a block is nearest to itself, also where all are equal: so each voxel has an estimate
        distances.append(square.reshape(-1) if any(shift) else square.new_full((n_blocks,), -1.0))
        steps.append(sum(s * stride for s, stride in zip(shift, strides, strict=True)))
    nearest = torch.stack(distances, 1).topk(size, largest=False).indices
    first, inside = (_flat(where, strides) for where in (places, [range(n) for n in BLOCK]))
    return (first[:, None] + torch.tensor(steps)[nearest])[..., None] + inside


def _flat(places: Sequence[Sequence[int]], strides: Sequence[int]) -> torch.Tensor:
    """Indices into the flat volume of all combinations of places along I, J, K."""
    i, j, k = (torch.tensor(list(p)) * s for p, s in zip(places, strides, strict=True))
    return (i[:, None, None] + j[:, None] + k).reshape(-1)


def _bayes(noisy: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """The blocks of each group, estimated; (groups, blocks, voxels) in units of the noise."""
    if noisy.shape[1] < 2:
        return clean
    apart = clean - clean.mean(1, keepdim=True)
    power = apart.square().sum((1, 2)) / (noisy.shape[1] - 1)
    if float(power.max()) > _MOST_POWER:
        apart, power = apart.double(), power.double()
    covariance = apart.mT @ apart / (noisy.shape[1] - 1)
    noise = 1 + _ROUNDING * power[:, None, None]
    factor = torch.linalg.cholesky(covariance + noise * torch.eye(noisy.shape[2]))
    mean = noisy.mean(1, keepdim=True)
    gain = torch.cholesky_solve(covariance, factor).to(noisy.dtype)
    return mean + (noisy - mean) @ gain
