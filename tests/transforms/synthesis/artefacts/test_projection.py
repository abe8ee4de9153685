from __future__ import annotations

import math

import pytest
import torch

from radloom.transforms.synthesis.artefacts.projection import Projector
from radloom.transforms.synthesis.fields import Grid

GRID = Grid((120, 100, 16), (1.5, 1.5, 2.0))


@pytest.fixture(scope="module")
def disc() -> torch.Tensor:
    """A cylinder of radius 50 mm, 10 mm off the middle along x."""
    x, y, _ = torch.meshgrid(*GRID.axes(), indexing="ij")
    return (torch.hypot(x - 10, y) < 50).float()[None]


def test_a_ray_through_a_cylinder_is_its_chord(disc):
    projector = Projector(GRID)
    rays = projector.project(projector.coarse(disc))[:, 4]
    angle = torch.arange(projector.n_angles) * math.pi / projector.n_angles
    t = ((torch.arange(projector.n_detectors) + 0.5) / projector.n_detectors - 0.5) * 180
    offset = t - 10 * angle.cos()[:, None]
    chord = 2 * (50**2 - offset**2).clamp_min(0).sqrt()
    inside = offset.abs() < 45
    torch.testing.assert_close(rays[inside], chord[inside], atol=3.0, rtol=0)
    assert float((rays - chord)[inside].mean()) == pytest.approx(0, abs=0.3)


def test_reconstruction_gives_the_density_back(disc):
    projector = Projector(GRID)
    seen = projector.fine(projector.reconstruct(projector.project(projector.coarse(disc))))
    assert seen.shape == disc.shape
    assert float(seen[0, 55:78, 40:60].mean()) == pytest.approx(1, abs=0.005)
    assert float(seen[0, 2:12, 40:60].mean()) == pytest.approx(0, abs=0.01)


def test_the_mean_of_rays_is_highest_inside(disc):
    projector = Projector(GRID)
    mean = projector.backproject(projector.project(projector.coarse(disc)))
    assert mean.shape == projector.coarse(disc).shape
    # through the centre every ray is a diameter
    assert float(mean[:, 32:35, 24:26].mean()) == pytest.approx(100, rel=0.02)


def test_a_grid_coarser_than_the_pixels_is_kept():
    assert Projector(Grid((10, 12, 3), (5.0, 5.0, 8.0))).coarse_shape == (10, 12, 3)
