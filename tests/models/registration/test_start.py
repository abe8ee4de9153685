"""Heads far from home: any axis, other scanners, other fields of view."""

from __future__ import annotations

import numpy as np
import pytest

from radloom.models.registration.start import find_start, find_starts
from radloom.transforms.spatial import Transform

SMALL = {"spacing": (3, 3, 5), "extent": (220, 240, 130)}
CASES = {
    "MR, about x": ("t2", (45, 0, 0), (60, 0, 0), {}),
    "MR, about y, stays": ("t2", (0, -45, 0), (0, 0, 60), {"stays": True}),
    "CT, about z": (
        "ct",
        (0, 0, 45),
        (0, -60, 0),
        {"extent": (280, 280, 180), "spacing": (2, 2, 4)},
    ),
    "CT, about all, part of the head": ("ct", (26, -26, 26), (35, -35, 35), SMALL),
    "PET, about all": ("pet", (-26, 26, 26), (-35, 35, 35), {"spacing": (4, 4, 4)}),
    "MR, part of the head": ("t2", (-20, 30, 10), (20, -40, 20), SMALL),
    "follow-up, about all": ("t1", (20, 20, -35), (0, 40, -40), {}),
}


def far_look(scene, name: str):
    """The moving volume of a case, and where it is from."""
    kind, turn, shift, view = CASES[name]
    truth = scene.move(turn, shift)
    middle = np.zeros(3) if view.get("stays") else np.array(shift)
    view = {"centre": tuple(middle + np.array([5.0, 0, 0])), **view}
    view.pop("stays", None)
    return scene.picture(kind, moved=truth, seed=5, **view), truth


@pytest.mark.parametrize("name", CASES)
def test_a_head_far_away_comes_home(scene, fixed, name):
    moving, truth = far_look(scene, name)
    assert scene.error_mm(Transform.identity(), truth) > 40
    assert scene.error_mm(find_start(fixed, moving), truth) < 4.0


@pytest.mark.slow
def test_a_ct_comes_home_to_a_pet_of_another_size(scene):
    truth = scene.move((30, 10, -30), (40, -20, 30))
    pet = scene.picture("pet", spacing=(4, 4, 4))
    ct = scene.picture("ct", moved=truth, spacing=(2, 2, 3), centre=(40, -20, 30), seed=4)
    assert scene.error_mm(find_start(pet, ct), truth) < 4.0


@pytest.mark.slow
def test_the_places_lie_apart_and_the_best_comes_first(scene, fixed):
    moving, _ = far_look(scene, "MR, part of the head")
    starts = find_starts(fixed, moving)
    values = [start.similarity for start in starts]
    assert values == sorted(values, reverse=True)
    for n, start in enumerate(starts):
        for other in starts[:n]:
            apart = scene.error_mm(start.moving_from_fixed, other.moving_from_fixed)
            assert apart > 4.0
    again = find_starts(fixed, moving)
    for start, same in zip(starts, again, strict=True):
        np.testing.assert_array_equal(start.moving_from_fixed.matrix, same.moving_from_fixed.matrix)
