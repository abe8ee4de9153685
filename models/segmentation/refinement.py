"""Labels brought to the image's own edges: of the classes that are possible, the likeliest one.

A network that works on coarse voxels knows where structures lie, not where their borders run in a
fine image. Its scores serve as the prior of a mixture that is fitted to the image's own
intensities, whatever the contrast (Van Leemput et al. 1999, doi:10.1109/42.811270; Ashburner and
Friston 2005, doi:10.1016/j.neuroimage.2005.02.018). Classes that are one tissue share a Gaussian
whose mean may drift over the image, as shading makes it; classes of several tissues share a
histogram. Only what the network holds possible in a voxel is a candidate there.

Off unless the model's metadata ask for it, by structure::

    "refinement": {
        "tissues": [["left cerebral white matter", "right cerebral white matter"], ["brainstem"]],
        "mixed": [["CSF and other intracranial"]]
    }

Classes that are named nowhere share one more histogram; where they alone are likely, labels stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from radloom.errors import ConfigError

__all__ = ["Candidates", "Refinement", "read_refinement", "refine", "refinement_bytes"]

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

LEAST_RATIO = 0.002
"""A class that is less likely than this times the likeliest is no candidate."""

LEAST_NAMED = 0.02
"""Where all classes that are named have less probability together, the label stays."""

MOST = 4
"""Candidates of a voxel."""

_FITTED = 700_000
"""Voxels that the mixture is fitted to at most, evenly spread."""

_AT_ONCE = 500_000
"""Voxels that are labelled at a time: some 100 MiB."""

_LARGEST_MM3 = 2.2e6
"""Of a brain with what is round it."""

_TURNS = 4
"""Of the fit."""

_BLOCK_MM = 4.0
"""Edge of the blocks in which a drifting mean is kept."""

_FARTHEST = 4.0
"""An intensity further from a mean than this, in deviations, counts as this far, so that a lesion
or an artefact does not rule out the tissue that it lies in."""

_STEADY = 0.01
"""How much of a tissue's density where it is most stands for its mean over the whole image: where
there is less of it, its mean drifts less."""

_BINS = 64
"""Of a histogram."""

_FEWEST = 20.0
"""Voxels by which an intensity can be told."""


@dataclass(frozen=True)
class Refinement:
    """Which classes share an intensity, and how much intensities count."""

    tissues: tuple[tuple[int, ...], ...]
    """Classes, as the network numbers them, that are one tissue."""
    mixed: tuple[tuple[int, ...], ...] = ()
    """Classes that are several tissues."""
    prior: float = 0.7
    """The power to which the network's probabilities are taken: neighbouring voxels share its
    errors, so what it says in each is not independent."""
    likelihood: float = 1.0
    """The power to which the likelihood of an intensity is taken."""
    reach_mm: float = 8.0
    """Deviation of the Gaussian over which a mean is taken."""

    @property
    def named(self) -> frozenset[int]:
        """All classes of `tissues` and `mixed`."""
        return frozenset(one for group in (*self.tissues, *self.mixed) for one in group)


def read_refinement(content: Mapping[str, Any], class_names: Sequence[str]) -> Refinement | None:
    """What a bundle's metadata ask for; None: nothing.

    Args:
        content: the metadata.
        class_names: of the network's channels, in order.

    Raises:
        ConfigError: a key that is not known, or a structure that the model lacks or that stands in
            two groups.

    >>> read_refinement({"refinement": {"tissues": [["b"]]}}, ["background", "a", "b"]).tissues
    ((2,),)
    """
    asked = content.get("refinement")
    if asked is None:
        return None
    known = {one.name for one in fields(Refinement)}
    if not isinstance(asked, Mapping) or "tissues" not in asked or set(asked) - known:
        raise ConfigError(
            f"refinement: expected tissues, and of {', '.join(sorted(known))} what is needed, got "
            f"{asked!r}"
        )
    groups = {key: [list(group) for group in asked.get(key, ())] for key in ("tissues", "mixed")}
    named = [name for key in groups for group in groups[key] for name in group]
    wrong = [name for n, name in enumerate(named) if name not in class_names or name in named[:n]]
    if wrong:
        raise ConfigError(f"refinement: expected the model's structures, once each, got {wrong[0]}")
    found = {
        key: tuple(tuple(map(class_names.index, group)) for group in every)
        for key, every in groups.items()
    }
    numbers = {key: float(value) for key, value in asked.items() if key not in groups}
    return Refinement(tissues=found["tissues"], mixed=found["mixed"], **numbers)


@dataclass(frozen=True)
class _Voxels:
    """Voxels and what is possible in each."""

    place: Integers
    """(n,) In the flattened grid, rising."""
    classes: npt.NDArray[np.uint16]
    """(n, MOST), the likeliest first."""
    score: npt.NDArray[np.float16]
    """(n, MOST) The network's, less the largest of the voxel; minus infinity: no candidate."""

    def __getitem__(self, which: slice | npt.NDArray[np.bool_]) -> _Voxels:
        return _Voxels(self.place[which], self.classes[which], self.score[which])


@dataclass
class Candidates:
    """Takes scores box by box, and keeps the classes that are possible in each voxel.

    Args:
        how: which classes are named.
        shape: of the grid.
    """

    how: Refinement
    shape: tuple[int, ...]
    margin: float = -math.log(LEAST_RATIO)
    """What a score may lie below the largest."""
    _boxes: list[_Voxels] = field(default_factory=list, repr=False)

    def restart(self) -> None:
        """Forget all that was taken."""
        self._boxes.clear()

    def take(self, place: tuple[slice, ...], classes: Sequence[int], scores: torch.Tensor) -> None:
        """Keep what counts of the scores (len(classes), x, y, z) of the box at `place`.

        `classes` are at least those whose score is within `margin` of the largest somewhere.
        """
        score, which = scores.float().topk(min(MOST, len(classes)), dim=0)
        score = score - score[0]
        score[score < -self.margin] = -torch.inf
        named = torch.tensor([one in self.how.named for one in classes], device=score.device)
        share = score.exp()
        there = (share * named[which]).sum(0) > LEAST_NAMED * share.sum(0)
        at = [axis.cpu().numpy() for axis in there.nonzero(as_tuple=True)]
        if not len(at[0]):
            return
        spare = [(0, 0), (0, MOST - len(score))]
        numbers = np.asarray(classes, np.uint16)[which[:, there].T.cpu().numpy()]
        values = score[:, there].T.half().cpu().numpy()
        corner = [along.start for along in place]
        self._boxes.append(
            _Voxels(
                np.ravel_multi_index([a + c for a, c in zip(at, corner, strict=True)], self.shape),
                np.pad(numbers, spare),
                np.pad(values, spare, constant_values=-np.inf),
            )
        )

    def voxels(self) -> _Voxels | None:
        """All that was kept, in the order of voxels; None: nothing."""
        if not self._boxes:
            return None
        place = np.concatenate([box.place for box in self._boxes])
        order = np.argsort(place)
        return _Voxels(
            place[order],
            np.concatenate([box.classes for box in self._boxes])[order],
            np.concatenate([box.score for box in self._boxes])[order],
        )


def refine(
    labels: npt.NDArray[Any],
    image: npt.NDArray[Any],
    candidates: Candidates,
    spacing: Sequence[float],
    nothing: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Give every voxel that has candidates the likeliest of them, in place.

    Args:
        labels: (I, J, K) classes, as the network numbers them.
        image: (I, J, K) intensities, on the grid of `labels`.
        candidates: of that grid.
        spacing: millimetres along I, J, K.
        nothing: (I, J, K) where the image is blank and no class but the first is; None: nowhere.
    """
    voxels = candidates.voxels()
    if nothing is not None:
        labels[nothing] = 0
        voxels = None if voxels is None else voxels[~nothing.ravel()[voxels.place]]
    if voxels is None or not len(voxels.place):
        return
    some = voxels[:: -(-len(voxels.place) // _FITTED)]
    mixture = _Mixture(candidates.how, image, spacing, some)
    for begin in range(0, len(voxels.place), _AT_ONCE):
        part = voxels[begin : begin + _AT_ONCE]
        best = mixture.scores(part).argmax(1)
        labels[np.unravel_index(part.place, labels.shape)] = part.classes[
            np.arange(len(best)), best
        ]


def refinement_bytes(shape: Sequence[int], spacing: Sequence[float]) -> int:
    """What it takes at its peak beside the image and the labels (I, J, K), `spacing` in mm.

    The candidates of a large brain and its rim, once more while they are put in order, and the fit.
    """
    n_voxels = min(math.prod(shape), int(_LARGEST_MM3 / math.prod(spacing)))
    return 48 * n_voxels + 400 * min(n_voxels, _FITTED)


class _Mixture:
    """The intensities of each group of classes in one image.

    Args:
        how: the groups.
        image: (I, J, K).
        spacing: millimetres along I, J, K.
        voxels: that it is fitted to.
    """

    def __init__(
        self, how: Refinement, image: npt.NDArray[Any], spacing: Sequence[float], voxels: _Voxels
    ) -> None:
        self.how, self.image = how, image
        self.blocks = _Blocks(image.shape, spacing, how.reach_mm)
        self.groups: list[_Drifting | _Histogram | None] = []
        values, where = self._values(voxels), self.blocks.places(voxels.place)
        low, high = np.percentile(values, (0.1, 99.9))
        edges = np.linspace(low, max(high, low + np.finfo(np.float32).eps), _BINS + 1)
        for _ in range(_TURNS):
            known = self.scores(voxels) if self.groups else voxels.score.astype(np.float32)
            posterior = _softmax(known)
            self.groups = []
            for group, (rows, columns) in enumerate(self._members(voxels)):
                weight, own = posterior[rows, columns], values[rows]
                if weight.sum() < _FEWEST:
                    self.groups.append(None)
                elif group < len(how.tissues):
                    self.groups.append(self.blocks.drifting(where[:, rows], own, weight, edges))
                else:
                    self.groups.append(_Histogram.of(own, weight, edges))

    def scores(self, voxels: _Voxels) -> Floats:
        """(n, MOST) The logarithm of each candidate's probability, but for a voxel's constant."""
        result: Floats = self.how.prior * voxels.score.astype(np.float32)
        values, where = self._values(voxels), self.blocks.places(voxels.place)
        for intensity, (rows, columns) in zip(self.groups, self._members(voxels), strict=True):
            if intensity is None:
                result[rows, columns] = -np.inf
            else:
                likelihood = intensity.log_likelihood(values[rows], where[:, rows])
                result[rows, columns] += self.how.likelihood * likelihood
        result[~np.isfinite(result).any(1), 0] = 0
        return result

    def _values(self, voxels: _Voxels) -> Floats:
        at = np.unravel_index(voxels.place, self.image.shape)
        found: Floats = self.image[at].astype(np.float32)
        return found

    def _members(self, voxels: _Voxels) -> Iterator[tuple[Integers, Integers]]:
        """Of each group, which rows and columns of the candidates are its."""
        groups = (*self.how.tissues, *self.how.mixed)
        largest = max(int(voxels.classes.max()), *self.how.named)
        table = np.full(largest + 1, len(groups))
        for number, classes in enumerate(groups):
            table[list(classes)] = number
        found = np.where(np.isneginf(voxels.score), -1, table[voxels.classes])
        for number in range(len(groups) + 1):
            rows, columns = np.nonzero(found == number)
            yield rows, columns


@dataclass(frozen=True)
class _Drifting:
    """A Gaussian whose mean drifts over the image."""

    mean: float
    drift: Floats
    """What is added to the mean in each block."""
    variance: float

    def log_likelihood(self, values: Floats, where: Floats) -> Floats:
        """(n,) Of intensities, each at its place (3, n) in blocks."""
        square = (values - self.mean - _between(self.drift, where)) ** 2 / self.variance
        found: Floats = -0.5 * (np.minimum(square, _FARTHEST**2) + math.log(self.variance))
        return found - 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class _Histogram:
    """Densities of intensities, the same everywhere."""

    edges: npt.NDArray[np.float64]
    log_density: Floats

    @classmethod
    def of(cls, values: Floats, weight: Floats, edges: npt.NDArray[np.float64]) -> _Histogram:
        """Of weighted intensities; those beyond the edges count to the last bins."""
        inside = np.clip(values, edges[0], edges[-1])
        count = ndimage.gaussian_filter1d(np.histogram(inside, edges, weights=weight)[0], 1.0)
        share = count / count.sum() + 1e-3 / len(count)
        density = share / share.sum() / (edges[1] - edges[0])
        return cls(edges, np.log(density).astype(np.float32))

    def log_likelihood(self, values: Floats, where: Floats) -> Floats:  # noqa: ARG002 (drifts not)
        """(n,) Of intensities, wherever they are."""
        at = np.searchsorted(self.edges, values, side="right") - 1
        return self.log_density[np.clip(at, 0, len(self.log_density) - 1)]


class _Blocks:
    """A coarse grid over the image's.

    Args:
        shape: of the image.
        spacing: of the image, mm.
        reach_mm: deviation of the Gaussian that smooths what blocks hold.
    """

    def __init__(self, shape: Sequence[int], spacing: Sequence[float], reach_mm: float) -> None:
        self.whole = tuple(shape)
        self.edge = [max(1, round(_BLOCK_MM / mm)) for mm in spacing]
        self.shape = tuple(-(-n // edge) for n, edge in zip(shape, self.edge, strict=True))
        self.reach = [reach_mm / (n * mm) for n, mm in zip(self.edge, spacing, strict=True)]

    def places(self, voxels: Integers) -> Floats:
        """(3, n) The centres of voxels of the flattened image, in blocks."""
        at = np.unravel_index(voxels, self.whole)
        places = [(a + 0.5) / edge - 0.5 for a, edge in zip(at, self.edge, strict=True)]
        return np.stack(places).astype(np.float32)

    def drifting(
        self, where: Floats, values: Floats, weight: Floats, edges: npt.NDArray[np.float64]
    ) -> _Drifting:
        """The Gaussian of weighted intensities (n,) at (3, n)."""
        mean = float(np.average(values, weights=weight))
        block = np.ravel_multi_index(tuple((where + 0.5).astype(np.int64)), self.shape)
        count = self._smooth(block, weight)
        drift = self._smooth(block, weight * (values - mean)) / (count + _STEADY * count.max())
        sure = weight**2
        rest = (values - mean - _between(drift, where)) ** 2
        variance = float(np.average(rest, weights=sure))
        return _Drifting(mean, drift, variance + (0.3 * float(edges[1] - edges[0])) ** 2)

    def _smooth(self, block: Integers, weight: Floats) -> Floats:
        total = np.bincount(block, weight, math.prod(self.shape)).reshape(self.shape)
        smooth: Floats = ndimage.gaussian_filter(
            total.astype(np.float32), self.reach, mode="constant", truncate=3.0
        )
        return smooth


def _between(blocks: Floats, where: Floats) -> Floats:
    """(n,) Linearly interpolated at (3, n)."""
    found: Floats = ndimage.map_coordinates(blocks, where, order=1, mode="nearest")
    return found


def _softmax(scores: Floats) -> Floats:
    """(n, MOST) Probabilities."""
    shares = np.exp(scores - scores.max(1, keepdims=True))
    found: Floats = shares / shares.sum(1, keepdims=True)
    return found
