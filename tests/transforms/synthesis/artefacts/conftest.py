"""A small head of balls: skin and bone round a brain, on a grid of 2 mm."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.tissues import Code


@dataclass(frozen=True)
class Balls:
    signal: torch.Tensor
    hu: torch.Tensor
    structures: torch.Tensor
    grid: Grid


@pytest.fixture(scope="session")
def balls() -> Balls:
    grid = Grid((60, 64, 56), (2.0, 2.0, 2.0))
    x, y, z = torch.meshgrid(*grid.axes(), indexing="ij")
    radius = torch.sqrt(x**2 + y**2 + z**2)
    structures = torch.zeros(grid.shape, dtype=torch.uint8)
    signal, hu = torch.zeros(1, *grid.shape), torch.full((1, *grid.shape), -1000.0)
    for size, code, brightness, density in (
        (50.0, Code.SKIN, 0.8, 40.0),
        (46.0, Code.BONE, 0.1, 1100.0),
        (40.0, Code.CSF, 0.3, 5.0),
        (36.0, Code.CORTEX, 0.7, 38.0),
        (28.0, Code.WHITE, 1.0, 28.0),
    ):
        inside = radius < size
        structures[inside] = code
        signal[0][inside] = brightness
        hu[0][inside] = density
    return Balls(signal, hu, structures, grid)
