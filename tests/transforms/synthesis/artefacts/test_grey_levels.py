from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.artefacts.grey_levels import (
    GreyLevelParameters,
    GreyLevelRecipe,
    curved,
    draw_grey_levels,
    stored,
)

LEVEL = torch.tensor(2.0)


def test_a_curve_keeps_zero_and_the_level():
    signal = torch.tensor([0.0, 0.5, 2.0, 4.0])
    seen = curved(signal, LEVEL, GreyLevelParameters(gamma=2.0))
    assert seen.tolist() == pytest.approx([0.0, 0.125, 2.0, 8.0])


def test_numbers_saturate():
    seen = stored(torch.tensor([0.5, 1.9, 3.0]), LEVEL, GreyLevelParameters(clip=0.8))
    assert seen.tolist() == pytest.approx([0.5, 1.6, 1.6])


def test_numbers_come_in_steps():
    image = torch.linspace(0, 3.2, 5000)
    seen = stored(image, LEVEL, GreyLevelParameters(steps=64))
    assert len(seen.unique()) == 65
    assert float((seen - image).abs().max()) <= 3.2 / 64 / 2 + 1e-6


def test_no_change_is_the_same_tensor():
    image = torch.rand(3)
    assert curved(image, LEVEL, GreyLevelParameters()) is image
    assert stored(image, LEVEL, GreyLevelParameters()) is image


def test_it_can_be_off():
    recipe = GreyLevelRecipe(0, clip_probability=0, steps_probability=0)
    assert draw_grey_levels(torch.Generator(), recipe) is None
