"""VoxelMorph on any pair of volumes that an affine map has aligned."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch

from radloom.errors import StageFailed
from radloom.models.bundles import bundle_sha256, find_bundle, load_bundle
from radloom.models.registration.network import RegistrationNetwork
from radloom.models.registration.structures import Segmenter, Structures
from radloom.models.registration.working_grid import WorkingGrid
from radloom.shapes import Volume
from radloom.threads import torch_settings
from radloom.transforms.spatial import Transform

__all__ = ["BUNDLE", "Answer", "Registrar", "network_velocity", "shipped_registrar"]

BUNDLE = "head_mr_registration"

FARTHEST_MM = 60.0
"""Two heads that an affine map has aligned lie nowhere as far apart."""
HEAD_MARGIN_MM = 8.0
"""Of air round the head, in the grid round a head that `network_grid` is given."""
CT_LOW_HU, CT_RANGE_HU = -1000.0, 2500.0
"""How a CT becomes numbers from 0 to 1, as in training."""
QUANTILE = 0.995
"""MR is 1 here, as in the bundle's ``inference.yaml``."""


@dataclass(frozen=True)
class Registrar:
    """A network with its weights, on `device`, in evaluation mode, and the grid it knows."""

    network: RegistrationNetwork = field(repr=False)
    shape: tuple[int, int, int]
    """Of its grid, multiples of its halvings."""
    spacing_mm: tuple[float, float]
    """The finest and the coarsest voxels that it was trained on."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def to(self, device: torch.device) -> Registrar:
        """The same on `device`; a copy, if it is on another."""
        if device == self.device:
            return self
        return replace(self, network=deepcopy(self.network).to(device), device=device)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network says of a pair."""

    velocity: torch.Tensor
    """(3, I, J, K) of the fixed head, in voxels of `grid`."""
    grid: WorkingGrid
    structures: Structures | None = None
    """In both heads on `grid`, as the network was told; None: it was told nothing."""


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
    grid = bundle.metadata["grid"]
    i, j, k = (int(n) for n in grid["shape"])
    low, high = (float(mm) for mm in grid["spacing_mm"])
    return Registrar(bundle.network, (i, j, k), (low, high), bundle.device)


def network_grid(round_head: WorkingGrid, registrar: Registrar) -> WorkingGrid:
    """The grid of the network, from the crown down, over the middle of the grid of a head.

    Voxels are as large as the width and the length of the head ask, within those that the network
    knows; how much of the neck a scan shows has no say.
    """
    shape = registrar.shape
    extent = [n * round_head.spacing_mm for n in round_head.shape]
    low, high = registrar.spacing_mm
    widest = max((extent[axis] - 2 * HEAD_MARGIN_MM) / shape[axis] for axis in (0, 1))
    spacing = min(max(widest, low), high)
    corner = [
        begin + (size - n * spacing) / 2
        for begin, size, n in zip(round_head.corner_mm, extent, shape, strict=True)
    ]
    corner[2] = round_head.corner_mm[2] + extent[2] - HEAD_MARGIN_MM / 2 - shape[2] * spacing
    return WorkingGrid(shape, spacing, (corner[0], corner[1], corner[2]))


def network_velocity(
    fixed: Volume,
    moving: Volume,
    moving_from_fixed: Transform,
    round_head: WorkingGrid,
    registrar: Registrar,
    segmenter: Segmenter | None = None,
    *,
    n_threads: int = 1,
) -> Answer:
    """What the network says of two volumes that an affine map has aligned.

    Both are shown to it as `Registration` shows them in training: as means of blocks no larger than
    its voxels, then linear; beside them what the segmentation network sees on the same voxels.

    Args:
        fixed: (1, I, J, K), any grid.
        moving: the same.
        moving_from_fixed: affine.
        round_head: a grid round the fixed head.
        registrar: the network.
        segmenter: what tells it about structures, if it wants to be told; None: nobody does.
        n_threads: of resampling.

    Raises:
        StageFailed: what the network gives is not finite, or farther than heads lie apart.
    """
    grid = network_grid(round_head, registrar)
    network = registrar.network
    views = [
        grid.see(volume, way, n_threads=n_threads)
        for volume, way in ((fixed, None), (moving, moving_from_fixed))
    ]
    shown = [
        _scaled(view, volume.meta["units"])
        for view, volume in zip(views, (fixed, moving), strict=True)
    ]
    classes: list[torch.Tensor] = []
    if network.n_classes and segmenter is not None:
        classes = [segmenter.classes(view) for view in views]
    told = [part.to(shown[0]) for part in classes or [torch.zeros_like(view) for view in views]]
    pair = torch.stack([*shown, *told][: network.n_channels])[None].to(registrar.device)
    with torch_settings(1), torch.inference_mode():
        velocity = network.velocity(pair)[0]
    coarse = grid.coarser(network.fold)
    farthest = coarse.spacing_mm * float(velocity.abs().max())
    if not farthest <= FARTHEST_MM:
        raise StageFailed(
            f"voxelmorph: expected displacements up to {FARTHEST_MM:g} mm, got {farthest:g}: the "
            "network cannot read these volumes; choose hybrid or elastix"
        )
    structures = Structures.of(classes, network.n_classes, network.fold) if classes else None
    return Answer(velocity.clone(), coarse, structures)


def _scaled(image: torch.Tensor, units: str) -> torch.Tensor:
    """Numbers as in training: a CT from 0 to 1, MR about 1 at its bright end."""
    if units == "HU":
        return ((image - CT_LOW_HU) / CT_RANGE_HU).clamp(0, 1)
    sample = image.ravel()[::7].sort().values
    level = float(sample[int(QUANTILE * (len(sample) - 1))])
    return image / level if level > 0 else image
