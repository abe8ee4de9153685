"""Every displacement of a cube is tried."""

from __future__ import annotations

import pytest
import torch

from radloom.models.registration.descriptors import box_mean
from radloom.models.registration.search import search


@pytest.mark.parametrize("shift", [(0, 0, 0), (4, -2, 2), (-4, 4, 0)])
def test_a_shift_far_beyond_the_structures_is_found(shift):
    generator = torch.Generator().manual_seed(0)
    fixed = box_mean(torch.randn((2, 24, 24, 24), generator=generator), 1)
    moving = torch.roll(fixed, shift, (1, 2, 3))
    found = search(fixed, moving, torch.ones(24, 24, 24), reach=4)
    assert found.shape == (3, 12, 12, 12)
    middle = found[:, 4:-4, 4:-4, 4:-4].mean(dim=(1, 2, 3))
    torch.testing.assert_close(middle, torch.tensor(shift) / 2.0, atol=0.2, rtol=0)
