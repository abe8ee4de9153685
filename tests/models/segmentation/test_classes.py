"""The masks that other stages take from one result."""

from __future__ import annotations

import numpy as np

from radloom.models.segmentation.classes import CLASSES, MASKS, mask_of


def test_masks_of_a_head_part_it_and_leave_soft_tissue_and_air():
    every = np.arange(len(CLASSES))
    masks = {name: mask_of(every, name) for name in MASKS}
    parts = sum(masks[name].astype(int) for name in ("intracranial", "skull", "skin", "eye"))
    assert parts.max() == 1
    rest = [CLASSES[n].name for n in np.flatnonzero(parts == 0)]
    assert rest == ["background", "muscle and other soft tissue"]
    assert [CLASSES[n].name for n in np.flatnonzero(~masks["head"])] == ["background"]
    assert masks["intracranial"].sum() == 32
