"""The flow along a velocity: there, back, and between grids."""

from __future__ import annotations

import pytest
import torch

from radloom.models.registration.flow import compose, exponential, inside, resized, sampled

SHAPE = (32, 28, 24)


def bump(height: float, shape=SHAPE) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing="ij")
    hill = torch.exp(-5 * sum(axis**2 for axis in axes))
    return height * torch.stack([hill, -0.7 * hill, 0.4 * hill])


def test_a_constant_velocity_moves_by_itself():
    velocity = torch.tensor([3.3, -2.0, 0.5]).reshape(3, 1, 1, 1).expand(3, *SHAPE)
    torch.testing.assert_close(exponential(velocity), velocity, atol=1e-4, rtol=0)


@pytest.mark.parametrize("height", [0.3, 2.0, 6.0])
def test_back_undoes_there(height):
    there, back = exponential(bump(height)), exponential(-bump(height))
    assert float(there.norm(dim=0).max()) > 0.8 * height
    left = compose(back, there)[:, 4:-4, 4:-4, 4:-4]
    assert float(left.norm(dim=0).max()) < 0.035 * height


def test_half_the_velocity_twice_is_the_whole():
    half = exponential(bump(2.0))
    torch.testing.assert_close(compose(half, half), exponential(bump(4.0)), atol=0.03, rtol=0)


def test_values_are_seen_where_the_field_points():
    values = torch.arange(float(torch.Size(SHAPE).numel())).reshape(1, *SHAPE)
    step = torch.tensor([1.0, 0.0, 2.0]).reshape(3, 1, 1, 1).expand(3, *SHAPE)
    seen = sampled(values, step)
    torch.testing.assert_close(seen[:, :-1, :, :-2], values[:, 1:, :, 2:], atol=0.05, rtol=0)
    torch.testing.assert_close(seen[:, -1, :, 0], values[:, -1, :, 2], atol=0.05, rtol=0)
    assert int(inside(step).sum()) == (SHAPE[0] - 1) * SHAPE[1] * (SHAPE[2] - 2)


def test_a_finer_grid_holds_the_same_map():
    """A linear field of blocks of two voxels is the same line on the voxels themselves."""
    coarse = torch.arange(10.0).reshape(1, 10, 1, 1).expand(3, 10, 4, 4)
    fine = resized(coarse, (20, 8, 8), 2.0)
    expected = 2 * ((torch.arange(20.0) + 0.5) / 2 - 0.5).clamp(0, 9)
    torch.testing.assert_close(fine[1, :, 3, 3], expected)
    back = torch.nn.functional.avg_pool3d(fine[:, 2:-2], 2) / 2
    torch.testing.assert_close(back, coarse[:, 1:-1])
