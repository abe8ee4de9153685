from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.texture import (
    TextureParameters,
    TextureRecipe,
    draw_texture,
    texture_field,
)


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.4, 0.2)])
def test_texture_has_variance_one_whatever_its_parts(shares):
    fields = [
        texture_field((64, 64, 64), TextureParameters(7 * s, 3.0, 7.0, *shares)) for s in range(4)
    ]
    values = torch.stack(fields)
    assert abs(float(values.mean())) < 0.1
    assert abs(float(values.std()) - 1) < 0.12


def test_drawn_shares_add_up_to_one():
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        drawn = draw_texture(generator, TextureRecipe())
        assert 0 <= drawn.patch_share + drawn.grain_share <= 1
