from __future__ import annotations

import torch

from radloom.transforms.synthesis.artefacts.table import (
    TableParameters,
    TableRecipe,
    draw_table,
    with_table,
)

TABLE = TableParameters(200.0, 2.0, 40.0, 4.0, 100.0, -950.0)


def test_the_holder_lies_behind_the_head_and_leaves_it_alone(balls):
    seen = with_table(balls.hu, balls.structures, balls.grid, TABLE)
    head = balls.structures > 0
    assert torch.equal(seen[0][head], balls.hu[0][head])
    changed = seen[0] != balls.hu[0]
    y = balls.grid.axes()[1]
    assert float(y[changed.any(2).any(0)].max()) < -40
    middle = seen[0, 30, :, 28]
    assert middle[(y < -51.5) & (y > -54.5)].unique().tolist() == [100.0]
    assert middle[y < -57].unique().tolist() == [-950.0]


def test_the_holder_is_as_wide_as_drawn_and_curves_up(balls):
    seen = with_table(balls.hu, balls.structures, balls.grid, TABLE)[0]
    shell = (seen == 100).any(2)
    x, y = balls.grid.axes()[:2]
    assert float(x[shell.any(1)].abs().max()) <= 40
    rim, middle = shell[(x - 37).abs() < 1.5].any(0), shell[x.abs() < 1.5].any(0)
    assert float(y[rim].max()) > float(y[middle].max())


def test_it_can_be_off():
    assert draw_table(torch.Generator(), TableRecipe(probability=0)) is None
    assert draw_table(torch.Generator(), TableRecipe(probability=1)) is not None
