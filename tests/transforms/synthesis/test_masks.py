from __future__ import annotations

import torch
from scipy import ndimage

from radloom.transforms.synthesis.anatomy import RIGHT
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.masks import enclosed, grown, is_any, near
from radloom.transforms.synthesis.tissues import Code


def random_mask(share: float = 0.02) -> torch.Tensor:
    return torch.rand((31, 26, 33), generator=torch.Generator().manual_seed(0)) < share


def test_growth_is_dilation():
    mask = random_mask()
    for cube, neighbours in ((False, 1), (True, 3)):
        element = ndimage.generate_binary_structure(3, neighbours)
        expected = ndimage.binary_dilation(mask.numpy(), element)
        assert torch.equal(grown(mask, cube=cube), torch.from_numpy(expected))


def test_codes_are_found_on_both_sides():
    structures = torch.arange(2 * RIGHT, dtype=torch.uint8).reshape(1, 2, RIGHT)
    found = is_any(structures, (Code.WHITE, Code.SKIN, Code.CORTEX, Code.CSF))
    assert structures[found].tolist() == [1, 18, 19, 20, 65, 82, 83, 84]


def test_near_holds_what_is_near_and_not_what_is_far():
    mask = torch.zeros((60, 61, 62), dtype=torch.bool)
    mask[30:32, 30:32, 30:32] = True
    distance = torch.from_numpy(ndimage.distance_transform_edt(~mask.numpy()))
    for spacing in (1.0, 2.0):
        wide = near(mask, 8.0, Grid((60, 61, 62), (spacing,) * 3))
        assert wide[distance * spacing <= 8].all()
        assert not wide[distance * spacing > 8 * 1.8 + 4 * spacing * 1.8].any()


def test_enclosed_air_has_head_around_and_above():
    air = torch.ones((20, 20, 20), dtype=torch.bool)
    air[5:15, 5:15, 5:15] = False
    air[8:12, 8:12, :12] = True
    inside = enclosed(air)
    assert inside[9, 9, 11]
    assert inside[8:12, 8:12, 5:12].all()
    assert int(inside.sum()) == 4 * 4 * 7
