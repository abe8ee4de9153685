"""Values of labels and classes of nnU-Net."""

from __future__ import annotations

import json

import numpy as np
import pytest

from radloom.errors import ConfigError, InputError
from radloom.pipelines.dataset.classes import make_classes, read_names


def test_values_without_names_are_structures_in_order():
    classes = make_classes({0, 41, 2}, None)
    assert classes.labels() == {"background": 0, "label_2": 1, "label_41": 2}
    assert classes.apply(np.array([[0, 41, 2]])).tolist() == [[0, 2, 1]]


def test_what_is_ignored_comes_last_as_nnunet_wants_it():
    classes = make_classes({0, 1, 2}, {1: "ignore", 2: "tumour"})
    assert classes.labels() == {"background": 0, "tumour": 1, "ignore": 2}


def test_a_value_without_a_name_is_refused():
    with pytest.raises(InputError, match="the label holds 9, which --names does not name"):
        make_classes({1}, {1: "one"}).apply(np.array([9]))


@pytest.mark.parametrize("names", [{}, {1: "ignore"}, {0: "background"}, {1: "background"}])
def test_no_structure_is_an_error(names):
    with pytest.raises(ConfigError, match="expected"):
        make_classes({0, 1}, names)


def test_names_as_radloom_and_as_nnunet_write_them(tmp_path):
    table, plain, content = (tmp_path / name for name in ("a.tsv", "b.json", "c.json"))
    table.write_text("index\tname\tcolor\n2\tleft white\t#fff\n")
    plain.write_text(json.dumps({"left white": 2}))
    content.write_text(json.dumps({"labels": {"left white": 2}, "numTraining": 1}))
    assert read_names(table) == read_names(plain) == read_names(content) == {2: "left white"}


@pytest.mark.parametrize("text", ["", "index\n1\n", "index\tname\nx\tone\n", "{"])
def test_other_files_of_names_are_refused(tmp_path, text):
    path = tmp_path / "names.tsv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"names\.tsv"):
        read_names(path)
