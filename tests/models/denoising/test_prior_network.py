"""A U-Net on half the grid: shapes, and a gradient for every weight."""

import torch

from radloom.models.denoising.prior_network import FoldedUNet


def test_gives_the_whole_grid_and_learns_all_over() -> None:
    network = FoldedUNet(3, (8, 12, 16))
    image = network(torch.rand(1, 3, 8, 4, 12, generator=torch.Generator().manual_seed(0)))
    assert image.shape == (1, 1, 16, 8, 24)
    image.square().mean().backward()
    assert all(w.grad is not None for w in network.parameters())
    assert all(torch.isfinite(w.grad).all() for w in network.parameters())
