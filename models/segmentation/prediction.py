"""Any nnU-Net v2 model on volumes in memory, with the labels of nnU-Net and not its memory.

Preparation, sliding window and the way back go slab by slab: see `preparation`, `windows` and
`labelling`, which give what nnU-Net's own steps give.

Source: Isensee et al., nnU-Net, Nature Methods 2021, doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from radloom.errors import InputError, OutOfMemory
from radloom.geometry import Affine, spacing_of
from radloom.models.segmentation.axes import as_model, place_of, to_model
from radloom.models.segmentation.blank import blank
from radloom.models.segmentation.labelling import (
    Doubt,
    Labeller,
    Rule,
    TakeProbabilities,
    neighbours,
)
from radloom.models.segmentation.nnunet import MOST_STRIPS, NnunetFolder
from radloom.models.segmentation.postprocessing import postprocess
from radloom.models.segmentation.preparation import (
    Prepared,
    linear_scores,
    model_spacing,
    prepare,
)
from radloom.models.segmentation.refinement import Candidates, refine
from radloom.models.segmentation.resampling import Neighbours
from radloom.models.segmentation.result import Prediction
from radloom.models.segmentation.windows import Predict, finished_planes, plan_windows
from radloom.shapes import (
    LabelVolume,
    Volume,
    affine_of,
    array_of,
    make_label,
    require_same_grid,
    require_volume,
    spatial_shape,
)
from radloom.threads import MOST_WINDOWS, torch_settings

__all__ = ["NnunetModel"]


@dataclass(frozen=True)
class NnunetModel:
    """A loaded model."""

    folder: NnunetFolder
    """Where it comes from."""
    manager: Any = field(repr=False)
    """nnU-Net's PlansManager."""
    configuration: Any = field(repr=False)
    """nnU-Net's ConfigurationManager."""
    networks: tuple[Predict, ...] = field(repr=False)
    """Of each fold, mirrored where the model allows it."""
    device: torch.device
    """Where they run."""
    orientation: str
    """What the model's reader turns a volume to: ``RAS``, or empty for as it lies."""
    previous: NnunetModel | None = None
    """Of the second half of a cascade, the first."""

    def segment(
        self, volumes: Sequence[Volume], *, n_threads: int = 1, memory: int | None = None
    ) -> LabelVolume:
        """Labels (1, I, J, K) on the grid of `volumes`; see `predict`."""
        return self.predict(volumes, n_threads=n_threads, memory=memory).label

    def predict(
        self,
        volumes: Sequence[Volume],
        *,
        n_threads: int = 1,
        memory: int | None = None,
        probabilities: TakeProbabilities | None = None,
    ) -> Prediction:
        """Labels on the grid of `volumes`, as ``nnUNetv2_predict`` gives them, and their doubt.

        Args:
            volumes: one volume (1, I, J, K) a channel, in the order of `channel_names`, on one
                grid.
            n_threads: of the CPU; the labels do not depend on it.
            memory: bytes that may be taken; less than the folder's estimate takes more time.
            probabilities: takes the probabilities of all classes, a box (classes, i, j, k) of the
                volume's grid at a time; what lies outside all boxes is background.

        Raises:
            InputError: the number of volumes is not that of the channels.
            GridMismatch: the volumes do not share a grid.
            OutOfMemory: `memory`, or what the machine has, does not do.
        """
        self._require_channels(volumes)
        affine, shape = affine_of(volumes[0]), spatial_shape(volumes[0])
        values = self.folder.values
        largest = max(values or (len(self.folder.dataset["labels"]),))
        labels = np.zeros(shape, np.uint8 if largest <= 255 else np.uint16)
        doubt = Doubt(self.rule)
        take = None if probabilities is None else self._turned(probabilities, shape, affine)
        effort = self._effort(shape, spacing_of(affine).tolist(), memory, n_threads)
        stacked = np.concatenate([array_of(volume) for volume in volumes])
        with torch_settings(effort.n_threads), torch.inference_mode():
            data, spacing = to_model(stacked, affine, self.orientation)
            del stacked
            out = as_model(labels, affine, self.orientation)
            self._label(data, spacing, out, doubt, take, effort)
        found = doubt.by_label()
        if values:
            _number(labels, values)
            found = {values[index]: share for index, share in found.items()}
        labels = postprocess(labels, self.folder.label_names, self.folder.postprocessing)
        label = make_label(labels, affine, series_uid=str(volumes[0].meta.get("series_uid", "")))
        return Prediction(label, found)

    @property
    def rule(self) -> Rule:
        """What the network's channels stand for."""
        manager = self.manager.get_label_manager(dict(self.folder.dataset))
        order = tuple(manager.regions_class_order) if manager.has_regions else ()
        return Rule(manager.num_segmentation_heads, order)

    def _require_channels(self, volumes: Sequence[Volume]) -> None:
        names = self.folder.channel_names
        if len(volumes) != len(names):
            raise InputError(
                f"the model <{self.folder.name}> takes {len(names)} channel(s) ({', '.join(names)})"
                f", got {len(volumes)}"
            )
        for name, volume in zip(names, volumes, strict=True):
            require_same_grid(require_volume(volume, name), volumes[0], name)
            if volume.shape[0] != 1:
                raise InputError(f"{name}: expected (1, I, J, K), got {tuple(volume.shape)}")

    def _effort(
        self, shape: Sequence[int], spacing: Sequence[float], memory: int | None, n_threads: int
    ) -> _Effort:
        """How the work is cut, so that `memory` does; the labels do not depend on it."""
        folder = self.folder
        side_by_side = folder.parallel > 1 and not folder.options.compiled
        n_windows = min(n_threads, folder.parallel) if side_by_side else 1
        n_inside = 1 if side_by_side else n_threads
        if memory is None:
            return _Effort(1, n_windows, n_inside)
        ways = [(1, n_windows), *((strips, 1) for strips in range(1, MOST_STRIPS + 1))]
        for strips, windows in ways:
            if folder.estimate_memory(shape, spacing, strips, windows) <= memory:
                return _Effort(strips, windows, n_inside)
        needed = self.folder.least_memory(shape, spacing)
        raise OutOfMemory(
            f"the model <{self.folder.name}> needs {needed / 1e9:.1f} GB for this image, got "
            f"{memory / 1e9:.1f} GB; give more memory, or fewer folds"
        )

    def _label(
        self,
        data: npt.NDArray[np.float32],
        spacing: Sequence[float],
        out: npt.NDArray[Any],
        doubt: Doubt,
        probabilities: TakeProbabilities | None,
        effort: _Effort,
    ) -> None:
        """Labels (z, y, x) of (c, z, y, x), written into `out`."""
        how, order = self.folder.refinement, self.manager.transpose_forward
        turned = [spacing[axis] for axis in order]
        candidates = image = nothing = None
        if how is not None:
            image = data[0].transpose(order)
            candidates = Candidates(how, image.shape)
            nothing = blank(image, turned)  # before it is normalised in part, in place
        previous = None
        if self.previous is not None:
            previous = np.zeros(out.shape, np.int16)
            before = self.previous
            before._label(data.copy(), spacing, previous, Doubt(before.rule), None, effort)
        prepared = prepare(
            data, spacing, self.manager, self.configuration, self.folder.dataset, previous
        )
        del data, previous
        written = out.transpose(order)
        work = _Work(self, prepared, written, probabilities, candidates, effort)
        _step_down(lambda results, n: work.run(results, n, doubt), self.device, effort.strips)
        if candidates is not None and image is not None:
            del work, prepared
            refine(written, image, candidates, turned, nothing)

    def _turned(
        self, take: TakeProbabilities, shape: Sequence[int], affine: Affine
    ) -> TakeProbabilities:
        """Takes boxes of the model's axes and gives them on in the order I, J, K."""
        order = self.manager.transpose_forward

        def turned(place: tuple[slice, ...], values: npt.NDArray[np.float16]) -> None:
            found, axes, flips = place_of(place, shape, affine, order, self.orientation)
            moved = values.transpose(0, *(axis + 1 for axis in axes))
            take(found, np.flip(moved, tuple(axis + 1 for axis in flips)))

        return turned


@dataclass(frozen=True)
class _Effort:
    """How the work on one image is cut."""

    strips: int
    """Parts of the model's grid, one after the other."""
    windows: int
    """Windows at a time, on a thread each."""
    n_threads: int
    """Of PyTorch within a window."""


@dataclass(frozen=True)
class _Work:
    """One image on the model's grid, and where its labels go."""

    model: NnunetModel
    prepared: Prepared
    out: npt.NDArray[Any]
    probabilities: TakeProbabilities | None
    candidates: Candidates | None
    effort: _Effort

    def run(self, results: torch.device, strips: int, doubt: Doubt) -> None:
        """Label the image, with scores held on `results`."""
        doubt.restart()
        if self.candidates is not None:
            self.candidates.restart()
        axes = self._axes()
        if axes is None:
            self._by_nnunet(list(self._planes(results, slice(0, self._shape[1]))), doubt)
            return
        rows = len(axes[1].low)
        for n in range(strips):
            begin, end = rows * n // strips, rows * (n + 1) // strips
            if begin < end:
                self._strip(axes, slice(begin, end), results, doubt)

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.prepared.data.shape[1:]

    def _strip(
        self, axes: Sequence[Neighbours], rows: slice, results: torch.device, doubt: Doubt
    ) -> None:
        along = axes[1]
        first = int(along.low[rows.start])
        if rows.start:
            first = min(first, doubt.row)  # rows that no label needs count for the doubt as well
        used = slice(first, int(along.high[rows.stop - 1]) + 1)
        cut = Neighbours(along.low[rows] - first, along.high[rows] - first, along.weight[rows])
        (x, y, z) = self.prepared.box
        box = (x, (y[0] + rows.start, y[0] + rows.stop), z)
        double = results.type == "cpu"
        labeller = Labeller(
            self.out,
            box,
            (axes[0], cut, axes[2]),
            self.model.rule,
            self.probabilities,
            double,
            self.candidates,
            min(MOST_WINDOWS, self.effort.windows * self.effort.n_threads),
        )
        own = slice(doubt.row if rows.start else used.start, used.stop)
        doubt.begin(own.start)
        for planes in self._planes(results, used):
            labeller.add(planes)
            doubt.add(planes[:, :, own.start - used.start :])
        doubt.row = own.stop

    def _planes(self, results: torch.device, rows: slice) -> Iterator[torch.Tensor]:
        model = self.model
        windows = plan_windows(
            self._shape, model.configuration.patch_size, model.folder.options.step_size
        )
        parallel = min(self.effort.windows, model.folder.parallel)
        return finished_planes(
            _Fetch(self.prepared, windows.padding, self._values()),
            model.networks,
            windows,
            model.rule.n_classes,
            device=model.device,
            results=results,
            rows=rows,
            parallel=parallel if model.device.type == "cpu" else 1,
        )

    def _values(self) -> tuple[int, ...]:
        if self.prepared.previous is None:
            return ()
        manager = self.model.manager.get_label_manager(dict(self.model.folder.dataset))
        return tuple(int(value) for value in manager.foreground_labels)

    def _axes(self) -> tuple[Neighbours, ...] | None:
        configuration = self.model.configuration
        settings = linear_scores(configuration)
        if settings is None:
            return None
        own = self.prepared.spacing
        inside = [high - low for low, high in self.prepared.box]
        return neighbours(self._shape, inside, (model_spacing(configuration, own), own), settings)

    def _by_nnunet(self, planes: list[torch.Tensor], doubt: Doubt) -> None:
        """Plans that name another way back than nnU-Net's default get that way."""
        if self.probabilities is not None or self.candidates is not None:
            raise InputError(
                f"<{self.model.folder.name}>: probabilities are given, and labels refined, only by "
                "models whose plans resample scores as nnU-Net does by default"
            )
        for some in planes:
            doubt.add(some)
        configuration, own = self.model.configuration, self.prepared.spacing
        inside = tuple(slice(*ends) for ends in self.prepared.box)
        shape = [high - low for low, high in self.prepared.box]
        scores = configuration.resampling_fn_probabilities(
            torch.cat(planes, dim=1).cpu(), shape, model_spacing(configuration, own), own
        )
        manager = self.model.manager.get_label_manager(dict(self.model.folder.dataset))
        self.out[inside] = np.asarray(manager.convert_logits_to_segmentation(scores))


@dataclass(frozen=True)
class _Fetch:
    """The network's input for a window of the padded grid."""

    prepared: Prepared
    padding: tuple[tuple[int, int], ...]
    values: tuple[int, ...]
    """Labels of the stage before, each a channel of its own."""

    def __call__(self, place: tuple[slice, ...]) -> torch.Tensor:
        window = self._cut(self.prepared.data, place)
        if self.prepared.previous is None:
            return window
        labels = self._cut(self.prepared.previous[None], place)
        hot = [(labels == value).float() for value in self.values]
        return torch.cat([window, *hot])

    def _cut(self, data: npt.NDArray[Any], place: tuple[slice, ...]) -> torch.Tensor:
        size = [along.stop - along.start for along in place]
        result = torch.zeros((len(data), *size))
        inner, into = [], []
        for along, (before, _), n in zip(place, self.padding, data.shape[1:], strict=True):
            low, high = max(along.start - before, 0), min(along.stop - before, n)
            inner.append(slice(low, high))
            into.append(slice(low + before - along.start, high + before - along.start))
        source, target = (slice(None), *inner), (slice(None), *into)
        result[target] = torch.from_numpy(np.ascontiguousarray(data[source], dtype=np.float32))
        return result


def _number(labels: npt.NDArray[Any], values: Sequence[int]) -> None:
    """Give each class (I, J, K) its number in results, in place."""
    numbers = np.asarray(values, labels.dtype)
    for plane in labels:
        plane[...] = numbers[plane]


def _step_down(run: Callable[[torch.device, int], None], device: torch.device, strips: int) -> None:
    """Scores on the device, then in the machine's memory, then in strips; at last an error.

    Raises:
        OutOfMemory: nothing did.
        torch.OutOfMemoryError: the device has not even the memory for one window.
    """
    cpu = torch.device("cpu")
    ways = [(device, strips)] if device.type != "cpu" else []
    ways += [(cpu, strips)] + ([(cpu, MOST_STRIPS)] if strips < MOST_STRIPS else [])
    for at, (results, n) in enumerate(ways):
        try:
            run(results, n)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if at + 1 < len(ways):
                gc.collect()
                continue
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise OutOfMemory(
                "memory ran out although the image was worked on in strips; run fewer studies at "
                "a time, or give the job more memory"
            ) from error
        return


def _is_out_of_memory(error: Exception) -> bool:
    known = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or "allocate memory" in str(error)
