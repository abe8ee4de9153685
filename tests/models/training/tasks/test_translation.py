"""What a CT did not see, contrasts that are left out, discriminators, the pool, unpaired scans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import PatchDiscriminator

from radloom.errors import ConfigError, InputError
from radloom.models.training.run import Training, seeded
from radloom.models.training.settings import TrainingSettings
from radloom.models.training.sources import open_source
from radloom.models.training.tasks import pairs
from radloom.models.training.tasks.adversarial import (
    Adversarial,
    AdversarialTranslation,
    game,
)
from radloom.models.training.tasks.contrasts import open_contrasts
from radloom.models.training.tasks.pairs import NOT_SEEN_HU, open_registered_pairs
from radloom.models.training.tasks.translation import OUTSIDE_HU, Translation
from radloom.models.training.tasks.unpaired import (
    CycleNetworks,
    ImagePool,
    MRNetwork,
    UnpairedTranslation,
    open_unpaired,
)
from radloom.models.translation.network import MISSING, HounsfieldNetwork
from radloom.shapes import array_of, make_volume
from radloom.transforms.nifti import read_nifti, write_nifti
from radloom.transforms.spatial import Transform
from radloom.transforms.synthesis.phantom import make_head, render_ct, render_mr

RECIPE = {"grid": {"shape": [16, 20, 16], "spacing_mm": [10.0, 10.0], "offset": 0.0}}
SHAPE = (8, 8, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def discriminator(in_channels: int) -> torch.nn.Module:
    return PatchDiscriminator(
        spatial_dims=3, channels=4, in_channels=in_channels, num_layers_d=1, norm="INSTANCE"
    )


def hounsfield() -> HounsfieldNetwork:
    return HounsfieldNetwork(torch.nn.Conv3d(8, 56, 1), fold=2)


def test_what_the_ct_did_not_see_costs_nothing() -> None:
    hu = torch.zeros(1, 1, 8, 8, 8)
    hu[..., :2] = NOT_SEEN_HU
    task = Translation()
    batch = task.prepare({"image": torch.ones(1, 8, 8, 8), "ct_hu": hu[0]}, generator())
    assert batch["weight"].mean() == 0.75
    batch = {name: tensor[None] for name, tensor in batch.items()}
    right = torch.zeros(1, 5, 8, 8, 8)
    right[:, 2] = 50.0
    wrong = right.clone()
    wrong[:, 0, ..., :2], wrong[:, 3, ..., :2] = 900.0, 90.0
    found = [task.loss(pred, batch) for pred in (right, wrong)]
    for name in ("hu", "scale"):
        assert float(found[0][name]) == float(found[1][name])
    metrics = [task.metrics(pred, batch) for pred in (right, wrong)]
    assert all(float(metrics[0][name]) == float(metrics[1][name]) for name in metrics[0])


def test_the_temperature_makes_the_scale_the_mean_error() -> None:
    random = generator()
    hu = torch.full((1, 1, 16, 16, 16), 40.0)
    scale = torch.rand(hu.shape, generator=random) * 50 + 5
    error = torch.distributions.Laplace(0.0, 1.0).icdf(torch.rand(hu.shape, generator=random))
    pred = torch.cat([hu + 3 * scale * error.clamp(-9, 9), torch.zeros(1, 3, 16, 16, 16),
                      scale.log()], 1)  # fmt: skip
    found = Translation().metrics(pred, {"hu": hu, "weight": torch.ones_like(hu)})
    assert float(found["temperature"]) == pytest.approx(3.0, rel=0.05)
    assert float(found["within_90"]) == pytest.approx(0.9, abs=0.02)


def test_contrasts_are_left_out_but_never_all() -> None:
    task = Translation(missing_probability=0.9)
    sample = {"image": torch.ones(3, 4, 4, 4), "ct_hu": torch.zeros(1, 4, 4, 4)}
    n_left = []
    for seed in range(20):
        image = task.prepare(sample, generator(seed))["image"]
        gone = [bool((channel == MISSING).all()) for channel in image]
        n_left.append(3 - sum(gone))
    assert min(n_left) == 1
    assert max(n_left) < 4
    assert 1 < np.mean(n_left) < 2


def test_each_side_of_the_game_leaves_the_other_alone() -> None:
    judge = discriminator(1)
    real, fake = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8, requires_grad=True)
    pays_generator, pays_judge = game(judge, real, fake)
    pays_generator.backward(retain_graph=True)
    assert fake.grad.abs().max() > 0
    assert all(weight.grad is None for weight in judge.parameters())
    fake.grad = None
    pays_judge.backward()
    assert fake.grad is None
    assert all(weight.grad is not None for weight in judge.parameters())


def test_the_pool_gives_old_fakes_back_and_goes_on_where_it_stopped() -> None:
    pool = ImagePool(4, (2, 2, 2))
    fakes = [torch.full((1, 1, 2, 2, 2), n / 10) for n in range(40)]
    given = [float(pool.exchange(fake).mean()) for fake in fakes[:20]]
    assert given[:4] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    old = [value for n, value in enumerate(given) if abs(value - n / 10) > 0.01]
    assert 4 < len(old) < 14
    state = {name: tensor.clone() for name, tensor in pool.state_dict().items()}
    rest = [float(pool.exchange(fake).mean()) for fake in fakes[20:]]
    again = ImagePool(4, (2, 2, 2))
    again.load_state_dict(state)
    assert [float(again.exchange(fake).mean()) for fake in fakes[20:]] == rest
    assert not ImagePool(0, (2, 2, 2)).exchange(fakes[0]).any()


class Grey:
    """CT is what MR shows, turned round: bright is dense."""

    def to(self, device):
        return self

    def sample(self, wanted, generator, *, pair):
        image = torch.rand((1, *SHAPE), generator=generator)
        return {"image": image, "ct_hu": 1500 * image - 1000}


def training(out: Path, task, network, **settings) -> Training:
    return Training(
        network=network,
        task=task,
        source=Grey(),
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-3),
        output_dir=str(out),
        settings=TrainingSettings(**{"max_steps": 4, "warmup_steps": 1, "validation_cases": 1,
                                     "log_every": 1, **settings}),
        device="cpu",
    )  # fmt: skip


def cycle() -> tuple[UnpairedTranslation, CycleNetworks]:
    seeded(0)
    networks = CycleNetworks(
        hounsfield(), MRNetwork(torch.nn.Conv3d(8, 8, 1), fold=2), discriminator(1), SHAPE, 2
    )
    return UnpairedTranslation(networks), networks


def against() -> tuple[AdversarialTranslation, Adversarial]:
    seeded(0)
    networks = Adversarial(hounsfield(), discriminator(2))
    return AdversarialTranslation(networks=networks), networks


@pytest.mark.parametrize("make", [cycle, against])
def test_games_stop_and_go_on_and_ship_the_generator(make, tmp_path) -> None:
    assert training(tmp_path / "whole", *make()).run() == 4
    assert training(tmp_path / "parts", *make(), max_minutes=0.0).run() == 1
    again = training(tmp_path / "parts", *make())
    assert again.run() == 4
    rows = [
        [line.split("\t") for line in (tmp_path / part / "curve.tsv").read_text().splitlines()]
        for part in ("whole", "parts")
    ]
    assert [[r[0], *r[2:]] for r in rows[0]] == [[r[0], *r[2:]] for r in rows[1]]
    weights = torch.load(tmp_path / "whole" / "model.pt", weights_only=True)
    hounsfield().load_state_dict(weights)
    task, networks = make()
    begins = training(tmp_path / "next", task, networks, max_steps=1)
    begins.initial_weights = str(tmp_path / "whole" / "model.pt")
    begins.optimizer.param_groups[0]["lr"] = 0.0
    begins.run()
    found = torch.load(tmp_path / "next" / "model.pt", weights_only=True)
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_game_without_networks_or_with_several_processes_is_refused(monkeypatch) -> None:
    task, networks = cycle()
    sample = task.prepare(Grey().sample((), generator(), pair=False), generator())
    batch = {name: tensor[None] for name, tensor in sample.items()}
    pred = networks(batch["image"])
    with pytest.raises(ConfigError, match="expected networks, got none"):
        replace(task, networks=None).loss(pred, batch)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"expected one process .*got 2"):
        task.loss(pred, batch)


def test_unpaired_scans_are_of_different_people(heads) -> None:
    source = open_unpaired(str(heads), (16, 16, 16), RECIPE)
    assert open_unpaired(None, (16, 16, 16)) is None
    for seed in range(3):
        sample = source.sample((), generator(seed), pair=False)
        assert sample["image"].shape == sample["ct_hu"].shape == (1, 16, 16, 16)
        assert "paired" not in sample
    paired = replace(source, paired=True).sample((), generator(), pair=False)
    assert "paired" in paired
    inside = paired["image"] > 0.3
    assert float(paired["ct_hu"][inside].median()) > -300
    task, _ = cycle()
    prepared = task.prepare(paired, generator())
    torch.testing.assert_close(prepared["image"][1:] * 1000, prepared["hu"])


def test_rows_with_one_scan_alone_train_unpaired(tmp_path) -> None:
    for name, values in (("mr", np.ones((6, 6, 6))), ("ct", np.full((9, 9, 9), 60.0))):
        volume = make_volume(values, np.diag([2.0, 2, 2, 1]), modality="MR", units="arbitrary")
        write_nifti(volume, tmp_path / f"{name}.nii.gz")
    (tmp_path / "scans.tsv").write_text("image\tct_hu\nmr.nii.gz\t\n\tct.nii.gz\n")
    source = open_unpaired(str(tmp_path), (8, 8, 8), scan_spacing_mm=2.0)
    sample = source.sample((), generator(), pair=False)
    assert sample["ct_hu"].min() == 60
    assert (sample["image"] == 0).any()
    larger = replace(source, patch_shape=(12, 12, 12)).sample((), generator(), pair=False)
    assert sorted(larger["ct_hu"].unique().tolist()) == [-1000.0, 60.0]


def test_several_contrasts_show_one_head(heads) -> None:
    source = open_contrasts(str(heads), ("t1", "t2"), {**RECIPE, "anomalies": {"probability": 0}})
    sample = source.sample(("image", "ct_hu"), generator(), pair=False)
    assert sample["image"].shape == (2, 16, 20, 16)
    t1, t2 = (image[sample["ct_hu"][0].abs() < 100] for image in sample["image"])
    assert float(torch.corrcoef(torch.stack([t1, t2]))[0, 1]) < 0.5
    again = source.sample(("image", "ct_hu"), generator(), pair=False)
    assert torch.equal(again["image"], sample["image"])
    with pytest.raises(ConfigError, match=r"expected contrasts of t1, .*got .'t9'"):
        open_contrasts(str(heads), ("t9",), RECIPE)
    assert open_contrasts(None, ("t1",)) is None


@pytest.fixture
def pair_folder(tmp_path) -> tuple[Path, np.ndarray]:
    """A T1 and the CT of the same head, moved; and the CT where it should come to lie."""
    head = make_head(generator(), spacing_mm=4.0)
    move = np.eye(4)
    move[:3, :3] = [[0.9976, -0.0698, 0], [0.0698, 0.9976, 0], [0, 0, 1]]
    move[:3, 3] = 5, -4, 6
    folder = tmp_path / "pairs"
    folder.mkdir()
    write_nifti(render_mr(head, "t1", generator=generator()), folder / "mr.nii.gz")
    moved = render_ct(head, moving_from_fixed=Transform(move), generator=generator())
    write_nifti(moved, folder / "ct.nii.gz")
    (folder / "scans.tsv").write_text("image\tct_hu\nmr.nii.gz\tct.nii.gz\n")
    return folder, array_of(render_ct(head, noise=0.0, generator=generator()))[0]


def test_pairs_are_registered_once(pair_folder, tmp_path, monkeypatch) -> None:
    folder, true = pair_folder
    cache = tmp_path / "cache"
    scans = open_registered_pairs(str(folder), str(cache), scan_spacing_mm=4.0)
    found = array_of(read_nifti(scans.cases[0]["ct_hu"], modality="CT", units="HU"))[0]
    seen = found > OUTSIDE_HU
    assert 0.8 < seen.mean() < 1
    before = array_of(read_nifti(folder / "ct.nii.gz", modality="CT", units="HU"))[0]
    inside = seen & (true > -400)
    errors = [np.abs(ct - true)[inside].mean() for ct in (found, before)]
    assert errors[0] < 0.5 * errors[1]
    sample = scans.sample(("image", "ct_hu"), generator(), pair=False)
    assert (sample["ct_hu"] < OUTSIDE_HU).any()
    monkeypatch.setattr(pairs, "register", None)
    again = open_registered_pairs(str(folder), str(cache), scan_spacing_mm=4.0)
    assert again.cases == scans.cases
    table = (cache / "pairs.tsv").read_text().splitlines()
    assert table[0] == "image\tct_hu\tsimilarity"
    assert float(table[1].split("\t")[2]) > 1.1
    with pytest.raises(InputError, match=r"1 pairs and none of them; look at pairs.tsv"):
        open_registered_pairs(str(folder), str(cache), least_alike=1.9)
    assert open_registered_pairs(None, str(cache)) is None


def test_scans_are_no_source_of_several_contrasts(pair_folder) -> None:
    folder, _ = pair_folder
    with pytest.raises(ConfigError, match="several contrasts, got scans"):
        open_contrasts(str(folder), ("t1",))
    assert open_source(str(folder)) is not None
