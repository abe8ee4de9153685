from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import torch

from radloom.transforms.synthesis.composition import (
    PARTNERS,
    CompositionParameters,
    CompositionRecipe,
    compose,
    draw_composition,
    partner_values,
    thickness_of,
)
from radloom.transforms.synthesis.ct import CTRecipe, draw_ct, render_hu
from radloom.transforms.synthesis.mr import CONTRASTS, draw_mr, render_mr_signal
from radloom.transforms.synthesis.parameters import from_plain, to_plain
from radloom.transforms.synthesis.phantom import make_head
from radloom.transforms.synthesis.tissues import CODES, Code

OFF = CompositionRecipe(
    **{
        item.name: (0.0, 0.0)
        for item in fields(CompositionRecipe)
        if item.name not in ("knot_mm", "vessel_mm")
    }
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blocks() -> torch.Tensor:
    """A slab of each structure, 8 voxels wide."""
    line = torch.arange(CODES).repeat_interleave(8)
    return line[:, None, None].expand(-1, 40, 60).to(torch.uint8).contiguous()


def full(code: Code) -> torch.Tensor:
    return torch.full((60, 60, 60), int(code), dtype=torch.uint8)


def test_parameters_and_recipe_come_back_from_json():
    drawn = draw_composition(generator(), CompositionRecipe())
    assert from_plain(CompositionParameters, json.loads(json.dumps(to_plain(drawn)))) == drawn
    assert from_plain(CompositionRecipe, json.loads(json.dumps(to_plain(OFF)))) == OFF


def test_off_changes_nothing():
    codes = blocks()
    composition = compose(codes, draw_composition(generator(), OFF))
    assert not composition.share.any()
    mr = draw_mr(generator(1), CONTRASTS["t1"])
    ct = draw_ct(generator(1), CTRecipe())
    assert torch.equal(render_mr_signal(codes, mr, composition), render_mr_signal(codes, mr))
    assert torch.equal(render_hu(codes, ct, composition), render_hu(codes, ct))


def test_shares_are_shares_of_structures_with_a_partner():
    codes = blocks()
    for seed in range(5):
        parameters = draw_composition(generator(seed), CompositionRecipe())
        share = compose(codes, parameters).share
        assert torch.equal(share, compose(codes, parameters).share)
        assert 0 <= float(share.min()) <= float(share.max()) <= 1
        for code in set(Code) - set(PARTNERS):
            assert not share[codes == code].any()


@pytest.mark.parametrize(
    ("code", "name"),
    [(Code.MUSCLE, "fat_in_muscle"), (Code.MUCOSA, "air_in_mucosa"), (Code.FAT, "fibre_in_fat")],
)
def test_parts_take_about_their_share_of_the_volume(code, name):
    means = []
    for seed in range(4):
        parameters = draw_composition(generator(seed), replace(OFF, **{name: (0.2, 0.2)}))
        means.append(float((compose(full(code), parameters).share > 0).float().mean()))
    assert sum(means) / 4 == pytest.approx(0.2, abs=0.06)


def test_fat_lies_in_the_deep_layer_of_the_skin():
    codes = full(Code.SKIN)
    codes[:20] = int(Code.AIR)
    share = compose(
        codes, draw_composition(generator(), replace(OFF, fat_in_skin=(0.8, 0.8)))
    ).share
    assert float(share[20].max()) < 0.05
    assert float(share[26].min()) == pytest.approx(0.8)


def test_marrow_lies_within_thick_bone_and_not_in_plates():
    codes = full(Code.MUSCLE)
    codes[5:7] = int(Code.BONE)
    codes[20:50] = int(Code.BONE)
    share = compose(
        codes, draw_composition(generator(), replace(OFF, marrow_in_bone=(0.9, 0.9)))
    ).share
    assert not share[5:7].any()
    assert float(share[25:45].mean()) > 0.4


def test_vessels_are_thin():
    parameters = draw_composition(generator(), replace(OFF, vessels_in_csf=(0.9, 0.9)))
    share = compose(full(Code.CSF), parameters).share
    assert 0.001 < float((share > 0.4).float().mean()) < 0.08


def test_thickness_is_the_share_of_bone_nearby():
    codes = full(Code.MUSCLE)
    codes[30:] = int(Code.BONE)
    thickness = thickness_of(codes)[:, 30, 30]
    assert float(thickness[:26].max()) == 0
    assert float(thickness[35:].min()) == pytest.approx(1)
    assert float(thickness[29:31].mean()) == pytest.approx(0.5)
    assert torch.all(thickness.diff() >= -1e-6)


def test_partners_have_the_values_of_what_they_are():
    values = [float(code) for code in Code]
    partners = partner_values(values)
    assert partners[Code.MUSCLE] == Code.FAT
    assert partners[Code.CORTEX] == Code.CORTEX


def test_mr_and_ct_show_the_same_fat_in_muscle():
    codes = full(Code.MUSCLE)
    composition = compose(codes, draw_composition(generator(), CompositionRecipe()))
    plain = {"texture_gain": (0.0, 0.0)}
    mr = draw_mr(generator(1), replace(CONTRASTS["t1"], gradient=(0.0, 0.0), **plain))
    ct = draw_ct(generator(1), replace(CTRecipe(), **plain))
    bright = render_mr_signal(codes, mr, composition)
    dark = render_hu(codes, ct, composition)
    both = torch.stack([bright.flatten(), dark.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) < -0.99


@pytest.mark.slow
def test_a_whole_head_looks_like_one_in_mr_and_ct():
    coarse = make_head(generator(), spacing_mm=4.0).top
    codes = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert codes.numel() > 7e6
    composition = compose(codes, draw_composition(generator(), CompositionRecipe()))
    t1 = render_mr_signal(codes, draw_mr(generator(1), CONTRASTS["t1"]), composition)
    hu = render_hu(codes, draw_ct(generator(1), CTRecipe()), composition)

    def median(image: torch.Tensor, code: Code) -> float:
        return float(image[codes == code].median())

    order = (Code.FAT, Code.WHITE, Code.CORTEX, Code.CSF, Code.BONE)
    levels = [median(t1, code) for code in order]
    assert levels == sorted(levels, reverse=True)
    assert 25 < median(hu, Code.CORTEX) < 50
    assert -120 < median(hu, Code.FAT) < -70
    assert 700 < median(hu, Code.BONE) < 2000
    assert median(hu, Code.AIR) == -1000
