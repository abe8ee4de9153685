"""Scores of a sliding window, one finished slab after the other.

nnU-Net's windows overlap, and its scores of a voxel are the weighted mean over all windows that
hold it. The windows come in order of their first axis, so the planes before the next window's start
are finished: they are handed on and forgotten, and only as many planes as a window is deep are held
for all classes. Every voxel's sum is built up in nnU-Net's order and precision, so the scores are
the same to the bit.

Source: nnunetv2, ``inference/predict_from_raw_data.py``.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from radloom.errors import StageFailed
from radloom.threads import lone_threads

__all__ = ["Predict", "Windows", "finished_planes", "mirrored", "plan_windows"]

_T = TypeVar("_T")
_R = TypeVar("_R")

Predict = Callable[[torch.Tensor], torch.Tensor]
"""(b, c, X, Y, Z) windows -> (b, classes, X, Y, Z) scores."""


@dataclass(frozen=True)
class Windows:
    """Where a network looks, on a grid that was padded to hold at least one window."""

    starts: tuple[tuple[int, ...], ...]
    """For each axis, where windows begin."""
    size: tuple[int, int, int]
    """A window's; one plane for a 2D network."""
    padding: tuple[tuple[int, int], ...]
    """Voxels of zeros before and after, for each axis."""
    shape: tuple[int, int, int]
    """Of the grid without padding."""

    def __len__(self) -> int:
        return int(np.prod([len(along) for along in self.starts]))

    @property
    def padded(self) -> tuple[int, ...]:
        """The shape with padding."""
        return tuple(n + sum(p) for n, p in zip(self.shape, self.padding, strict=True))


def plan_windows(shape: Sequence[int], patch: Sequence[int], step: float) -> Windows:
    """nnU-Net's windows over a grid (X, Y, Z).

    Args:
        shape: of the grid.
        patch: of the network; two sizes for a network of planes.
        step: the step as a share of the window, above 0 and at most 1.

    >>> plan_windows((10, 110, 40), (64, 64), 0.5).starts[1:]
    ((0, 23, 46), (0,))
    """
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    size = (1, *patch) if len(patch) == 2 else tuple(patch)
    lacking = [max(0, s - n) for s, n in zip(size, shape, strict=True)]
    padding = tuple((n // 2, n - n // 2) for n in lacking)
    padded = tuple(n + k for n, k in zip(shape, lacking, strict=True))
    planar = len(patch) == 2
    steps = compute_steps_for_sliding_window(padded[-len(patch) :], tuple(patch), step)
    starts = [range(padded[0]), *steps] if planar else steps
    return Windows(
        tuple(tuple(along) for along in starts),
        (int(size[0]), int(size[1]), int(size[2])),
        padding,
        (int(shape[0]), int(shape[1]), int(shape[2])),
    )


def mirrored(network: Predict, axes: Sequence[int] | None) -> Predict:
    """The mean of a network's scores over all ways to mirror the window, in nnU-Net's order."""
    ways = [
        way for n in range(1, len(axes or ()) + 1) for way in itertools.combinations(axes or (), n)
    ]

    def predict(windows: torch.Tensor) -> torch.Tensor:
        total = network(windows)
        for way in ways:
            dims = [axis + 2 for axis in way]
            total += torch.flip(network(torch.flip(windows, dims)), dims)
        return total.div_(len(ways) + 1) if ways else total

    return predict


def finished_planes(
    fetch: Callable[[tuple[slice, ...]], torch.Tensor],
    networks: Sequence[Predict],
    windows: Windows,
    n_classes: int,
    *,
    device: torch.device,
    results: torch.device,
    rows: slice | None = None,
    batch: int = 1,
    parallel: int = 1,
) -> Iterator[torch.Tensor]:
    """(classes, x, rows, Z) The scores of the next finished planes, float16, padding left out.

    What comes is a view that the next step overwrites.

    Args:
        fetch: (c, X, Y, Z) the input of the network for a window.
        networks: of each fold; their scores are averaged.
        windows: by `plan_windows`.
        n_classes: channels of the scores.
        device: where the networks run.
        results: where scores are held.
        rows: the part of the second axis that is wanted; None: all of it.
        batch: windows at a time.
        parallel: how many threads take a batch each; the scores do not depend on it.

    Raises:
        StageFailed: a score is beyond what float16 holds.
    """
    low = windows.padding[1][0]
    wanted = rows or slice(0, windows.shape[1])
    band = slice(wanted.start + low, wanted.stop + low)
    state = _Sums.empty(len(networks), n_classes, windows, band, results)
    weight = _gaussian(windows, results)
    known = [_Repeated(_weighed(network, weight.to(device))) for network in networks]
    first = windows.starts[0]
    inner = [slice(p[0], p[0] + n) for p, n in zip(windows.padding, windows.shape, strict=True)]

    def scores_of(asked: tuple[list[tuple[slice, ...]], int]) -> torch.Tensor:
        some, fold = asked
        with torch.inference_mode():  # which each thread has its own of
            inputs = torch.stack([fetch(place) for place in some]).to(device)
            return known[fold](inputs)

    for begin, after in zip(first, [*first[1:], windows.padded[0]], strict=True):
        places = _batches(_row(windows, begin, band), batch)
        asked = [(some, fold) for some in places for fold in range(len(known))]
        for (some, fold), scores in zip(asked, _in_order(scores_of, asked, parallel), strict=True):
            for place, one in zip(some, scores, strict=True):
                state.add(fold, place, one.to(results))
                if fold == 0:
                    state.count(place, weight)
        done = state.take(after - begin)
        keep = slice(max(inner[0].start - begin, 0), max(inner[0].stop - begin, 0))
        if done[:, keep].shape[1]:
            yield done[:, keep, :, inner[2]]
        state.forget(after - begin)


def _in_order(work: Callable[[_T], _R], items: Sequence[_T], parallel: int) -> Iterator[_R]:
    """What `work` makes of each item, in order; at most `parallel` are begun or not yet taken."""
    if parallel == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[_R]] = deque()
    with lone_threads(parallel) as pool:
        for item in items:
            if len(waiting) == parallel:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, item))
        while waiting:
            yield waiting.popleft().result()


def _row(windows: Windows, begin: int, band: slice) -> list[tuple[slice, ...]]:
    """The windows that begin at a plane and reach into a band of the second axis."""
    size = windows.size
    return [
        (slice(begin, begin + size[0]), slice(y, y + size[1]), slice(z, z + size[2]))
        for y, z in itertools.product(*windows.starts[1:])
        if y < band.stop and y + size[1] > band.start
    ]


def _batches(places: list[tuple[slice, ...]], n: int) -> Iterator[list[tuple[slice, ...]]]:
    for begin in range(0, len(places), n):
        yield places[begin : begin + n]


@dataclass
class _Sums:
    """Weighted sums of the scores over as many planes as a window is deep."""

    scores: torch.Tensor
    """(folds, classes, x, rows, Z) float16."""
    weights: torch.Tensor
    """(x, rows, Z) float16."""
    band: slice
    """The rows of the padded grid."""

    @classmethod
    def empty(
        cls, folds: int, classes: int, windows: Windows, band: slice, device: torch.device
    ) -> _Sums:
        shape = (windows.size[0], band.stop - band.start, windows.padded[2])
        scores = torch.zeros((folds, classes, *shape), dtype=torch.half, device=device)
        return cls(scores, torch.zeros(shape, dtype=torch.half, device=device), band)

    def add(self, fold: int, place: tuple[slice, ...], weighed: torch.Tensor) -> None:
        """Add a window's scores (classes, x, y, z), times its weights."""
        into, part = self._part(place)
        for sums, values in zip(self.scores[fold], weighed, strict=True):
            sums[into] += values[part]

    def count(self, place: tuple[slice, ...], weight: torch.Tensor) -> None:
        """Add a window's weights."""
        into, part = self._part(place)
        self.weights[into] += weight[part]

    def _part(self, place: tuple[slice, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where a window lies in the band, and which part of it."""
        low, high = max(place[1].start, self.band.start), min(place[1].stop, self.band.stop)
        into = slice(low - self.band.start, high - self.band.start)
        part = slice(low - place[1].start, high - place[1].start)
        every = slice(None)
        return (every, into, place[2]), (every, part, every)

    def take(self, n: int) -> torch.Tensor:
        """(classes, n, Y, Z) The means of the first planes, over windows and folds."""
        done = self.scores[:, :, :n]
        for fold in done:
            torch.div(fold, self.weights[:n], out=fold)
        if any(map(torch.isinf, done.aminmax())):
            raise StageFailed(
                "the network's scores exceed what nnU-Net's half precision holds (65504): the "
                "model or the normalisation of the image is broken"
            )
        mean = done[0]
        for fold in done[1:]:
            mean += fold
        return mean.div_(len(done)) if len(done) > 1 else mean

    def forget(self, n: int) -> None:
        for sums in (self.weights, *self.scores.flatten(0, 1)):
            kept = sums[n:].clone()
            sums[: len(kept)] = kept
            sums[len(kept) :] = 0


@dataclass
class _Repeated:
    """A network that does the same windows of one value a channel only once.

    Around a body lies nothing, and after normalisation much of it is one value: equal windows have
    equal scores.
    """

    network: Predict
    known: dict[tuple[float, ...], torch.Tensor] = field(default_factory=dict, repr=False)
    """The last values and their scores; replaced as a whole, for several threads look at it."""

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        values = [_only_values(window) for window in windows]
        if any(value is None for value in values) or len(set(values)) > 1:
            return self.network(windows)
        key = values[0] or ()
        scores = self.known.get(key)
        if scores is None:
            scores = self.network(windows[:1])
            self.known = {key: scores}
        return scores.expand(len(windows), *scores.shape[1:])


def _weighed(network: Predict, weight: torch.Tensor) -> Predict:
    """A network whose scores come times the window's weights, by which they are summed."""
    return lambda windows: network(windows).mul_(weight)


def _only_values(window: torch.Tensor) -> tuple[float, ...] | None:
    """The value of each channel where it has only one."""
    first = window.flatten(1)[:, 0]
    same = bool((window == first.view(-1, *[1] * (window.ndim - 1))).all())
    return tuple(first.tolist()) if same else None


def _gaussian(windows: Windows, device: torch.device) -> Any:
    """(X, Y, Z) A window's weights, float16, largest 10."""
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    planar = windows.size[0] == 1
    size = windows.size[1:] if planar else windows.size
    weight = compute_gaussian(size, sigma_scale=1.0 / 8, value_scaling_factor=10, device=device)
    return weight[None] if planar else weight
