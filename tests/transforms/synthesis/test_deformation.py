from __future__ import annotations

import json

import pytest
import torch

from radloom.errors import InputError
from radloom.transforms.synthesis.anatomy import RIGHT, Anatomy
from radloom.transforms.synthesis.deformation import (
    Deformation,
    DeformationParameters,
    DeformationRecipe,
    build_deformation,
    draw_deformation,
    moving_from_fixed,
    sample_volume,
    warp,
)
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.parameters import from_plain, to_plain
from radloom.transforms.synthesis.tissues import Code

EXTREME = DeformationRecipe(extreme_probability=1.0, ventricle_probability=1.0)
STILL = DeformationRecipe(
    rotation_degrees=(0, 0), scaling=(1, 1), stretching=(1, 1), shear=(0, 0),
    translation_mm=(0, 0), flip_probability=0, amplitudes_mm=(0, 0, 0, 0),
    ventricle_probability=0, extreme_probability=0,
)  # fmt: skip


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    """A ball of brain in a ball of skin, with ventricles: odd and even sizes."""
    grid = Grid((111, 132, 121))
    x, y, z = torch.meshgrid(*grid.axes(), indexing="ij")
    r = (x**2 + y**2 + z**2).sqrt()
    structures = torch.zeros(grid.shape, dtype=torch.uint8)
    structures[r < 52] = int(Code.SKIN)
    structures[r < 44] = int(Code.WHITE)
    structures[(r < 44) & (x > 0)] = int(Code.WHITE) + RIGHT
    structures[(x.abs() - 10) ** 2 + (y / 2) ** 2 + z**2 < 49] = int(Code.VENTRICLE)
    return Anatomy("ball", structures)


def drawn(anatomy: Anatomy, seed: int, recipe: DeformationRecipe = EXTREME) -> Deformation:
    return build_deformation(draw_deformation(generator(seed), recipe), anatomy, "cpu")


def points_in_head(n: int = 20000) -> torch.Tensor:
    points = torch.randn((n, 3), generator=generator(0))
    return (
        55 * points / points.norm(dim=-1, keepdim=True) * torch.rand((n, 1), generator=generator(1))
    )


def determinants(deformation: Deformation, points: torch.Tensor) -> torch.Tensor:
    half = 0.25 * torch.eye(3)
    columns = [
        (deformation.to_anatomy(points + step) - deformation.to_anatomy(points - step)) / 0.5
        for step in half
    ]
    return torch.linalg.det(torch.stack(columns, -1))


def test_recipe_with_zero_ranges_changes_nothing(anatomy):
    deformation = drawn(anatomy, 0, STILL)
    points = points_in_head(100)
    assert torch.allclose(deformation.to_anatomy(points), points, atol=1e-4)
    assert torch.equal(
        warp(anatomy.structures[None], deformation, anatomy, anatomy.grid)[0], anatomy.structures
    )


def test_default_parameters_change_nothing(anatomy):
    deformation = build_deformation(DeformationParameters(), anatomy, "cpu")
    volume = torch.rand((2, *anatomy.grid.shape), generator=generator(3))
    assert torch.allclose(warp(volume, deformation, anatomy, anatomy.grid), volume, atol=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_is_invertible_and_folds_nowhere(anatomy, seed):
    deformation = drawn(anatomy, seed)
    points = points_in_head()
    error = (deformation.from_anatomy(deformation.to_anatomy(points)) - points).norm(dim=-1)
    det = determinants(deformation, points) * (-1 if deformation.flips else 1)
    assert error.max() < 0.1
    assert det.min() > 0.03


def test_sampling_grid_is_where_to_anatomy_says(anatomy):
    deformation = drawn(anatomy, 3)
    grid = Grid((20, 24, 16), (4.0, 3.0, 5.0), (2.0, -3.0, 1.0))
    points = torch.stack(torch.meshgrid(*grid.axes(), indexing="ij"), -1)
    half = torch.tensor([(n - 1) / 2 for n in anatomy.grid.shape])
    mm = deformation.sampling_grid(grid, anatomy)[0].flip(-1) * half
    assert torch.allclose(mm, deformation.to_anatomy(points), atol=2e-3)


def test_warp_brings_a_world_point_where_from_anatomy_says(anatomy):
    deformation = drawn(anatomy, 4)
    x, y, z = torch.meshgrid(*anatomy.grid.axes(), indexing="ij")
    place = torch.tensor([12.0, -8.0, 15.0])
    spot = torch.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2) / 18)
    grid = Grid((128, 128, 128))
    seen = warp(spot[None], deformation, anatomy, grid)[0]
    middle = torch.stack(
        [
            (seen.sum([b for b in range(3) if b != a]) * axis).sum() / seen.sum()
            for a, axis in enumerate(grid.axes())
        ]
    )
    assert torch.allclose(middle, deformation.from_anatomy(place), atol=1.5)


def test_displacement_between_two_draws_finds_the_same_anatomy(anatomy):
    recipe = DeformationRecipe(flip_probability=0)
    fixed, moving = drawn(anatomy, 1, recipe), drawn(anatomy, 2, recipe)
    grid = Grid((40, 44, 42), (2.5, 2.5, 2.5))
    there = moving_from_fixed(fixed, moving, grid)
    points = torch.stack(torch.meshgrid(*grid.axes(), indexing="ij"), -1)
    inside = points.norm(dim=-1) < 45
    same = moving.to_anatomy(points + there.movedim(0, -1)) - fixed.to_anatomy(points)
    assert there.shape == (3, 40, 44, 42)
    assert same.norm(dim=-1)[inside].max() < 0.15


def test_displacement_brings_the_moving_head_onto_the_fixed_at_real_size():
    grid = Grid((180, 216, 190))
    x, y, z = torch.meshgrid(*grid.axes(), indexing="ij")
    head = (x / 76) ** 2 + (y / 96) ** 2 + (z / 85) ** 2 < 1
    stripes = (torch.sin(x / 6) + torch.sin(y / 7) + torch.sin(z / 5) > 0) & head
    anatomy = Anatomy("stripes", stripes.to(torch.uint8) + head.to(torch.uint8))
    recipe = DeformationRecipe(flip_probability=0, translation_mm=(-4, 4), rotation_degrees=(-8, 8))
    fixed, moving = drawn(anatomy, 11, recipe), drawn(anatomy, 12, recipe)
    sample = Grid((208, 240, 216))
    seen = [warp(anatomy.structures[None], one, anatomy, sample) for one in (fixed, moving)]
    points = torch.stack(torch.meshgrid(*sample.axes(), indexing="ij"))
    there = points + moving_from_fixed(fixed, moving, sample)
    half = torch.tensor([(n - 1) / 2 for n in sample.shape]).reshape(3, 1, 1, 1)
    back = sample_volume(seen[1], (there / half).flip(0).movedim(0, -1)[None])
    for value in (1, 2):
        before, after = (
            2 * ((seen[0] == value) & (one == value)).sum()
            / ((seen[0] == value).sum() + (one == value).sum())
            for one in (seen[1], back)
        )  # fmt: skip
        assert before < 0.8
        assert after > 0.93


def test_flip_mirrors(anatomy):
    deformation = build_deformation(DeformationParameters(flip=True), anatomy, "cpu")
    mirrored = warp(anatomy.structures[None], deformation, anatomy, anatomy.grid)[0]
    assert deformation.flips
    assert torch.equal(mirrored, anatomy.structures.flip(0))


@pytest.mark.parametrize(
    ("parameters", "factor"),
    [
        (DeformationParameters(scaling=(1.1, 1.1, 1.1)), 1.331),
        (DeformationParameters(rotation_degrees=(20, -10, 15), translation_mm=(3, 2, 1)), 1.0),
        (DeformationParameters(shear=(0.1, -0.1, 0.1)), 1.0),
    ],
)
def test_affine_part_changes_the_volume_as_drawn(anatomy, parameters, factor):
    deformation = build_deformation(parameters, anatomy, "cpu")
    warped = warp(anatomy.structures[None], deformation, anatomy, Grid((160, 160, 160)))
    assert (warped > 0).sum() / (anatomy.structures > 0).sum() == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize(("mm", "low", "high"), [(4.0, 1.5, 6.0), (-2.0, 0.2, 0.75)])
def test_push_changes_the_ventricles_and_not_the_head(anatomy, mm, low, high):
    deformation = build_deformation(DeformationParameters(ventricle_mm=mm), anatomy, "cpu")
    warped = warp(anatomy.structures[None], deformation, anatomy, anatomy.grid)[0]

    def volume(structures: torch.Tensor, code: Code) -> float:
        return float((structures == int(code)).sum())

    ratio = volume(warped, Code.VENTRICLE) / volume(anatomy.structures, Code.VENTRICLE)
    assert low < ratio < high
    assert volume(warped, Code.SKIN) == pytest.approx(
        volume(anatomy.structures, Code.SKIN), rel=0.05
    )


def test_push_of_no_ventricles_moves_nothing(anatomy):
    solid = Anatomy("solid", torch.where(anatomy.structures > 0, int(Code.SKIN), 0).byte())
    deformation = build_deformation(DeformationParameters(ventricle_mm=3.0), solid, "cpu")
    assert float(deformation.displacement_mm.abs().max()) < 1e-3


def test_velocity_has_the_deviation_asked_for(anatomy):
    parameters = DeformationParameters(knots_mm=(12.0,), amplitudes_mm=(0.5,), seed=5)
    displacement = build_deformation(parameters, anatomy, "cpu").displacement_mm
    inner = displacement[:, 10:-10, 10:-10, 10:-10]
    assert inner.std() == pytest.approx(0.5, rel=0.2)


def test_same_parameters_same_bytes(anatomy):
    first, second = (drawn(anatomy, 7).displacement_mm for _ in range(2))
    other = drawn(anatomy, 8).displacement_mm
    assert torch.equal(first, second)
    assert first.shape != other.shape or not torch.equal(first, other)


def test_parameters_survive_json():
    parameters = draw_deformation(generator(9), EXTREME)
    assert from_plain(DeformationParameters, json.loads(json.dumps(to_plain(parameters)))) == (
        parameters
    )


def test_draws_stay_in_the_recipe():
    recipe = DeformationRecipe(extreme_probability=0.0)
    draws = [draw_deformation(generator(seed), recipe) for seed in range(200)]
    assert all(abs(a) <= 20 for d in draws for a in d.rotation_degrees)
    assert all(0.85 * 0.94 <= s <= 1.15 * 1.06 for d in draws for s in d.scaling)
    assert 60 < sum(d.flip for d in draws) < 140
    assert 60 < sum(d.ventricle_mm != 0 for d in draws) < 140


def test_needs_an_amplitude_for_each_scale():
    with pytest.raises(InputError, match="an amplitude for each"):
        DeformationParameters(knots_mm=(10.0, 20.0), amplitudes_mm=(1.0,))
