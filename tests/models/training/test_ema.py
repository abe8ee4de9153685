"""The average: what it is, also of weights with two names."""

from __future__ import annotations

import pytest
import torch

from radloom.models.training.ema import Ema, export_weights
from radloom.models.training.parts import read_parts, write_parts


class Twice(torch.nn.Module):
    """One weight under two names, as nnU-Net's networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(300, 300)
        self.b = self.a


def test_a_weight_with_two_names_is_averaged_once_and_kept_once(tmp_path) -> None:
    network = Twice()
    ema = Ema(network, 0.5)
    with torch.no_grad():
        network.a.weight.add_(1.0)
    before = ema.network.a.weight.clone()
    ema.update(network, 1000)
    torch.testing.assert_close(ema.network.a.weight, (before + network.a.weight) / 2)
    export_weights(network, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 1.2 * 2 * 300 * 300
    network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    folder = write_parts(tmp_path, 1, {"network": network.state_dict()})
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1.2 * 4 * 300 * 300
    found = read_parts(folder)[1]["network"]
    assert all(torch.equal(found[name], w) for name, w in network.state_dict().items())


@pytest.mark.parametrize(("step", "share"), [(0, 0.9), (9, 9 / 19), (10_000, 0.1)])
def test_the_start_is_soon_forgotten(step, share) -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(network, 0.9)
    with torch.no_grad():
        ema.network.weight.zero_()
        network.weight.fill_(1.0)
    ema.update(network, step)
    assert float(ema.network.weight) == pytest.approx(share)
