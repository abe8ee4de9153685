from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from radloom.errors import InputError
from radloom.transforms.synthesis.artefacts import (
    CTAcquisitionParameters,
    CTAcquisitionRecipe,
    acquire_ct,
    draw_ct_acquisition,
)
from radloom.transforms.synthesis.artefacts.beam_hardening import BeamHardeningRecipe
from radloom.transforms.synthesis.artefacts.quantum_noise import (
    QuantumNoiseParameters,
    QuantumNoiseRecipe,
)
from radloom.transforms.synthesis.artefacts.slices import SliceParameters, SliceRecipe
from radloom.transforms.synthesis.artefacts.table import TableRecipe
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.parameters import from_plain, to_plain

GRID = Grid((60, 64, 56), (2.0, 2.0, 2.0))
OFF = CTAcquisitionRecipe(
    TableRecipe(0),
    BeamHardeningRecipe(0),
    kernel_probability=0,
    slices=SliceRecipe(0),
    noise=QuantumNoiseRecipe(0),
    padding_probability=0,
)


def drawn(seed: int, recipe: CTAcquisitionRecipe | None = None) -> CTAcquisitionParameters:
    generator = torch.Generator().manual_seed(seed)
    return draw_ct_acquisition(generator, recipe or CTAcquisitionRecipe(), GRID)


@pytest.mark.parametrize("parameters", [CTAcquisitionParameters(), drawn(0, OFF)])
def test_no_effect_is_no_change_of_whole_hu(balls, parameters):
    seen = acquire_ct(balls.hu, balls.structures, balls.grid, parameters)
    assert torch.equal(seen.image, balls.hu)
    assert torch.equal(seen.clean, balls.hu)
    assert not seen.sigma.any()


@pytest.mark.parametrize("seed", range(20))
def test_the_clean_picture_lacks_only_the_noise(balls, seed):
    parameters = drawn(seed)
    noisy = acquire_ct(balls.hu, balls.structures, balls.grid, parameters)
    quiet = acquire_ct(balls.hu, balls.structures, balls.grid, replace(parameters, noise=None))
    assert torch.equal(quiet.image, quiet.clean)
    assert torch.equal(noisy.clean, quiet.clean)
    assert not noisy.sigma[noisy.clean == -2000].any()


@pytest.mark.parametrize("seed", range(20))
def test_numbers_are_whole_hu_that_files_hold(balls, seed):
    seen = acquire_ct(balls.hu, balls.structures, balls.grid, drawn(seed))
    for volume in (seen.image, seen.clean):
        assert volume.shape == (1, *GRID.shape)
        assert torch.equal(volume, volume.round())
        inside = volume[volume != -2000]
        assert -1024 <= float(inside.min()) <= float(inside.max()) <= 3071


@pytest.mark.parametrize("seed", range(10))
def test_parameters_survive_json_and_give_the_same_bytes(balls, seed):
    parameters = drawn(seed)
    again = from_plain(CTAcquisitionParameters, json.loads(json.dumps(to_plain(parameters))))
    assert again == parameters
    one, other = (
        acquire_ct(balls.hu, balls.structures, balls.grid, p) for p in (parameters, again)
    )
    assert torch.equal(one.image, other.image)


@pytest.mark.parametrize("slices", [None, SliceParameters(2, 5.0, 5.0)])
def test_the_deviation_is_that_of_the_picture(balls, slices):
    parameters = CTAcquisitionParameters(noise=QuantumNoiseParameters(20.0, 1), slices=slices)
    seen = acquire_ct(balls.hu, balls.structures, balls.grid, parameters)
    head = balls.structures[None] > 0
    z_score = ((seen.image - seen.clean) / seen.sigma)[head]
    assert float(z_score.std()) == pytest.approx(1, abs=0.03)
    assert float(seen.sigma[head].square().mean().sqrt()) == pytest.approx(
        20 if slices is None else 16, rel=0.1
    )


def test_the_round_field_of_view_is_padded(balls):
    parameters = CTAcquisitionParameters(padding_diameter=0.9, padding_hu=-2000.0)
    seen = acquire_ct(balls.hu, balls.structures, balls.grid, parameters)
    assert float(seen.image[0, 0, 0, 5]) == -2000
    assert float(seen.image[0, 2, 32, 5]) == -1000


def test_what_went_in_is_left_as_it_was(balls):
    before = balls.hu.clone()
    for seed in range(10):
        acquire_ct(balls.hu, balls.structures, balls.grid, drawn(seed))
    assert torch.equal(balls.hu, before)


def test_a_volume_off_the_grid_is_refused(balls):
    with pytest.raises(InputError, match=r"on a grid \(60, 64, 56\)"):
        acquire_ct(balls.hu[:, 1:], balls.structures, balls.grid, CTAcquisitionParameters())


@pytest.mark.slow
def test_a_whole_head_at_1_mm():
    grid = Grid((192, 192, 192))
    x, y, z = torch.meshgrid(*grid.axes(), indexing="ij")
    radius = torch.sqrt((x / 0.8) ** 2 + y**2 + (z / 0.9) ** 2)
    hu = torch.where(radius < 75, 30.0, torch.where(radius < 80, 1000.0, -1000.0))[None]
    structures = (20 * (radius < 80)).to(torch.uint8)
    with torch.inference_mode():
        for seed in range(6):
            parameters = draw_ct_acquisition(
                torch.Generator().manual_seed(seed), CTAcquisitionRecipe(), grid
            )
            seen = acquire_ct(hu, structures, grid, parameters)
            brain = seen.clean[0][radius < 60]
            assert float(brain.mean()) == pytest.approx(30, abs=25)
