from __future__ import annotations

import pytest
import torch

from radloom.errors import InputError
from radloom.transforms.synthesis.artefacts.field_of_view import (
    FieldOfView,
    FieldOfViewRecipe,
    acquired_part,
    draw_fields_of_view,
    shown_part,
)
from radloom.transforms.synthesis.fields import Grid

GRID = Grid((40, 50, 60))


def test_what_is_cropped_is_black():
    line = torch.arange(1.0, 9.0, dtype=torch.float64)
    view = FieldOfView(2, 6)
    seen = shown_part(8, view) @ acquired_part(8, view) @ line
    assert seen.tolist() == [0, 0, 3, 4, 5, 6, 0, 0]


def test_what_lies_beyond_a_wrapping_view_folds_to_the_other_side():
    line = torch.arange(1.0, 9.0, dtype=torch.float64)
    view = FieldOfView(2, 7, wraps=True)
    seen = shown_part(8, view) @ acquired_part(8, view) @ line
    assert seen.tolist() == [0, 0, 3 + 8, 4, 5, 6 + 1, 7 + 2, 0]


def test_a_view_off_the_axis_is_refused():
    with pytest.raises(InputError, match="axis of 8 voxels"):
        acquired_part(8, FieldOfView(3, 9))


def test_drawn_views_lie_on_their_axes():
    recipe = FieldOfViewRecipe(crop_probability=1, wrap_probability=0.5)
    for seed in range(50):
        views = draw_fields_of_view(torch.Generator().manual_seed(seed), recipe, GRID, 1)
        assert any(views)
        for n, view in zip(GRID.shape, views, strict=True):
            assert view is None or 0 <= view.start < view.stop <= n
        assert not any(view is not None and view.wraps for view in (views[0], views[2]))


def test_probability_zero_sees_everything():
    recipe = FieldOfViewRecipe(crop_probability=0, wrap_probability=0)
    assert draw_fields_of_view(torch.Generator(), recipe, GRID, 0) == (None, None, None)
