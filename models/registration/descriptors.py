"""What is compared when two volumes are registered: numbers a voxel that outlive a new contrast.

- `mind_ssc`: how alike the neighbours of a voxel are among themselves (multi-contrast).
- `principal`: fewer channels that say nearly the same.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch.nn import functional

__all__ = ["box_mean", "mind_ssc", "principal"]

_FACES = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
_EDGES = tuple(
    (a, b) for a, b in combinations(_FACES, 2) if sum(x * y for x, y in zip(a, b, strict=True)) == 0
)
"""The twelve pairs of a voxel's six neighbours that are neighbours themselves."""


def box_mean(values: torch.Tensor, radius: int) -> torch.Tensor:
    """Means over cubes of ``2 radius + 1`` voxels of (C, I, J, K); the border is repeated."""
    for axis in (1, 2, 3):
        size = values.shape[axis]
        padded = _padded(values, radius, axis)
        total = padded.narrow(axis, 0, size).clone()
        for start in range(1, 2 * radius + 1):
            total += padded.narrow(axis, start, size)
        values = total.div_(2 * radius + 1)
    return values


def mind_ssc(image: torch.Tensor, *, radius: int = 1, dilation: int = 1) -> torch.Tensor:
    r"""(12, I, J, K) in 0..1: the self-similarity context of each voxel of (I, J, K).

    .. math:: S_p = \exp\left(-\frac{D_p - \min_q D_q}{\bar D}\right)

    with D_p the mean squared difference of two patches round two neighbours of the voxel, over the
    twelve pairs p of neighbours (`dilation` voxels away) that touch each other, and their mean as
    the local variance (Heinrich et al., Towards realtime multimodal fusion for image-guided
    interventions using self-similarities, MICCAI 2013, doi:10.1007/978-3-642-40811-3_24).
    """
    reach = 2 * dilation
    padded = functional.pad(image[None, None], [reach] * 6, mode="replicate")[0, 0]
    distances = torch.empty((len(_EDGES), *image.shape), device=image.device)
    for row, (a, b) in enumerate(_EDGES):
        one, other = (_shifted(padded, face, dilation, reach, image.shape) for face in (a, b))
        distances[row] = box_mean((one - other).square_()[None], radius)[0]
    distances -= distances.amin(dim=0)
    spread = distances.mean(dim=0)
    middle = float(spread.cpu().numpy().mean(dtype="float64"))
    spread.clamp_(1e-3 * middle + 1e-12, 1e3 * middle + 1e-12)
    return distances.div_(spread).neg_().exp_()


def principal(
    fixed: torch.Tensor, moving: torch.Tensor, n_channels: int, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both (C, I, J, K), turned onto the `n_channels` axes along which they vary the most.

    A rotation leaves the distance between two voxels as it is; the axes left out carry little.
    """
    if n_channels >= len(fixed):
        return fixed, moving
    columns = torch.cat([fixed[:, mask], moving[:, mask]], dim=1).double().cpu()
    columns -= columns.mean(dim=1, keepdim=True)
    covariance = torch.stack([(columns * row).mean(dim=1) for row in columns])
    _, axes = torch.linalg.eigh(covariance)
    axes = axes[:, -n_channels:].to(fixed.device, fixed.dtype)
    return _turned(fixed, axes), _turned(moving, axes)


def _turned(channels: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """By plain sums: a matrix product's last bits may follow the number of threads."""
    result = torch.zeros((axes.shape[1], *channels.shape[1:]), device=channels.device)
    for row, column in enumerate(axes.T):
        for channel, weight in zip(channels, column, strict=True):
            result[row].add_(channel, alpha=float(weight))
    return result


def _shifted(
    padded: torch.Tensor, face: tuple[int, int, int], step: int, reach: int, shape: torch.Size
) -> torch.Tensor:
    for axis, (direction, size) in enumerate(zip(face, shape, strict=True)):
        padded = padded.narrow(axis, reach + step * direction, size)
    return padded


def _padded(values: torch.Tensor, radius: int, axis: int) -> torch.Tensor:
    pads = [0, 0] * 3
    pads[2 * (3 - axis)] = pads[2 * (3 - axis) + 1] = radius
    return functional.pad(values[None], pads, mode="replicate")[0]
