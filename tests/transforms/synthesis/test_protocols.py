from __future__ import annotations

import pytest
import torch

from radloom.transforms.synthesis.contrast import mr_signal
from radloom.transforms.synthesis.protocols import PROTOCOLS, draw_sequence
from radloom.transforms.synthesis.relaxation import relaxation_of
from radloom.transforms.synthesis.tissues import Code


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("field_t", [1.5, 3.0])
def test_every_drawn_timing_has_a_signal(name, field_t):
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        sequence = draw_sequence(generator, name, field_t)
        assert 0 <= sequence.te_ms < sequence.tr_ms
        for code in (Code.WHITE, Code.CSF, Code.FAT):
            signal = mr_signal(relaxation_of(code, field_t, gradient_echo=False), sequence)
            assert 0 <= signal < 1


@pytest.mark.parametrize("name", [name for name, p in PROTOCOLS.items() if p.nulls is not None])
def test_inversion_takes_away_what_it_is_for(name):
    generator = torch.Generator().manual_seed(2)
    for _ in range(50):
        sequence = draw_sequence(generator, name, 3.0)
        nulled = PROTOCOLS[name].nulls
        assert nulled is not None
        lost = mr_signal(relaxation_of(nulled, 3.0, gradient_echo=False), sequence)
        kept = mr_signal(relaxation_of(Code.CORTEX, 3.0, gradient_echo=False), sequence)
        assert lost < 0.75 * kept
