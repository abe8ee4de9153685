"""One way in to every method: a matrix or a displacement between two volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch

from radloom.errors import ConfigError, MissingWeights
from radloom.models.bundles import bundle_sha256, find_bundle
from radloom.models.registration.deformable import (
    Deformation,
    deform,
    registrar_for,
    segmenter_for,
)
from radloom.models.registration.elastix import TransformKind, register
from radloom.models.registration.learned import BUNDLE as REGISTRATION
from radloom.models.registration.structures import BUNDLE as SEGMENTATION
from radloom.shapes import LabelVolume, Volume
from radloom.transforms.spatial import Transform

__all__ = ["METHODS", "Found", "How", "Method", "find_transform"]

Method: TypeAlias = Literal["elastix", "voxelmorph", "hybrid"]

METHODS: tuple[str, ...] = get_args(Method)
"""Mutual information and B-splines; a trained network; a start, then a search for this pair."""


_BUNDLES: Mapping[Method, tuple[str, ...]] = {
    "elastix": (),
    "voxelmorph": (REGISTRATION, SEGMENTATION),
    "hybrid": (REGISTRATION, SEGMENTATION),
}


@dataclass(frozen=True, eq=False)
class How:
    """How two volumes are registered."""

    transform: TransformKind = "rigid"
    """rigid, affine or deformable."""
    method: Method | None = None
    """None: hybrid where the map may deform, else elastix."""
    parameter_files: Sequence[Path] = ()
    """elastix parameter files, run in order instead of ours."""
    fast: bool = False
    """Work on a coarser grid."""
    device: torch.device | None = None
    """Where network and search run; None: the CPU."""
    n_threads: int = 1
    """Of the CPU."""

    def __post_init__(self) -> None:
        if self.transform not in get_args(TransformKind):
            kinds = sorted(get_args(TransformKind))
            raise ConfigError(f"expected transform of {kinds}, got {self.transform!r}")
        if self.method not in (None, *METHODS):
            raise ConfigError(f"expected method of {METHODS}, got {self.method!r}")
        if self.method in ("voxelmorph", "hybrid") and self.transform != "deformable":
            raise ConfigError(
                f"expected the transform deformable with the method {self.method}, got "
                f"{self.transform}: rigid and affine maps are elastix's"
            )
        if self.method in ("voxelmorph", "hybrid") and self.parameter_files:
            raise ConfigError(
                f"expected the method elastix with parameter files, got {self.method}"
            )

    @property
    def chosen(self) -> Method:
        """The method, where none was named."""
        if self.method is not None:
            return self.method
        deforms = self.transform == "deformable" and not self.parameter_files
        return "hybrid" if deforms else "elastix"

    def weights(self) -> dict[str, str]:
        """Bundle -> a hash of its weights, of the networks that are here for the method."""
        found = {}
        for bundle in _BUNDLES[self.chosen]:
            with suppress(MissingWeights):
                found[bundle] = bundle_sha256(find_bundle(bundle))
        return found


@dataclass(frozen=True, eq=False)
class Found:
    """What a method found."""

    moving_from_fixed: Transform
    affine: Transform | None = None
    """The map before anything deformed, where the method is not elastix."""
    deformation: Deformation | None = None
    """More of the same, where the method is not elastix."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Bundle -> a hash of its weights, of the networks that took part."""


def find_transform(
    fixed: Volume,
    moving: Volume,
    how: How,
    *,
    fixed_mask: LabelVolume | None = None,
    moving_mask: LabelVolume | None = None,
) -> Found:
    """``moving_from_fixed`` by the method chosen; see `elastix.register` and `deformable.deform`.

    Raises:
        ConfigError: a parameter file does not parse.
        MissingWeights: voxelmorph, and this release holds no weights.
        StageFailed: elastix gave up, or the network alone cannot read the volumes.
    """
    method = how.chosen
    if method == "elastix":
        found = register(
            fixed,
            moving,
            transform=how.transform,
            parameter_files=how.parameter_files,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            n_threads=how.n_threads,
            fast=how.fast,
        )
        return Found(found)
    device = how.device or torch.device("cpu")
    registrar = registrar_for(method, device)
    segmenter = segmenter_for(fixed, moving, device)
    affine = register(
        fixed,
        moving,
        transform="affine",
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        n_threads=how.n_threads,
        fast=how.fast,
    )
    deformation = deform(
        fixed,
        moving,
        affine,
        method=method,
        registrar=registrar,
        segmenter=segmenter,
        fixed_mask=fixed_mask,
        device=device,
        n_threads=how.n_threads,
        fast=how.fast,
    )
    led = deformation.structures_after is not None
    used = {REGISTRATION: deformation.start == "network", SEGMENTATION: led}
    weights = {bundle: digest for bundle, digest in how.weights().items() if used[bundle]}
    return Found(deformation.moving_from_fixed, affine, deformation, weights)
