"""HU as a mixture of tissues, folded or not; contrasts that are missing are told."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from radloom.models.translation.network import MISSING, UNIT_HU, HounsfieldNetwork


def test_a_sure_class_gives_its_own_hu() -> None:
    answer = torch.zeros(1, 7, 3, 1, 1)
    for n in range(3):
        answer[0, n, n] = 100.0
    answer[0, 5, 2] = 0.5
    answer[0, 6] = math.log(2)
    network = HounsfieldNetwork(_Answers(answer))
    found = network(torch.zeros(1, 1, 3, 1, 1))
    torch.testing.assert_close(found[0, 0, :, 0, 0], torch.tensor([-1000.0, 40.0, 900.0]))
    assert torch.equal(found[:, 1:4], answer[:, :3])
    torch.testing.assert_close(found[:, 4].exp(), torch.full((1, 3, 1, 1), 2 * UNIT_HU))
    assert not network.state_dict()


def test_a_folded_network_gives_the_mean_of_what_the_blocks_around_say() -> None:
    weights = torch.randn(56, 8, generator=torch.Generator().manual_seed(0))
    backbone = torch.nn.Conv3d(8, 56, 1, bias=False)
    backbone.weight.data = weights.reshape(56, 8, 1, 1, 1)
    image = torch.randn(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1))
    found = HounsfieldNetwork(backbone, fold=2)(image)
    assert found.shape == (1, 5, 6, 6, 6)
    said = torch.zeros(7, 6, 6, 6)
    for i, j, k in product(range(0, 6, 2), repeat=3):
        box = (slice(i, i + 2), slice(j, j + 2), slice(k, k + 2))
        said[(slice(None), *box)] = (weights @ image[0, 0][box].reshape(8)).reshape(7, 2, 2, 2)
    shares = torch.tensor([1.0, 2.0, 1.0]) / 4
    around = said[:3, 2:5, 1:4, 3:6]
    wanted = torch.einsum("cijk,i,j,k->c", around, shares, shares, shares)
    torch.testing.assert_close(found[0, 1:4, 3, 2, 4], wanted)


@pytest.mark.parametrize("fold", [2, 3])
def test_what_repeats_from_block_to_block_is_gone(fold) -> None:
    """A checkerboard: each place in a block adds numbers of its own, the same in all blocks."""
    backbone = torch.nn.Conv3d(fold**3, 7 * fold**3, 1)
    backbone.weight.data.zero_()
    backbone.bias.data = torch.randn(7 * fold**3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = HounsfieldNetwork(backbone, fold=fold)(torch.rand(1, 1, *(4 * fold,) * 3))[0]
    inside = found[(slice(None), *(slice(fold, -fold),) * 3)]
    assert float(inside.flatten(1).std(1).max()) < 1e-3


def test_missing_contrasts_are_nothing_and_told() -> None:
    seen = []
    network = HounsfieldNetwork(_Keeps(seen))
    image = torch.rand(1, 3, 2, 2, 2)
    image[:, 1] = MISSING
    network(image)
    assert torch.equal(seen[0][:, [0, 2]], image[:, [0, 2]])
    assert not seen[0][:, 1].any()
    assert [float(channel.mean()) for channel in seen[0][0, 3:]] == [1.0, 0.0, 1.0]


def test_an_impossible_scale_stays_finite() -> None:
    answer = torch.zeros(1, 7, 1, 1, 2)
    answer[0, 6, 0, 0] = torch.tensor([-1e6, 1e6])
    scale = HounsfieldNetwork(_Answers(answer))(torch.zeros(1, 1, 1, 1, 2))[0, 4].exp()
    assert float(scale.min()) == pytest.approx(UNIT_HU * math.exp(-6), rel=1e-4)
    assert torch.isfinite(scale).all()


class _Answers(torch.nn.Module):
    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, _):
        return self.answer


class _Keeps(torch.nn.Module):
    def __init__(self, seen) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, image):
        self.seen.append(image)
        return image.new_zeros(1, 7, *image.shape[2:])
