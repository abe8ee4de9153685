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

__all__ = ["Kept", "crop", "draw_batches", "draw_case"]

Kept = dict[int, tuple[int, Batch]]
"""Slot -> the sample that it holds, and which in the slot's row it is."""


def draw_batches(
    source: Source,
    task: Task,
    settings: TrainingSettings,
    step: int,
    rank: int,
    kept: Kept | None = None,
) -> list[Batch]:
    """One batch for each pass of a step, of ``batch_size`` samples with their crops.

    Where samples serve several steps (`TrainingSettings.reuse`), the slots take turns in getting
    new ones, and `kept` holds them from step to step; what a step gets does not depend on it.
    """
    kept = {} if kept is None else kept
    n_used = settings.accumulate * settings.batch_size
    n_slots = n_used * settings.mix
    visit, first = step // settings.mix, step % settings.mix * n_used
    windows = []
    for slot in range(first, first + n_used):
        turn = (visit + slot * settings.reuse // n_slots) // settings.reuse
        if slot not in kept or kept[slot][0] != turn:
            place = generator_at(settings.seed, turn, rank, slot)
            kept[slot] = (turn, source.sample(task.wanted, place, pair=task.pairs))
        place = generator_at(settings.seed, "windows", step, rank, slot)
        windows.append(_windows(kept[slot][1], task, settings, place))
    size = settings.batch_size
    return [
        _stacked([window for one in windows[n : n + size] for window in one])
        for n in range(0, len(windows), size)
    ]


def draw_case(source: Source, task: Task, settings: TrainingSettings, index: int) -> Batch:
    """One case of the validation, as a batch of one."""
    generator = generator_at(settings.seed, "validation", index)
    sample = source.sample(task.wanted, generator, pair=task.pairs)
    return _stacked(_windows(sample, task, settings, generator)[:1])


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
    sample: Batch, task: Task, settings: TrainingSettings, generator: torch.Generator
) -> list[Batch]:
    if settings.crop_shape is None:
        return [task.prepare(sample, generator)]
    windows = [crop(sample, settings.crop_shape, generator) for _ in range(settings.crops)]
    return [task.prepare(window, generator) for window in windows]


def _stacked(windows: Sequence[Batch]) -> Batch:
    """(B, C, I, J, K) of each tensor that all windows have."""
    names = [name for name in windows[0] if all(name in window for window in windows)]
    return {name: torch.stack([window[name] for window in windows]) for name in names}
