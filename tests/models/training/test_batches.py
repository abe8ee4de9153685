"""What a step is made of depends on its place alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from radloom.errors import ConfigError
from radloom.models.training.batches import Kept, crop, draw_batches, draw_case
from radloom.models.training.settings import TrainingSettings
from radloom.models.training.sources import open_source
from radloom.models.training.tasks.denoising import Denoising
from radloom.models.training.tasks.registration import Registration

RECIPE = {"grid": {"shape": [16, 16, 16], "spacing_mm": [8.0, 8.0]}}


@pytest.fixture(scope="module")
def source(heads):
    return open_source(str(heads), RECIPE)


def test_a_sample_belongs_to_seed_step_rank_and_slot(source) -> None:
    settings = TrainingSettings(batch_size=1, accumulate=2)
    batches = draw_batches(source, Denoising(), settings, 5, 0)
    again = draw_batches(source, Denoising(), settings, 5, 0)
    assert [batch["image"].shape for batch in batches] == [(1, 2, 16, 16, 16)] * 2
    for a, b in zip(batches, again, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    images = [image for batch in batches for image in batch["image"]]
    images += [b["image"][0] for b in draw_batches(source, Denoising(), settings, 6, 0)[:1]]
    images += [b["image"][0] for b in draw_batches(source, Denoising(), settings, 5, 1)[:1]]
    images += [draw_case(source, Denoising(), settings, 0)["image"][0]]
    assert not any(torch.equal(a, b) for n, a in enumerate(images) for b in images[n + 1 :])


def test_samples_serve_several_steps_and_change_in_turn(source) -> None:
    settings, still = TrainingSettings(batch_size=2, reuse=4), Denoising(gain=(1.0, 1.0))
    kept: Kept = {}
    rows = [draw_batches(source, still, settings, n, 0, kept)[0]["clean"] for n in range(9)]
    same = [[torch.equal(a[slot], b[slot]) for a, b in pairwise(rows)] for slot in (0, 1)]
    assert [n for n in range(8) if not same[0][n]] == [3, 7]
    assert [n for n in range(8) if not same[1][n]] == [1, 5]
    alone = draw_batches(source, still, settings, 6, 0)[0]["clean"]
    assert torch.equal(alone, rows[6])


def test_held_samples_take_turns(source) -> None:
    settings = TrainingSettings(batch_size=1, reuse=3, mix=2)
    still, kept = Denoising(gain=(1.0, 1.0)), {}
    rows = [draw_batches(source, still, settings, n, 0, kept)[0]["clean"] for n in range(10)]
    for start in (0, 1):
        turns = [torch.equal(a, b) for a, b in pairwise(rows[start::2])]
        assert turns.count(False) in (1, 2)
    assert not any(torch.equal(a, b) for a, b in pairwise(rows))
    assert torch.equal(draw_batches(source, still, settings, 7, 0)[0]["clean"], rows[7])


def test_windows_of_a_kept_sample_differ(source) -> None:
    settings = TrainingSettings(batch_size=1, reuse=9, crop_shape=(8, 8, 8))
    kept: Kept = {}
    rows = [draw_batches(source, Denoising(), settings, n, 0, kept)[0]["image"] for n in range(4)]
    assert not any(torch.equal(a, b) for a, b in pairwise(rows))


def test_crops_show_the_same_place_of_every_tensor() -> None:
    index = torch.arange(6 * 7 * 8).reshape(1, 6, 7, 8)
    sample = {"image": index.float(), "label": index, "spacing_mm": torch.ones(3, 1, 1, 1)}
    found = crop(sample, (4, 4, 4), torch.Generator().manual_seed(3))
    assert found["image"].shape == (1, 4, 4, 4)
    assert torch.equal(found["image"].long(), found["label"])
    assert found["spacing_mm"].shape == (3, 1, 1, 1)
    padded = crop(sample, (8, 7, 4), torch.Generator().manual_seed(3))
    assert padded["image"].shape == (1, 8, 7, 4)
    assert torch.equal(padded["label"][:, 1:7], padded["image"][:, 1:7].long())
    assert not padded["image"][:, (0, 7)].any()


def test_several_crops_come_from_one_sample(source) -> None:
    settings = TrainingSettings(batch_size=2, crops=3, crop_shape=(8, 8, 8))
    (batch,) = draw_batches(source, Denoising(), settings, 0, 0)
    assert batch["image"].shape == (6, 2, 8, 8, 8)
    assert batch["weight"].shape == (6, 1, 8, 8, 8)


def test_pairs_of_two_persons_have_no_known_displacement(heads) -> None:
    settings = TrainingSettings()
    alone = open_source(str(heads), RECIPE)
    both = open_source(str(heads), RECIPE, other_head_probability=1.0)
    with_field = [draw_batches(alone, Registration(), settings, n, 0)[0] for n in range(2)]
    others = [draw_batches(both, Registration(), settings, n, 0)[0] for n in range(2)]
    assert all("ddf" in batch for batch in with_field)
    assert any("ddf" not in batch for batch in others)
    for a, b in zip(with_field, others, strict=True):
        assert torch.equal(a["fixed"], b["fixed"])
        assert torch.equal(a["moving"], b["moving"]) == ("ddf" in b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "expected batch_size of 1 or more, got 0"),
        ({"crops": 2}, "expected a crop_shape, got none for 2 crops"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingSettings(**change)


def test_precision_fits_the_device() -> None:
    cpu = torch.device("cpu")
    assert TrainingSettings().dtype(cpu) == torch.float32
    assert TrainingSettings().dtype(torch.device("cuda")) == torch.bfloat16
    with pytest.raises(ConfigError, match="float32 or bfloat16 on the CPU, got float16"):
        TrainingSettings(precision="float16").dtype(cpu)
    with pytest.raises(ConfigError, match="got 'int4'"):
        TrainingSettings(precision="int4").dtype(cpu)
