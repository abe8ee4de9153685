"""Windows side by side give what MONAI's inferer gives, whatever the number of threads."""

from __future__ import annotations

import threading

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from radloom.models.windows import SideBySideInferer
from radloom.threads import torch_settings

OPTIONS = {"roi_size": [16, 16, 16], "overlap": 0.25, "mode": "gaussian"}


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.InstanceNorm3d(8), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers, torch.nn.Conv3d(8, 5, 3, padding=1)).eval()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_answer_is_monais_to_the_bit_and_independent_of_threads(network, mode) -> None:
    image = torch.rand(1, 1, 40, 17, 30, generator=torch.Generator().manual_seed(1))
    with mode():
        with torch_settings(1):
            expected = SlidingWindowInferer(**OPTIONS)(image, network)
        for n in (1, 2, 5):
            with torch_settings(n):
                found = SideBySideInferer(**OPTIONS)(image, network)
                assert torch.get_num_threads() == n
            assert torch.equal(found, expected)
            assert not found.requires_grad


def test_windows_lie_side_by_side_on_one_thread_each() -> None:
    meet = threading.Barrier(2, timeout=30)
    seen = []

    def network(window: torch.Tensor) -> torch.Tensor:
        meet.wait()
        seen.append((len(window), torch.get_num_threads(), torch.is_grad_enabled()))
        return window

    with torch_settings(2), torch.no_grad():
        image = torch.rand(1, 1, 28, 16, 16)
        torch.testing.assert_close(SideBySideInferer(**OPTIONS)(image, network), image)
    assert seen == [(1, 1, False)] * 2


def test_what_a_window_raises_is_raised_and_threads_are_given_back() -> None:
    def network(window: torch.Tensor) -> torch.Tensor:
        raise MemoryError("no room")

    with torch_settings(3):
        with pytest.raises(MemoryError, match="no room"):
            SideBySideInferer(**OPTIONS)(torch.rand(1, 1, 28, 16, 16), network)
        assert torch.get_num_threads() == 3
