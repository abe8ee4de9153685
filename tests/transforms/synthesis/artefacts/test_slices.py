from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from radloom.transforms.synthesis.artefacts.slices import (
    SliceParameters,
    SliceRecipe,
    draw_slices,
    slice_gains,
    slices_from_voxels,
    voxels_from_slices,
)

THICK = SliceParameters(axis=2, thickness_mm=4.0, step_mm=5.0, offset=0.5, softness=0.1)


def test_slices_lie_a_step_apart():
    weights = slices_from_voxels(100, 1.0, THICK)
    assert len(weights) == 20
    centres = weights @ torch.arange(100, dtype=torch.float64)
    torch.testing.assert_close(centres.diff(), torch.full((19,), 5.0).double(), atol=0.01, rtol=0)
    assert float(centres[0]) == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize(("softness", "wider"), [(0.03, 0.0), (0.2, 0.0), (0.45, 0.4)])
def test_the_profile_is_as_wide_as_the_slice_at_half_its_height(softness, wider):
    weights = slices_from_voxels(2000, 0.05, replace(THICK, softness=softness))[10]
    width = 0.05 * float((weights > weights.max() / 2).sum())
    assert width == pytest.approx(4.0 + wider, abs=0.15)


def test_what_lies_in_a_gap_is_hardly_seen():
    weights = slices_from_voxels(500, 0.1, replace(THICK, thickness_mm=2.0, softness=0.03))
    assert float(weights.sum(0)[50:60].max()) < 1e-6


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_even_brightness_stays(interpolation):
    stack = replace(THICK, interpolation=interpolation)
    seen = voxels_from_slices(73, 1.3, stack) @ slices_from_voxels(73, 1.3, stack)
    torch.testing.assert_close(seen.sum(1), torch.ones(73, dtype=torch.float64))


def test_every_other_slice_differs_where_slices_are_uneven():
    assert slice_gains(9, THICK).tolist() == [1.0] * 9
    gains = torch.stack(
        [slice_gains(40, replace(THICK, unevenness=0.05, seed=seed)) for seed in range(60)]
    )
    assert float(gains.std()) == pytest.approx(0.05, rel=0.15)
    between = gains[:, ::2].mean(1) - gains[:, 1::2].mean(1)
    assert float(between.std()) == pytest.approx(0.05 * 0.8 * 2**0.5, rel=0.25)


def test_draws_along_the_axis_asked_for_and_can_be_off():
    generator = torch.Generator().manual_seed(1)
    drawn = [draw_slices(generator, SliceRecipe(probability=1)) for _ in range(40)]
    assert {stack.axis for stack in drawn if stack} == {0, 1, 2}
    axial = draw_slices(generator, SliceRecipe(probability=1), axis=2)
    assert axial is not None
    assert axial.axis == 2
    assert draw_slices(generator, SliceRecipe(probability=0)) is None
