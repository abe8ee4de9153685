"""Sheets show the patient as radiologists look."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from radloom.models.training.pictures import Picture, sheet, write_sheet


def test_left_is_on_the_right_and_front_is_up() -> None:
    volume = torch.zeros(20, 24, 28)
    volume[2, 21, 14] = 1.0  # left, in front, middle slice
    page = sheet([[Picture("x", volume)]])
    axial = page[14:38, :20, 0]
    assert [tuple(p) for p in np.argwhere(axial == 255)] == [(2, 17)]
    volume = torch.zeros(20, 24, 28)
    volume[10, 21, 25] = 1.0  # in front, above, middle plane
    sagittal = sheet([[Picture("x", volume)]])[14:42, 20:44, 0]
    assert [tuple(p) for p in np.argwhere(sagittal == 255)] == [(2, 2)]


def test_labels_get_colours_of_their_own_and_rows_may_differ(tmp_path) -> None:
    labels = torch.arange(36.0).reshape(36, 1, 1).expand(36, 8, 8)
    rows = [
        [Picture("a", labels, kind="labels"), Picture("b", labels, 0, 36)],
        [Picture("c", labels)],
    ]
    page = write_sheet(rows, tmp_path / "deep" / "sheet.png")
    assert len({tuple(colour) for colour in page[15, :36]}) == 36
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "deep" / "sheet.png")), page)
