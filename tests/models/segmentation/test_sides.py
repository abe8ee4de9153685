"""Both sides of a head: left for right in the mirror, nothing asked where nothing is declared."""

import json

import pytest
import torch

from radloom.errors import ConfigError
from radloom.models.bundles import find_bundle
from radloom.models.segmentation.nnunet import NnunetOptions
from radloom.models.segmentation.planned import find_planned
from radloom.models.segmentation.sides import Sides, over_both_sides, read_sides

NAMES = ("background", "left ear", "nose", "right ear")
PAIRS = {"sides": {"axis": 1, "pairs": [["left ear", "right ear"]]}}


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, 4, 3, padding=1)


def test_the_mirrored_head_has_mirrored_scores_of_the_other_side(network) -> None:
    sides = read_sides(PAIRS, NAMES)
    predict = over_both_sides(network, sides)
    with torch.inference_mode():
        window = torch.randn(2, 1, 5, 6, 7)
        straight, turned = predict(window), predict(window.flip(3))
        torch.testing.assert_close(turned.flip(3)[:, [0, 3, 2, 1]], straight, rtol=0, atol=0)
        once = network(window)
    assert not torch.allclose(straight, once)


def test_without_pairs_it_is_the_mean_over_the_mirror_images(network) -> None:
    predict = over_both_sides(network, Sides(0, (0, 1, 2, 3)))
    with torch.inference_mode():
        window = torch.randn(1, 1, 5, 6, 7)
        wanted = (network(window) + network(window.flip(2)).flip(2)) / 2
        torch.testing.assert_close(predict(window), wanted)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([1], "expected axis and pairs"),
        ({"axis": 0}, "expected axis and pairs"),
        ({"axis": 3, "pairs": []}, "expected axis 0, 1 or 2, got 3"),
        ({"axis": 0, "pairs": [["left ear", "tail"]]}, r"once each, got \['left ear', 'tail'\]"),
        ({"axis": 0, "pairs": [["nose"]]}, r"once each, got \['nose'\]"),
        ({"axis": 0, "pairs": [["left ear", "nose"], ["nose", "right ear"]]}, "once each"),
    ],
)
def test_what_is_wrong_is_said(asked, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_sides({"sides": asked}, NAMES)


def test_nothing_is_asked_where_nothing_is_declared_or_mirroring_is_off() -> None:
    assert read_sides({}, NAMES) is None
    folder = find_bundle("brain_mr_segmentation")
    assert find_planned(folder, NnunetOptions(mirroring=False)).sides is None


def test_every_structure_of_our_own_model_that_has_a_side_has_a_partner() -> None:
    folder = find_planned(find_bundle("brain_mr_segmentation"))
    names, sides = folder.class_names, folder.sides
    for name, partner in zip(names, sides.partners, strict=True):
        side, _, rest = name.partition(" ")
        other = {"left": "right", "right": "left"}.get(side)
        assert names[partner] == (name if other is None else f"{other} {rest}")
    transposed = json.loads((folder.path / "configs" / "plans.json").read_text())
    assert transposed["image_reader_writer"] == "NibabelIOWithReorient"  # planes of (z, y, x) RAS+
    assert transposed["transpose_forward"][sides.axis] == 2  # x is from side to side
