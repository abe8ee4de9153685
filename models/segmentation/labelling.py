"""Labels of the image's grid from scores on the model's, plane after plane and box by box.

nnU-Net brings the scores of all classes to the image's grid and takes the largest; that buffer,
classes x voxels, is what its memory goes to. Here the finished planes of scores are brought to the
image's grid one small box at a time, and only labels stay. A box asks first which classes can win
in it at all: interpolated scores lie between those they are made of, so a class whose largest score
in the box is below another's smallest is left out, and where one class remains nothing is
interpolated. The labels are those that nnU-Net gives, rounding to float16 included.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from radloom.models.segmentation.blank import blank
from radloom.models.segmentation.refinement import Candidates, Refinement, refine
from radloom.models.segmentation.resampling import Neighbours, coarse_axis, linear, nearest
from radloom.threads import lone_threads

__all__ = ["Doubt", "Labeller", "Rule", "TakeProbabilities", "neighbours", "refined_labels"]

TakeProbabilities = Callable[[tuple[slice, ...], npt.NDArray[np.float16]], None]
"""Takes the probabilities (classes, x, y, z) of a box of the grid, and where it lies."""

_BOX = (16, 64, 128)
"""Voxels of the image's grid at a time on the CPU: they stay in its caches."""

_BOX_ON_DEVICE = (16, 512, 512)


@dataclass(frozen=True)
class Rule:
    """What scores mean."""

    n_classes: int
    """Channels of the scores."""
    regions: tuple[int, ...] = ()
    """Of a region-based model, the value that each channel paints; else empty."""

    def labels(self, scores: Iterator[tuple[int, torch.Tensor]], shape: Sequence[int],
               device: torch.device) -> torch.Tensor:  # fmt: skip
        """Labels (x, y, z), int32, of the classes' scores, float16, in order."""
        result = torch.zeros(tuple(shape), dtype=torch.int32, device=device)
        best: torch.Tensor | None = None
        for channel, values in scores:
            wide = values.float()
            if self.regions:
                result[torch.sigmoid(wide) > 0.5] = self.regions[channel]
            elif best is None:
                best = wide
                result.fill_(channel)
            else:
                result.masked_fill_(wide > best, channel)
                torch.maximum(best, wide, out=best)
        return result

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """(classes, x, y, z) float32, of all scores."""
        return scores.float().sigmoid() if self.regions else scores.float().softmax(0)

    def possible(self, scores: torch.Tensor, margin: float = 0.0) -> list[int]:
        """The classes of a box (classes, x, y, z) that may come within `margin` of winning in it.

        With regions `margin` does not count.
        """
        flat = scores.flatten(1)
        high = flat.amax(1)
        if self.regions:
            return [at for at, value in enumerate(high.tolist()) if value > 0]
        least = float(flat.amin(1).max()) - margin
        return [at for at, value in enumerate(high.tolist()) if value >= least]


def neighbours(
    old: Sequence[int],
    new: Sequence[int],
    spacing: tuple[Sequence[float], Sequence[float]],
    settings: dict[str, Any],
) -> tuple[Neighbours, ...]:
    """For each axis, what nnU-Net's default interpolation of scores takes together.

    Args:
        old: shape of the model's grid.
        new: shape of the image's.
        spacing: of the model's grid and of the image's, mm.
        settings: ``order`` (0 or 1) and ``force_separate_z``, as in the plans.
    """
    apart = coarse_axis(*spacing, separate=settings["force_separate_z"])
    between = nearest if settings["order"] == 0 else linear
    return tuple(
        (nearest if axis == apart else between)(before, after)
        for axis, (before, after) in enumerate(zip(old, new, strict=True))
    )


@dataclass
class Doubt:
    """How unsure the model was: the entropy of its probabilities by structure.

    Every other voxel along each axis of the model's grid counts. An entropy is given as a share of
    the largest that there can be: 0 where the model is certain, 1 where all classes are as likely.
    """

    rule: Rule
    total: npt.NDArray[np.float64] = field(init=False)
    count: npt.NDArray[np.float64] = field(init=False)
    row: int = 0
    """Where the next strip's rows begin that no strip has had."""
    _at: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Start with nothing counted."""
        self.restart()

    def restart(self) -> None:
        """Forget all that was counted."""
        self.total, self.count = np.zeros(self.rule.n_classes), np.zeros(self.rule.n_classes)
        self.begin(0)
        self.row = 0

    def begin(self, row: int) -> None:
        """The planes that come next are the first ones, their rows beginning at `row`."""
        self._at = (0, row)

    def add(self, planes: torch.Tensor) -> None:
        """Count the scores (classes, x, Y, Z) of the next planes."""
        plane, row = self._at
        self._at = (plane + planes.shape[1], row)
        for scores in planes[:, plane % 2 :: 2, row % 2 :: 2, ::2].unbind(1):
            self._count(scores.float().flatten(1))

    def by_label(self) -> dict[int, float]:
        """Label -> mean entropy where the model gave that label; absent where it never did."""
        values = self.rule.regions or range(self.rule.n_classes)
        found = zip(values, self.total, self.count, strict=True)
        return {value: float(total / n) for value, total, n in found if n and value}

    def _count(self, scores: torch.Tensor) -> None:
        if self.rule.regions:
            shares = scores.sigmoid()
            entropy = torch.special.entr(shares) + torch.special.entr(1 - shares)
            inside = (shares > 0.5).double()
            self.total += (entropy.double() * inside).sum(1).cpu().numpy() / math.log(2)
            self.count += inside.sum(1).cpu().numpy()
            return
        entropy = torch.special.entr(scores.softmax(0)).sum(0).double()
        entropy /= math.log(max(2, self.rule.n_classes))
        winner, n = scores.argmax(0).cpu(), self.rule.n_classes
        self.total += torch.bincount(winner, entropy.cpu(), minlength=n).numpy()
        self.count += torch.bincount(winner, minlength=n).numpy()


@dataclass
class Labeller:
    """Takes planes of scores as they are finished, and fills in labels.

    Args:
        out: (X, Y, Z) integers on the image's grid; only `box` is written.
        box: where on that grid the scores belong.
        axes: of each axis, from the model's places to those of `box`.
        rule: what scores mean.
        probabilities: takes all probabilities too, where asked for.
        double: interpolate in float64, as nnU-Net does, rather than in float32.
        candidates: takes what is possible in each voxel, where labels are refined later.
        n_threads: of the CPU, a box each; the labels do not depend on it.
    """

    out: npt.NDArray[Any]
    box: tuple[tuple[int, int], ...]
    axes: tuple[Neighbours, ...]
    rule: Rule
    probabilities: TakeProbabilities | None = None
    double: bool = True
    candidates: Candidates | None = None
    n_threads: int = 1
    _held: torch.Tensor | None = field(default=None, repr=False)
    _first: int = 0
    _next: int = 0

    def add(self, planes: torch.Tensor) -> None:
        """The scores (classes, x, Y, Z) of the next planes of the model's grid, float16."""
        for some in planes.split(_BOX[0], dim=1):
            held = some if self._held is None else torch.cat([self._held, some], dim=1)
            end = self._first + held.shape[1]
            ready = int(np.searchsorted(self.axes[0].high, end))
            for begin in range(self._next, ready, _BOX[0]):
                self._planes(held, begin, min(begin + _BOX[0], ready))
            self._next = ready
            if ready < len(self.axes[0].low):
                kept = min(int(self.axes[0].low[ready]) - self._first, held.shape[1])
                self._held, self._first = held[:, kept:].clone(), self._first + kept

    def _planes(self, held: torch.Tensor, begin: int, end: int) -> None:
        size = _BOX if held.device.type == "cpu" else _BOX_ON_DEVICE
        rows, columns = (len(axis.low) for axis in self.axes[1:])
        places = [
            (slice(begin, end), slice(y, min(y + size[1], rows)),
             slice(z, min(z + size[2], columns)))
            for y, z in itertools.product(range(0, rows, size[1]), range(0, columns, size[2]))
        ]  # fmt: skip
        if self.n_threads == 1 or self.probabilities is not None or held.device.type != "cpu":
            for place in places:
                self._one(held, place)
            return

        def alone(place: tuple[slice, ...]) -> None:
            with torch.inference_mode():  # which each thread has its own of
                self._one(held, place)

        with lone_threads(self.n_threads) as pool:
            for _ in pool.map(alone, places):
                pass

    def _one(self, held: torch.Tensor, place: tuple[slice, ...]) -> None:
        near = [_cut(axis, along) for axis, along in zip(self.axes, place, strict=True)]
        shift = (self._first, 0, 0)
        source = tuple(
            slice(int(axis.low[0]) - at, int(axis.high[-1]) + 1 - at)
            for axis, at in zip(near, shift, strict=True)
        )
        local = [
            Neighbours(axis.low - axis.low[0], axis.high - axis.low[0], axis.weight)
            for axis in near
        ]
        cut = (slice(None), *source)
        scores = held[cut]
        scores = scores.float() if scores.device.type == "cpu" else scores
        at = tuple(
            slice(low + along.start, low + along.stop)
            for (low, _), along in zip(self.box, place, strict=True)
        )
        if self.probabilities is not None:
            whole = torch.stack([self._interpolated(channel, local) for channel in scores])
            chances = self.rule.probabilities(whole).half().cpu().numpy()
            self.probabilities(at, chances)
            self._keep(at, range(len(whole)), whole)
            return
        margin = 0.0 if self.candidates is None else self.candidates.margin
        possible = self.rule.possible(scores, margin)
        shape = [len(axis.low) for axis in local]
        if len(possible) == 1 and not self.rule.regions:
            self.out[at] = possible[0]
            if self.candidates is not None:
                self.candidates.take(at, possible, torch.zeros(1, *shape))
            return
        found = (self._interpolated(scores[channel], local) for channel in possible)
        if self.candidates is not None:
            self._keep(at, possible, torch.stack(list(found)))
            return
        pairs = zip(possible, found, strict=True)
        self.out[at] = self.rule.labels(pairs, shape, scores.device).cpu().numpy()

    def _keep(self, at: tuple[slice, ...], classes: Sequence[int], scores: torch.Tensor) -> None:
        """Labels of the scores (classes, x, y, z) of a box, and what else is possible there."""
        pairs = zip(classes, scores, strict=True)
        self.out[at] = self.rule.labels(pairs, scores.shape[1:], scores.device).cpu().numpy()
        if self.candidates is not None:
            self.candidates.take(at, classes, scores)

    def _interpolated(self, scores: torch.Tensor, axes: Sequence[Neighbours]) -> torch.Tensor:
        """(x, y, z) float16, of the scores (X, Y, Z) of one class."""
        wide = scores.to(torch.float64 if self.double else torch.float32)
        for dim in (2, 1, 0):
            wide = _along(wide, dim, axes[dim])
        return wide.half()


def refined_labels(
    scores: torch.Tensor, image: npt.NDArray[np.float32], spacing_mm: float, how: Refinement
) -> npt.NDArray[np.uint16]:
    """Classes (I, J, K) of an image whose scores are known on coarser voxels of the same extent.

    Args:
        scores: (classes, i, j, k).
        image: (I, J, K).
        spacing_mm: of the image's cubic voxels.
        how: the intensities are used.
    """
    old, new = scores.shape[1:], image.shape
    coarse = [spacing_mm * n / m for n, m in zip(new, old, strict=True)]
    settings = {"order": 1, "force_separate_z": False}
    axes = neighbours(old, new, (coarse, [spacing_mm] * 3), settings)
    labels, candidates = np.zeros(new, np.uint16), Candidates(how, new)
    box = tuple((0, n) for n in new)
    labeller = Labeller(labels, box, axes, Rule(len(scores)), candidates=candidates, double=False)
    labeller.add(scores.half())
    refine(labels, image, candidates, [spacing_mm] * 3, blank(image, [spacing_mm] * 3))
    return labels


def _cut(axis: Neighbours, along: slice) -> Neighbours:
    return Neighbours(axis.low[along], axis.high[along], axis.weight[along])


def _along(values: torch.Tensor, dim: int, axis: Neighbours) -> torch.Tensor:
    low = torch.from_numpy(axis.low).to(values.device)
    if not axis.weight.any():
        same = len(low) == values.shape[dim] and np.array_equal(axis.low, np.arange(len(low)))
        return values if same else values.index_select(dim, low)
    high = torch.from_numpy(axis.high).to(values.device)
    weight = torch.from_numpy(axis.weight).to(values.device, values.dtype)
    shape = [-1 if d == dim else 1 for d in range(3)]
    return torch.lerp(
        values.index_select(dim, low), values.index_select(dim, high), weight.view(shape)
    )
