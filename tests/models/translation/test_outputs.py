"""From MR to what the network takes, and from its answer to HU, shares and expected error."""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.data import MetaTensor

from radloom.models.translation.intensity import NormalisedMRd, normalised_mr
from radloom.models.translation.network import MISSING
from radloom.models.translation.outputs import PartedCTd, in_physical_units
from radloom.models.translation.tissues import classes_of_hu


def test_each_contrast_has_its_own_scale_and_missing_ones_none() -> None:
    random = torch.Generator().manual_seed(0)
    image = (
        torch.rand((3, 20, 20, 20), generator=random)
        * torch.tensor([1.0, 700.0, 0.0])[:, None, None, None]
    )
    image[2] = MISSING
    found = normalised_mr(image)
    tops = [float(torch.quantile(channel, 0.99)) for channel in found[:2]]
    np.testing.assert_allclose(tops, 1.0, rtol=1e-3)
    assert torch.equal(found[2], image[2])
    assert not normalised_mr(torch.zeros(1, 2, 2, 2)).any()
    given = MetaTensor(image, affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    result = NormalisedMRd("image")({"image": given})["image"]
    assert torch.equal(result.as_tensor(), found)
    assert torch.equal(result.affine, given.affine)
    assert torch.equal(given.as_tensor(), image)


def test_the_answer_in_physical_units() -> None:
    answer = torch.zeros(5, 1, 1, 2)
    answer[0, 0, 0] = torch.tensor([-5000.0, 31.4])
    answer[2, 0, 0, 1] = 3.0
    answer[4] = math.log(20.0)
    found = in_physical_units(answer, temperature=1.5)
    assert found[0, 0, 0].tolist() == [-1024.0, 31.399999618530273]
    torch.testing.assert_close(found[1:4].sum(0), torch.ones(1, 1, 2))
    torch.testing.assert_close(found[4], torch.full((1, 1, 2), 30.0))
    parts = PartedCTd("pred")({"pred": MetaTensor(found)})
    assert parts["pseudoct"].flatten().tolist() == [-1024.0, 31.0]
    assert parts["classes"].flatten().tolist() == [0.0, 1.0]
    assert parts["uncertainty"].shape == (1, 1, 1, 2)


def test_tissues_by_their_hu() -> None:
    hu = np.array([[-1024, -401], [-400, 249], [250, 3071]], np.float32)
    assert classes_of_hu(hu).tolist() == [[0, 0], [1, 1], [2, 2]]
