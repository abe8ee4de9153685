from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy import ndimage

from radloom.errors import ConfigError, InputError
from radloom.transforms.synthesis import draws
from radloom.transforms.synthesis.fields import Grid, blur, smooth_noise, white_noise
from radloom.transforms.synthesis.parameters import from_plain, to_plain


def test_blur_is_a_gaussian_filter():
    volume = torch.rand((2, 20, 24, 28), generator=torch.Generator().manual_seed(0))
    blurred = blur(volume, (0.8, 0.0, 2.0)).numpy()
    for channel in range(2):
        expected = ndimage.gaussian_filter(
            volume[channel].numpy(), (0.8, 0, 2.0), mode="nearest", truncate=3.0
        )
        assert np.abs(blurred[channel] - expected).max() < 2e-3


def test_blur_by_nothing_is_the_volume():
    volume = torch.rand(1, 4, 5, 6)
    assert torch.equal(blur(volume, (0, 0, 0)), volume)


def test_smooth_noise_has_its_variance_and_its_scale():
    field_ = smooth_noise((80, 80, 80), (8, 8, 8), seed=1, channels=3)
    assert field_.shape == (3, 80, 80, 80)
    assert 0.85 < float(field_.std()) < 1.15
    step = (field_[:, 1:] - field_[:, :-1]).std()
    assert float(step) < 0.25
    assert torch.equal(field_, smooth_noise((80, 80, 80), (8, 8, 8), seed=1, channels=3))
    assert not torch.equal(field_, smooth_noise((80, 80, 80), (8, 8, 8), seed=2, channels=3))


def test_white_noise_is_the_seeds():
    noise = white_noise((50, 50, 50), 7)
    assert torch.equal(noise, white_noise((50, 50, 50), 7))
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def test_a_grid_lies_round_its_centre():
    grid = Grid((3, 5, 4), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    middle = (np.array(grid.shape) - 1) / 2
    assert np.allclose(grid.affine @ [*middle, 1], [10, 20, 30, 1])
    assert [float(a[1] - a[0]) for a in grid.axes()] == [1, 2, 3]
    with pytest.raises(InputError, match="positive size"):
        Grid((3, 0, 4))


def test_draws_keep_their_ranges():
    generator = torch.Generator().manual_seed(0)
    values = [draws.uniform(generator, (2, 3)) for _ in range(400)]
    assert 2 <= min(values) < 2.05 < 2.95 < max(values) <= 3
    logs = [draws.log_uniform(generator, (0.01, 1)) for _ in range(400)]
    assert abs(np.mean(np.log10(logs)) + 1) < 0.1
    normals = [draws.normal(generator, 2.0, limit=1.0) for _ in range(400)]
    assert max(map(abs, normals)) == 2.0
    assert 0.2 < np.mean([draws.chance(generator, 0.3) for _ in range(400)]) < 0.4
    assert {draws.choose(generator, "abc") for _ in range(50)} == set("abc")
    assert math.log2(max(draws.seed(generator) for _ in range(50))) > 50


@dataclass(frozen=True)
class Inner:
    span: draws.Range = (0.0, 1.0)
    n: int = 3


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    maybe: Inner | None = None


def test_parameters_survive_plain_values():
    import json

    outer = Outer("x", Inner((0.25, 2.0), 4), (Inner(n=1), Inner(n=2)), Inner())
    assert from_plain(Outer, json.loads(json.dumps(to_plain(outer)))) == outer
    assert from_plain(Outer, {"name": "y"}) == Outer("y")


def test_unknown_and_missing_keys_are_errors():
    with pytest.raises(ConfigError, match=r"Inner: expected keys of n, span, got spam"):
        from_plain(Outer, {"name": "y", "inner": {"spam": 1}})
    with pytest.raises(ConfigError, match=r"Outer.*name"):
        from_plain(Outer, {})
    with pytest.raises(ConfigError, match="expected 2 values, got 3"):
        from_plain(Outer, {"name": "y", "inner": {"span": [1, 2, 3]}})
