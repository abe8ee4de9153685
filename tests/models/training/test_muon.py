"""Muon's steps are orthogonal, of AdamW's size, and go down."""

from __future__ import annotations

import pytest
import torch

from radloom.models.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_singular_values_come_near_one_and_vectors_stay(shape) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    found = torch.linalg.svdvals(orthogonalised(matrix))
    assert found.min() > 0.5
    assert found.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalised(matrix) @ v.T
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-3


def test_kernels_and_the_rest_are_told_apart() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3), torch.nn.Conv3d(4, 6, 3), torch.nn.Conv3d(6, 2, 1)
    )
    kernels, rest = Muon(network.parameters()).param_groups
    assert [p.shape[:2] for p in kernels["params"]] == [(6, 4)]
    assert len(rest["params"]) == 5


def test_a_first_step_has_the_size_of_adams() -> None:
    kernel = torch.nn.Parameter(torch.zeros(16, 8, 3, 3, 3))
    bias = torch.nn.Parameter(torch.zeros(64))
    optimizer = Muon([kernel, bias], lr=1e-2, other_lr=1e-2, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for weight in (kernel, bias):
        weight.grad = torch.randn(weight.shape, generator=generator)
    optimizer.step()
    adam = torch.nn.Parameter(torch.zeros(64))
    adam.grad = bias.grad
    torch.optim.AdamW([adam], lr=1e-2, weight_decay=0.0).step()
    torch.testing.assert_close(bias, adam)
    assert 0.1 < kernel.detach().square().mean().sqrt() / 1e-2 < 0.4


def test_it_learns_a_blur_and_resumes_to_the_same() -> None:
    def steps(first: int, last: int, network, optimizer) -> float:
        for n in range(first, last):
            image = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(n))
            want = torch.nn.functional.avg_pool3d(image, 3, 1, 1)
            loss = (network(image) - want).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    def fresh() -> tuple[torch.nn.Module, Muon]:
        torch.manual_seed(0)
        network = torch.nn.Conv3d(3, 3, 3, padding=1)
        return network, Muon(network.parameters(), lr=5e-3)

    network, optimizer = fresh()
    first = steps(0, 1, network, optimizer)
    middle = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    middle = torch.load(_stored(middle), weights_only=True)
    last = steps(1, 60, network, optimizer)
    assert last < 0.2 * first
    other, again = fresh()
    other.load_state_dict(middle["network"])
    again.load_state_dict(middle["optimizer"])
    assert steps(1, 60, other, again) == last


def _stored(value):
    import io

    stream = io.BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    return stream
