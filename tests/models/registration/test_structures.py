"""What a segmentation network sees: in numbers that it knows, on any shape, and compared right."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from radloom.errors import MissingWeights
from radloom.models.bundles import find_bundle
from radloom.models.registration.deformable import deform, segmenter_for
from radloom.models.registration.instance import FAST, FULL, TRUSTED_AGREEMENT
from radloom.models.registration.learned import Registrar
from radloom.models.registration.network import RegistrationNetwork
from radloom.models.registration.structures import (
    BUNDLE,
    SPACING_MM,
    Segmenter,
    Structures,
    shipped_segmenter,
)
from radloom.models.segmentation.refinement import Refinement
from radloom.models.segmentation.sides import Sides
from radloom.threads import torch_settings
from radloom.transforms.spatial import Transform

STILL = Transform.identity()


class Bright(torch.nn.Module):
    """Two classes: darker and brighter than the mean; keeps what it was shown."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.batch = batch
        return torch.cat([-4 * batch, 4 * batch], dim=1)


def test_any_shape_is_seen_scaled_and_padded_to_what_the_network_takes():
    network = Bright()
    image = 300 + 40 * torch.randn((20, 33, 16), generator=torch.Generator().manual_seed(0))
    shares = Segmenter(network).shares(image)
    assert network.batch.shape == (1, 1, 32, 48, 16)
    assert shares.shape == (2, 20, 33, 16)
    shown = network.batch[0, 0, :20, :33, :16]
    assert float(shown.mean()) == pytest.approx(0, abs=1e-4)
    assert float(shown.std()) == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(image.shape))
    assert torch.equal(shares[1] > 0.5, image > image.double().mean())


def test_the_likeliest_class_of_each_voxel():
    image = torch.rand((8, 9, 10), generator=torch.Generator().manual_seed(0))
    classes = Segmenter(Bright()).classes(image)
    assert classes.dtype == torch.uint8
    assert torch.equal(classes == 1, image > image.double().mean())


def test_shares_of_classes_in_blocks():
    fixed = torch.zeros(4, 4, 4, dtype=torch.uint8)
    fixed[:3] = 2
    seen = Structures.of((fixed, fixed.flip(0)), 3, 2)
    assert seen.fixed.shape == (3, 2, 2, 2)
    assert seen.fixed[2].unique().tolist() == [0.5, 1.0]
    assert torch.equal(seen.moving, seen.fixed.flip(1))
    assert not seen.fixed[1].any()


def test_both_heads_are_seen_on_blocks_of_the_network_s_spacing():
    view = torch.arange(32.0**3).reshape(32, 32, 32)
    seen = Segmenter(Bright()).see(view, -view, 1.0)
    assert seen.block == 2
    assert seen.fixed.shape == (2, 16, 16, 16)
    torch.testing.assert_close(seen.fixed[1], seen.moving[0])
    coarse, _ = seen.on_blocks(4)
    assert coarse.shape == (2, 8, 8, 8)
    assert float(coarse[0, 0, 0, 0]) == pytest.approx(float(seen.fixed[0, :2, :2, :2].mean()))
    assert Segmenter(Bright()).see(view, view, 2.0).block == 1


def test_refined_structures_have_the_borders_of_the_fine_image():
    """A wavy border in voxels of 1 mm: the shares of each block, which the network does not see."""
    i, j, k = torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij")
    bright = (i + 2 * torch.sin(j / 1.5) + torch.sin(k / 1.2) < 15.5).float()
    view = bright + 0.05 * torch.randn(bright.shape, generator=torch.Generator().manual_seed(0))
    true = torch.nn.functional.avg_pool3d(bright[None], 2)[0]
    how = Refinement(tissues=((0,), (1,)))
    plain, refined = (
        Segmenter(Bright(), refinement=one).see(view, view, 1.0).fixed for one in (None, how)
    )
    assert refined.shape == plain.shape == (2, 16, 16, 16)
    assert float((refined[1] - true).abs().mean()) < 0.002
    assert float((plain[1] - true).abs().mean()) > 0.01
    torch.testing.assert_close(refined.sum(dim=0), torch.ones(true.shape))


def test_dice_is_that_of_the_largest_shares_through_the_map():
    cube, shifted = (torch.zeros(2, 16, 16, 16) for _ in range(2))
    cube[1, 4:8, 4:12, 4:12] = 1
    shifted[1, 6:10, 4:12, 4:12] = 1
    cube[0], shifted[0] = 1 - cube[1], 1 - shifted[1]
    seen = Structures(cube, shifted, 1)
    assert seen.dice() == pytest.approx(0.5)
    ddf = torch.zeros(3, 16, 16, 16)
    ddf[0] = 2
    assert seen.dice(ddf) == pytest.approx(1.0)


class Told(Segmenter):
    """Sees a ball in the middle of the fixed head, and in the moving one `shift` voxels on."""

    shift = 3

    def see(self, fixed, moving, spacing_mm):
        return Structures(_ball(fixed.shape, 0), _ball(moving.shape, self.shift), 1)


def _ball(shape: torch.Size, shift: int) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(n) - n / 2 for n in shape], indexing="ij")
    distance = ((axes[0] - shift) ** 2 + axes[1] ** 2 + axes[2] ** 2).sqrt()
    share = torch.sigmoid(9 - distance)
    return torch.stack([1 - share, share])


def test_structures_lead_where_the_images_say_nothing(scene, fixed):
    """The images alone say that nothing moved."""
    found = deform(fixed, scene.picture("t1", seed=5), STILL, segmenter=Told(Bright()), fast=True)
    assert found.structures_before < 0.85
    assert found.structures_after > found.structures_before + 0.05
    assert found.moving_from_fixed.displacement_mm[0].max() > 1.5
    assert found.moving_from_fixed.folded_share() == 0


class Steady(torch.nn.Module):
    """Half a voxel along R, at each look and wherever."""

    def forward(self, told: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.5, 0, 0]).reshape(1, 3, 1, 1, 1).expand(1, 3, *told.shape[2:])


@pytest.mark.parametrize("shift_mm", [0.0, 8.0])
def test_the_network_alone_is_judged_by_the_structures_that_it_was_told(scene, fixed, shift_mm):
    """Its map goes 8 mm along R: right where the head lies there, wrong where it did not move."""
    network = RegistrationNetwork(Steady(), fold=2, n_classes=2, n_passes=2)
    registrar = Registrar(network, shape=(48, 64, 48), spacing_mm=(4.0, 4.0))
    moving = scene.picture("t1", moved=scene.move((0, 0, 0), (shift_mm, 0, 0)), seed=5)
    found = deform(
        fixed,
        moving,
        STILL,
        method="voxelmorph",
        registrar=registrar,
        segmenter=Segmenter(Bright()),
        fast=True,
    )
    middle = found.moving_from_fixed.apply([[0, 0, 0]])
    np.testing.assert_allclose(middle, [[8, 0, 0]], atol=0.1)
    gain = found.structures_after - found.structures_before
    assert (gain > 0.05) == (shift_mm > 0)
    assert abs(gain) > 0.05


def test_fine_structures_are_followed_where_coarse_ones_agree():
    assert FULL.after_first(None) == FULL.levels[1:]
    assert FULL.after_first(TRUSTED_AGREEMENT - 0.01) == FULL.guided[1:]
    assert FULL.after_first(TRUSTED_AGREEMENT) == FULL.trusted
    assert FAST.after_first(1.0) == FAST.guided[1:] == ()


def test_structures_that_do_not_agree_are_not_followed(scene, fixed):
    """A network that sees the ball elsewhere altogether: the images alone decide."""

    class Lost(Told):
        shift = 30

    moving = scene.picture("t1", seed=5)
    found = deform(fixed, moving, STILL, segmenter=Lost(Bright()), fast=True)
    alone = deform(fixed, moving, STILL, fast=True)
    assert found.structures_before is None
    assert np.array_equal(
        found.moving_from_fixed.displacement_mm, alone.moving_from_fixed.displacement_mm
    )


@pytest.fixture
def own_bundle(tmp_path, monkeypatch):
    """Radloom's bundle, without weights."""
    folder = tmp_path / BUNDLE
    shutil.copytree(find_bundle(BUNDLE) / "configs", folder / "configs")
    monkeypatch.setattr("radloom.models.registration.structures.find_bundle", lambda name: folder)
    return folder


def test_absent_weights_leave_the_images_alone(own_bundle, fixed):
    with pytest.raises(MissingWeights, match="has no weights"):
        shipped_segmenter(torch.device("cpu"))
    assert segmenter_for(fixed, fixed, torch.device("cpu")) is None


def test_the_bundle_s_network_sees_pairs_of_mr(own_bundle, scene, fixed):
    parser = ConfigParser()
    parser.read_config(str(own_bundle / "configs" / "inference.yaml"))
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    (own_bundle / "models").mkdir()
    torch.save(network.half().state_dict(), own_bundle / "models" / "model.pt")
    cpu = torch.device("cpu")
    segmenter = segmenter_for(fixed, fixed, cpu)
    assert segmenter is shipped_segmenter(cpu)
    assert segmenter.refinement is not None
    assert segmenter.shares(torch.rand(16, 16, 20)).shape == (37, 16, 16, 20)
    assert segmenter_for(fixed, scene.picture("ct"), cpu) is None


def test_the_number_of_threads_changes_no_bit(own_bundle):
    parser = ConfigParser()
    parser.read_config(str(own_bundle / "configs" / "inference.yaml"))
    torch.manual_seed(0)
    segmenter = Segmenter(parser.get_parsed_content("network_def").eval())
    image = torch.rand((48, 48, 32), generator=torch.Generator().manual_seed(1))
    seen = []
    for n_threads in (1, 2, 3):
        with torch_settings(n_threads):
            seen.append(segmenter.shares(image))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_the_spacing_is_that_of_the_bundle_s_plans():
    plans = json.loads((find_bundle(BUNDLE) / "configs" / "plans.json").read_text())
    (configuration,) = plans["configurations"].values()
    assert configuration["spacing"] == [SPACING_MM] * 3


def test_both_sides_of_a_head_are_asked_where_the_bundle_says_which_they_are():
    """A network that sees more on one side: with its mirror image both sides are seen alike."""

    class Slanted(torch.nn.Module):
        def forward(self, batch):
            slope = torch.linspace(0, 1, batch.shape[2]).view(-1, 1, 1)
            return torch.cat([batch, batch + slope, batch - slope], dim=1)

    view = torch.randn((16, 16, 16), generator=torch.Generator().manual_seed(0))
    asked = Segmenter(Slanted(), sides=Sides(0, (0, 2, 1)))
    found, mirrored = asked.scores(view), asked.scores(view.flip(0))
    torch.testing.assert_close(mirrored.flip(1)[[0, 2, 1]], found)
    plain = Segmenter(Slanted())
    assert not torch.allclose(plain.scores(view.flip(0)).flip(1)[[0, 2, 1]], plain.scores(view))
