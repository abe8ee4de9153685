"""Where an image holds nothing: what masks leave outside, no dark bone, no air with noise."""

import numpy as np
import pytest
from scipy import ndimage

from radloom.models.segmentation.blank import blank

SPACING = (1.0, 1.2, 3.0)


@pytest.fixture
def head() -> np.ndarray:
    """A ball of noise about 100 in zeros, (I, J, K)."""
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in (60, 50, 24)], indexing="ij")
    noise = np.random.default_rng(0).normal(100, 10, i.shape)
    return np.where(i**2 + j**2 + k**2 < 0.6, noise, 0).astype(np.float32)


@pytest.mark.parametrize("value", [0.0, -3.5, 1000.0])
def test_what_lies_outside_a_mask_is_blank_whatever_its_value(head, value) -> None:
    outside = head == 0
    head[outside] = value
    found = blank(head, SPACING)
    assert not (found & ~outside).any()
    assert (found & outside).sum() > 0.99 * outside.sum()


def test_a_hole_within_the_head_is_not(head) -> None:
    head[26:34, 20:30, 10:14] = 0
    found = blank(head, SPACING)
    assert not found[26:34, 20:30, 10:14].any()


def test_a_thin_dark_sheet_that_reaches_the_border_is_not(head) -> None:
    """Bone without signal, cut off by the lower edge of the field of view."""
    head[:, :, 0] = head[:, :, 1] = np.maximum(head[:, :, 12], 1)
    solid = head > 0
    shell = solid & ~ndimage.binary_erosion(solid, iterations=2)
    inner = ndimage.binary_erosion(solid, iterations=2)
    bone = inner & ~ndimage.binary_erosion(inner, iterations=2)
    head[bone] = 0
    head[shell] = 100
    found = blank(head, SPACING)
    assert found is None or not found[bone].any()


def test_air_with_noise_and_images_without_a_border_of_one_value_have_none(head) -> None:
    air = head + np.abs(np.random.default_rng(1).normal(0, 3, head.shape)).astype(np.float32)
    assert blank(air, SPACING) is None
    assert blank(head[20:40, 15:35, 8:16], SPACING) is None


@pytest.mark.parametrize("shape", [(1, 40, 40), (2, 2, 2), (3, 30, 5)])
def test_any_shape_will_do_and_of_an_image_of_one_value_no_part_is_blank(shape) -> None:
    image = np.zeros(shape, np.int16)
    assert blank(image, (1, 1, 1)) is None
    image[0, 0, 0] = 7
    found = blank(image, (1, 1, 1))
    assert found is None or not found[0, 0, 0]
