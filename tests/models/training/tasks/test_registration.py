"""Pairs as an affine registration leaves them, and how well structures lie on each other."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from radloom.models.registration.network import warp
from radloom.models.segmentation.classes import CLASSES, class_of_label
from radloom.models.training.sources import open_source
from radloom.models.training.task import weighted_mean
from radloom.models.training.tasks.overlap import soft_dice_loss
from radloom.models.training.tasks.poses import AffineError, alignment, cut, moved, window_of
from radloom.models.training.tasks.registration import Registration

N = len(CLASSES)
RECIPE = {
    "grid": {"shape": [32, 40, 40], "spacing_mm": [6.0, 6.0], "offset": 0.0},
    "mr": {"physics_probability": 1.0},
}
WINDOW = (24, 32, 24)
STILL = AffineError((0, 0), (0, 0), (0, 0), (0, 0))


def dice_of_images(fixed: torch.Tensor, moving: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
    """The same loss from an image of 0 and 1 for each class."""
    index = torch.arange(1, N, dtype=torch.uint8).reshape(1, -1, 1, 1, 1)
    still, other = ((part == index).to(ddf.dtype) for part in (fixed, moving))
    seen = warp(other, ddf)
    axes = (0, 2, 3, 4)
    sizes = still.sum(axes) + seen.sum(axes)
    dice = 2 * (still * seen).sum(axes) / sizes.clamp_min(1)
    return 1 - weighted_mean(dice, (sizes > 0).to(dice.dtype))


def test_the_loss_is_that_of_an_image_for_each_class() -> None:
    generator = torch.Generator().manual_seed(0)
    fixed, moving = (
        torch.randint(0, 9, (2, 1, 8, 10, 12), generator=generator, dtype=torch.uint8)
        for _ in range(2)
    )
    ddf = 3 * torch.randn(2, 3, 8, 10, 12, generator=generator)
    ddf.requires_grad_()
    got, want = soft_dice_loss(fixed, moving, ddf, N), dice_of_images(fixed, moving, ddf)
    torch.testing.assert_close(got, want)
    one, other = (torch.autograd.grad(value, ddf)[0] for value in (got, want))
    torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-3)


def test_a_stride_looks_at_a_part_of_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 4, (1, 1, 6, 6, 6), generator=generator, dtype=torch.uint8)
    fine = coarse
    for axis in (2, 3, 4):
        fine = fine.repeat_interleave(4, axis)
    still = torch.zeros(1, 3, 24, 24, 24)
    moving = fine.roll(4, 2)
    whole, part = (soft_dice_loss(fine, moving, still, N, stride) for stride in (1, 2))
    torch.testing.assert_close(whole, part)
    assert float(soft_dice_loss(fine, fine, still, N, 2)) == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def pair(heads):
    return open_source(str(heads), RECIPE).sample(
        ("image", "label"), torch.Generator().manual_seed(3), pair=True
    )


@pytest.fixture(scope="module")
def two_persons(heads):
    source = open_source(str(heads), RECIPE, other_head_probability=1.0)
    samples = (
        source.sample(("image", "label"), torch.Generator().manual_seed(seed), pair=True)
        for seed in range(20)
    )
    return next(sample for sample in samples if "displacement_mm" not in sample)


def test_an_affine_map_between_heads_is_found_from_their_structures() -> None:
    fixed = torch.zeros(1, 40, 44, 48, dtype=torch.uint8)
    for n, place in enumerate(product((8, 17, 26), repeat=3)):
        i, j, k = place
        fixed[0, i : i + 6, j : j + 5 + n % 3, k : k + 6] = n + 1
    true = AffineError((0.1, 0.1), (0.05, 0.05), (0.02, 0.02), (2, 2)).draw(
        torch.Generator(), (20, 22, 24)
    )
    moving = moved(fixed, torch.linalg.inv(true), fixed.shape[1:])
    found = alignment(fixed, moving, 36)
    points = torch.tensor([[8.0, 8, 8, 1], [30, 30, 30, 1], [8, 30, 20, 1]], dtype=torch.float64).T
    assert (true @ points - points).norm(dim=0).min() > 2
    assert (found @ points - true @ points).norm(dim=0).max() < 0.4


def test_too_few_structures_move_nothing() -> None:
    classes = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    classes[0, 2:6] = 1
    assert torch.equal(alignment(classes, classes, N), torch.eye(4, dtype=torch.float64))


def test_a_window_has_the_crown_at_its_top() -> None:
    head = torch.zeros(1, 30, 30, 40, dtype=torch.uint8)
    head[0, 5:25, 7:27, :32] = 3
    start = window_of(head, (16, 24, 16))
    seen = cut(head, start, (16, 24, 16))
    assert start == [7, 5, 17]
    assert not seen[..., -1].any()
    assert seen[0, :, 2:22, -2].all()
    assert cut(head, [-4, 0, 0], (8, 30, 40))[0, :4].sum() == 0


def test_a_pair_comes_aligned(two_persons) -> None:
    """Structures of two persons lie better on each other than as they were drawn."""
    plain, close = (
        Registration(window=window, affine_error=STILL).prepare(
            two_persons, torch.Generator().manual_seed(1)
        )
        for window in (None, WINDOW)
    )
    costs = []
    for batch in (plain, close):
        assert "ddf" not in batch
        fixed, moving = batch["fixed"][None], batch["moving"][None]
        costs.append(float(soft_dice_loss(fixed, moving, torch.zeros(1, 3, *fixed.shape[2:]), N)))
    assert close["image"].shape == (2, *WINDOW)
    assert costs[1] < costs[0] - 0.03


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_displacement_is_that_of_the_window(pair, seed) -> None:
    """Whatever error is drawn, and whichever head is fixed, it lays structure on structure."""
    wide = AffineError((-0.15, 0.15), (-0.1, 0.1), (-0.05, 0.05), (-3, 3))
    batch = Registration(window=WINDOW, affine_error=wide).prepare(
        pair, torch.Generator().manual_seed(seed)
    )
    parts = {name: tensor[None] for name, tensor in batch.items()}
    before, after = (
        soft_dice_loss(parts["fixed"], parts["moving"], ddf, N)
        for ddf in (torch.zeros_like(parts["ddf"]), parts["ddf"])
    )
    assert float(after) < 0.75 * float(before)
    assert set(batch) == {"image", "fixed", "moving", "ddf"}


def test_each_time_a_sample_serves_it_looks_another_way(pair) -> None:
    task = Registration(window=WINDOW)
    one, again, other = (
        task.prepare(pair, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["moving"], other["moving"])


def test_structures_seen_are_laid_as_the_heads_are(pair) -> None:
    """A segmenter that errs nowhere tells what the labels tell, moved and turned with them."""
    seen = {f"{side}_seen": class_of_label(pair[f"{side}_label"]) for side in ("fixed", "moving")}
    task = Registration(window=WINDOW, structures=True, unseen_probability=0.0)
    for seed in range(3):
        batch = task.prepare({**pair, **seen}, torch.Generator().manual_seed(seed))
        assert batch["image"].shape == (4, *WINDOW)
        assert torch.equal(batch["image"][2:3], batch["fixed"].float())
        assert torch.equal(batch["image"][3:], batch["moving"].float())
        assert set(batch) == {"image", "fixed", "moving", "ddf"}


@pytest.mark.parametrize("given", [True, False])
def test_sometimes_nobody_tells(pair, given) -> None:
    seen = {f"{side}_seen": class_of_label(pair[f"{side}_label"]) for side in ("fixed", "moving")}
    task = Registration(window=WINDOW, structures=True, unseen_probability=1.0 if given else 0.0)
    batch = task.prepare({**pair, **(seen if given else {})}, torch.Generator().manual_seed(0))
    assert batch["image"].shape == (4, *WINDOW)
    assert batch["image"][:2].any()
    assert not batch["image"][2:].any()
