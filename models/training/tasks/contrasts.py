"""Several MR contrasts of one head, for a network that takes more than one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from radloom.errors import ConfigError
from radloom.models.training.sources import GeneratedHeads, open_source
from radloom.transforms.synthesis.artefacts import draw_mr_acquisition
from radloom.transforms.synthesis.draws import choose
from radloom.transforms.synthesis.mr import CONTRASTS, draw_mr
from radloom.transforms.synthesis.sample import draw_sample, render_sample

__all__ = ["SeveralContrasts", "open_contrasts"]


@dataclass(frozen=True)
class SeveralContrasts:
    """Samples of the generator whose ``image`` has a channel for each contrast."""

    heads: GeneratedHeads
    contrasts: tuple[str, ...]
    """Keys of `CONTRASTS`, in the order of the channels."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.contrasts if name not in CONTRASTS]
        if unknown or not self.contrasts:
            raise ConfigError(
                f"expected contrasts of {', '.join(CONTRASTS)}, got {unknown or 'none'}"
            )

    def to(self, device: torch.device) -> SeveralContrasts:
        """The same, whose samples lie on `device`."""
        return replace(self, heads=self.heads.to(device))

    def sample(
        self,
        wanted: Collection[str],
        generator: torch.Generator,
        *,
        pair: bool,  # noqa: ARG002 (a sample is one head)
    ) -> dict[str, torch.Tensor]:
        """One head: ``image`` (C, I, J, K) under a protocol of each contrast, and the rest."""
        recipe = self.heads.recipe.sample
        anatomy = choose(generator, self.heads.anatomies)
        parameters = draw_sample(anatomy, recipe, generator)
        result = dict(render_sample(anatomy, parameters, set(wanted) - {"image"}))
        images = []
        for name in self.contrasts:
            look = replace(
                parameters,
                mr=draw_mr(generator, CONTRASTS[name], parameters.anomalies),
                mr_acquisition=draw_mr_acquisition(
                    generator, recipe.mr_acquisition, parameters.grid
                ),
            )
            images.append(render_sample(anatomy, look, ("image",))["image"])
        return {**result, "image": torch.cat(images)}


def open_contrasts(
    dataset_dir: str | None,
    contrasts: Sequence[str],
    recipe: Mapping[str, Any] | None = None,
    *,
    cache_dir: str | None = None,
) -> SeveralContrasts | None:
    """The generator over a folder of heads, with several contrasts; None for no folder.

    Args:
        dataset_dir: label maps or packed heads.
        contrasts: keys of `radloom.transforms.synthesis.mr.CONTRASTS`.
        recipe: of the generator; its ``mr`` is not used.
        cache_dir: where prepared heads are kept.

    Raises:
        ConfigError: an unknown contrast, or a folder that holds scans.
    """
    heads = open_source(dataset_dir, recipe, cache_dir=cache_dir)
    if heads is None:
        return None
    if not isinstance(heads, GeneratedHeads):
        raise ConfigError("expected label maps or packed heads for several contrasts, got scans")
    return SeveralContrasts(heads, tuple(contrasts))
