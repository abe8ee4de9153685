"""Postprocessing that a model asks for, and none that it does not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from radloom.errors import ConfigError
from radloom.models.segmentation.postprocessing import (
    Postprocessing,
    postprocess,
    read_postprocessing,
)

NAMES = {1: "shell", 2: "core"}


@pytest.fixture
def labels() -> np.ndarray:
    """A closed shell with a core and a hole in it, and a crumb of shell outside."""
    array = np.zeros((12, 12, 12), np.uint8)
    array[1:9, 1:9, 1:9] = 1
    array[2:8, 2:8, 2:8] = 0
    array[4:6, 4:6, 4:6] = 2
    array[11, 11, 11] = 1
    return array


def test_nothing_is_done_unless_asked(labels):
    assert read_postprocessing({}, NAMES) == Postprocessing()
    assert postprocess(labels, NAMES, Postprocessing()) is labels


def test_the_largest_component_stays_alone(labels):
    found = postprocess(labels, NAMES, Postprocessing(largest_component=("shell",)))
    assert found[11, 11, 11] == 0
    changed = found != labels
    assert changed.sum() == 1
    assert labels[11, 11, 11] == 1  # the input is as it was


def test_holes_are_filled_and_structures_inside_stay(labels):
    found = postprocess(labels, NAMES, Postprocessing(fill_holes=("shell",)))
    assert (found[2:8, 2:8, 2:8] == 0).sum() == 0
    assert ((found == 2) == (labels == 2)).all()
    assert found[0, 0, 0] == 0


def test_an_open_hole_is_none(labels):
    labels[1:3, 4, 4] = 0
    found = postprocess(labels, NAMES, Postprocessing(fill_holes=("shell",)))
    assert np.array_equal(found, labels)


def test_parts_that_touch_by_an_edge_are_two():
    array = np.zeros((4, 4, 4), np.uint8)
    array[0, 0, :3] = 1
    array[1, 1, 0] = 1
    found = postprocess(array, NAMES, Postprocessing(largest_component=("shell",)))
    assert found.sum() == 3


def test_an_absent_structure_is_no_matter(labels):
    what = Postprocessing(largest_component=("core",), fill_holes=("core",))
    labels[labels == 2] = 0
    assert np.array_equal(postprocess(labels, NAMES, what), labels)


def test_what_models_ask_for_is_read(tmp_path):
    asked = {"largest_component": ["core"], "fill_holes": ["shell", "core"]}
    expected = Postprocessing(("core",), ("shell", "core"))
    assert read_postprocessing({"postprocessing": asked}, NAMES) == expected
    assert read_postprocessing(tmp_path, NAMES) == Postprocessing()
    (tmp_path / "postprocessing.json").write_text(json.dumps(asked))
    assert read_postprocessing(tmp_path, NAMES) == expected


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"smooth": ["core"]}, "expected largest_component or fill_holes, got smooth"),
        ({"fill_holes": ["brain"]}, "got 'brain'"),
        ({"fill_holes": "core"}, "expected a list of structures"),
        (["fill_holes"], "expected steps with structures"),
    ],
)
def test_what_cannot_be_done_is_refused(asked, said):
    with pytest.raises(ConfigError, match="postprocessing: expected") as error:
        read_postprocessing({"postprocessing": asked}, NAMES)
    assert said in str(error.value)
