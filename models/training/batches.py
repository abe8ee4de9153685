"""The batches of a step: which sample goes where is a function of seed, step, rank and slot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from radloom.models.training.draws import generator_at
from radloom.models.training.settings import TrainingSettings
from radloom.models.training.sources import Source
from radloom.models.training.stream import Batch
from radloom.models.training.task import Task

__all__ = ["crop", "draw_batches", "draw_case"]


def draw_batches(
    source: Source, task: Task, settings: TrainingSettings, step: int, rank: int
) -> list[Batch]:
    """One batch for each pass of a step, of ``batch_size`` samples with their crops."""
    slots = range(settings.accumulate * settings.batch_size)
    windows = [
        _windows(source, task, settings, generator_at(settings.seed, step, rank, slot))
        for slot in slots
    ]
    size = settings.batch_size
    return [
        _stacked([window for one in windows[n : n + size] for window in one])
        for n in range(0, len(windows), size)
    ]


def draw_case(source: Source, task: Task, settings: TrainingSettings, index: int) -> Batch:
    """One case of the validation, as a batch of one."""
    generator = generator_at(settings.seed, "validation", index)
    return _stacked(_windows(source, task, settings, generator)[:1])


def crop(batch: Batch, shape: Sequence[int], generator: torch.Generator) -> Batch:
    """The same window of every tensor (C, I, J, K) of a sample, at a random place.

    What lies beyond the sample is 0. Tensors of one voxel are left as they are.
    """
    spatial = next(t.shape[1:] for t in batch.values() if t[0].numel() > 1)
    starts = [
        int(torch.randint(max(0, have - want) + 1, (), generator=generator))
        for have, want in zip(spatial, shape, strict=True)
    ]
    result = {}
    for name, tensor in batch.items():
        if tensor[0].numel() == 1:
            result[name] = tensor
            continue
        for axis, (start, want) in enumerate(zip(starts, shape, strict=True), start=1):
            tensor = tensor.narrow(axis, start, min(want, tensor.shape[axis] - start))
        missing = [want - have for have, want in zip(tensor.shape[1:], shape, strict=True)]
        pads = [n for missed in reversed(missing) for n in (missed // 2, missed - missed // 2)]
        result[name] = functional.pad(tensor, pads) if any(pads) else tensor
    return result


def _windows(
    source: Source, task: Task, settings: TrainingSettings, generator: torch.Generator
) -> list[Batch]:
    sample = source.sample(task.wanted, generator, pair=task.pairs)
    if settings.crop_shape is None:
        return [task.prepare(sample, generator)]
    whole = task.prepare(sample, generator)
    return [crop(whole, settings.crop_shape, generator) for _ in range(settings.crops)]


def _stacked(windows: Sequence[Batch]) -> Batch:
    """(B, C, I, J, K) of each tensor that all windows have."""
    names = [name for name in windows[0] if all(name in window for window in windows)]
    return {name: torch.stack([window[name] for window in windows]) for name in names}
