"""The step solves its equations, and goes where the channels ask it to."""

from __future__ import annotations

import torch

from radloom.models.registration.flow import sampled
from radloom.models.registration.gauss_newton import Penalty, normal_equations, solve

SHAPE = (12, 10, 8)


def wave(shift: float = 0.0) -> torch.Tensor:
    i, j, k = torch.meshgrid(*[torch.arange(float(n)) for n in SHAPE], indexing="ij")
    return torch.stack(
        [torch.sin((i + shift) / 2), torch.cos(j / 2 + k / 3), torch.sin((i + shift) / 3 + k / 2)]
    )


def test_the_penalty_is_symmetric_and_positive():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn((2, 3, *SHAPE), generator=generator, dtype=torch.float64)
    penalty = Penalty(0.3, 0.2)
    torch.testing.assert_close((one * penalty(other)).sum(), (other * penalty(one)).sum())
    assert float((one * penalty(one)).sum()) > 0
    still = torch.ones(3, *SHAPE)
    torch.testing.assert_close(penalty(still), 1e-4 * still)


def test_the_penalty_is_the_energy_s_slope():
    generator = torch.Generator().manual_seed(0)
    field = torch.randn((3, *SHAPE), generator=generator, dtype=torch.float64, requires_grad=True)
    energy = sum(torch.diff(field, dim=axis).square().sum() for axis in (1, 2, 3)) / 2
    (slope,) = torch.autograd.grad(energy, field)
    torch.testing.assert_close(Penalty(1.0, 0.0, 0.0)(field.detach()), slope)


def test_the_system_is_solved():
    moving = wave()
    hessian, force = normal_equations(wave(0.4), moving, torch.ones(1, *SHAPE), 1)
    penalty = Penalty(0.05, 0.02)
    step = solve(hessian, force, penalty, 60)
    xx, yy, zz, xy, xz, yz = hessian
    rows = torch.stack([torch.stack(r) for r in ([xx, xy, xz], [xy, yy, yz], [xz, yz, zz])])
    left = torch.einsum("abijk,bijk->aijk", rows, step) + penalty(step) - force
    assert float(left.abs().max()) < 1e-3 * float(force.abs().max())


def test_one_step_finds_a_small_shift():
    fixed, moving = wave(0.4), wave()
    hessian, force = normal_equations(fixed, moving, torch.ones(1, *SHAPE), 1)
    step = solve(hessian, force, Penalty(0.1, 0.0), 30)
    assert float((step[0] - 0.4).abs().mean()) < 0.08
    within = (slice(None), slice(1, -2), slice(1, -2), slice(1, -2))
    left = (fixed - sampled(moving, step))[within].square().mean()
    assert float(left) < 0.1 * float((fixed - moving)[within].square().mean())


def test_blocks_give_the_same_step_in_their_own_voxels():
    hessian, force = normal_equations(wave(0.4), wave(), torch.ones(1, *SHAPE), 2)
    assert hessian.shape == (6, 6, 5, 4)
    step = solve(hessian, force, Penalty(0.1, 0.0), 30)
    assert float((step[0] - 0.2).abs().mean()) < 0.05


def test_what_weighs_nothing_moves_nothing():
    hessian, force = normal_equations(wave(0.4), wave(), torch.zeros(1, *SHAPE), 1)
    step = solve(hessian, force, Penalty(0.1, 0.1), 10)
    assert float(step.abs().max()) == 0


def test_the_number_of_threads_changes_no_bit():
    before = torch.get_num_threads()
    steps = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            shape = (3, 40, 40, 40)
            fixed, moving = (torch.rand(shape, generator=torch.manual_seed(n)) for n in (0, 1))
            hessian, force = normal_equations(fixed, moving, torch.ones(1, *shape[1:]), 1)
            steps.append(solve(hessian, force, Penalty(0.1, 0.1), 10))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*steps)
