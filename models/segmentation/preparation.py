"""What nnU-Net does to an image before its network sees it: crop, normalise, resample.

The steps and their results are those of nnU-Net's DefaultPreprocessor; left out is what a
prediction never uses: the map of what lies outside the body where no normalisation asks for it,
its resampling, and the drawing of foreground voxels for training.

Source: nnunetv2, ``preprocessing/preprocessors/default_preprocessor.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.models.segmentation.resampling import coarse_axis, resample_image

__all__ = ["Prepared", "linear_scores", "model_spacing", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """An image on the model's grid, axes in the model's order."""

    data: npt.NDArray[np.float32]
    """(c, X, Y, Z)."""
    previous: npt.NDArray[Any] | None
    """(X, Y, Z) labels of the stage before, of a cascade."""
    box: tuple[tuple[int, int], ...]
    """Where on the image's grid the body lies: nothing outside it was looked at."""
    spacing: list[float]
    """Of the image, in the model's order, mm."""


def prepare(
    data: npt.NDArray[np.float32],
    spacing: Sequence[float],
    manager: Any,
    configuration: Any,
    dataset: Mapping[str, Any],
    previous: npt.NDArray[Any] | None = None,
) -> Prepared:
    """An image as the network wants it.

    Args:
        data: (c, z, y, x) as the model's reader gives it; its values are used up.
        spacing: (z, y, x) in mm.
        manager: nnU-Net's PlansManager.
        configuration: nnU-Net's ConfigurationManager.
        dataset: dataset.json.
        previous: (z, y, x) labels of the stage before, of a cascade.
    """
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    own = [spacing[axis] for axis in manager.transpose_forward]
    if configuration.preprocessor_class is not DefaultPreprocessor:
        return _by_nnunet(data, spacing, manager, configuration, dataset, previous)
    data = data.transpose(0, *(axis + 1 for axis in manager.transpose_forward))
    box = _body(data)
    inside = tuple(slice(*ends) for ends in box)
    within = (slice(None), *inside)
    data = data[within]
    outside = _outside(data, needed=previous is not None or _asks_for_mask(configuration))
    target = model_spacing(configuration, own)
    shape = [int(n) for n in compute_new_shape(data.shape[1:], own, target)]
    data = DefaultPreprocessor(verbose=False)._normalize(
        data, outside, configuration, manager.foreground_intensity_properties_per_channel
    )
    if previous is not None:
        cropped = previous.transpose(manager.transpose_forward)[inside][None]
        marked = np.where((cropped == 0) & (outside < 0), -1, cropped.astype(np.int16))
        previous = configuration.resampling_fn_seg(marked, shape, own, target)[0]
    return Prepared(_resampled(data, shape, own, target, configuration), previous, box, own)


def model_spacing(configuration: Any, own: Sequence[float]) -> list[float]:
    """The spacing that the network works at, mm; that of a 2D model has the image's own planes."""
    target = [float(mm) for mm in configuration.spacing]
    return target if len(target) == 3 else [own[0], *target]


def linear_scores(configuration: Any) -> dict[str, Any] | None:
    """How nnU-Net's default brings scores back, if the model uses it with linear interpolation."""
    settings = _default_resampling(configuration.resampling_fn_probabilities)
    simple = settings is not None and settings["order"] in (0, 1) and settings["order_z"] == 0
    return settings if simple and settings and not settings["is_seg"] else None


def _default_resampling(function: Callable[..., Any]) -> dict[str, Any] | None:
    """The settings of a plan's function, if that is nnU-Net's default one."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    if not isinstance(function, partial) or function.func is not resample_data_or_seg_to_shape:
        return None
    defaults = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": False}
    return {**defaults, **function.keywords}


def _resampled(
    data: npt.NDArray[np.float32],
    shape: Sequence[int],
    own: Sequence[float],
    target: Sequence[float],
    configuration: Any,
) -> npt.NDArray[np.float32]:
    settings = _default_resampling(configuration.resampling_fn_data)
    if settings is None or settings["is_seg"] or settings["order_z"] != 0:
        return np.asarray(configuration.resampling_fn_data(data, shape, own, target), np.float32)
    if data.shape[1:] == tuple(shape):
        return data
    apart = coarse_axis(own, target, separate=settings["force_separate_z"])
    result = np.empty((len(data), *shape), np.float32)
    for channel, out in zip(data, result, strict=True):
        out[...] = resample_image(channel, shape, apart=apart, order=settings["order"])
    return result


def _body(data: npt.NDArray[np.float32]) -> tuple[tuple[int, int], ...]:
    """The box around all that is not zero in any channel; filling its holes would not move it."""
    mask = data[0] != 0
    for channel in data[1:]:
        mask |= channel != 0
    box = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append((int(used[0]), int(used[-1]) + 1) if len(used) else (0, mask.shape[axis]))
    return tuple(box)


def _outside(data: npt.NDArray[np.float32], *, needed: bool) -> npt.NDArray[np.int8]:
    """(1, X, Y, Z) -1 outside the body, 0 within, as nnU-Net's normalisations take it."""
    from scipy.ndimage import binary_fill_holes

    if not needed:
        return np.broadcast_to(np.zeros(1, np.int8), (1, *data.shape[1:]))
    mask = data[0] != 0
    for channel in data[1:]:
        mask |= channel != 0
    outside = ~np.asarray(binary_fill_holes(mask), dtype=bool)
    return -outside[None].astype(np.int8)


def _asks_for_mask(configuration: Any) -> bool:
    known = {"ZScoreNormalization", "CTNormalization", "NoNormalization",
             "RescaleTo01Normalization", "RGBTo01Normalization"}  # fmt: skip
    return any(configuration.use_mask_for_norm) or not known.issuperset(
        configuration.normalization_schemes
    )


def _by_nnunet(
    data: npt.NDArray[np.float32],
    spacing: Sequence[float],
    manager: Any,
    configuration: Any,
    dataset: Mapping[str, Any],
    previous: npt.NDArray[Any] | None,
) -> Prepared:
    """By the model's own preprocessor, whatever it does."""
    seg = None if previous is None else previous[None].astype(np.int16)
    prepared, labels, found = configuration.preprocessor_class(verbose=False).run_case_npy(
        data, seg, {"spacing": list(spacing)}, manager, configuration, dict(dataset)
    )
    box = tuple((int(low), int(high)) for low, high in found["bbox_used_for_cropping"])
    own = [spacing[axis] for axis in manager.transpose_forward]
    return Prepared(prepared, None if seg is None else labels[0], box, own)
