"""HU as a mixture of tissues."""

from __future__ import annotations

import torch

from radloom.models.translation.network import HounsfieldNetwork


def test_a_sure_class_gives_its_own_hu() -> None:
    answer = torch.zeros(1, 6, 3, 1, 1)
    for n in range(3):
        answer[0, n, n] = 100.0
    answer[0, 5, 2] = 0.5
    network = HounsfieldNetwork(torch.nn.Identity())
    found = network(answer)
    torch.testing.assert_close(found[0, 0, :, 0, 0], torch.tensor([-1000.0, 40.0, 900.0]))
    assert torch.equal(found[:, 1:], answer[:, :3])
    assert not network.state_dict()
