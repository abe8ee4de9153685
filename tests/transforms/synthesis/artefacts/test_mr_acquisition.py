from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import torch

from radloom.errors import InputError
from radloom.transforms.synthesis.artefacts import (
    MRAcquisitionParameters,
    MRAcquisitionRecipe,
    acquire_mr,
    draw_mr_acquisition,
)
from radloom.transforms.synthesis.artefacts.bias import BiasRecipe
from radloom.transforms.synthesis.artefacts.noise import NoiseParameters, NoiseRecipe
from radloom.transforms.synthesis.artefacts.slices import SliceParameters
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.parameters import from_plain, to_plain

GRID = Grid((60, 64, 56), (2.0, 2.0, 2.0))
ALWAYS = MRAcquisitionRecipe(nearly_clean=0)


def drawn(seed: int, recipe: MRAcquisitionRecipe = ALWAYS) -> MRAcquisitionParameters:
    return draw_mr_acquisition(torch.Generator().manual_seed(seed), recipe, GRID)


def effects(parameters: MRAcquisitionParameters) -> set[str]:
    """Names of the effects that are on, without shading and noise."""
    on = set()
    for item in fields(parameters):
        value = getattr(parameters, item.name)
        if value not in (None, (), (None, None, None)):
            on.add(item.name)
    return on - {"phase_axis", "bias", "noise"}


def test_no_effect_is_no_change(balls):
    seen = acquire_mr(balls.signal, balls.structures, balls.grid, MRAcquisitionParameters())
    assert torch.equal(seen.image, balls.signal)
    assert torch.equal(seen.clean, balls.signal)
    assert not seen.sigma.any()


@pytest.mark.parametrize("seed", range(25))
def test_the_clean_picture_lacks_only_the_noise(balls, seed):
    parameters = drawn(seed)
    noisy = acquire_mr(balls.signal, balls.structures, balls.grid, parameters)
    quiet = acquire_mr(balls.signal, balls.structures, balls.grid, replace(parameters, noise=None))
    assert torch.equal(quiet.image, quiet.clean)
    assert torch.equal(noisy.clean, quiet.clean)
    for volume in (noisy.image, noisy.clean, noisy.sigma):
        assert volume.shape == (1, *GRID.shape)
        assert volume.dtype == torch.float32
        assert volume.isfinite().all()
        assert float(volume.min()) >= 0


@pytest.mark.parametrize("seed", range(25))
def test_parameters_survive_json_and_give_the_same_bytes(balls, seed):
    parameters = drawn(seed)
    again = from_plain(MRAcquisitionParameters, json.loads(json.dumps(to_plain(parameters))))
    assert again == parameters
    one, other = (
        acquire_mr(balls.signal, balls.structures, balls.grid, p) for p in (parameters, again)
    )
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.sigma, other.sigma)


def test_what_went_in_is_left_as_it_was(balls):
    before = balls.signal.clone()
    for seed in range(10):
        acquire_mr(balls.signal, balls.structures, balls.grid, drawn(seed))
    assert torch.equal(balls.signal, before)


def test_the_deviation_is_that_of_the_picture_where_signal_is_strong():
    signal = torch.full((1, *GRID.shape), 1.0)
    structures = torch.ones(GRID.shape, dtype=torch.uint8)
    for slices in (None, SliceParameters(2, 5.0, 6.0)):
        parameters = MRAcquisitionParameters(
            noise=NoiseParameters(0.03, 1, g_maximum=3.0, g_seed=2), slices=slices
        )
        seen = acquire_mr(signal, structures, GRID, parameters)
        z_score = (seen.image - seen.clean) / seen.sigma
        assert float(z_score.std()) == pytest.approx(1, abs=0.03)
        assert float(seen.sigma.mean()) == pytest.approx(0.03, rel=0.3)


def test_a_third_is_nearly_clean_and_the_rest_has_a_few_effects():
    numbers = [len(effects(drawn(seed, MRAcquisitionRecipe()))) for seed in range(600)]
    none = sum(n == 0 for n in numbers) / 600
    assert 0.33 <= none < 0.55
    assert sum(n <= 4 for n in numbers) / 600 > 0.95
    assert max(numbers) >= 4


def test_nearly_clean_pictures_have_weak_noise():
    for seed in range(50):
        parameters = drawn(seed, MRAcquisitionRecipe(nearly_clean=1))
        assert not effects(parameters)
        assert parameters.noise is None or parameters.noise.level <= 0.02


def test_everything_can_be_off():
    recipe = MRAcquisitionRecipe(nearly_clean=1, bias=BiasRecipe(0), noise=NoiseRecipe(0))
    assert all(drawn(seed, recipe) == MRAcquisitionParameters() for seed in range(20))


def test_lines_are_never_read_along_the_slices():
    for seed in range(200):
        parameters = drawn(seed)
        assert parameters.slices is None or parameters.slices.axis != parameters.phase_axis


def test_a_signal_off_the_grid_is_refused(balls):
    with pytest.raises(InputError, match=r"on a grid \(60, 64, 56\)"):
        acquire_mr(balls.signal[:, 1:], balls.structures, balls.grid, MRAcquisitionParameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("seed", range(20))
def test_a_gpu_gives_the_same_clean_picture(balls, seed):
    here = acquire_mr(balls.signal, balls.structures, balls.grid, drawn(seed))
    there = acquire_mr(balls.signal.cuda(), balls.structures.cuda(), balls.grid, drawn(seed))
    different = (here.clean - there.clean.cpu()).abs() > 1e-3
    assert float(different.float().mean()) < 1e-3
    torch.testing.assert_close(here.sigma, there.sigma.cpu(), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_whole_head_at_1_mm_in_twenty_draws():
    grid = Grid((192, 192, 192))
    x, y, z = torch.meshgrid(*grid.axes(), indexing="ij")
    radius = torch.sqrt((x / 0.8) ** 2 + y**2 + (z / 0.9) ** 2)
    structures = (20 * (radius < 80)).to(torch.uint8)
    signal = (radius < 80).float()[None]
    with torch.inference_mode():
        for seed in range(20):
            parameters = draw_mr_acquisition(
                torch.Generator().manual_seed(seed), MRAcquisitionRecipe(), grid
            )
            seen = acquire_mr(signal, structures, grid, parameters)
            assert seen.image.isfinite().all()
            if parameters.noise is None:
                assert torch.equal(seen.image, seen.clean)
