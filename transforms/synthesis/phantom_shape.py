"""The random parameters of a head phantom, drawn apart from the anatomy made of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

__all__ = ["HeadShape", "draw_head_shape"]


@dataclass(frozen=True)
class HeadShape:
    """What differs from one head to the next; the same shape and spacing give the same head."""

    seed: int
    """Of every random field: deformation, folding, thickness, texture."""
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Size along x, y, z."""
    deformation_mm: float = 2.0
    """Standard deviation of the smooth deformation of the whole head; it breaks the symmetry."""
    skull_thickness: float = 1.0
    """Relative to 6.4 mm in the vault."""
    fat: float = 1.0
    """Relative thickness of the scalp and the fat below the skin."""
    nose: float = 1.0
    """Relative length of the nose."""
    ventricles: float = 1.0
    """Millimetres of growth of the ventricles' walls; 1 is an adult's size."""
    atrophy: float = 1.0
    """Relative width of the subarachnoid space and of the sulci."""
    cortex_mm: float = 2.6
    """Mean thickness of the cortex."""
    fold_mm: float = 9.0
    """Mean distance between neighbouring sulci."""

    def stream(self, name: str) -> torch.Generator:
        """The generator of one random field, whatever else was drawn before it."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def draw_head_shape(generator: torch.Generator) -> HeadShape:
    """The parameters of a random adult head."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    normal = torch.randn(9, generator=generator).clamp(-2, 2).tolist()
    size = 1 + 0.02 * normal[0]
    return HeadShape(
        seed=seed,
        scale=(size + 0.015 * normal[1], size + 0.015 * normal[2], size + 0.015 * normal[3]),
        skull_thickness=1 + 0.08 * normal[4],
        fat=1 + 0.15 * normal[5],
        nose=1 + 0.3 * normal[6],
        ventricles=1.2 + 0.45 * normal[7],
        atrophy=1 + 0.12 * (normal[7] + normal[8]),
        cortex_mm=2.6 + 0.1 * normal[8],
    )
