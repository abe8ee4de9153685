"""Where samples come from: the generator, over label maps; or the user's own scans.

Both give the same names, so that a task does not know which it learns from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from radloom.errors import ConfigError
from radloom.models.training.anatomies import load_anatomies
from radloom.models.training.scans import Scans, has_scans, open_scans
from radloom.transforms.synthesis.anatomy import Anatomy
from radloom.transforms.synthesis.draws import chance, choose
from radloom.transforms.synthesis.parameters import from_plain
from radloom.transforms.synthesis.sample import (
    GridRecipe,
    PairParameters,
    PairRecipe,
    draw_pair,
    draw_sample,
    render_look,
    render_pair,
    render_sample,
)

__all__ = ["GeneratedHeads", "Source", "open_source"]


class Source(Protocol):
    """Gives samples; the same generator state gives the same sample."""

    def to(self, device: torch.device) -> Source:
        """The same, whose samples lie on `device`."""
        ...

    def sample(
        self, wanted: Collection[str], generator: torch.Generator, *, pair: bool
    ) -> dict[str, torch.Tensor]:
        """One draw: name -> (C, I, J, K); for a pair ``fixed_<name>`` and ``moving_<name>``."""
        ...


@dataclass(frozen=True)
class GeneratedHeads:
    """Samples of the generator."""

    anatomies: tuple[Anatomy, ...]
    recipe: PairRecipe
    other_head_probability: float = 0.0
    """Of the moving head of a pair being another person's; no displacement is known then."""

    def to(self, device: torch.device) -> GeneratedHeads:
        """With the anatomies on `device`, where samples are rendered."""
        return replace(self, anatomies=tuple(a.to(device) for a in self.anatomies))

    def sample(
        self, wanted: Collection[str], generator: torch.Generator, *, pair: bool
    ) -> dict[str, torch.Tensor]:
        """One draw of one of the heads."""
        anatomy = choose(generator, self.anatomies)
        if not pair:
            parameters = draw_sample(anatomy, self.recipe.sample, generator)
            return dict(render_sample(anatomy, parameters, wanted))
        drawn = draw_pair(anatomy, self.recipe, generator)
        spacing = drawn.fixed.grid.spacing_mm
        result: dict[str, torch.Tensor] | None = None
        if chance(generator, self.other_head_probability):
            other = choose(generator, self.anatomies)
            if other.name != anatomy.name and len(set(spacing)) == 1:
                result = self._two_persons((anatomy, other), drawn, wanted, generator)
        if result is None:
            result = render_pair(anatomy, drawn, wanted)
        device = anatomy.structures.device
        result["spacing_mm"] = torch.tensor(spacing, device=device).reshape(3, 1, 1, 1)
        has_ct = drawn.fixed_is_ct or drawn.moving_is_ct
        result["has_ct"] = torch.tensor(has_ct, device=device).reshape(1, 1, 1, 1)
        return result

    def _two_persons(
        self,
        anatomies: tuple[Anatomy, Anatomy],
        drawn: PairParameters,
        wanted: Collection[str],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """The fixed head as drawn, the other on a grid of the same shape and spacing."""
        own, spacing = self.recipe.sample, drawn.fixed.grid.spacing_mm[0]
        grid = GridRecipe(own.grid.shape, (spacing, spacing), offset=own.grid.offset)
        moving = draw_sample(anatomies[1], replace(own, grid=grid), generator)
        looks = (
            ("fixed", anatomies[0], drawn.fixed, drawn.fixed_is_ct),
            ("moving", anatomies[1], moving, drawn.moving_is_ct),
        )
        return {
            f"{side}_{name}": tensor
            for side, anatomy, look, is_ct in looks
            for name, tensor in render_look(anatomy, look, wanted, is_ct=is_ct).items()
        }


def open_source(
    dataset_dir: str | None,
    recipe: Mapping[str, Any] | None = None,
    *,
    cache_dir: str | None = None,
    other_head_probability: float = 0.0,
    scan_spacing_mm: float = 1.0,
) -> Source | None:
    """The source that a folder holds; None for no folder.

    Args:
        dataset_dir: label maps of the generator's table, packed heads, or scans: a list
            (``scans.tsv``) or a BIDS tree.
        recipe: of the generator: keys of `SampleRecipe`; keys of `PairRecipe` other than ``sample``
            may stand among them.
        cache_dir: where prepared heads are kept.
        other_head_probability: of pairs of two persons.
        scan_spacing_mm: scans are brought to this isotropic spacing.

    Raises:
        ConfigError: an unknown key in the recipe, or no such folder.
        InputError: nothing to train on in the folder.
    """
    if dataset_dir is None:
        return None
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise ConfigError(f"expected a folder as dataset_dir, got <{folder.name}>, which is none")
    if has_scans(folder):
        scans: Scans = open_scans(folder, spacing_mm=scan_spacing_mm)
        return scans
    anatomies = load_anatomies(folder, Path(cache_dir) if cache_dir is not None else None)
    return GeneratedHeads(tuple(anatomies), _recipe(recipe or {}), other_head_probability)


def _recipe(values: Mapping[str, Any]) -> PairRecipe:
    own = {"same_contrast_probability", "ct_probability"}
    sample = {key: value for key, value in values.items() if key not in own}
    pair = {key: value for key, value in values.items() if key in own}
    return from_plain(PairRecipe, {**pair, "sample": sample})
