"""Denoising by shrinking the cosine coefficients of small blocks; no weights.

A block at every voxel, so that each voxel is the weighted mean of 75 estimates (Yaroslavsky et al.
2001, doi:10.1117/12.424970; weights as in BM3D: Dabov et al. 2007, doi:10.1109/TIP.2007.901238).
Coefficients below the noise are dropped first; that estimate then tells how much of each
coefficient is signal (Wiener).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, product
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from radloom.threads import lone_threads
from radloom.transforms.denoising.inputs import checked_volume
from radloom.transforms.denoising.rician import signal_of_mean

__all__ = ["BLOCK", "MOST_TILES", "cosine_shrinkage", "shrunk", "thickest_axis"]

BLOCK: Final = (5, 5, 3)
"""Voxels of a block along I, J, K; the last axis is meant to be that of the thickest slices."""

_KEPT = 2.7
"""Coefficients below this many deviations of the noise are dropped, as in BM3D."""

_LEAST = 1e-4
"""No noise counts as less."""

_TILE: Final = (64, 64, 32)
"""Voxels of what a thread computes at a time, without what blocks reach beyond: some 200 MiB."""

MOST_TILES: Final = 4
"""That are computed at a time at most, so that memory does not grow with the machine's cores."""

_Taps = tuple[float, ...]


def cosine_shrinkage(
    image: npt.ArrayLike,
    sigma: float,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    rician: bool = False,
    wiener: bool = True,
    n_threads: int = 1,
) -> npt.NDArray[np.float32]:
    """The image (I, J, K) as float32, its blocks' coefficients shrunk; see `shrunk`.

    Blocks have three voxels along the axis of the largest spacing and five along the others.
    Magnitude MR (`rician`) goes through as it is; what comes out is the mean of the magnitude, and
    `radloom.transforms.denoising.rician.signal_of_mean` goes back to the signal. The result, to the
    last bit, does not depend on `n_threads`.

    Args:
        image: (I, J, K), finite; never changed.
        sigma: standard deviation of the noise, in the image's unit; 0 gives a copy.
        spacing: millimetres along I, J, K; only their order matters.
        rician: whether the image is a magnitude image.
        wiener: whether what the first step gives is used for a second; see `shrunk`.
        n_threads: threads that compute a tile each, `MOST_TILES` at most.

    Raises:
        InputError: the image is not 3D, or sigma is negative or not finite.

    >>> noisy = np.random.default_rng(0).normal(100, 5, (16, 16, 16))
    >>> bool(cosine_shrinkage(noisy, 5.0).std() < 2)
    True
    """
    values = checked_volume(image, sigma)
    if sigma == 0 or values.size == 0:
        return np.array(values)
    thickest = thickest_axis(spacing)
    turned = torch.from_numpy(values / np.float32(sigma)).swapaxes(thickest, 2)
    clean = torch.empty_like(turned)
    tiles = product(*(range(0, n, size) for n, size in zip(turned.shape, _TILE, strict=True)))
    with lone_threads(min(n_threads, MOST_TILES)) as pool:
        for _ in pool.map(partial(_shrink_tile, turned, clean=clean, wiener=wiener), tiles):
            pass
    smooth = (clean * sigma).swapaxes(thickest, 2).numpy()
    return signal_of_mean(smooth, sigma) if rician else np.ascontiguousarray(smooth)


def thickest_axis(spacing: Sequence[float]) -> int:
    """The axis of the largest spacing, which `BLOCK` wants last; of equal ones the last.

    >>> thickest_axis((1, 1, 1)), thickest_axis((0.9, 4, 0.9))
    (2, 1)
    """
    return max((2, 1, 0), key=lambda axis: spacing[axis])


def _shrink_tile(
    image: torch.Tensor, start: Sequence[int], clean: torch.Tensor, *, wiener: bool
) -> None:
    """One tile of `clean`, from the image in units of the noise."""
    inside, around, cut = [], [], []
    for begin, n, size, edge in zip(start, image.shape, BLOCK, _TILE, strict=True):
        end, reach = min(begin + edge, n), (2 if wiener else 1) * (size - 1)
        first = max(0, begin - reach)
        inside.append(slice(begin, end))
        around.append(slice(first, min(n, end + reach)))
        cut.append(slice(begin - first, end - first))
    part = image[tuple(around)][None, None]
    found = shrunk(part, torch.ones_like(part), wiener=wiener)
    clean[tuple(inside)] = found[0, 0][tuple(cut)]


def shrunk(image: torch.Tensor, sigma: torch.Tensor, *, wiener: bool = True) -> torch.Tensor:
    """(B, 1, I, J, K) without most of its white noise.

    Each voxel depends on those within 8, 8 and 4 along I, J, K alone, without the second step on
    those within half of that. Takes the memory of some 160
    volumes: a coefficient of every block in each, and how much of it stays.

    Args:
        image: (B, 1, I, J, K).
        sigma: the same shape: standard deviation of the noise in each voxel, in the image's units.
        wiener: whether the estimate from strong coefficients tells, in a second step, how much of
            each coefficient is signal.
    """
    edge = [n - 1 for n in BLOCK]
    half = [n // 2 for n in BLOCK]
    padded = functional.pad(image, _pads(edge), mode="replicate")
    level = functional.pad(sigma, _pads(half), mode="replicate").clamp_min(_LEAST)
    coefficients = list(_coefficients(padded))
    strong = [one.abs() > _KEPT * level for one in coefficients]
    clean = _averaged(coefficients, strong, level)
    if wiener:
        del strong
        signals = (one.square() for one in _coefficients(clean))
        clean = _averaged(coefficients, [s / (s + level.square()) for s in signals], level)
    for axis, n in enumerate(edge, start=2):
        clean = clean.narrow(axis, n, image.shape[axis])
    return clean


def _averaged(
    coefficients: Sequence[torch.Tensor], gains: Sequence[torch.Tensor], level: torch.Tensor
) -> torch.Tensor:
    """The weighted mean of all blocks' estimates; one that keeps more noise weighs less.

    Args:
        coefficients: the first is the mean, which stays as it is.
        gains: 0 to 1, or whether a coefficient stays; the first counts as 1.
        level: of the noise.
    """
    kept = torch.ones_like(level)
    for gain in gains[1:]:
        kept = kept + gain.square()
    weight = 1 / (kept * level.square())
    rest = (one * gain * weight for one, gain in zip(coefficients[1:], gains[1:], strict=True))
    total = _blocks_spread(chain([coefficients[0] * weight], rest))
    flat = [(1.0,) * n for n in BLOCK]
    return total / _spread(_spread(_spread(weight, flat[2], -1), flat[1], -2), flat[0], -3)


def _coefficients(image: torch.Tensor) -> Iterator[torch.Tensor]:
    """One coefficient of every block at a time, the mean first."""
    of_i, of_j, of_k = (_basis(n) for n in BLOCK)
    for row_i in of_i:
        along_i = _filtered(image, row_i, -3)
        for row_j in of_j:
            along_j = _filtered(along_i, row_j, -2)
            for row_k in of_k:
                yield _filtered(along_j, row_k, -1)


def _blocks_spread(coefficients: Iterator[torch.Tensor]) -> torch.Tensor:
    """The transpose of `_coefficients`: every block adds to its voxels."""
    of_i, of_j, of_k = (_basis(n) for n in BLOCK)
    return _sum(
        _spread(
            _sum(
                _spread(_sum(_spread(next(coefficients), row_k, -1) for row_k in of_k), row_j, -2)
                for row_j in of_j
            ),
            row_i,
            -3,
        )
        for row_i in of_i
    )


def _sum(volumes: Iterator[torch.Tensor]) -> torch.Tensor:
    total = next(volumes)
    for volume in volumes:
        total = total + volume
    return total


def _basis(n: int) -> list[_Taps]:
    """Rows of the orthonormal cosine transform of `n` points."""
    scale = [math.sqrt((1 if k == 0 else 2) / n) for k in range(n)]
    return [
        tuple(scale[k] * math.cos(math.pi * (x + 0.5) * k / n) for x in range(n)) for k in range(n)
    ]


def _filtered(image: torch.Tensor, taps: _Taps, axis: int) -> torch.Tensor:
    size = image.shape[axis] - len(taps) + 1
    result = image.narrow(axis, 0, size) * taps[0]
    for n, tap in enumerate(taps[1:], start=1):
        result = torch.add(result, image.narrow(axis, n, size), alpha=tap)
    return result


def _spread(values: torch.Tensor, taps: _Taps, axis: int) -> torch.Tensor:
    """The transpose of `_filtered`."""
    edge = len(taps) - 1
    pads = [0, 0] * (-axis - 1) + [edge, edge]
    return _filtered(functional.pad(values, pads), taps[::-1], axis)


def _pads(sizes: Sequence[int]) -> list[int]:
    """As `torch.nn.functional.pad` wants them: the last axis first."""
    return [n for size in reversed(sizes) for n in (size, size)]
