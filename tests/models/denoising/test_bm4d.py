"""BM4D is the user's own install: found where it is, asked for where it is not."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from radloom.errors import ConfigError
from radloom.models.denoising.bm4d import block_matching


def test_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm4d", None)
    with pytest.raises(ConfigError, match="pip install bm4d"):
        block_matching(np.ones((4, 4, 4)), 1.0)


def test_works_in_units_of_the_noise_and_takes_the_bias_off(monkeypatch):
    seen = {}

    def bm4d(image, sigma):
        seen.update(largest=float(image.max()), sigma=sigma)
        return image

    monkeypatch.setitem(sys.modules, "bm4d", types.SimpleNamespace(bm4d=bm4d))
    image = np.full((4, 4, 4), 500.0, np.float32)
    clean = block_matching(image, 50.0, rician=True)
    assert seen == {"largest": pytest.approx(10.0), "sigma": 1.0}
    assert clean.dtype == np.float32
    np.testing.assert_allclose(clean, np.sqrt(500.0**2 - 50.0**2), rtol=1e-4)
    np.testing.assert_allclose(block_matching(image, 50.0), 500.0, rtol=1e-5)
