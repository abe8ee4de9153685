r"""A smooth step of a velocity that lowers the distance of two sets of channels.

With d the difference of the channels at each voxel and g their gradients, the step s minimises

.. math:: \sum_x w \|d - g^T s\|^2 + \lambda_1 \|\nabla (v + s)\|^2 + \lambda_2 \|\Delta (v + s)\|^2

that is ``(H + L) s = b - L v`` with ``H = w g g^T``, ``b = w g d`` and L the two regularisers. The
system is solved by conjugate gradients, preconditioned by each voxel's own 3 x 3 block. Steps of
this kind drive DARTEL (Ashburner 2007, doi:10.1016/j.neuroimage.2007.07.007); the forces are those
of symmetric demons (Vercauteren et al. 2009, doi:10.1016/j.neuroimage.2008.10.040).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

__all__ = ["Penalty", "normal_equations", "solve"]

_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


class Penalty:
    """Of rough velocities: diffusion (first derivatives) and bending (Laplacian), in voxels.

    Args:
        diffusion: weight of the squared gradient.
        bending: weight of the squared Laplacian.
        size: weight of the squared velocity itself, which holds still what nothing else does.
    """

    def __init__(self, diffusion: float, bending: float, size: float = 1e-4) -> None:
        self.diffusion, self.bending, self.size = diffusion, bending, size

    def __call__(self, field: torch.Tensor) -> torch.Tensor:
        """L applied to (3, I, J, K)."""
        rough = _laplacian(field)
        result = field * self.size
        if self.diffusion:
            result.add_(rough, alpha=self.diffusion)
        if self.bending:
            result.add_(_laplacian(rough), alpha=self.bending)
        return result

    @property
    def diagonal(self) -> float:
        """Of L, away from the borders."""
        return self.size + 6 * self.diffusion + 42 * self.bending


def normal_equations(
    fixed: torch.Tensor, moving: torch.Tensor, weight: torch.Tensor, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """H (6, I', J', K') and b (3, I', J', K') on blocks of `stride` voxels, in voxels of theirs.

    Args:
        fixed: (C, I, J, K).
        moving: the same, seen through the present map.
        weight: (C, I, J, K) or (1, I, J, K), of each voxel.
        stride: voxels of a block along each axis; shapes are multiples of it.
    """
    shape = fixed.shape[1:]
    hessian = torch.zeros((6, *shape), device=fixed.device)
    force = torch.zeros((3, *shape), device=fixed.device)
    for channel in range(len(fixed)):
        own = weight[channel if len(weight) > 1 else 0]
        slopes = _gradient(fixed[channel] + moving[channel])
        difference = (fixed[channel] - moving[channel]).mul_(own)
        for axis in range(3):
            force[axis].addcmul_(slopes[axis], difference)
        for row, (a, b) in enumerate(_PAIRS):
            hessian[row].addcmul_(slopes[a] * own, slopes[b])
    if stride > 1:
        hessian = functional.avg_pool3d(hessian, stride).mul_(stride**2)
        force = functional.avg_pool3d(force, stride).mul_(stride)
    return hessian, force


def solve(
    hessian: torch.Tensor,
    force: torch.Tensor,
    penalty: Penalty,
    n_iterations: int,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """(3, I, J, K) step s of ``(H + L) s = force``, after `n_iterations` of conjugate gradients."""
    precondition = _block_inverse(hessian, penalty.diagonal)
    step = torch.zeros_like(force) if start is None else start
    residual = force.clone() if start is None else force - _system(hessian, penalty, step)
    direction = torch.zeros_like(force)
    before = 1.0
    for _ in range(n_iterations):
        better = precondition(residual)
        product = _dot(residual, better)
        if product <= 0:
            break
        direction = better.add_(direction, alpha=product / before)
        image = _system(hessian, penalty, direction)
        length = product / _dot(direction, image)
        step.add_(direction, alpha=length)
        residual.sub_(image, alpha=length)
        before = product
    return step


def _system(hessian: torch.Tensor, penalty: Penalty, field: torch.Tensor) -> torch.Tensor:
    result = penalty(field)
    for row, (a, b) in enumerate(_PAIRS):
        result[a].addcmul_(hessian[row], field[b])
        if a != b:
            result[b].addcmul_(hessian[row], field[a])
    return result


def _block_inverse(
    hessian: torch.Tensor, diagonal: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Applies the inverse of each voxel's (H + diagonal)."""
    xx, yy, zz, xy, xz, yz = hessian
    xx, yy, zz = xx + diagonal, yy + diagonal, zz + diagonal
    minors = torch.stack(
        [
            yy * zz - yz * yz,
            xx * zz - xz * xz,
            xx * yy - xy * xy,
            xz * yz - xy * zz,
            xy * yz - xz * yy,
            xy * xz - xx * yz,
        ]
    )
    minors /= xx * minors[0] + xy * minors[3] + xz * minors[4]

    def apply(field: torch.Tensor) -> torch.Tensor:
        result = torch.zeros_like(field)
        for row, (a, b) in enumerate(_PAIRS):
            result[a].addcmul_(minors[row], field[b])
            if a != b:
                result[b].addcmul_(minors[row], field[a])
        return result

    return apply


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    """A sum in a fixed order: rows first, which no number of threads divides otherwise."""
    return float((one * other).sum(dim=(0, 2, 3)).double().cpu().numpy().sum())


def _laplacian(field: torch.Tensor) -> torch.Tensor:
    """The negative Laplacian of (3, I, J, K), nothing flowing through the border."""
    result = torch.zeros_like(field)
    for axis in (1, 2, 3):
        size = field.shape[axis]
        if size < 2:
            continue
        slope = field.narrow(axis, 1, size - 1) - field.narrow(axis, 0, size - 1)
        result.narrow(axis, 0, size - 1).sub_(slope)
        result.narrow(axis, 1, size - 1).add_(slope)
    return result


def _gradient(total: torch.Tensor) -> list[torch.Tensor]:
    """Half the central differences of (I, J, K), for a sum of two; 0 at the border."""
    slopes = []
    for axis, size in enumerate(total.shape):
        slope = torch.zeros_like(total)
        if size > 2:
            middle = slope.narrow(axis, 1, size - 2)
            torch.sub(total.narrow(axis, 2, size - 2), total.narrow(axis, 0, size - 2), out=middle)
            middle.mul_(0.25)
        slopes.append(slope)
    return slopes
