from __future__ import annotations

import math

import pytest
import torch

from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.lattice import Lattice, exponential

LATTICE = Lattice((-40.0, -44.0, -36.0), (21, 23, 19), (4.0, 4.0, 4.0))


def test_resampling_is_interpolation_on_a_grid():
    values = torch.randn((3, *LATTICE.shape), generator=torch.Generator().manual_seed(0))
    grid = Grid((30, 14, 25), (3.0, 7.0, 2.5), (1.0, -2.0, 3.0))
    points = torch.stack(torch.meshgrid(*grid.axes(), indexing="ij"), -1)
    at_points = LATTICE.interpolate(values, points).movedim(-1, 0)
    assert torch.allclose(LATTICE.resample(values, grid), at_points, atol=1e-4)


def test_linear_fields_are_exact():
    points = LATTICE.points("cpu")
    asked = torch.tensor([[1.3, -7.7, 12.1], [0.0, 20.2, -30.9]])
    assert torch.allclose(LATTICE.interpolate(points.movedim(-1, 0), asked), asked, atol=1e-4)


@pytest.mark.parametrize("rate", [0.4, -0.4])
def test_flow_of_a_linear_velocity_is_known(rate):
    """dx/dt = rate x gives x e^rate."""
    points = LATTICE.points("cpu")
    displacement = exponential(rate * points.movedim(-1, 0), LATTICE)
    inner = (slice(None), slice(7, 14), slice(8, 15), slice(6, 13))
    expected = (math.exp(rate) - 1) * points.movedim(-1, 0)
    assert torch.allclose(displacement[inner], expected[inner], atol=2e-3)


def test_flow_of_a_constant_velocity_moves_all_alike():
    velocity = torch.tensor([1.0, -2.0, 3.0]).reshape(3, 1, 1, 1).expand(3, *LATTICE.shape)
    assert torch.allclose(exponential(velocity, LATTICE), velocity, atol=1e-4)
