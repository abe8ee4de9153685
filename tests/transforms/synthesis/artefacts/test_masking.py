from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.artefacts.masking import (
    MaskParameters,
    MaskRecipe,
    draw_mask,
    kept_part,
)


def radius_of(mask: torch.Tensor, spacing_mm: float = 2.0) -> float:
    return float((mask.sum() * spacing_mm**3 * 3 / (4 * torch.pi)) ** (1 / 3))


@pytest.mark.parametrize("margin", [0.0, 3.0, 7.0])
def test_the_brain_is_kept_with_the_margin_asked_for(balls, margin):
    kept = kept_part(balls.structures, balls.grid, MaskParameters("brain", margin, 0.0, 1))
    # a curved border comes out a little inside a flat one's
    assert radius_of(kept) == pytest.approx(36 + margin, abs=1.0)


def test_the_air_goes_and_the_head_stays(balls):
    kept = kept_part(balls.structures, balls.grid, MaskParameters("air", 4.0, 0.0, 1))
    assert kept[balls.structures > 0].all()
    assert radius_of(kept) == pytest.approx(54, abs=1.5)


def test_errors_make_the_border_uneven_but_do_not_move_it_far(balls):
    even = kept_part(balls.structures, balls.grid, MaskParameters("brain", 3.0, 0.0, 1))
    uneven = kept_part(balls.structures, balls.grid, MaskParameters("brain", 3.0, 2.0, 1))
    assert bool((even ^ uneven).any())
    assert radius_of(uneven) == pytest.approx(radius_of(even), abs=1.0)
    x, y, z = torch.meshgrid(*balls.grid.axes(), indexing="ij")
    assert uneven[torch.sqrt(x**2 + y**2 + z**2) < 33].all()


def test_a_defaced_head_lacks_what_lies_in_front_of_the_plane_but_no_brain(balls):
    face = MaskParameters("face", 0.0, 0.0, 1, distance_mm=30.0, tilt_degrees=45.0)
    kept = kept_part(balls.structures, balls.grid, face)
    _, y, z = torch.meshgrid(*balls.grid.axes(), indexing="ij")
    front = (y - z) / 2**0.5
    assert kept[front < 29].all()
    brain = balls.structures >= 19
    assert float(kept[brain].float().mean()) > 0.99
    assert not kept[(front > 31) & (balls.structures == 1)].any()


def test_probability_zero_takes_nothing():
    recipe = MaskRecipe(0, face_probability=0, air_probability=0)
    assert draw_mask(torch.Generator(), recipe) is None


@pytest.mark.parametrize("kind", ["brain", "face", "air"])
def test_each_kind_is_drawn(kind):
    recipe = MaskRecipe(
        float(kind == "brain"),
        face_probability=float(kind == "face"),
        air_probability=float(kind == "air"),
    )
    drawn = draw_mask(torch.Generator(), recipe)
    assert drawn is not None
    assert drawn.kind == kind
