"""What anomalies look like in MR and CT, by kind."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from radloom.errors import InputError
from radloom.transforms.synthesis import draws
from radloom.transforms.synthesis.draws import Range

__all__ = ["KINDS", "draw_look"]

KINDS = (
    "oedema", "tumour", "rim", "core", "cyst", "haemorrhage", "calcification", "lipoma", "metal",
    "air", "vessel", "lesion", "any",
)  # fmt: skip
"""What an anomaly is; `rim` is the part of a tumour that takes up contrast agent."""


@dataclass(frozen=True)
class _Look:
    """Ranges of a kind's tissue."""

    t1_ms: Range
    t2_ms: Range
    density: Range
    hu: Range
    texture: Range = (0.0, 0.1)


_LOOKS = MappingProxyType(
    {
        "oedema": _Look((1200, 2200), (110, 250), (0.8, 0.95), (12, 26)),
        "tumour": _Look((1000, 2200), (80, 200), (0.75, 0.95), (20, 55), (0.0, 0.15)),
        "rim": _Look((1000, 1700), (70, 150), (0.75, 0.9), (30, 60), (0.0, 0.15)),
        "core": _Look((1800, 3800), (150, 900), (0.85, 1.0), (8, 28), (0.0, 0.1)),
        "cyst": _Look((1500, 4300), (300, 1800), (0.9, 1.0), (0, 20), (0.0, 0.02)),
        "haemorrhage": _Look((350, 1600), (15, 180), (0.6, 0.95), (50, 90), (0.0, 0.15)),
        "calcification": _Look((500, 1500), (1, 40), (0.1, 0.5), (100, 900), (0.0, 0.2)),
        "lipoma": _Look((280, 420), (60, 110), (0.7, 0.95), (-120, -70)),
        "metal": _Look((300, 1000), (0.1, 1.0), (0.0, 0.02), (2500, 3071), (0.0, 0.0)),
        "air": _Look((1.0, 2.0), (1.0, 2.0), (0.0, 0.001), (-1000, -950), (0.0, 0.0)),
        "vessel": _Look((1400, 2100), (1, 140), (0.4, 0.95), (40, 90), (0.0, 0.03)),
        "lesion": _Look((1200, 2200), (100, 220), (0.78, 0.95), (16, 30), (0.0, 0.08)),
        "any": _Look((200, 4300), (5, 1800), (0.2, 1.0), (-120, 400), (0.0, 0.2)),
    }
)
"""Set: within what such tissue shows; no measurement is claimed."""


def draw_look(generator: torch.Generator, kind: str) -> dict[str, Any]:
    """The fields of `AnomalyParameters` that say what it looks like."""
    if kind not in _LOOKS:
        raise InputError(
            f"expected anomalies of {', '.join((*_LOOKS, 'cluster'))}, got {kind!r}; mend the "
            "recipe's weights"
        )
    look = _LOOKS[kind]
    t1_ms = draws.log_uniform(generator, look.t1_ms)
    return {
        "t1_ms": t1_ms,
        "t2_ms": min(draws.log_uniform(generator, look.t2_ms), t1_ms),
        "density": draws.uniform(generator, look.density),
        "hu": draws.uniform(generator, look.hu),
        "texture": draws.uniform(generator, look.texture),
    }
