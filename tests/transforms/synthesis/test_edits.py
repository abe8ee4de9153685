from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional

from radloom.errors import InputError
from radloom.transforms.synthesis.anatomy import RIGHT, code_of
from radloom.transforms.synthesis.edits import (
    CavityParameters,
    EditParameters,
    EditRecipe,
    FlapParameters,
    PatchParameters,
    ResectionParameters,
    SkullParameters,
    apply_edits,
    draw_edits,
)
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.parameters import from_plain, to_plain
from radloom.transforms.synthesis.tissues import CODES, Code

GRID = Grid((101, 104, 99))
ALWAYS = EditRecipe(
    sulci_probability=1, skull_probability=1, flap_probability=1, resection_probability=1,
    cavity_probability=1, pneumatised_probability=1, fat_probability=1,
)  # fmt: skip
NEVER = EditRecipe(
    sulci_probability=0, skull_probability=0, flap_probability=0, resection_probability=0,
    cavity_probability=0, pneumatised_probability=0, fat_probability=0,
)  # fmt: skip
SHELLS = (
    (48, Code.SKIN), (46, Code.FAT), (42, Code.MUSCLE), (38, Code.BONE), (36, Code.MARROW),
    (34, Code.BONE), (32, Code.CSF), (28, Code.CORTEX), (25, Code.WHITE),
)  # fmt: skip


def radius() -> torch.Tensor:
    x, y, z = torch.meshgrid(*GRID.axes(), indexing="ij")
    return (x**2 + y**2 + z**2).sqrt()


@pytest.fixture(scope="module")
def head() -> torch.Tensor:
    """Shells around a brain, its right half named so, and an air cell in front."""
    x, y, z = torch.meshgrid(*GRID.axes(), indexing="ij")
    structures = torch.zeros(GRID.shape, dtype=torch.uint8)
    for r, code in SHELLS:
        structures[radius() < r] = int(code)
    paired = (structures == int(Code.CORTEX)) | (structures == int(Code.WHITE))
    structures[paired & (x > 0)] += RIGHT
    structures[x**2 + (y - 40) ** 2 + z**2 < 25] = int(Code.AIR)
    return structures


def count(structures: torch.Tensor, *codes: Code) -> int:
    return sum(int((code_of(structures) == int(code)).sum()) for code in codes)


def edited(head: torch.Tensor, **parts: object) -> torch.Tensor:
    return apply_edits(head, EditParameters(**parts), GRID)


def test_nothing_drawn_nothing_changed(head):
    parameters = draw_edits(torch.Generator().manual_seed(0), NEVER)
    assert parameters == EditParameters()
    assert torch.equal(apply_edits(head, parameters, GRID), head)


@pytest.mark.parametrize("seed", range(8))
def test_all_edits_together_give_known_structures(head, seed):
    parameters = draw_edits(torch.Generator().manual_seed(seed), ALWAYS)
    before = head.clone()
    after = apply_edits(head, parameters, GRID)
    again = apply_edits(head, from_plain(EditParameters, json.loads(_json(parameters))), GRID)
    codes = code_of(after)
    unpaired = (codes != int(Code.CORTEX)) & (codes != int(Code.WHITE))
    assert torch.equal(head, before)
    assert not torch.equal(after, before)
    assert torch.equal(after, again)
    assert int(codes.max()) < CODES
    assert not bool((after[unpaired] >= RIGHT).any())


def _json(parameters: EditParameters) -> str:
    return json.dumps(to_plain(parameters))


def test_wider_sulci_leave_cortex_over_the_white_matter(head):
    wider = edited(head, sulci=PatchParameters(steps=4))
    white = code_of(wider) == int(Code.WHITE)
    fluid = code_of(wider) == int(Code.CSF)
    beside = functional.max_pool3d(fluid[None].float(), 3, 1, 1)[0] > 0
    right = wider[60:] >= RIGHT
    assert count(wider, Code.CSF) > 1.4 * count(head, Code.CSF)
    assert 0 < count(wider, Code.WHITE) < count(head, Code.WHITE)
    assert float((white & beside).sum() / white.sum()) < 0.02
    assert torch.equal(right, (head[60:] >= RIGHT) & ~fluid[60:])


def test_narrower_sulci_grow_cortex_of_their_side(head):
    narrower = edited(head, sulci=PatchParameters(steps=-1))
    fresh = (code_of(narrower) == int(Code.CORTEX)) & (code_of(head) == int(Code.CSF))
    assert fresh.any()
    assert (narrower[60:][fresh[60:]] >= RIGHT).all()
    assert (narrower[:40][fresh[:40]] < RIGHT).all()


def test_patches_take_about_their_share(head):
    whole, part = (
        int((edited(head, sulci=PatchParameters(1, share, 3)) != head).sum()) for share in (1, 0.5)
    )
    assert 0.3 < part / whole < 0.7


@pytest.mark.parametrize(("outer", "inner"), [(3, 0), (0, 2), (2, 2), (-1, 0), (0, -1), (-1, -1)])
def test_skull_grows_and_shrinks_as_drawn(head, outer, inner):
    bone = (Code.BONE, Code.MARROW)
    after = edited(head, skull=SkullParameters(outer, inner))
    expected = (radius() < 38 + outer) & (radius() >= 32 - inner)
    assert count(after[..., 60:], *bone) == pytest.approx(int(expected[..., 60:].sum()), rel=0.12)
    assert torch.equal(after[..., :35], head[..., :35])
    assert count(after, Code.CORTEX, Code.WHITE) == count(head, Code.CORTEX, Code.WHITE)
    assert count(after, Code.SKIN) == count(head, Code.SKIN)


def test_thin_skull_stays_closed(head):
    after = edited(head, skull=SkullParameters(-3, -3))
    rays = (code_of(after) == int(Code.BONE)) | (code_of(after) == int(Code.MARROW))
    assert rays[:50, 52, 49].any()
    assert rays[50, :52, 49].any()
    assert rays[50, 52, 50:].any()


def test_flap_opens_the_skull_where_it_points(head):
    after = edited(head, flap=FlapParameters((1.0, 0.0, 0.0), 25.0, int(Code.MUSCLE)))
    gone = (code_of(head) != int(Code.MUSCLE)) & (code_of(after) == int(Code.MUSCLE))
    line = code_of(after)[51:, 52, 49]
    assert gone.any()
    assert not ((line == int(Code.BONE)) | (line == int(Code.MARROW))).any()
    assert not gone[:60].any()


def test_returned_flap_leaves_a_gap_alone(head):
    missing, returned = (
        edited(head, flap=FlapParameters((0.0, 0.0, 1.0), 30.0, int(Code.CSF), back))
        for back in (False, True)
    )
    assert 0 < int((returned != head).sum()) < 0.5 * int((missing != head).sum())
    assert torch.equal(returned[50, 52, 50:], head[50, 52, 50:])


def test_resection_takes_brain_alone(head):
    change = ResectionParameters((0.0, -1.0, 0.0), 15.0, 10.0, air=True)
    after = edited(head, resection=change)
    changed = after != head
    air = code_of(after) == int(Code.CAVITY)
    assert 2500 < int(changed.sum()) < 6500
    assert air.any()
    assert not air[:, :, :48].any()
    assert (changed & (radius() > 32)).sum() == 0


def test_cavities_inside_fill_and_air_outside_stays(head):
    after = edited(head, cavity=CavityParameters(swelling=0, share=1.0))
    filled = (head == 0) & (code_of(after) == int(Code.MUCOSA))
    assert 300 < int(filled.sum()) < 600
    assert not (filled & (radius() > 47)).any()


def test_swelling_lines_the_walls(head):
    after = edited(head, cavity=CavityParameters(swelling=1, share=0.0))
    assert after[50, 91, 49] == int(Code.AIR)
    assert 0 < int((after != head).sum()) < 400


@pytest.mark.parametrize("place", [0, 1])
def test_air_cells_keep_a_wall(head, place):
    thick = edited(head, skull=SkullParameters(2, 2))
    after = apply_edits(thick, EditParameters(pneumatised=PatchParameters(place, 0.6, 2)), GRID)
    air = code_of(after) == int(Code.CAVITY)
    assert air.any()
    beside = functional.max_pool3d(air[None].float(), 3, 1, 1)[0] > 0
    assert count(after[beside], Code.FAT, Code.MUSCLE, Code.CSF, Code.AIR) < 0.02 * beside.sum()


def test_fat_grows_into_muscle(head):
    more, less = (edited(head, fat=PatchParameters(steps)) for steps in (2, -1))
    assert count(more, Code.FAT) > count(head, Code.FAT) > count(less, Code.FAT)
    assert count(more, Code.FAT, Code.MUSCLE) == count(head, Code.FAT, Code.MUSCLE)


def test_needs_the_grid_of_the_structures(head):
    with pytest.raises(InputError, match="structures of"):
        apply_edits(head, EditParameters(), Grid((10, 10, 10)))
