from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch

from radloom.transforms.synthesis.ct import (
    HU_LIMITS,
    CTParameters,
    CTRecipe,
    draw_ct,
    render_hu,
)
from radloom.transforms.synthesis.parameters import from_plain, to_plain
from radloom.transforms.synthesis.tissues import CODES, STRUCTURES, Code


@dataclass(frozen=True)
class Spot:
    hu: float = 70.0
    texture: float = 0.02


STILL = CTRecipe(
    texture_gain=(0.0, 0.0),
    bone_deviation=(0.0, 0.0),
    thin_loss=(0.0, 0.0),
    dense_gain=(0.0, 0.0),
    cell_probability=0.0,
    metal_probability=0.0,
    agent_probability=0.0,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def head() -> torch.Tensor:
    """A ball of brain in a shell of bone with marrow in it, in soft tissue, in air; 96 mm."""
    axis = torch.arange(96) - 47.5
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    codes = torch.full((96, 96, 96), int(Code.AIR), dtype=torch.uint8)
    for outer, code in (
        (46, Code.FAT),
        (43, Code.BONE),
        (40, Code.MARROW),
        (38, Code.BONE),
        (36, Code.CORTEX),
        (33, Code.WHITE),
    ):
        codes[radius < outer] = int(code)
    return codes


def test_parameters_and_recipes_come_back_from_json():
    recipe = CTRecipe(metal_probability=1.0)
    drawn = draw_ct(generator(), recipe, [Spot(), Spot(-700)])
    assert from_plain(CTParameters, json.loads(json.dumps(to_plain(drawn)))) == drawn
    assert from_plain(CTRecipe, json.loads(json.dumps(to_plain(recipe)))) == recipe
    assert drawn.anomaly_means == (70.0, -700.0)
    assert len(drawn.means) == len(drawn.deviations) == CODES


def test_tissues_keep_their_order_and_their_place_in_the_window():
    for seed in range(100):
        hu = draw_ct(generator(seed), CTRecipe()).means
        assert hu[Code.AIR] == -1000
        assert -110 < hu[Code.FAT] < -80
        assert -4 < hu[Code.CSF] < 16
        assert hu[Code.CSF] < hu[Code.WHITE] < hu[Code.MARROW] < hu[Code.BONE]
        assert 15 < hu[Code.WHITE] < 50
        assert hu[Code.TOOTH] <= HU_LIMITS[1]


def test_with_everything_off_each_structure_is_its_number():
    drawn = draw_ct(generator(), STILL)
    image = render_hu(head(), drawn)
    assert torch.equal(image, torch.tensor(drawn.means)[head().int()])


def test_render_stays_within_bounds_and_repeats():
    recipe = CTRecipe(
        metal_probability=1.0,
        teeth_below_top_mm=(60.0, 60.0),
        cell_probability=1.0,
        texture_gain=(3.0, 4.0),
    )
    for seed in range(3):
        drawn = draw_ct(generator(seed), recipe)
        image = render_hu(head(), drawn)
        assert float(image.min()) >= HU_LIMITS[0]
        assert float(image.max()) == HU_LIMITS[1]
        assert torch.equal(image, render_hu(head(), drawn))


def test_texture_has_the_deviation_drawn():
    drawn = draw_ct(generator(2), replace(STILL, texture_gain=(1.0, 1.0)))
    image = render_hu(torch.full((64, 64, 64), int(Code.MUSCLE)), drawn)
    assert float(image.std()) == pytest.approx(STRUCTURES[Code.MUSCLE].tissue.texture_hu, rel=0.2)


def test_bone_varies_along_the_skull_and_brain_does_not():
    drawn = draw_ct(generator(), replace(STILL, bone_deviation=(150.0, 150.0)))
    image, codes = render_hu(head(), drawn), head()
    assert 80 < float(image[codes == Code.BONE].std()) < 250
    assert 30 < float(image[codes == Code.MARROW].std()) < 130
    assert float(image[codes == Code.CORTEX].std()) < 1e-3


def test_thin_plates_are_less_dense_and_thick_bone_more():
    codes = torch.full((60, 60, 60), int(Code.MUSCLE), dtype=torch.uint8)
    codes[10] = int(Code.BONE)
    codes[30:50, 20:40, 20:40] = int(Code.BONE)
    drawn = draw_ct(
        generator(), replace(STILL, thin_loss=(400.0, 400.0), dense_gain=(300.0, 300.0))
    )
    image = render_hu(codes, drawn)
    own = drawn.means[Code.BONE]
    assert float(image[10, 30, 30]) < own - 150
    assert float(image[40, 30, 30]) == pytest.approx(own + 300, abs=5)
    assert float(image[5, 30, 30]) == pytest.approx(drawn.means[Code.MUSCLE])


def test_air_cells_take_their_share_of_thick_bone():
    codes = torch.full((80, 80, 120), int(Code.BONE), dtype=torch.uint8)
    drawn = draw_ct(generator(1), replace(STILL, cell_probability=1.0, cells=(0.2, 0.2)))
    image = render_hu(codes, drawn)
    low, high = image[4:16, 28:50, 8:56], image[8:-8, 8:-8, 60:-8]
    assert float((low < 200).float().mean()) == pytest.approx(0.2, abs=0.05)
    assert float(high.min()) == pytest.approx(drawn.means[Code.BONE])


def test_metal_lies_in_bone_in_front():
    recipe = replace(
        STILL, metal_probability=1.0, metal_pieces=(3.0, 3.0), teeth_below_top_mm=(60.0, 62.0)
    )
    for seed in range(4):
        drawn = draw_ct(generator(seed), recipe)
        assert len(drawn.metal) == 3
        places = (render_hu(head(), drawn) > 2900).nonzero()
        assert 10 < len(places) < 3 * 300
        assert int(places[:, 1].min()) > 48
        assert 15 < int(places[:, 2].min()) <= int(places[:, 2].max()) < 55


def test_no_metal_where_the_teeth_are_not_in_the_map():
    recipe = replace(STILL, metal_probability=1.0)
    plain = render_hu(head(), draw_ct(generator(), STILL))
    assert float(render_hu(head(), draw_ct(generator(), recipe)).max()) < 2900
    air = torch.zeros((20, 20, 180), dtype=torch.uint8)
    assert float(render_hu(air, draw_ct(generator(), recipe)).max()) == -1000
    assert float(plain.max()) < 2900


def test_agent_fills_vessels():
    plain, filled = (
        draw_ct(generator(5), replace(STILL, agent_probability=p)).means for p in (0.0, 1.0)
    )
    assert filled[Code.ARTERY] > plain[Code.ARTERY] + 50
    assert filled[Code.SINUS] > plain[Code.SINUS]
    assert filled[Code.WHITE] == pytest.approx(plain[Code.WHITE], abs=5)
