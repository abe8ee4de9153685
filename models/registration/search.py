"""A smooth field found by trying every displacement of a cube: no start needed, nothing learned.

Discrete search with coupled convex smoothing (Heinrich, Papiez, Schnabel, Handels: Non-parametric
discrete registration with convex optimisation, WBIR 2014, doi:10.1007/978-3-319-08554-8_6), the
first half of ConvexAdam (Siebert et al. 2022, doi:10.1007/978-3-030-97281-3_25).
"""

from __future__ import annotations

from itertools import product

import torch
from torch.nn import functional

from radloom.models.registration.descriptors import box_mean

__all__ = ["search"]

COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Of a node to the smooth field, one a round, in parts of the mean cost."""


def search(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    weight: torch.Tensor,
    *,
    reach: int = 4,
    couplings: tuple[float, ...] = COUPLINGS,
) -> torch.Tensor:
    """(3, I / 2, J / 2, K / 2) displacement, in voxels of that grid, of blocks of two voxels.

    Args:
        fixed: (C, I, J, K), even shape.
        moving: the same.
        weight: (I, J, K), of each voxel.
        reach: the largest displacement tried, in voxels of `fixed`.
        couplings: see `COUPLINGS`.
    """
    steps = list(product(range(-reach, reach + 1), repeat=3))
    costs = _costs(fixed, moving, weight, steps, reach)
    lattice = torch.tensor(steps, dtype=torch.float32, device=fixed.device) / 2
    costs /= float(costs.mean(dim=0).cpu().numpy().mean(dtype="float64")) or 1.0
    found = torch.zeros((3, *costs.shape[1:]), device=fixed.device)
    smooth = found
    for coupling in couplings:
        found = _best(costs, lattice, smooth, 4 * coupling)
        smooth = box_mean(box_mean(found, 1), 1)
    return smooth


def _costs(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    weight: torch.Tensor,
    steps: list[tuple[int, ...]],
    reach: int,
) -> torch.Tensor:
    """(D, I / 2, J / 2, K / 2): the mean squared difference round each block, by displacement."""
    padded = functional.pad(moving[None], [reach] * 6, mode="replicate")[0]
    shape = fixed.shape[1:]
    costs = []
    for step in steps:
        view = padded
        for axis, (shift, size) in enumerate(zip(step, shape, strict=True), start=1):
            view = view.narrow(axis, reach + shift, size)
        distance = (fixed - view).square_().sum(dim=0).mul_(weight)
        costs.append(box_mean(functional.avg_pool3d(distance[None], 2), 1)[0])
    return torch.stack(costs)


def _best(
    costs: torch.Tensor, lattice: torch.Tensor, smooth: torch.Tensor, coupling: float
) -> torch.Tensor:
    """The displacement of each block with the least cost and distance to the smooth field."""
    best = torch.full(costs.shape[1:], torch.inf, device=costs.device)
    index = torch.zeros(costs.shape[1:], dtype=torch.long, device=costs.device)
    for row, step in enumerate(lattice):
        away = (smooth - step.reshape(3, 1, 1, 1)).square_().sum(dim=0)
        cost = away.mul_(coupling).add_(costs[row])
        better = cost < best
        best = torch.where(better, cost, best)
        index = torch.where(better, row, index)
    return lattice[index].movedim(-1, 0).contiguous()
