import numpy as np
import pytest

from radloom.errors import InputError
from radloom.transforms.denoising.tv import total_variation


@pytest.fixture
def noisy():
    image = np.zeros((20, 16, 12), np.float32)
    image[5:15, 4:12, 3:] = 100
    return image + np.random.default_rng(0).normal(0, 5, image.shape).astype(np.float32)


def test_removes_noise_keeps_units_and_input(noisy):
    before = noisy.copy()
    clean = total_variation(noisy, 5.0)
    assert clean.dtype == np.float32
    assert clean[7:13, 6:10, 6:].std() < 0.5 * noisy[7:13, 6:10, 6:].std()
    assert clean[7:13, 6:10, 6:].mean() == pytest.approx(100, abs=3)
    assert np.array_equal(noisy, before)


@pytest.mark.parametrize("thick", [0, 1, 2])
def test_thick_slices_do_not_mix(noisy, thick):
    spacing = [1.0, 1.0, 1.0]
    spacing[thick] = 4.0
    changed = np.array(noisy)
    np.moveaxis(changed, thick, 0)[3] += 50
    one, other = (
        np.moveaxis(total_variation(v, 5.0, spacing=spacing), thick, 0) for v in (noisy, changed)
    )
    assert np.array_equal(np.delete(one, 3, 0), np.delete(other, 3, 0))
    assert not np.array_equal(one[3], other[3])


def test_scales_with_the_unit(noisy):
    one, hundred = total_variation(noisy, 5.0), total_variation(noisy * 100, 500.0)
    np.testing.assert_allclose(hundred, one * 100, rtol=1e-3, atol=5)


def test_takes_off_the_rician_bias():
    rng = np.random.default_rng(1)
    magnitude = np.hypot(rng.normal(20, 10, (24, 24, 24)), rng.normal(0, 10, (24, 24, 24)))
    assert total_variation(magnitude, 10.0, rician=True).mean() == pytest.approx(20, abs=1.5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 3), (1, 8, 8), (0, 4, 4)])
def test_tiny_images(shape):
    image = np.full(shape, 7.0, np.float32)
    assert np.allclose(total_variation(image, 1.0), image)


def test_refuses_what_is_not_3d_or_no_level(noisy):
    with pytest.raises(InputError, match=r"\(I, J, K\)"):
        total_variation(noisy[0], 1.0)
    with pytest.raises(InputError, match="finite noise level"):
        total_variation(noisy, float("inf"))
