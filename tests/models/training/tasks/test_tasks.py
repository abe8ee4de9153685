"""Each task: the truth costs nothing, what is wrong costs, and metrics say how much."""

from __future__ import annotations

import math

import pytest
import torch

from radloom.models.segmentation.classes import CLASSES, class_of_label
from radloom.models.training.batches import draw_batches
from radloom.models.training.pictures import sheet
from radloom.models.training.settings import TrainingSettings
from radloom.models.training.sources import open_source
from radloom.models.training.tasks.denoising import Denoising
from radloom.models.training.tasks.registration import Registration
from radloom.models.training.tasks.segmentation import Segmentation
from radloom.models.training.tasks.translation import Translation, tissue_classes
from radloom.transforms.synthesis.tissues import LABEL_NAMES

RECIPE = {"grid": {"shape": [24, 24, 24], "spacing_mm": [8.0, 8.0], "offset": 0.0}}


@pytest.fixture(scope="module")
def source(heads):
    return open_source(str(heads), RECIPE)


def batch_of(task, source):
    return draw_batches(source, task, TrainingSettings(batch_size=2), 0, 0)[0]


def truth(task, batch) -> torch.Tensor:
    if isinstance(task, Denoising):
        return batch["clean"]
    if isinstance(task, Registration):
        return batch["ddf"]
    if isinstance(task, Translation):
        scores = torch.nn.functional.one_hot(tissue_classes(batch["hu"])[:, 0], 3)
        log_scale = torch.full_like(batch["hu"], math.log(task.hu_unit))
        return torch.cat([batch["hu"], 50.0 * scores.movedim(-1, 1), log_scale], 1)
    return 20.0 * torch.nn.functional.one_hot(batch["classes"][:, 0].long(), 37).movedim(-1, 1)


@pytest.mark.parametrize(
    "task", [Denoising(), Denoising(modality="ct"), Registration(), Translation(), Segmentation()]
)
def test_the_truth_is_the_best_answer(task, source) -> None:
    batch = batch_of(task, source)
    best = truth(task, batch).float()
    noise = torch.randn(best.shape, generator=torch.Generator().manual_seed(0))
    worse = best + best.std() * noise
    cost = float(sum(task.loss(best, batch).values()))
    assert cost < 0.75 * float(sum(task.loss(worse, batch).values()))
    if not isinstance(task, Registration):
        assert cost < 0.02
    worse.requires_grad_()
    sum(task.loss(worse, batch).values()).backward()
    assert torch.isfinite(worse.grad).all()
    assert worse.grad.abs().max() > 0
    assert sheet([task.pictures(best, batch)]).any()
    assert all(bool(torch.isfinite(v)) for v in task.metrics(best, batch).values())


def test_metrics_of_the_truth(source) -> None:
    task = Translation()
    batch = batch_of(task, source)
    found = task.metrics(truth(task, batch), batch)
    assert float(found["mae"]) == 0
    assert float(found["dice_bone"]) == 1
    task = Segmentation()
    batch = batch_of(task, source)
    assert float(task.metrics(truth(task, batch), batch)["dice_brain"]) == 1
    task = Registration()
    batch = batch_of(task, source)
    found = task.metrics(truth(task, batch), batch)
    assert float(found["dice"]) > float(found["dice_before"]) + 0.1
    assert float(found["error_vox"]) < 0.01
    assert float(found["folded"]) < 0.01
    task = Denoising()
    batch = batch_of(task, source)
    assert float(task.metrics(batch["image"][:, :1], batch)["noise_left"]) == pytest.approx(1)
    assert float(task.metrics(batch["clean"], batch)["noise_left"]) < 0.05


def test_a_window_rendered_anew_is_smoother_under_as_much_noise(source) -> None:
    sample = source.sample(Denoising().wanted, torch.Generator().manual_seed(3), pair=False)
    found = [
        Denoising(smoothed=p, gain=(1, 1)).prepare(sample, torch.Generator().manual_seed(0))
        for p in (0.0, 1.0)
    ]
    edges = [float(one["clean"].diff(dim=-1).square().mean()) for one in found]
    assert edges[1] < 0.8 * edges[0]
    bright = found[1]["clean"] > 4 * found[1]["sigma"]
    noise = (found[1]["image"][:1] - found[1]["clean"])[bright] / found[1]["sigma"][bright]
    assert float(noise.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("evenness", [0.0, 0.5, 1.0])
def test_evenness_says_how_much_the_few_voxels_of_bone_count(evenness) -> None:
    hu = torch.zeros(1, 1, 10, 10, 10)
    hu[..., :4, :] = -1000
    hu[..., 0, 0, :2] = 1000
    costs = []
    for tissue in (1000, 0):
        pred = torch.cat([hu + 300 * (hu == tissue), torch.zeros(1, 4, 10, 10, 10)], 1)
        ones = torch.ones_like(hu)
        batch = {"hu": hu, "weight": ones, "emphasis": ones}
        costs.append(float(Translation(evenness=evenness).loss(pred, batch)["hu"]))
    share = float((hu == 1000).sum() / (hu == 0).sum())
    assert costs[0] / costs[1] == pytest.approx(share ** (1 - evenness), rel=1e-4)
    assert evenness < 1 or costs[0] == pytest.approx(1.0)


def test_what_ct_shows_of_anomalies_weighs_more() -> None:
    sample = {
        "image": torch.rand(1, 4, 4, 4),
        "ct_hu": torch.full((1, 4, 4, 4), 40.0),
        "anomaly": torch.zeros(1, 4, 4, 4, dtype=torch.uint8),
    }
    sample["anomaly"][0, 0] = 3
    task = Translation(anomaly_weight=5.0)
    batch = task.prepare(sample, torch.Generator().manual_seed(0))
    assert float(batch["emphasis"][0, 0].unique()) == 5
    assert float(batch["emphasis"][0, 1:].unique()) == 1
    batch = {name: tensor[None] for name, tensor in batch.items()}
    costs = []
    for missed in (0, 1):  # a plane of the anomaly, a plane of the rest
        pred = torch.cat([batch["hu"], torch.zeros(1, 4, 4, 4, 4)], 1)
        pred[:, 0, missed] += 100
        costs.append(float(task.loss(pred, batch)["hu"]))
    assert costs[0] / costs[1] == pytest.approx(5)
    del sample["anomaly"]
    assert float(task.prepare(sample, torch.Generator())["emphasis"].max()) == 1


def test_anomalies_weigh_more(source) -> None:
    noisy = torch.zeros(1, 4, 4, 4)
    anomaly = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    anomaly[0, 0, 0, 0] = 3
    structures = torch.ones(1, 4, 4, 4, dtype=torch.uint8)
    structures[:, 3] = 0
    sample = {
        "image": noisy,
        "clean": noisy,
        "sigma": noisy,
        "anomaly": anomaly,
        "structures": structures,
    }
    weight = Denoising().prepare(sample, torch.Generator().manual_seed(0))["weight"][0]
    assert weight[0, 0, 0] == 4
    assert weight[1, 0, 0] == 1
    assert float(weight[3, 0, 0]) == pytest.approx(0.1)


def test_every_label_of_the_table_has_a_class() -> None:
    labels = torch.tensor(list(LABEL_NAMES))
    found = class_of_label(labels).tolist()
    assert [label for label, n in zip(LABEL_NAMES, found, strict=True) if n == 0] == [0]
    for label, n in zip(LABEL_NAMES, found, strict=True):
        assert label == CLASSES[n].label or label in CLASSES[n].merged
        side = LABEL_NAMES[label].split()[0]
        if side in ("left", "right"):
            assert CLASSES[n].name.startswith(side)
    assert len(CLASSES) == 37


def test_mr_gets_another_gain_and_hounsfield_units_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.full((1, 4, 4, 4), 0.5)
    sample = {"image": clean + 0.1, "clean": clean, "sigma": torch.full((1, 4, 4, 4), 0.1)}
    seen = [Denoising().prepare(sample, generator) for _ in range(20)]
    gains = [float(one["clean"].mean()) / 0.5 for one in seen]
    assert 0.6 <= min(gains) < 0.8
    assert 1.2 < max(gains) <= 1.6
    for gain, one in zip(gains, seen, strict=True):
        assert torch.allclose(one["sigma"], torch.tensor(0.1 * gain))
        assert torch.allclose(one["image"][:1] - one["clean"], torch.tensor(0.1 * gain))
    ct = {f"ct{name}": 1000 * sample[key] for name, key in
          (("", "image"), ("_clean", "clean"), ("_sigma", "sigma"))}  # fmt: skip
    assert torch.allclose(Denoising(modality="ct").prepare(ct, generator)["clean"], clean)


def test_the_loss_of_segmentation_is_that_of_monai() -> None:
    from monai.losses import DiceCELoss

    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(2, len(CLASSES), 8, 8, 8, generator=generator, requires_grad=True)
    classes = torch.randint(0, 5, (2, 1, 8, 8, 8), generator=generator, dtype=torch.uint8)
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    want = loss(pred, classes.long())
    got = Segmentation().loss(pred, {"classes": classes})["dice_ce"]
    torch.testing.assert_close(got, want)
    for one, other in zip(*(torch.autograd.grad(x, pred) for x in (got, want)), strict=True):
        torch.testing.assert_close(one, other)


def test_what_was_taken_out_of_the_picture_is_background() -> None:
    label = torch.full((1, 6, 6, 6), 2)
    sigma = torch.ones(label.shape)
    sigma[:, 3:] = 0
    image = torch.rand(label.shape) * sigma
    for noise in (sigma, torch.zeros_like(sigma)):
        sample = {"image": image, "label": label, "sigma": noise}
        classes = Segmentation().prepare(sample, torch.Generator())["classes"]
        assert torch.equal(classes > 0, sigma > 0)


def test_a_stride_takes_the_same_voxels_of_image_and_labels() -> None:
    label = torch.randint(0, 2, (1, 12, 12, 12)) * 2
    sample = {"image": label.float(), "label": label}
    batch = Segmentation(stride=2).prepare(sample, torch.Generator().manual_seed(1))
    assert batch["image"].shape == batch["classes"].shape == (1, 6, 6, 6)
    assert len(batch["image"].unique()) == 2
    assert torch.equal(batch["image"] > batch["image"].mean(), batch["classes"] > 0)
