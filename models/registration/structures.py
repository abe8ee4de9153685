"""What a segmentation network sees in two heads: channels that are alike whatever the contrasts."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from radloom.models.bundles import bundle_config, bundle_sha256, find_bundle, weights_path
from radloom.models.inference import load_weights
from radloom.models.registration.flow import sampled
from radloom.models.registration.network import class_shares
from radloom.models.segmentation.labelling import refined_labels
from radloom.models.segmentation.planned import find_planned
from radloom.models.segmentation.refinement import Refinement
from radloom.models.segmentation.sides import Sides, over_both_sides
from radloom.threads import torch_settings

__all__ = ["BUNDLE", "Segmenter", "Structures", "segmenter_from", "shipped_segmenter"]

BUNDLE = "brain_mr_segmentation"

SPACING_MM = 2.0
"""Of the voxels that the bundle's network was trained on (``plans.json``)."""


@dataclass(frozen=True, eq=False)
class Structures:
    """Shares of classes in the fixed and in the moving head, on blocks of a working grid."""

    fixed: torch.Tensor
    """(C, I, J, K) from 0 to 1, background first."""
    moving: torch.Tensor
    """The same, aligned by the affine map."""
    block: int
    """Voxels of the working grid along an edge of theirs."""

    @staticmethod
    def of(classes: Sequence[torch.Tensor], n_classes: int, block: int) -> Structures:
        """The shares in blocks of `block` voxels of a grid, which then count as its voxels.

        Args:
            classes: (I, J, K) numbers, of the fixed and of the moving head.
            n_classes: with background.
            block: voxels along an edge.
        """
        one, other = (class_shares(own[None, None], n_classes, block)[0] for own in classes)
        return Structures(one, other, 1)

    def on_blocks(self, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Both, on blocks a whole number of times as large."""
        factor = block // self.block
        if factor == 1:
            return self.fixed, self.moving
        one, other = (functional.avg_pool3d(part, factor) for part in (self.fixed, self.moving))
        return one, other

    def dice(self, ddf: torch.Tensor | None = None) -> float:
        """Mean Dice of the classes that the fixed head shows, background left out.

        Args:
            ddf: (3, I, J, K) in voxels of theirs, what the moving head is seen through; None:
                nothing.
        """
        seen = self.moving if ddf is None else sampled(self.moving, ddf)
        one, other = (shares.argmax(dim=0).cpu().numpy().ravel() for shares in (self.fixed, seen))
        n = len(self.fixed)
        joint = np.bincount(one * n + other, minlength=n * n).reshape(n, n)
        size_of_fixed, size_of_moving = joint.sum(axis=1), joint.sum(axis=0)
        dice = 2 * joint.diagonal() / np.maximum(size_of_fixed + size_of_moving, 1)
        there = size_of_fixed[1:] > 0
        return float(dice[1:][there].mean()) if there.any() else 0.0


@dataclass(frozen=True)
class Segmenter:
    """A network (B, 1, I, J, K) -> (B, C, I, J, K) with its weights, in evaluation mode."""

    network: torch.nn.Module = field(repr=False)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    spacing_mm: float = SPACING_MM
    """Of the voxels it knows, along R, A and S."""
    multiple: int = 16
    """Of which its shapes are."""
    refinement: Refinement | None = None
    """How its labels are brought to the image's edges; None: they are not."""
    sides: Sides | None = None
    """How it is asked about both sides of a head; None: it is not."""

    def to(self, device: torch.device) -> Segmenter:
        """The same on `device`; a copy, if it is on another."""
        if device == self.device:
            return self
        return replace(self, network=deepcopy(self.network).to(device), device=device)

    def shares(self, image: torch.Tensor) -> torch.Tensor:
        """(C, I, J, K) from 0 to 1, of each class in each voxel; see `scores`."""
        return self.scores(image).softmax(dim=0)

    def classes(self, image: torch.Tensor) -> torch.Tensor:
        """(I, J, K) uint8, the likeliest class of each voxel at one look; see `scores`."""
        return replace(self, sides=None).scores(image).argmax(dim=0).to(torch.uint8)

    def scores(self, image: torch.Tensor) -> torch.Tensor:
        """(C, I, J, K), the larger the likelier is a class in a voxel.

        On the CPU one thread does it, whatever is allowed: with several the sums of convolutions
        are cut elsewhere, and the last bits follow.

        Args:
            image: (I, J, K) of an MR, axes along R, A and S, voxels of about `spacing_mm`.
        """
        values = image.double().cpu().numpy()
        scaled = (image - float(values.mean())) / max(float(values.std()), 1e-6)
        pads = [(-n) % self.multiple for n in image.shape]
        widths = [width for pad in reversed(pads) for width in (0, pad)]
        batch = functional.pad(scaled[None, None].to(self.device), widths, mode="replicate")
        predict = self.network
        if self.sides is not None:
            predict = over_both_sides(self.network, self.sides)
        with torch_settings(1), torch.inference_mode():
            scores: torch.Tensor = predict(batch)[0]
        i, j, k = image.shape
        return scores[:, :i, :j, :k].to(image.device)

    def see(self, fixed: torch.Tensor, moving: torch.Tensor, spacing_mm: float) -> Structures:
        """Of two views (I, J, K) of a working grid with voxels of `spacing_mm`."""
        block = max(1, round(self.spacing_mm / spacing_mm))
        one, other = (self._seen(view, block, spacing_mm) for view in (fixed, moving))
        return Structures(one, other, block)

    def _seen(self, view: torch.Tensor, block: int, spacing_mm: float) -> torch.Tensor:
        """(C, i, j, k) The shares of classes on blocks of the view."""
        pooled = functional.avg_pool3d(view[None], block)[0] if block > 1 else view
        if self.refinement is None:
            return self.shares(pooled)
        scores = self.scores(pooled).float()
        i, j, k = (n * block for n in pooled.shape)
        fine = view[:i, :j, :k].cpu().numpy()
        labels = torch.from_numpy(refined_labels(scores, fine, spacing_mm, self.refinement))
        shares = torch.empty_like(scores)
        for number, share in enumerate(shares):
            own = (labels.int() == number).to(share)
            share.copy_(functional.avg_pool3d(own[None], block)[0])
        return shares


def shipped_segmenter(device: torch.device) -> Segmenter:
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
) -> Segmenter:
    return segmenter_from(weights_path(folder), torch.device(device), folder)


def segmenter_from(weights: Path, device: torch.device, folder: Path | None = None) -> Segmenter:
    """The network of the bundle in `folder` (Radloom's own unless given) with weights from a file.

    Raises:
        MissingWeights: the file is not there.
    """
    from monai.bundle import ConfigParser

    bundle = folder or find_bundle(BUNDLE)
    parser = ConfigParser()
    parser.read_config(str(bundle_config(bundle)))
    network = parser.get_parsed_content("network_def")
    load_weights(network, str(weights))
    how = find_planned(bundle)
    return Segmenter(network.to(device).eval(), device, refinement=how.refinement, sides=how.sides)
