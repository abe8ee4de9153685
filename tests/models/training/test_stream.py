"""Batches come in order, ahead or not, and errors come where they are awaited."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from radloom.models.training.stream import BatchStream


def draw(step: int):
    if step == 7:
        raise ValueError("no step 7")
    return [{"image": torch.full((1,), float(step))}]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_batches_come_in_order_and_can_be_learned_from(prefetch) -> None:
    stream = BatchStream(draw, torch.device("cpu"), 2, prefetch)
    found = [float(batches[0]["image"]) for batches in islice(stream, 4)]
    last = next(stream)[0]["image"]
    (last * torch.ones(1, requires_grad=True)).sum().backward()
    assert found == [2, 3, 4, 5]
    assert float(last) == 6
    with pytest.raises(ValueError, match="no step 7"):
        next(stream)
    stream.close()


def test_an_unread_stream_can_be_closed() -> None:
    stream = BatchStream(draw, torch.device("cpu"), 10, 2)
    stream.close()
    assert not stream._thread.is_alive()
