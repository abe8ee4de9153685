"""Deformable registration of any two volumes: affine, a start, then the search for the rest.

The start is a discrete search's, and VoxelMorph's velocity where its weights are here; both only
have to come near. Then `instance.optimise` finds, for this pair, the velocity that lays structure
on structure: on coarse voxels from either start, on fine ones from what then lies better. Where the
segmentation network has weights, two MR are shown to it, and the shares of the classes that it sees
are compared beside the images' own descriptors. Everything happens on a
grid of cubes round the fixed head; what comes out are maps of points in mm, there and back, on the
grids of the two volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch

from radloom.errors import ConfigError, MissingWeights, OutOfMemory, StageFailed
from radloom.geometry import Affine
from radloom.models.registration.coarse import clipped, with_right_angles
from radloom.models.registration.descriptors import principal
from radloom.models.registration.flow import compose, exponential, resized
from radloom.models.registration.instance import (
    FAST,
    FULL,
    STRUCTURE_WEIGHT,
    Plan,
    Velocity,
    beside,
    descriptors,
    difference,
    optimise,
    pooled,
)
from radloom.models.registration.learned import (
    Answer,
    Registrar,
    network_velocity,
    shipped_registrar,
)
from radloom.models.registration.search import search
from radloom.models.registration.structures import Segmenter, Structures, shipped_segmenter
from radloom.models.registration.working_grid import (
    WorkingGrid,
    field_on_blocks,
    field_on_grid,
    grid_round,
)
from radloom.shapes import LabelVolume, Volume, affine_of, spatial_shape
from radloom.threads import torch_settings
from radloom.transforms.spatial import Transform

__all__ = ["DeformableMethod", "Deformation", "deform", "registrar_for", "segmenter_for"]

DeformableMethod: TypeAlias = Literal["hybrid", "voxelmorph"]

Start: TypeAlias = Literal["network", "search"]

SEARCH_REACH = 4
"""Of the search, in its voxels: 16 mm."""
SEARCH_CHANNELS = 6
"""Of the descriptors that it compares, and of the shares of structures."""
LEAST_AGREEMENT = 0.3
"""Mean Dice of what the segmentation network sees in two heads that an affine map has aligned; 0.44
to 0.63 on training heads of two persons. Below, it sees what is not there, and is not followed.
"""


@dataclass(frozen=True, eq=False)
class Deformation:
    """What a deformable registration finds."""

    moving_from_fixed: Transform
    """A displacement on the fixed grid (its straightened form where it is sheared)."""
    fixed_from_moving: Transform
    """The map back, on the moving grid, from the same velocity."""
    start: Start
    """Which of its starts it went on from."""
    refined_mm: float
    """How far the search carried the head from its start, mean."""
    inconsistency_mm: float
    """Median distance, over the head, that there and back misses."""
    structures_before: float | None = None
    """Mean Dice of what the segmentation network sees in both heads, aligned by the affine map;
    None: no network led. On 2 mm for hybrid, on the velocity's blocks for voxelmorph."""
    structures_after: float | None = None
    """The same through the whole map."""


def registrar_for(method: DeformableMethod, device: torch.device) -> Registrar | None:
    """The shipped network, or None where hybrid has to do without.

    Raises:
        ConfigError: an unknown method.
        MissingWeights: `method` is voxelmorph, and this release holds no weights.
    """
    if method not in get_args(DeformableMethod):
        raise ConfigError(f"expected a method of {get_args(DeformableMethod)}, got {method!r}")
    try:
        return shipped_registrar(device)
    except MissingWeights:
        if method == "voxelmorph":
            raise
        return None


def segmenter_for(fixed: Volume, moving: Volume, device: torch.device) -> Segmenter | None:
    """The shipped segmentation network; None where it cannot help: no weights, or not MR and MR."""
    if {fixed.meta["modality"], moving.meta["modality"]} != {"MR"}:
        return None
    try:
        return shipped_segmenter(device)
    except MissingWeights:
        return None


def deform(
    fixed: Volume,
    moving: Volume,
    affine: Transform,
    *,
    method: DeformableMethod = "hybrid",
    registrar: Registrar | None = None,
    segmenter: Segmenter | None = None,
    fixed_mask: LabelVolume | None = None,
    device: torch.device | None = None,
    n_threads: int = 1,
    fast: bool = False,
) -> Deformation:
    """The diffeomorphic map between two volumes that `affine` has brought near.

    Args:
        fixed: (1, I, J, K), any grid.
        moving: the same, of any contrast.
        affine: ``moving_from_fixed``, a matrix.
        method: hybrid searches from the better of its starts, voxelmorph takes the network's word.
        registrar: the network, of `registrar_for`.
        segmenter: what sees structures, of `segmenter_for`; None: the search compares descriptors
            of the images alone, and the network is told of none.
        fixed_mask: what is compared; the head and some air round it unless given.
        device: where it is computed; None: the CPU.
        n_threads: of the CPU; the result does not depend on it.
        fast: work at half the resolution.

    Raises:
        MissingWeights: voxelmorph without a `registrar`.
        StageFailed: voxelmorph, and what the network gives is no map between two heads.
        OutOfMemory: the device has too little, and so has the CPU.
    """
    where = device or torch.device("cpu")
    plan = FAST if fast else FULL
    with torch_settings(n_threads), torch.inference_mode():
        try:
            return _Task(fixed, moving, affine, fixed_mask, where, n_threads, plan).run(
                method, registrar, segmenter
            )
        except torch.OutOfMemoryError as error:
            if where.type == "cpu":
                raise OutOfMemory("deformable registration: the memory does not suffice") from error
            torch.cuda.empty_cache()
        cpu = torch.device("cpu")
        return _Task(fixed, moving, affine, fixed_mask, cpu, n_threads, plan).run(
            method, registrar and registrar.to(cpu), segmenter and segmenter.to(cpu)
        )


class _Task:
    """One pair on its working grid."""

    def __init__(
        self,
        fixed: Volume,
        moving: Volume,
        affine: Transform,
        mask: LabelVolume | None,
        device: torch.device,
        n_threads: int,
        plan: Plan,
    ) -> None:
        self.fixed, self.moving, self.affine = fixed[:1], moving[:1], affine
        self.device, self.n_threads, self.plan = device, n_threads, plan
        self.masked = mask is not None
        self.grid, self.head = grid_round(
            clipped(self.fixed), mask=mask, spacing_mm=plan.spacing_mm
        )

    def run(
        self,
        method: DeformableMethod,
        registrar: Registrar | None,
        segmenter: Segmenter | None = None,
    ) -> Deformation:
        """The whole way from the volumes to the maps."""
        if method == "voxelmorph":
            if registrar is None:
                raise MissingWeights("voxelmorph: expected a network, got none: choose hybrid")
            answer = self._answer(registrar, segmenter)
            velocity = self._velocity(answer)
            return self._result(velocity, velocity, "network", self._told(answer))
        fixed, moving = (
            self.grid.see(clipped(volume), way, n_threads=self.n_threads).to(self.device)
            for volume, way in ((self.fixed, None), (self.moving, self.affine))
        )
        seen = self._seen(fixed, moving, segmenter)
        weight = self.head & self.grid.covered(self.moving, self.affine)
        weight = weight.to(self.device, torch.float32)
        levels = self.plan.levels if seen is None else self.plan.guided
        starts: list[tuple[Start, Velocity]] = [
            ("search", _from_search(fixed, moving, weight, self.plan.search_block, seen))
        ]
        other = self._second_opinion(registrar, segmenter if seen is not None else None)
        if other is not None:
            starts.append(("network", other))
        ends = [optimise(fixed, moving, weight, way, levels[:1], seen) for _, way in starts]
        costs = [0.0]
        if len(ends) > 1:
            costs = difference(fixed, moving, weight, ends, levels[0], seen)
        best = costs.index(min(costs))
        kind, start = starts[best]
        begun = ends[best]
        agreement = None if seen is None else _agreement(seen, exponential(begun.field), begun)
        rest = self.plan.after_first(agreement)
        found = optimise(fixed, moving, weight, begun, rest, seen)
        return self._result(found, start, kind, seen)

    def _second_opinion(
        self, registrar: Registrar | None, segmenter: Segmenter | None
    ) -> Velocity | None:
        """The network's velocity; None without a network, or with one that cannot read these."""
        if registrar is None:
            return None
        try:
            return self._velocity(self._answer(registrar, segmenter))
        except StageFailed:
            return None

    def _seen(
        self, fixed: torch.Tensor, moving: torch.Tensor, segmenter: Segmenter | None
    ) -> Structures | None:
        """The structures of both heads; None where the network does not know such heads."""
        if segmenter is None:
            return None
        seen = segmenter.see(fixed, moving, self.plan.spacing_mm)
        return seen if seen.dice() >= LEAST_AGREEMENT else None

    def _answer(self, registrar: Registrar, segmenter: Segmenter | None) -> Answer:
        """What the network says, on a grid of its own."""
        head = self.grid
        if self.masked:
            head, _ = grid_round(clipped(self.fixed), spacing_mm=self.plan.spacing_mm)
        return network_velocity(
            self.fixed,
            self.moving,
            self.affine,
            head,
            registrar,
            segmenter,
            n_threads=self.n_threads,
        )

    def _velocity(self, answer: Answer) -> Velocity:
        """The network's velocity on blocks of the working grid, as the search's first knots lie."""
        block = self.plan.search_block
        scale = block * self.grid.spacing_mm / answer.grid.spacing_mm
        return Velocity(self._on_blocks(answer.velocity, answer.grid) / scale, block)

    def _told(self, answer: Answer) -> Structures | None:
        """The structures that the network was told, on the same blocks."""
        told = answer.structures
        if told is None:
            return None
        one, other = (self._on_blocks(part, answer.grid) for part in (told.fixed, told.moving))
        return Structures(one, other, self.plan.search_block)

    def _on_blocks(self, field: torch.Tensor, grid: WorkingGrid) -> torch.Tensor:
        blocks = self.grid.coarser(self.plan.search_block)
        return field_on_blocks(field.to(self.device), grid, blocks)

    def _result(
        self, found: Velocity, start: Velocity, kind: Start, seen: Structures | None = None
    ) -> Deformation:
        grid = self.grid.coarser(found.block)
        there, back = exponential(found.field), exponential(-found.field)
        begun = exponential(start.on_blocks(found.block, self.grid.shape).field)
        head = self._head_in(found.block).to(there.device)
        straight = with_right_angles(self.fixed, n_threads=self.n_threads)
        home = np.array(np.linalg.inv(self.affine.matrix), dtype=np.float64)
        still = np.eye(4)
        return Deformation(
            moving_from_fixed=_on_grid_of(straight, there, grid, still, self.affine.matrix),
            fixed_from_moving=_on_grid_of(
                with_right_angles(self.moving, n_threads=self.n_threads), back, grid, home, still
            ),
            start=kind,
            refined_mm=grid.spacing_mm * _mean((there - begun).norm(dim=0)[head]),
            inconsistency_mm=grid.spacing_mm * _median(compose(back, there).norm(dim=0)[head]),
            structures_before=None if seen is None else seen.dice(),
            structures_after=None if seen is None else _agreement(seen, there, found),
        )

    def _head_in(self, block: int) -> torch.Tensor:
        return self.head[::block, ::block, ::block]


def _from_search(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    weight: torch.Tensor,
    block: int,
    seen: Structures | None = None,
) -> Velocity:
    """A displacement found by trial, taken for a velocity: near enough to start from."""
    coarse = pooled(weight, block)
    channels = descriptors(fixed, moving, coarse, block, SEARCH_CHANNELS)
    if seen is not None:
        shares = principal(*seen.on_blocks(block), SEARCH_CHANNELS, coarse > 0.5)
        channels = beside(channels, shares, STRUCTURE_WEIGHT)
    return Velocity(search(*channels, coarse, reach=SEARCH_REACH), 2 * block)


def _agreement(seen: Structures, ddf: torch.Tensor, velocity: Velocity) -> float:
    """Mean Dice of the structures of both heads through the displacement of a velocity."""
    i, j, k = seen.fixed.shape[1:]
    return seen.dice(resized(ddf, (i, j, k), velocity.block / seen.block))


def _on_grid_of(
    volume: Volume, ddf: torch.Tensor, grid: WorkingGrid, before: Affine, after: Affine
) -> Transform:
    affine = affine_of(volume)
    field = field_on_grid(ddf, grid, before, after, affine, spatial_shape(volume))
    return Transform(np.eye(4), field, affine)


def _mean(values: torch.Tensor) -> float:
    return float(values.double().cpu().numpy().mean()) if len(values) else 0.0


def _median(values: torch.Tensor) -> float:
    return float(np.median(values.cpu().numpy())) if len(values) else 0.0
