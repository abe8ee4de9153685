"""Deep image prior: a network is fitted to one noisy image, and stopped before it fits the noise.

No training and no weights: a U-Net that starts from chance learns structure before noise (Ulyanov
et al. 2020, doi:10.1007/s11263-020-01303-4). Where it stops decides all, so that is measured: some
voxels are held out of the fit, and their error is least where noise begins to be learned.

It does not start from nothing, which takes thousands of steps: non-local means of the image, in
which the held-out voxels are filled from their neighbours, is what the network sees beside noise
that never changes, and what its answer is added to. So the fit puts back what non-local means took
away, and stops at once where that is nothing. Another image of the patient at the input guides it
(Cui et al. 2019, doi:10.1007/s00259-019-04468-4, who give the CT or MR to denoise PET).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.utils import pixelunshuffle
from torch.nn import functional

from radloom.errors import GridMismatch, InputError
from radloom.models.denoising.prior_network import FOLD, FoldedUNet
from radloom.transforms.denoising.nlm import NonLocalMeans, non_local_means

__all__ = ["DeepPrior", "deep_image_prior"]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Slices = tuple[slice, ...]

_NOISE_CHANNELS = 8
_NOISE_INPUT = 0.1
"""Beside the image the network's input is uniform noise up to this, which never changes."""

_SMOOTH = 0.9
"""Of the held-out error, a running mean over the steps."""

_GAIN = 1e-5
"""A share by which that error must fall to count as lower: sums differ by rounding."""


@dataclass(frozen=True)
class DeepPrior:
    """How the network is fitted. Set on training maps."""

    max_steps: int = 300
    """Of a block, at the latest."""
    patience: int = 30
    """Steps without a lower held-out error, after which the best result stands."""
    held_out: float = 0.03
    """Share of the voxels that the fit never sees and the stop is measured on."""
    learning_rate: float = 1e-3
    """Of Adam."""
    averaged: float = 0.9
    """The result is a running mean of the network's answers, which this much of stays."""
    widths: tuple[int, ...] = (24, 48, 64)
    """Channels of each level of the U-Net, from half the grid of the image on."""
    block: int = 96
    """Larger images are fitted in blocks of so many voxels an axis at most."""
    overlap: int = 16
    """Voxels that neighbouring blocks share, blended."""
    seed: int = 0
    """Of weights, input and held-out voxels."""

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.patience < 1 or not 0 < self.held_out < 1:
            raise InputError(
                "expected max_steps and patience of 1 or more and held_out between 0 and 1, got "
                f"{self.max_steps}, {self.patience} and {self.held_out:g}"
            )
        if not 0 <= 2 * self.overlap <= self.block:
            raise InputError(
                f"expected an overlap of at most half a block of {self.block}, got {self.overlap}"
            )


@dataclass(frozen=True)
class _Scan:
    """What is fitted, in units of its 99th percentile; all (I, J, K)."""

    image: torch.Tensor
    start: torch.Tensor
    """By non-local means, without the voxels held out."""
    held_out: torch.Tensor
    guide: torch.Tensor | None
    sigma: float
    rician: bool

    def part(self, block: Slices) -> _Scan:
        guide = None if self.guide is None else self.guide[block]
        image, start, held_out = (v[block] for v in (self.image, self.start, self.held_out))
        return _Scan(image, start, held_out, guide, self.sigma, self.rician)


def deep_image_prior(
    image: npt.ArrayLike,
    sigma: float,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    guide: npt.ArrayLike | None = None,
    rician: bool = False,
    settings: DeepPrior | None = None,
    device: torch.device | None = None,
    n_threads: int = 1,
) -> Floats:
    """The image (I, J, K) as a network fitted to it shows it, float32 in the same units.

    The same arguments on the same device with the same number of threads give the same result.

    Args:
        image: (I, J, K), finite; never changed.
        sigma: standard deviation of the noise, in the image's unit; 0 gives a copy.
        spacing: millimetres along I, J, K.
        guide: another image (I, J, K) of the patient on the same grid, finite.
        rician: whether the image is a magnitude image: the fit then is to its mean under noise.
        settings: of the fit.
        device: where it runs; None: the CPU, on which a head of 1 mm takes an hour or more.
        n_threads: of the CPU, for the start.

    Raises:
        InputError: the image is not 3D, or the guide not finite.
        GridMismatch: the guide has another shape.
    """
    settings = settings or DeepPrior()
    values = np.array(image, dtype=np.float32)
    if values.ndim != 3:
        raise InputError(f"expected an image (I, J, K), got shape {values.shape}")
    other = _guide(guide, values)
    if sigma == 0 or values.size == 0 or values.min() == values.max():
        return values
    low = 0.0 if rician else float(values.min())
    scale = max(float(np.percentile(values, 99)) - low, float(sigma))
    held_out = np.random.default_rng(settings.seed).random(values.shape) < settings.held_out
    start = non_local_means(
        _filled(values, held_out),
        sigma,
        spacing=spacing,
        settings=NonLocalMeans(rician=rician),
        n_threads=n_threads,
    )
    image_0, start_0 = (
        torch.from_numpy((v - np.float32(low)) / np.float32(scale)) for v in (values, start)
    )
    guided = None if other is None else torch.from_numpy(_between_0_and_1(other))
    scan = _Scan(image_0, start_0, torch.from_numpy(held_out), guided, sigma / scale, rician)
    clean = _in_blocks(scan, settings, device or torch.device("cpu"))
    return np.asarray(clean.numpy() * np.float32(scale) + np.float32(low), dtype=np.float32)


def _guide(guide: npt.ArrayLike | None, values: Floats) -> Floats | None:
    if guide is None:
        return None
    other = np.asarray(guide, dtype=np.float32)
    if other.shape != values.shape:
        raise GridMismatch(
            f"expected a guide on the grid of the image, {values.shape}, got {other.shape}: "
            "register it to the image first"
        )
    if not np.isfinite(other).all():
        raise InputError("expected a finite guide, got NaN or infinity: mask or replace them first")
    return other


def _filled(values: Floats, held_out: Mask) -> Floats:
    """The image with its held-out voxels replaced by the mean of the others around them."""
    from scipy import ndimage

    kept = (~held_out).astype(np.float32)
    share = ndimage.uniform_filter(kept, 3)
    around = ndimage.uniform_filter(values * kept, 3) / np.maximum(share, 1e-6)
    return np.asarray(np.where(held_out & (share > 0), around, values), np.float32)


def _in_blocks(scan: _Scan, settings: DeepPrior, device: torch.device) -> torch.Tensor:
    total, weights = torch.zeros_like(scan.image), torch.zeros_like(scan.image)
    for block, weight in _blocks(tuple(scan.image.shape), settings):
        total[block] += weight * _fit(scan.part(block), settings, device)
        weights[block] += weight
    return total / weights


def _fit(scan: _Scan, settings: DeepPrior, device: torch.device) -> torch.Tensor:
    """The clean block (I, J, K), on the CPU."""
    given, start = (_padded(v, settings).to(device) for v in (scan.image, scan.start))
    source = _input(scan, settings).to(device)
    inside = tuple(slice(n) for n in scan.image.shape)
    outside = scan.held_out.to(device)
    network = _network(source.shape[1], settings).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    mean, best = torch.zeros_like(given), start
    error, least, since = 0.0, float("inf"), 0
    for step in range(settings.max_steps):
        optimizer.zero_grad(set_to_none=True)
        answer = start + scan.sigma * network(source)[0, 0]
        if scan.rician:
            answer = answer.abs()
        shown = _mean_magnitude(answer, scan.sigma) if scan.rician else answer
        wrong = ((shown - given) ** 2)[inside]
        wrong[~outside].mean().backward()
        optimizer.step()
        keep = min(settings.averaged, step / (step + 1))
        mean = keep * mean + (1 - keep) * answer.detach()
        smooth = min(_SMOOTH, step / (step + 1))
        error = smooth * error + (1 - smooth) * float(wrong.detach()[outside].mean())
        since += 1
        if error < least * (1 - _GAIN):
            least, best, since = error, mean, 0
        if since >= settings.patience:
            break
    return best[inside].cpu()


def _network(n_channels: int, settings: DeepPrior) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return FoldedUNet(n_channels, settings.widths)


def _input(scan: _Scan, settings: DeepPrior) -> torch.Tensor:
    """(1, C, I/2, J/2, K/2): the start and the guide, folded, and noise."""
    seen = [scan.start] if scan.guide is None else [scan.start, scan.guide]
    stack = torch.stack([_padded(v, settings) for v in seen])[None]
    folded = pixelunshuffle(stack, 3, FOLD)
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.rand((1, _NOISE_CHANNELS, *folded.shape[2:]), generator=generator)
    return torch.cat([folded, _NOISE_INPUT * noise], dim=1)


def _mean_magnitude(signal: torch.Tensor, sigma: float) -> torch.Tensor:
    """As `radloom.transforms.denoising.rician.mean_magnitude`, with a gradient."""
    x = (signal / sigma) ** 2 / 4
    even, odd = torch.special.i0e(x), torch.special.i1e(x)
    return sigma * math.sqrt(math.pi / 2) * ((1 + 2 * x) * even + 2 * x * odd)


def _padded(block: torch.Tensor, settings: DeepPrior) -> torch.Tensor:
    """The block with its last values repeated up to what the network takes."""
    multiple = FOLD * 2 ** (len(settings.widths) - 1)
    missing = [-n % multiple for n in block.shape]
    padding = [n for m in reversed(missing) for n in (0, m)]
    return functional.pad(block[None, None], padding, mode="replicate")[0, 0]


def _between_0_and_1(image: Floats) -> Floats:
    low, high = np.percentile(image, (1, 99))
    return np.asarray(np.clip((image - low) / max(high - low, 1e-6), 0, 1), np.float32)


def _blocks(shape: tuple[int, ...], settings: DeepPrior) -> Iterator[tuple[Slices, torch.Tensor]]:
    """Blocks that cover a grid, each with weights (I, J, K) that fall towards its inner faces."""
    axes = [_cuts(n, settings) for n in shape]
    for starts_and_stops in product(*axes):
        block = tuple(slice(start, stop) for start, stop in starts_and_stops)
        weight = torch.ones(())
        for axis, (start, stop) in enumerate(starts_and_stops):
            ramp = _ramp(start, stop, shape[axis], settings.overlap)
            weight = weight[..., None] * ramp
        yield block, weight


def _cuts(size: int, settings: DeepPrior) -> list[tuple[int, int]]:
    """Where blocks of one axis start and stop, as even as can be."""
    if size <= settings.block:
        return [(0, size)]
    n_blocks = -(-(size - settings.overlap) // (settings.block - settings.overlap))
    starts = [round(i * (size - settings.block) / (n_blocks - 1)) for i in range(n_blocks)]
    return [(start, start + settings.block) for start in starts]


def _ramp(start: int, stop: int, size: int, overlap: int) -> torch.Tensor:
    """1 within, down to nearly 0 at the faces that other blocks share."""
    where = torch.arange(start, stop, dtype=torch.float32)
    weight = torch.ones_like(where)
    if start > 0:
        weight = torch.minimum(weight, (where - start + 0.5) / max(overlap, 1))
    if stop < size:
        weight = torch.minimum(weight, (stop - where - 0.5) / max(overlap, 1))
    return weight.clamp(1e-3, 1.0)
