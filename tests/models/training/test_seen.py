"""What a segmentation network sees goes with the samples of a source."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import torch

from radloom.models.registration.structures import Segmenter
from radloom.models.training.seen import SeenHeads, seen_heads
from radloom.models.training.sources import open_source

RECIPE = {"grid": {"shape": [16, 16, 16], "spacing_mm": [12.0, 12.0], "offset": 0.0}}


class Bright(torch.nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([-batch, batch], dim=1)


class Pairs:
    """Two images that differ, one of them a CT or not."""

    def __init__(self, *, has_ct: bool) -> None:
        self.has_ct = has_ct

    def to(self, device: torch.device) -> Pairs:
        return self

    def sample(
        self, wanted: Collection[str], generator: torch.Generator, *, pair: bool
    ) -> dict[str, torch.Tensor]:
        images = {
            f"{side}_image": torch.rand((1, 16, 16, 16), generator=generator)
            for side in ("fixed", "moving")
        }
        return {**images, "has_ct": torch.tensor(self.has_ct).reshape(1, 1, 1, 1)}


@pytest.mark.parametrize("has_ct", [False, True])
def test_both_heads_are_seen_unless_one_is_a_ct(has_ct) -> None:
    source = SeenHeads(Pairs(has_ct=has_ct), Segmenter(Bright())).to(torch.device("cpu"))
    sample = source.sample(("image",), torch.Generator().manual_seed(0), pair=True)
    for side in ("fixed", "moving"):
        image, seen = sample[f"{side}_image"], sample[f"{side}_seen"]
        assert seen.shape == image.shape
        assert seen.dtype == torch.uint8
        bright = image > image.double().mean()
        assert torch.equal(seen > 0, torch.zeros_like(bright) if has_ct else bright)


def test_the_generator_says_which_pairs_have_a_ct(heads) -> None:
    found = []
    for probability in (0.0, 1.0):
        source = open_source(str(heads), {**RECIPE, "ct_probability": probability})
        sample = source.sample(("image",), torch.Generator().manual_seed(0), pair=True)
        found.append(bool(sample["has_ct"]))
    assert found == [False, True]


def test_no_source_stays_none() -> None:
    assert seen_heads(None) is None
