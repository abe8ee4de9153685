"""A folded network starts as the network of half the grid whose body it takes."""

from __future__ import annotations

import pytest
import torch

from radloom.errors import ConfigError
from radloom.models.training.transfer import transferred


class Body(torch.nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv3d(n_in, 4, 3, padding=1)
        self.middle = torch.nn.Conv3d(4, 4, 3, padding=1)
        self.last = torch.nn.Conv3d(4, n_out, 1)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        return self.middle(self.first(image).relu())


class Folded(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Body(8, 56)


def test_it_sees_the_mean_of_each_block() -> None:
    teacher, learner = Body(1, 37), Folded()
    drawn = learner.backbone.last.weight.clone()
    learner.load_state_dict(transferred(teacher.state_dict(), learner.state_dict()))
    fine = torch.randn(1, 1, 12, 12, 12)
    coarse = torch.nn.functional.avg_pool3d(fine, 2)
    blocks = fine.reshape(1, 6, 2, 6, 2, 6, 2).permute(0, 2, 4, 6, 1, 3, 5).reshape(1, 8, 6, 6, 6)
    torch.testing.assert_close(learner.backbone.features(blocks), teacher.features(coarse))
    assert torch.equal(learner.backbone.last.weight, drawn)


def test_another_body_is_refused() -> None:
    with pytest.raises(ConfigError, match="got none"):
        transferred({"conv.weight": torch.zeros(2, 2)}, Folded().state_dict())
