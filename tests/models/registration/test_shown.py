"""What the bundle shows its network, and the axes of what it answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd

from radloom.errors import MissingWeights
from radloom.models.registration.shown import AlongOwnAxes, WithStructures
from radloom.models.registration.structures import Segmenter


class Bright(torch.nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([-batch, batch], dim=1)


def test_structures_stand_behind_the_images(monkeypatch) -> None:
    monkeypatch.setattr(
        "radloom.models.registration.shown.shipped_segmenter", lambda device: Segmenter(Bright())
    )
    images = torch.rand((2, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    shown = WithStructures()({"image": MetaTensor(images)})
    assert isinstance(shown["image"], MetaTensor)
    assert torch.equal(shown["image"][:2].as_tensor(), images)
    means = images.double().mean(dim=(1, 2, 3), keepdim=True)
    assert torch.equal(shown["image"][2:].as_tensor() > 0, images > means)


def test_without_weights_no_structures_are_seen(monkeypatch) -> None:
    def absent(device: torch.device) -> None:
        raise MissingWeights("none")

    monkeypatch.setattr("radloom.models.registration.shown.shipped_segmenter", absent)
    shown = WithStructures()({"image": MetaTensor(torch.rand(2, 8, 8, 8))})["image"]
    assert shown.shape == (4, 8, 8, 8)
    assert not shown[2:].any()


@pytest.mark.parametrize("codes", ["LPS", "SRA", "RAS", "PIL"])
def test_a_displacement_is_along_the_axes_of_the_file(codes) -> None:
    """What moves by 1, 2, 3 voxels along R, A, S does so in the world, whatever the file's axes."""
    axes = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, code in enumerate(codes):
        row, sign = axes[code]
        affine[row, column] = 2.0 * sign
    before = Compose([Orientationd(keys="image", axcodes="RAS", labels=None)])
    data = before({"image": MetaTensor(torch.rand(2, 4, 5, 6), affine=torch.from_numpy(affine))})
    ras = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1)
    shape = data["image"].shape[1:]
    data["pred"] = MetaTensor(ras.expand(3, *shape).clone(), affine=data["image"].affine)
    after = Compose([
        Invertd(keys="pred", transform=before, orig_keys="image", nearest_interp=False),
        AlongOwnAxes(),
    ])  # fmt: skip
    pred = after(data)["pred"]
    assert pred.shape == (3, 4, 5, 6)
    np.testing.assert_allclose(pred.affine, affine)
    moved = affine[:3, :3] @ pred[:, 1, 2, 3].numpy()
    np.testing.assert_allclose(moved, [2.0, 4.0, 6.0], atol=1e-5)
