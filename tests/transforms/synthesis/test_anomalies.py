from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from radloom.transforms.synthesis.anomalies import (
    KINDS,
    AnomalyParameters,
    AnomalyRecipe,
    anomaly_map,
    anomaly_shares,
    draw_anomalies,
    paint_anomalies,
)
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.parameters import from_plain, to_plain
from radloom.transforms.synthesis.tissues import Code

GRID = Grid((60, 64, 56))
ALWAYS = AnomalyRecipe(probability=1.0)
BALL = AnomalyParameters(
    "any", "ellipsoid", (4.0, -3.0, 2.0), (8.0, 8.0, 8.0), 1000, 80, 0.8, 40, edge_mm=1.0
)


def drawn(seed: int, recipe: AnomalyRecipe = ALWAYS) -> tuple[AnomalyParameters, ...]:
    return draw_anomalies(torch.Generator().manual_seed(seed), recipe, GRID)


def whole(one: AnomalyParameters, grid: Grid = GRID) -> torch.Tensor:
    result = torch.zeros(grid.shape)
    ((box, share),) = anomaly_shares([one], grid, "cpu")
    result[box] = share
    return result


def test_probability_zero_draws_none():
    assert drawn(0, AnomalyRecipe(probability=0.0)) == ()


def test_draws_are_known_kinds_in_the_grid_and_survive_json():
    groups = []
    for seed in range(100):
        for one in (anomalies := drawn(seed)):
            assert one.kind in KINDS
            assert one.t1_ms > 0
            assert one.t2_ms > 0
            assert -1000 <= one.hu <= 3071
            assert from_plain(AnomalyParameters, json.loads(json.dumps(to_plain(one)))) == one
        groups.append(anomalies[-1].group + 1)
    assert min(groups) == 1
    assert 5 < max(groups) <= 8


def test_every_kind_comes():
    assert {one.kind for seed in range(150) for one in drawn(seed)} == set(KINDS)


def test_sizes_are_those_of_the_recipe():
    recipe = replace(ALWAYS, weights=(("any", 1.0),), elongation=(1.0, 1.0))
    radii = [one.radii_mm[0] for seed in range(100) for one in drawn(seed, recipe)]
    assert 1 <= min(radii) < 2
    assert 8 < max(radii) <= 10


def test_ball_has_its_volume_and_place():
    share = whole(BALL)
    x, y, z = torch.meshgrid(*GRID.axes(), indexing="ij")
    middle = [float((share * axis).sum() / share.sum()) for axis in (x, y, z)]
    assert float(share.sum()) == pytest.approx(4 / 3 * math.pi * 512, rel=0.02)
    assert middle == pytest.approx(BALL.centre_mm, abs=0.01)
    assert float(share.max()) == 1


def test_volume_does_not_hang_on_the_grid():
    coarse = Grid((30, 32, 14), (2.0, 2.0, 4.0))
    fine, thick = whole(BALL).sum(), whole(BALL, coarse).sum() * 16
    assert float(thick) == pytest.approx(float(fine), rel=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_hold_their_anomalies(seed):
    wide = Grid((192, 192, 192))
    for one in drawn(seed):
        ((_, share),) = anomaly_shares([replace(one, confined=False)], wide, "cpu")
        assert float(share.min()) >= 0
        assert float(share.max()) <= 1
        for axis in range(3):
            ends = share.select(axis, 0), share.select(axis, -1)
            assert all(float(end.abs().max()) == 0 for end in ends)


def test_tube_is_long_and_thin():
    tube = replace(BALL, shape="tube", radii_mm=(20.0, 2.0, 2.0), bend=0.3)
    share = whole(tube)
    along, across, thick = ((share.amax(others) > 0.5).sum() for others in ((1, 2), (0, 2), (0, 1)))
    assert int(along) > 35
    assert 5 < int(across) < 14
    assert int(thick) <= 5


def test_anomaly_outside_the_grid_is_empty():
    ((box, share),) = anomaly_shares([replace(BALL, centre_mm=(500.0, 0, 0))], GRID, "cpu")
    assert share.numel() == 0
    assert torch.zeros(GRID.shape)[box].numel() == 0


def test_confined_anomaly_stays_in_its_compartment():
    structures = torch.full(GRID.shape, int(Code.WHITE), dtype=torch.uint8)
    structures[36:] = int(Code.BONE)
    inside, free = (
        anomaly_shares([replace(BALL, confined=c)], GRID, "cpu", structures)[0]
        for c in (True, False)
    )
    volume = torch.zeros(GRID.shape)
    volume[inside[0]] = inside[1]
    assert float(volume[:36].sum()) > 0
    assert float(volume[36:].abs().sum()) == 0
    assert float(free[1].sum()) > float(inside[1].sum())


def test_nothing_confined_floats_in_air():
    structures = torch.zeros(GRID.shape, dtype=torch.uint8)
    ((_, share),) = anomaly_shares([replace(BALL, confined=True)], GRID, "cpu", structures)
    assert float(share.sum()) == 0


def test_painting_mixes_and_leaves_the_input():
    volume = torch.stack([torch.zeros(GRID.shape), torch.full(GRID.shape, 100.0)])
    before = volume.clone()
    shares = anomaly_shares([BALL], GRID, "cpu")
    painted = paint_anomalies(volume, shares, [(2.0, 50.0)])
    share = whole(BALL)
    assert torch.equal(volume, before)
    assert torch.allclose(painted[0], 2 * share, atol=1e-6)
    assert torch.allclose(painted[1], 100 - 50 * share, atol=1e-4)


def test_texture_has_its_deviation():
    shares = anomaly_shares([BALL], GRID, "cpu")
    volume = torch.zeros((1, *GRID.shape))
    painted = paint_anomalies(volume, shares, [(5.0,)], [(0.5,)], [3])
    inside = painted[0][whole(BALL) == 1]
    assert float(inside.std()) == pytest.approx(0.5, rel=0.25)
    assert torch.equal(painted, paint_anomalies(volume, shares, [(5.0,)], [(0.5,)], [3]))


def test_map_numbers_the_anomalies_and_the_last_wins():
    small = replace(BALL, radii_mm=(3.0, 3.0, 3.0))
    numbers = anomaly_map(anomaly_shares([BALL, small], GRID, "cpu"), GRID, "cpu")
    assert numbers.dtype == torch.uint8
    assert int(numbers[34, 29, 30]) == 2
    assert sorted(numbers.unique().tolist()) == [0, 1, 2]


def test_parts_of_a_tumour_share_a_group_and_a_centre():
    recipe = replace(ALWAYS, most=1, weights=(("tumour", 1.0),))
    draws = [drawn(seed, recipe) for seed in range(40)]
    assert {tuple(one.kind for one in d) for d in draws} == {
        ("tumour",), ("oedema", "tumour"), ("rim", "core"), ("oedema", "rim", "core"),
    }  # fmt: skip
    assert all(len({(one.centre_mm, one.group) for one in d}) == 1 for d in draws)
