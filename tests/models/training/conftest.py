"""A small run over made-up samples; with the generator's they are in tests/bundles."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from radloom.models.training.run import Training, seeded
from radloom.models.training.settings import TrainingSettings
from radloom.models.training.tasks.segmentation import Segmentation


class Blobs:
    """Images whose bright voxels are white matter."""

    def to(self, device):
        return self

    def sample(self, wanted, generator, *, pair):
        image = torch.rand((1, 8, 8, 8), generator=generator)
        return {"image": image, "label": 2 * (image > 0.5).short()}


class Threshold(torch.nn.Module):
    """A segmentation network of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv3d(1, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(6, 37, 1)
        )

    def forward(self, image):
        return self.layers(image)


@pytest.fixture
def training(tmp_path) -> Callable[..., Training]:
    """``training(out, max_steps=4, ...)``: a run of a tiny network."""

    def make(out: str = "run", **settings) -> Training:
        settings = {"max_steps": 4, "warmup_steps": 1, "validation_cases": 1, **settings}
        seeded(0)
        network = Threshold()
        return Training(
            network=network,
            task=Segmentation(),
            source=Blobs(),
            optimizer=torch.optim.AdamW(network.parameters(), lr=1e-2),
            output_dir=str(tmp_path / out),
            settings=TrainingSettings(**settings),
            device="cpu",
        )

    return make
