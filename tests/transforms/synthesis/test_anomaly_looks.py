from __future__ import annotations

import pytest
import torch

from radloom.errors import InputError
from radloom.transforms.synthesis.anomaly_looks import KINDS, draw_look


@pytest.mark.parametrize("kind", KINDS)
def test_looks_are_possible_tissue(kind):
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        look = draw_look(generator, kind)
        assert 0 < look["t2_ms"] <= look["t1_ms"]
        assert 0 <= look["density"] <= 1
        assert -1000 <= look["hu"] <= 3071
        assert 0 <= look["texture"] <= 0.2


def test_unknown_kind_is_refused():
    with pytest.raises(InputError, match=r"oedema.*'dragon'"):
        draw_look(torch.Generator(), "dragon")
