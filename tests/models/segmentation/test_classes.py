"""The masks that other stages take from one result."""

from __future__ import annotations

import numpy as np
import pytest

from radloom.models.segmentation.classes import CLASSES, MASKS, mask_of

VALUES = np.array([item.label for item in CLASSES])


def test_masks_of_a_head_part_it_and_leave_soft_tissue_and_air():
    masks = {name: mask_of(VALUES, name) for name in MASKS}
    parts = sum(masks[name].astype(int) for name in ("intracranial", "skull", "skin", "eye"))
    assert parts.max() == 1
    rest = [CLASSES[n].name for n in np.flatnonzero(parts == 0)]
    assert rest == ["background", "muscle and other soft tissue"]
    assert [CLASSES[n].name for n in np.flatnonzero(~masks["head"])] == ["background"]
    assert masks["intracranial"].sum() == 32


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_numbers_that_no_class_has_are_part_of_nothing(dtype):
    labels = np.array([[1, 41], [255, 6]], dtype)
    assert mask_of(labels, "head").tolist() == [[False, True], [False, False]]
