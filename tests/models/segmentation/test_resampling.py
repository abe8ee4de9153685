"""Held against what nnU-Net's own functions give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from radloom.models.segmentation.labelling import Doubt, Labeller, Rule, neighbours
from radloom.models.segmentation.resampling import coarse_axis, resample_image

SETTINGS = {"order": 1, "order_z": 0, "force_separate_z": None}
CASES = [
    ((31, 25, 20), (20, 35, 17), (1, 1, 1), (1.5, 0.7, 1.2)),
    ((12, 34, 40), (9, 27, 50), (5, 1, 1), (6.7, 1.3, 0.8)),
    ((30, 14, 22), (30, 7, 41), (1.0, 6.0, 1.0), (1.0, 12.0, 0.5)),
    ((16, 17, 18), (16, 17, 18), (1, 1, 1), (1, 1, 1)),
]


@pytest.mark.parametrize(("old", "new", "spacing", "wanted"), CASES)
def test_an_image_is_resampled_to_nnunets_values(old, new, spacing, wanted) -> None:
    theirs = nnunets()
    image = np.random.default_rng(0).normal(100, 20, old).astype(np.float32)
    image[:4] = -3.3
    expected = theirs(image[None].copy(), new, spacing, wanted, order=3, order_z=0,
                      force_separate_z=None)[0]  # fmt: skip
    apart = coarse_axis(spacing, wanted, separate=None)
    found = resample_image(image, new, apart=apart)
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=0)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(("old", "new", "spacing", "wanted"), CASES)
def test_labels_come_back_as_nnunets_do(old, new, spacing, wanted, double) -> None:
    scores = smooth_scores(5, old)
    back = nnunets()(scores.numpy().copy(), new, spacing, wanted, is_seg=False, **SETTINGS)
    found = labels_of(scores, new, (spacing, wanted), Rule(5), double=double)
    assert (found == back.argmax(0)).mean() > 0.9999
    regions = Rule(5, (3, 1, 2, 5, 4))
    expected = np.zeros(new, np.uint8)
    for channel, value in zip(back, regions.regions, strict=True):
        expected[torch.sigmoid(torch.from_numpy(channel).float()).numpy() > 0.5] = value
    again = labels_of(scores, new, (spacing, wanted), regions, double=double)
    assert (again == expected).mean() > 0.9999


def test_probabilities_are_the_softmax_of_what_nnunet_brings_back() -> None:
    old, new, *spacing = CASES[0]
    scores, whole = smooth_scores(4, old), np.zeros((4, *new), np.float16)

    def take(place, values) -> None:
        whole[(slice(None), *place)] = values

    labels = labels_of(scores, new, tuple(spacing), Rule(4), probabilities=take)
    back = nnunets()(scores.numpy().copy(), new, *spacing, is_seg=False, **SETTINGS)
    expected = torch.from_numpy(back).float().softmax(0).numpy()
    np.testing.assert_allclose(whole, expected, atol=1e-3)
    assert (labels == labels_of(scores, new, tuple(spacing), Rule(4))).all()


def test_doubt_is_nought_where_certain_and_one_where_all_are_alike() -> None:
    scores = torch.zeros((3, 4, 6, 6), dtype=torch.half)
    scores[1, :2] = 30.0
    scores[2, 2:] = 1e-3
    doubt = Doubt(Rule(3))
    for planes in scores.split(1, dim=1):
        doubt.add(planes)
    found = doubt.by_label()
    assert found[1] == pytest.approx(0.0, abs=1e-9)
    assert found[2] == pytest.approx(1.0, abs=1e-6)


def nnunets():
    from nnunetv2.preprocessing.resampling import default_resampling

    return default_resampling.resample_data_or_seg_to_shape


def smooth_scores(n_classes: int, shape) -> torch.Tensor:
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(1).normal(0, 1, (n_classes, *shape))
    smooth = np.stack([gaussian_filter(one, 2) for one in noise])
    return torch.from_numpy(8 * smooth / smooth.std()).half()


def test_labels_do_not_depend_on_the_threads_that_share_the_boxes() -> None:
    scores, new = smooth_scores(6, (14, 60, 70)), (20, 130, 150)
    one, three = (
        labels_of(scores, new, ((1.5, 2.2, 2.1), (1, 1, 1)), Rule(6), n_threads=n) for n in (1, 3)
    )
    assert len(np.unique(one)) == 6
    np.testing.assert_array_equal(three, one)


def labels_of(
    scores, new, spacing, rule, *, double=True, probabilities=None, n_threads=1
) -> np.ndarray:
    out, box = np.zeros(new, np.uint8), tuple((0, n) for n in new)
    axes = neighbours(scores.shape[1:], new, spacing, SETTINGS)
    labeller = Labeller(out, box, axes, rule, probabilities, double, n_threads=n_threads)
    for planes in scores.split(5, dim=1):
        labeller.add(planes)
    return out
