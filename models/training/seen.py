"""Pairs with what a segmentation network sees in them, as registration is told it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from radloom.models.registration.structures import Segmenter, shipped_segmenter
from radloom.models.training.sources import Source

__all__ = ["SeenHeads", "seen_heads"]


@dataclass(frozen=True)
class SeenHeads:
    """A source of pairs, and the classes that a network sees in each of its heads."""

    source: Source
    segmenter: Segmenter

    def to(self, device: torch.device) -> SeenHeads:
        """The same, whose samples lie on `device`."""
        return SeenHeads(self.source.to(device), self.segmenter.to(device))

    def sample(
        self, wanted: Collection[str], generator: torch.Generator, *, pair: bool
    ) -> dict[str, torch.Tensor]:
        """One draw of the source; for each ``*image`` also ``*seen`` (1, I, J, K) uint8.

        0 everywhere in a pair one of whose heads is a CT: there nobody is asked.
        """
        sample = self.source.sample(wanted, generator, pair=pair)
        has_ct = "has_ct" in sample and bool(sample["has_ct"])
        for name in [name for name in sample if name.endswith("image")]:
            image = sample[name]
            sample[f"{name.removesuffix('image')}seen"] = (
                torch.zeros_like(image, dtype=torch.uint8)
                if has_ct
                else self.segmenter.classes(image[0].float())[None]
            )
        return sample


def seen_heads(source: Source | None = None) -> SeenHeads | None:
    """`source` with what the network that Radloom ships sees; None for no source.

    Raises:
        MissingWeights: this release holds no weights for it.
    """
    if source is None:
        return None
    return SeenHeads(source, shipped_segmenter(torch.device("cpu")))
