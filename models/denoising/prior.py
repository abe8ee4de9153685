"""Deep image prior: a network is fitted to one noisy image, and stopped before it fits the noise.

No training and no weights: a U-Net that starts from chance learns structure before noise (Ulyanov
et al. 2020, doi:10.1007/s11263-020-01303-4). Where it stops decides all, so that is measured: some
voxels are held out of the fit, and their error is least where noise begins to be learned. Another
image of the patient as the network's input guides it (Cui et al. 2019, doi:10.1007/
s00259-019-04468-4, who give the CT or MR to denoise PET).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from radloom.errors import GridMismatch, InputError

__all__ = ["DeepPrior", "deep_image_prior"]

Floats = npt.NDArray[np.float32]
Slices = tuple[slice, ...]

_MULTIPLE = 16
"""The U-Net halves its grid four times."""

_NOISE_CHANNELS = 8
_NOISE_INPUT = 0.1
"""Without a guide the network's input is uniform noise up to this, which never changes."""

_SMOOTH = 0.9
"""Of the held-out error, a running mean over the steps."""

_GAIN = 1e-5
"""A share by which that error must fall to count as lower: sums differ by rounding."""


@dataclass(frozen=True)
class DeepPrior:
    """How the network is fitted. Set, not tuned on test data."""

    max_steps: int = 1500
    """Of a block, at the latest."""
    patience: int = 120
    """Steps without a lower held-out error, after which the best result stands."""
    held_out: float = 0.05
    """Share of the voxels that the fit never sees and the stop is measured on."""
    learning_rate: float = 3e-3
    """Of Adam."""
    averaged: float = 0.95
    """The result is a running mean of the network's answers, which this much of stays."""
    features: tuple[int, int, int, int, int, int] = (16, 32, 32, 64, 64, 16)
    """Channels of MONAI's BasicUNet."""
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


def deep_image_prior(
    image: npt.ArrayLike,
    sigma: float,
    *,
    guide: npt.ArrayLike | None = None,
    rician: bool = False,
    settings: DeepPrior | None = None,
    device: torch.device | None = None,
) -> Floats:
    """The image (I, J, K) as a network fitted to it shows it, float32 in the same units.

    The same arguments on the same device with the same number of threads give the same result.

    Args:
        image: (I, J, K), finite; never changed.
        sigma: standard deviation of the noise, in the image's unit; 0 gives a copy.
        guide: another image (I, J, K) of the patient on the same grid, finite.
        rician: whether the image is a magnitude image: the fit then is to its mean under noise.
        settings: of the fit.
        device: where it runs; None: the CPU, on which a head of 1 mm takes hours.

    Raises:
        InputError: the image is not 3D, or the guide not finite.
        GridMismatch: the guide has another shape.
    """
    settings = settings or DeepPrior()
    values = np.array(image, dtype=np.float32)
    if values.ndim != 3:
        raise InputError(f"expected an image (I, J, K), got shape {values.shape}")
    other = None if guide is None else np.asarray(guide, dtype=np.float32)
    if other is not None and other.shape != values.shape:
        raise GridMismatch(
            f"expected a guide on the grid of the image, {values.shape}, got {other.shape}: "
            "register it to the image first"
        )
    if other is not None and not np.isfinite(other).all():
        raise InputError("expected a finite guide, got NaN or infinity: mask or replace them first")
    if sigma == 0 or values.size == 0 or values.min() == values.max():
        return values
    low = 0.0 if rician else float(values.min())
    scale = max(float(np.percentile(values, 99)) - low, float(sigma))
    scaled = torch.from_numpy((values - np.float32(low)) / np.float32(scale))
    guided = None if other is None else torch.from_numpy(_between_0_and_1(other))
    total, weights = torch.zeros_like(scaled), torch.zeros_like(scaled)
    for block, weight in _blocks(tuple(values.shape), settings):
        part = None if guided is None else guided[block]
        clean = _fit(
            scaled[block], sigma / scale, part, rician, settings, device or torch.device("cpu")
        )
        total[block] += weight * clean
        weights[block] += weight
    return np.asarray(
        (total / weights).numpy() * np.float32(scale) + np.float32(low), dtype=np.float32
    )


def _fit(
    image: torch.Tensor,
    sigma: float,
    guide: torch.Tensor | None,
    rician: bool,  # noqa: FBT001
    settings: DeepPrior,
    device: torch.device,
) -> torch.Tensor:
    """The clean block (I, J, K), on the CPU."""
    generator = torch.Generator().manual_seed(settings.seed)
    given = _padded(image).to(device)
    source = _input(guide, given.shape, generator).to(device)
    outside = torch.rand(given.shape, generator=generator).to(device) < settings.held_out
    inside_image = _where_image(image.shape, given.shape).to(device)
    network = _network(source.shape[1], settings).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    fitted, tested = inside_image & ~outside, inside_image & outside
    mean, best = torch.zeros_like(given), torch.zeros_like(given)
    error, least, since = 0.0, float("inf"), 0
    for step in range(settings.max_steps):
        optimizer.zero_grad(set_to_none=True)
        answer = network(source)[0, 0]
        if rician:
            answer = answer.abs()
        shown = (answer**2 + sigma**2).sqrt() if rician else answer
        wrong = (shown - given) ** 2
        wrong[fitted].mean().backward()
        optimizer.step()
        keep = min(settings.averaged, step / (step + 1))
        mean = keep * mean + (1 - keep) * answer.detach()
        smooth = min(_SMOOTH, step / (step + 1))
        error = smooth * error + (1 - smooth) * float(wrong.detach()[tested].mean())
        since += 1
        if error < least * (1 - _GAIN):
            least, best, since = error, mean, 0
        if since >= settings.patience:
            break
    return best[tuple(slice(n) for n in image.shape)].cpu()


def _network(n_channels: int, settings: DeepPrior) -> torch.nn.Module:
    from monai.networks.nets import BasicUNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return BasicUNet(
            spatial_dims=3,
            in_channels=n_channels,
            out_channels=1,
            features=settings.features,
            upsample="nontrainable",
        )


def _input(
    guide: torch.Tensor | None, shape: torch.Size, generator: torch.Generator
) -> torch.Tensor:
    """(1, C, I, J, K): the guide, or noise."""
    if guide is not None:
        return _padded(guide)[None, None]
    return _NOISE_INPUT * torch.rand((1, _NOISE_CHANNELS, *shape), generator=generator)


def _padded(block: torch.Tensor) -> torch.Tensor:
    """The block with its last values repeated up to what the network takes."""
    missing = [-(-n // _MULTIPLE) * _MULTIPLE - n for n in block.shape]
    padding = [n for m in reversed(missing) for n in (0, m)]
    return functional.pad(block[None, None], padding, mode="replicate")[0, 0]


def _where_image(shape: torch.Size, padded: torch.Size) -> torch.Tensor:
    inside = torch.zeros(padded, dtype=torch.bool)
    inside[tuple(slice(n) for n in shape)] = True
    return inside


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
