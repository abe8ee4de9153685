"""VoxelMorph on any pair of volumes that an affine map has aligned."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn import functional

from radloom.models.bundles import bundle_sha256, find_bundle, load_bundle
from radloom.models.registration.network import RegistrationNetwork
from radloom.models.registration.working_grid import WorkingGrid
from radloom.shapes import Volume
from radloom.transforms.spatial import Transform

__all__ = ["BUNDLE", "Registrar", "network_velocity", "shipped_registrar"]

BUNDLE = "head_mr_registration"

SHAPE = (160, 192, 192)
"""What the network was trained on; the whole head is fitted into it."""
FINEST_MM, COARSEST_MM = 1.0, 1.25
"""The voxels that it was trained on; larger heads lose neck first."""
CT_LOW_HU, CT_RANGE_HU = -1000.0, 2500.0
"""How a CT becomes numbers from 0 to 1, as in training."""
QUANTILE = 0.995
"""MR is 1 here, as in the bundle's ``inference.yaml``."""


@dataclass(frozen=True)
class Registrar:
    """A network with its weights, on `device`, in evaluation mode."""

    network: RegistrationNetwork = field(repr=False)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    shape: tuple[int, int, int] = SHAPE
    """Of its grid, multiples of its halvings."""


def shipped_registrar(device: torch.device) -> Registrar:
    """The network that Radloom ships, loaded once in a process's life.

    Raises:
        MissingWeights: this release holds no weights for it.
    """
    folder = find_bundle(BUNDLE)
    return _loaded(folder, bundle_sha256(folder), str(device))


@lru_cache(maxsize=1)
def _loaded(
    folder: Path,
    digest: str,  # noqa: ARG001 (keys the cache: other files, another network)
    device: str,
) -> Registrar:
    bundle = load_bundle(folder, device=torch.device(device))
    assert isinstance(bundle.network, RegistrationNetwork)
    return Registrar(bundle.network, bundle.device)


def network_grid(round_head: WorkingGrid, shape: tuple[int, int, int]) -> WorkingGrid:
    """The grid of the network, from the crown down, over the middle of the grid of a head."""
    extent = [n * round_head.spacing_mm for n in round_head.shape]
    spacing = max(size / n for size, n in zip(extent, shape, strict=True))
    spacing = min(max(spacing, FINEST_MM), COARSEST_MM)
    corner = [
        low + (size - n * spacing) / 2
        for low, size, n in zip(round_head.corner_mm, extent, shape, strict=True)
    ]
    corner[2] = round_head.corner_mm[2] + extent[2] - shape[2] * spacing
    return WorkingGrid(shape, spacing, (corner[0], corner[1], corner[2]))


def network_velocity(
    fixed: Volume,
    moving: Volume,
    moving_from_fixed: Transform,
    round_head: WorkingGrid,
    registrar: Registrar,
    *,
    n_threads: int = 1,
) -> tuple[torch.Tensor, WorkingGrid]:
    """The velocity (3, I, J, K) of the fixed head, in voxels of the grid that comes with it.

    Args:
        fixed: (1, I, J, K), any grid.
        moving: the same.
        moving_from_fixed: affine.
        round_head: a grid round the fixed head.
        registrar: the network.
        n_threads: of resampling.
    """
    grid = network_grid(round_head, registrar.shape)
    views = (
        _scaled(grid.see(fixed, None, n_threads=n_threads), fixed.meta["units"]),
        _scaled(grid.see(moving, moving_from_fixed, n_threads=n_threads), moving.meta["units"]),
    )
    pair = torch.stack(views)[None].to(registrar.device)
    with torch.inference_mode():
        velocity = registrar.network.velocity(pair)
        half = functional.avg_pool3d(velocity, 2)[0] / 2
    return half.clone(), grid.coarser(2)


def _scaled(image: torch.Tensor, units: str) -> torch.Tensor:
    """Numbers as in training: a CT from 0 to 1, MR about 1 at its bright end."""
    if units == "HU":
        return ((image - CT_LOW_HU) / CT_RANGE_HU).clamp(0, 1)
    sample = image.ravel()[::7].sort().values
    level = float(sample[int(QUANTILE * (len(sample) - 1))])
    return image / level if level > 0 else image
