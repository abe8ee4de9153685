"""Only the head goes to the network; round it lies air, whatever the grid."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Spacingd

from radloom.models.translation.head_box import MARGIN_MM, HeadBoxd, head_box
from radloom.models.translation.network import MISSING
from radloom.models.translation.outputs import AirBeyondd


def head(shape=(60, 80, 50), spacing=(4.0, 3.0, 4.0)) -> MetaTensor:
    """An ellipsoid of 80, 90, 60 mm radius about (100, 110, 90) mm in noise, stored L-P-S."""
    axes = [torch.arange(n) * s for n, s in zip(shape, spacing, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    inside = ((x - 100) / 80) ** 2 + ((y - 110) / 90) ** 2 + ((z - 90) / 60) ** 2 < 1
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    affine = torch.diag(torch.tensor([-spacing[0], -spacing[1], spacing[2], 1.0])).double()
    return MetaTensor((inside * (10 + 90 * noise.flip(0)) + 10 * noise)[None], affine=affine)


def test_the_box_holds_the_head_and_its_margin() -> None:
    image = head()
    both = torch.cat([torch.full(image.shape, MISSING), image.as_tensor()])
    for given in (image, MetaTensor(both, affine=image.affine)):
        index = head_box(given)[0].nonzero().double()
        spacing = torch.tensor([4.0, 3.0, 4.0]).double()
        low, high = (index.min(0).values * spacing, index.max(0).values * spacing)
        expected = np.array([[20, 20, 30], [180, 200, 150]]) + MARGIN_MM * np.array([[-1], [1]])
        np.testing.assert_allclose(np.array([low.numpy(), high.numpy()]), expected, atol=6.0)
    assert head_box(torch.zeros_like(image)).all()


def test_beyond_the_box_is_air_after_the_inverse() -> None:
    image = head()
    forward = Compose(
        [
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(2.0, 2.0, 2.0), mode="bilinear"),
            HeadBoxd("image"),
        ]
    )
    data = forward({"image": image})
    cut = data["image"]
    assert cut[0].numel() < 0.7 * 120 * 120 * 100
    pred = torch.zeros((5, *cut.shape[1:]))
    pred[0], pred[2], pred[4] = 40.0, 1.0, 25.0
    data["pred"] = MetaTensor(pred, affine=cut.affine)
    data = Invertd("pred", forward, "image", nearest_interp=False)(data)
    found = AirBeyondd("pred")(data)["pred"]
    assert found.shape == (5, *image.shape[1:])
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-6)
    inside = image[0] > 20
    hu, shares = found.as_tensor()[0], found.as_tensor()[1:4]
    np.testing.assert_allclose(hu[inside], 40.0, atol=1e-3)
    np.testing.assert_allclose(shares.sum(0), 1.0, atol=1e-5)
    np.testing.assert_allclose(hu, 40 * shares[1] - 1000 * shares[0], atol=1e-2)
    assert float((hu == -1000).float().mean()) > 0.3
    assert float(found.as_tensor()[4][hu == -1000].max()) < 1e-2
