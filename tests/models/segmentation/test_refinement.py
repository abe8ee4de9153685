"""Labels that follow the image: against Bayes' rule by hand, and on surfaces that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from radloom.errors import ConfigError
from radloom.models.segmentation.refinement import (
    MOST,
    Candidates,
    Refinement,
    read_refinement,
    refine,
)

NAMES = ("background", "inner left", "inner right", "outer", "rest of it")
SHAPE = (60, 56, 52)
HOW = Refinement(tissues=((1, 2), (3,)), mixed=((4,),))


def truth() -> np.ndarray:
    """A ball with a rippled surface, its halves two classes, in a shell, in a box, in air."""
    grid = np.indices(SHAPE).astype(float)
    x, y, z = (axis - n / 2 for axis, n in zip(grid, SHAPE, strict=True))
    radius = np.sqrt(x**2 + y**2 + z**2)
    ripple = 2.5 * np.sin(x / 1.6) * np.sin(y / 1.7) * np.sin(z / 1.8)
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:-3, 3:-3, 3:-3] = 4
    labels[radius < 21] = 3
    inner = radius + ripple < 15
    labels[inner] = np.where(x < 0, 1, 2)[inner]
    return labels


def picture(labels: np.ndarray, values: tuple[float, ...], shading: float = 0.0) -> np.ndarray:
    """Intensities of 1, 2, 3; the rest at random; brighter to one side by `shading`."""
    drawn = np.random.default_rng(0)
    image = np.array([0, values[0], values[0], values[1], 0.0])[labels]
    image[labels == 4] = drawn.choice([0.2, 1.3], (labels == 4).sum())
    ramp = np.linspace(1 - shading, 1 + shading, SHAPE[0])[:, None, None]
    return ((image + drawn.normal(0, 0.03, SHAPE)) * ramp).astype(np.float32)


def scores_of(labels: np.ndarray, blur: float = 2.0) -> torch.Tensor:
    """(5, I, J, K) of a network that sees no more than this blur."""
    shares = [ndimage.gaussian_filter((labels == n).astype(np.float32), blur) for n in range(5)]
    return torch.from_numpy(np.log(np.maximum(np.stack(shares), 1e-4))).half()


def refined(scores: torch.Tensor, image: np.ndarray, how: Refinement = HOW) -> np.ndarray:
    candidates = Candidates(how, SHAPE)
    candidates.take(tuple(slice(0, n) for n in SHAPE), range(5), scores)
    labels = scores.argmax(0).numpy().astype(np.uint8)
    refine(labels, image, candidates, (1, 1, 1))
    return labels


def dice(found: np.ndarray, true: np.ndarray, *classes: int) -> float:
    one, other = np.isin(found, classes), np.isin(true, classes)
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("values", [(1.0, 0.7), (0.5, 1.1)], ids=["bright core", "dark core"])
@pytest.mark.parametrize("shading", [0.0, 0.3])
def test_a_border_that_the_network_blurs_is_found_again(values, shading) -> None:
    true = truth()
    scores = scores_of(true)
    before, after = scores.argmax(0).numpy(), refined(scores, picture(true, values, shading))
    assert dice(before, true, 1, 2) < 0.94
    assert dice(after, true, 1, 2) > 0.985
    assert dice(after, true, 3) > 0.95
    assert dice(after, true, 1) > dice(before, true, 1)  # halves that no intensity tells apart


def test_voxels_get_what_bayes_rule_gives_them() -> None:
    """Two tissues side by side, and voxels between them whose intensity lies between."""
    drawn = np.random.default_rng(1)
    scores = torch.full((5, *SHAPE), -20.0)
    scores[1, :30], scores[3, 30:] = 0.0, 0.0
    image = np.where(np.arange(SHAPE[0])[:, None, None] < 30, 1.0, 1.5)
    image = (image + drawn.normal(0, 0.1, SHAPE)).astype(np.float32)
    ratio = -1.5
    scores[1, 30] = ratio  # less likely than 3, of which the score is 0
    image[30] = np.linspace(1.0, 1.5, image[30].size).reshape(image[30].shape)
    bin_ = np.diff(np.percentile(image, (0.1, 99.9)))[0] / 64
    deviation = np.hypot(0.1, 0.3 * bin_)
    one, other = (stats.norm(mean, deviation).logpdf(image[30]) for mean in (1.0, 1.5))
    expected = np.where(HOW.likelihood * (one - other) + HOW.prior * ratio > 0, 1, 3)
    found = refined(scores.half(), image, replace(HOW, reach_mm=1000))
    assert (found[30] == expected).mean() > 0.98  # these voxels move the means a little
    assert 0.2 < (expected == 1).mean() < 0.8
    assert (found[:30] == 1).all()
    assert (found[31:] == 3).all()


def test_a_spot_of_another_intensity_stays_what_it_lies_in() -> None:
    true = truth()
    image = picture(true, (1.0, 0.7))
    spot = (slice(20, 25), slice(26, 31), slice(24, 29))
    assert (true[spot] == 1).all()
    image[spot] = 5.0
    assert (refined(scores_of(true), image)[spot] == 1).all()


def test_what_is_not_named_stays_and_where_nothing_is_named_nothing_happens() -> None:
    true, image = truth(), np.zeros(SHAPE, np.float32)
    scores = scores_of(true)
    before = scores.argmax(0).numpy()
    after = refined(scores, picture(true, (1.0, 0.7)))
    air = ndimage.distance_transform_edt(true == 0) > 8
    np.testing.assert_array_equal(after[air], before[air])
    nothing = Candidates(HOW, SHAPE)
    nothing.take(tuple(slice(0, n) for n in SHAPE), [0], torch.zeros(1, *SHAPE))
    labels = np.full(SHAPE, 7)
    refine(labels, image, nothing, (1, 1, 1))
    assert (labels == 7).all()


def test_a_flat_image_and_a_class_without_voxels_do_no_harm() -> None:
    true = truth()
    true[true == 3] = 4
    scores = scores_of(true)
    found = refined(scores, np.ones(SHAPE, np.float32))
    assert (found == scores.argmax(0).numpy()).mean() > 0.96


def test_boxes_and_classes_left_out_of_them_do_not_matter() -> None:
    scores = scores_of(truth())
    image = picture(truth(), (1.0, 0.7))
    whole = refined(scores, image)
    candidates = Candidates(HOW, SHAPE)
    for begin in (40, 0, 20):
        box = (slice(begin, min(begin + 20, SHAPE[0])), slice(0, 56), slice(0, 52))
        part = scores[(slice(None), *box)]
        near = [n for n in range(5) if part[n].max() >= part.max(0)[0].min() - candidates.margin]
        candidates.take(box, near, part[near])
    labels = scores.argmax(0).numpy().astype(np.uint8)
    refine(labels, image, candidates, (1, 1, 1))
    np.testing.assert_array_equal(labels, whole)
    candidates.restart()
    assert candidates.voxels() is None


def test_of_many_classes_the_likeliest_are_kept() -> None:
    candidates = Candidates(HOW, (1, 1, 2))
    scores = torch.tensor([[-1.0, -9], [0, 0], [-2, -9], [-3, -1], [-4, -9]]).reshape(5, 1, 1, 2)
    candidates.take((slice(0, 1), slice(0, 1), slice(0, 2)), range(5), scores)
    kept = candidates.voxels()
    assert kept is not None
    assert kept.place.tolist() == [0, 1]
    assert kept.classes[0].tolist() == [1, 0, 2, 3]
    assert kept.score[0].tolist() == [0, -1, -2, -3]
    assert kept.classes[1][:2].tolist() == [1, 3]
    assert kept.score[1].tolist() == [0, -1, *[-np.inf] * (MOST - 2)]


def test_metadata_name_structures() -> None:
    asked = {"tissues": [["inner left", "inner right"], ["outer"]], "mixed": [["rest of it"]]}
    assert read_refinement({"refinement": asked}, NAMES) == HOW
    with_numbers = read_refinement({"refinement": {**asked, "reach_mm": 5}}, NAMES)
    assert with_numbers is not None
    assert with_numbers.reach_mm == 5.0
    assert read_refinement({}, NAMES) is None


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"tissues": [["nowhere"]]}, "got nowhere"),
        ({"tissues": [["outer"], ["outer"]]}, "once each, got outer"),
        ({"tissues": [["outer"]], "speed": 1}, "speed"),
        ({"mixed": [["outer"]]}, "expected tissues"),
        ([["outer"]], "expected tissues"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(asked, named) -> None:
    with pytest.raises(ConfigError, match=named):
        read_refinement({"refinement": asked}, NAMES)
