"""VoxelMorph from any pair of volumes, with weights made on the spot."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from radloom.errors import MissingWeights, StageFailed
from radloom.models.bundles import find_bundle
from radloom.models.registration.flow import exponential
from radloom.models.registration.learned import (
    FARTHEST_MM,
    Registrar,
    network_grid,
    network_velocity,
    shipped_registrar,
)
from radloom.models.registration.network import RegistrationNetwork
from radloom.models.registration.structures import Segmenter
from radloom.models.registration.working_grid import grid_round
from radloom.transforms.spatial import Transform

SHAPE = (32, 32, 32)
SPACING = (1.0, 8.0)


class Recorder(torch.nn.Module):
    """Moves everything by one voxel, and keeps what it was shown."""

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        self.pair = pair
        return torch.ones_like(pair[:, :1]).repeat(1, 3, 1, 1, 1)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_both_heads_are_shown_aligned_and_scaled(scene, fixed, recorder):
    moved = scene.move((0, 0, 0), (15.0, -8.0, 4.0))
    moving = scene.picture("t1", moved=moved, seed=3)
    grid, _ = grid_round(fixed)
    registrar = Registrar(RegistrationNetwork(recorder), shape=SHAPE, spacing_mm=SPACING)
    answer = network_velocity(fixed, moving, moved, grid, registrar)
    one, other = recorder.pair[0].numpy()
    assert recorder.pair.shape == (1, 2, *SHAPE)
    assert np.quantile(one, 0.995) == pytest.approx(1.0, abs=0.05)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.97
    assert answer.velocity.shape == (3, *SHAPE)
    assert answer.grid.shape == SHAPE
    assert torch.equal(answer.velocity, torch.ones_like(answer.velocity))
    assert answer.structures is None


def test_a_folded_network_s_velocity_is_of_blocks(fixed):
    class Steady(torch.nn.Module):
        def forward(self, blocks: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(blocks[:, :3])

    grid, _ = grid_round(fixed)
    registrar = Registrar(RegistrationNetwork(Steady(), fold=2), shape=SHAPE, spacing_mm=SPACING)
    answer = network_velocity(fixed, fixed, Transform.identity(), grid, registrar)
    assert answer.velocity.shape == (3, 16, 16, 16)
    assert answer.grid == network_grid(grid, registrar).coarser(2)


class Bright(torch.nn.Module):
    """Three classes, of which it sees the third where it is bright, the first elsewhere."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([-batch, torch.full_like(batch, -9), batch], dim=1)


@pytest.mark.parametrize("asked", [True, False])
def test_the_network_is_told_of_structures_where_somebody_sees_them(fixed, recorder, asked):
    network = RegistrationNetwork(recorder, n_classes=3)
    registrar = Registrar(network, shape=SHAPE, spacing_mm=SPACING)
    grid, _ = grid_round(fixed)
    segmenter = Segmenter(Bright()) if asked else None
    answer = network_velocity(fixed, fixed, Transform.identity(), grid, registrar, segmenter)
    told = recorder.pair[0]
    assert told.shape == (2 + 2 * 2, *SHAPE)
    bright = (told[0] > told[0].mean()).float()
    assert torch.equal(told[3], bright if asked else torch.zeros_like(bright))
    assert torch.equal(told[5], told[3])
    assert not told[[2, 4]].any()
    if asked:
        assert torch.equal(answer.structures.fixed[2], bright)
        assert answer.structures.dice() == 1.0
    else:
        assert answer.structures is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2 * FARTHEST_MM])
def test_what_no_head_does_is_refused(fixed, value):
    class Mad(torch.nn.Module):
        def forward(self, pair: torch.Tensor) -> torch.Tensor:
            return torch.full_like(pair[:, :1], value).repeat(1, 3, 1, 1, 1)

    grid, _ = grid_round(fixed)
    registrar = Registrar(RegistrationNetwork(Mad()), shape=SHAPE, spacing_mm=SPACING)
    with pytest.raises(StageFailed, match="voxelmorph: expected displacements up to 60 mm"):
        network_velocity(fixed, fixed, Transform.identity(), grid, registrar)


class Hill(torch.nn.Module):
    """A smooth velocity, whatever it is shown."""

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in pair.shape[2:]], indexing="ij")
        hill = torch.exp(-4 * sum(axis**2 for axis in axes))
        return torch.stack([4 * hill, -3 * hill, 2 * hill])[None]


def test_what_hybrid_starts_from_is_what_the_network_alone_gives(fixed):
    network = RegistrationNetwork(Hill())
    grid, _ = grid_round(fixed)
    registrar = Registrar(network, shape=SHAPE, spacing_mm=SPACING)
    velocity = network_velocity(fixed, fixed, Transform.identity(), grid, registrar).velocity
    whole = network(torch.zeros(1, 2, *SHAPE))[0]
    torch.testing.assert_close(exponential(velocity), whole, atol=0.25, rtol=0)
    assert float(whole.abs().max()) > 3


def test_a_ct_is_shown_as_in_training(scene, fixed, recorder):
    grid, _ = grid_round(fixed)
    registrar = Registrar(RegistrationNetwork(recorder), shape=SHAPE, spacing_mm=SPACING)
    network_velocity(fixed, scene.picture("ct"), Transform.identity(), grid, registrar)
    ct = recorder.pair[0, 1]
    assert float(ct.min()) == 0.0
    assert 0.7 < float(ct.max()) <= 1.0


def test_the_network_s_grid_keeps_its_voxels_and_the_crown(scene, recorder):
    """How much of the neck a scan shows changes nothing."""
    registrar = Registrar(RegistrationNetwork(recorder), shape=(80, 96, 80), spacing_mm=(2.0, 2.4))
    found = []
    for height, middle in ((420, -110), (240, -20)):
        tall = scene.picture("t1", extent=(190, 240, height), centre=(0, 5, middle))
        grid, _ = grid_round(tall)
        found.append(network_grid(grid, registrar))
    for own in found:
        assert 2.0 <= own.spacing_mm <= 2.4
        top = own.corner_mm[2] + own.shape[2] * own.spacing_mm
        assert 88 < top < 104
    assert found[0].spacing_mm == found[1].spacing_mm


def test_the_bundle_s_grid_is_that_of_its_training():
    folder = find_bundle("head_mr_registration") / "configs"
    grid = json.loads((folder / "metadata.json").read_text())["grid"]
    parser = ConfigParser()
    parser.read_config(str(folder / "train.yaml"))
    assert parser["task"]["window"] == grid["shape"]
    assert parser["recipe"]["grid"]["spacing_mm"] == grid["spacing_mm"]
    assert all(n % 16 == 0 for n in grid["shape"])


def test_absent_weights_are_named(tmp_path, monkeypatch):
    folder = tmp_path / "head_mr_registration"
    shutil.copytree(find_bundle("head_mr_registration") / "configs", folder / "configs")
    monkeypatch.setattr("radloom.models.registration.learned.find_bundle", lambda name: folder)
    with pytest.raises(MissingWeights, match="<head_mr_registration> has no weights"):
        shipped_registrar(torch.device("cpu"))


def test_weights_of_a_bundle_are_loaded(tmp_path, monkeypatch):
    """The bundle's own configs and a state of random weights."""
    folder = tmp_path / "head_mr_registration"
    shutil.copytree(find_bundle("head_mr_registration") / "configs", folder / "configs")
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.yaml"))
    torch.manual_seed(0)
    state = parser.get_parsed_content("network_def").state_dict()
    (folder / "models").mkdir()
    torch.save(state, folder / "models" / "model.pt")
    monkeypatch.setattr("radloom.models.registration.learned.find_bundle", lambda name: folder)
    monkeypatch.setattr("radloom.models.bundles.is_shipped", lambda folder: True)
    registrar = shipped_registrar(torch.device("cpu"))
    assert shipped_registrar(torch.device("cpu")) is registrar
    loaded = registrar.network.state_dict()
    assert registrar.shape == (80, 96, 80)
    assert registrar.spacing_mm == (2.0, 2.4)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert not registrar.network.training
