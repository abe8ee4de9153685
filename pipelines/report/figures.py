"""The pictures of each stage: volumes in, PNG bytes out; nothing is read or written.

`radloom.pipelines.report.pictures.GRIDS` says which cells a picture has and where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.geometry import Affine, voxel_volume_ml
from radloom.pipelines.report.canvas import (
    ACCENT,
    N_GREYS,
    N_HUES,
    N_SHADES,
    Cell,
    compose,
    hue_index,
)
from radloom.pipelines.report.planes import (
    View,
    field_of_view,
    foreground,
    head_view,
    near_centre,
    sample_planes,
    snapped,
)
from radloom.pipelines.report.windows import (
    BONE,
    BRAIN,
    SOFT,
    Window,
    residual_window,
    robust_window,
)
from radloom.shapes import LabelVolume, Volume, affine_of, array_of, spatial_shape

__all__ = [
    "draw_denoise",
    "draw_ingest",
    "draw_register",
    "draw_segment",
    "draw_translate",
    "label_hues",
]

_TILE_MM = 25.0
"""Squares of the checkerboard: small enough that every boundary of the head crosses several."""

_SIX_CELLS_MM = 1.2
"""Picture elements of a picture of six cells, so that its file stays small."""

_LEGEND_LINES = 14
"""The largest structures named beside a segmentation."""

Planes = dict[str, npt.NDArray[np.float32]]
Indices = dict[str, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class _Scene:
    """A volume with where its head is: what every picture starts from."""

    array: npt.NDArray[Any]
    affine: Affine
    view: View
    inside: npt.NDArray[Any]
    """(n,) values in the middle of the head, on a coarse grid."""
    units: str
    modality: str

    @classmethod
    def of(cls, volume: Volume) -> _Scene:
        array, affine = array_of(volume)[0], affine_of(volume)
        modality = str(volume.meta.get("modality", ""))
        mask, coarse_affine, coarse = foreground(array, affine, modality=modality)
        view = snapped(head_view(mask, coarse_affine), affine)
        units = str(volume.meta.get("units", "arbitrary"))
        middle = mask & near_centre(coarse_affine, coarse.shape, view)
        inside = coarse[middle if middle.any() else mask]
        return cls(array, affine, view, inside, units, modality)

    @property
    def window(self) -> Window:
        """CT by its absolute numbers, all else by what the head holds."""
        return SOFT if self.modality == "CT" else robust_window(self.inside, units=self.units)

    def planes(self, view: View) -> Planes:
        return sample_planes(self.array, self.affine, view)


def _greys(planes: Planes, window: Window) -> Indices:
    return {name: window.grey(values) for name, values in planes.items()}


def _coarse_greys(planes: Planes, window: Window) -> Indices:
    """Every second grey: a picture of six cells would be too large, and it is for alignment."""
    return {name: grey // 2 * 2 for name, grey in _greys(planes, window).items()}


def draw_ingest(volume: Volume) -> bytes:
    """The whole field of view as it came in; CT in a brain and a bone window.

    Args:
        volume: (C, I, J, K); of a 4D series the first frame is shown.
    """
    scene = _Scene.of(volume)
    view = field_of_view(scene.affine, spatial_shape(volume), scene.view.centre)
    planes = scene.planes(view)
    n_frames = int(volume.shape[0])
    frames = f", frame 1 of {n_frames}" if n_frames > 1 else ""
    windows = (BRAIN, BONE) if scene.modality == "CT" else (scene.window,)
    rows = [[Cell("as ingested", w.text + frames, _greys(planes, w))] for w in windows]
    return compose(rows, view)


def draw_denoise(before: Volume, after: Volume) -> bytes:
    """Before and after in one window, and what was taken away.

    Args:
        before: (1, I, J, K).
        after: the same grid.
    """
    scene = _Scene.of(before)
    window = scene.window
    planes_before = scene.planes(scene.view)
    planes_after = sample_planes(array_of(after)[0], affine_of(after), scene.view)
    residual = {name: planes_before[name] - planes_after[name] for name in planes_before}
    bright = {name: planes_before[name] > window.low for name in planes_before}
    inside = np.concatenate([residual[name][bright[name]] for name in residual])
    residual_grey = residual_window(inside, window)
    return compose(
        [
            [Cell("before", window.text, _greys(planes_before, window))],
            [Cell("after", window.text, _greys(planes_after, window))],
            [Cell("residual", residual_grey.text, _greys(residual, residual_grey))],
        ],
        scene.view,
    )


def draw_register(fixed: Volume, moving: Volume, warped_moving: Volume) -> bytes:
    """Fixed and moving before and after, a checkerboard, and moving's contours over fixed.

    Args:
        fixed: (1, I, J, K).
        moving: (1, I', J', K') on its own grid; shown where its own header puts it: "before".
        warped_moving: on fixed's grid.
    """
    scene, moving_scene = _Scene.of(fixed), _Scene.of(moving)
    view = replace(scene.view, pixel_mm=max(scene.view.pixel_mm, _SIX_CELLS_MM))
    window, moving_window = scene.window, moving_scene.window
    still = _coarse_greys(scene.planes(view), window)
    planes_before = moving_scene.planes(view)
    planes_after = sample_planes(array_of(warped_moving)[0], affine_of(warped_moving), view)
    before, after = (_coarse_greys(p, moving_window) for p in (planes_before, planes_after))
    edges_before, edges_after = (
        {
            name: _over(still[name] // 2, _edges(grey[name], ~np.isnan(planes[name])))
            for name in still
        }
        for grey, planes in ((before, planes_before), (after, planes_after))
    )
    board = {name: _checkerboard(still[name], after[name], view) for name in still}
    return compose(
        [
            [
                Cell("fixed", window.text, still),
                Cell("checkerboard", "fixed and moving, after registration", board),
            ],
            [
                Cell("moving, before", moving_window.text, before),
                Cell("contours, before", "of moving, over fixed (dimmed)", edges_before),
            ],
            [
                Cell("moving, after", moving_window.text, after),
                Cell("contours, after", "of moving, over fixed (dimmed)", edges_after),
            ],
        ],
        view,
    )


def draw_translate(mr: Volume, pseudo_ct_hu: Volume) -> bytes:
    """MR above the pseudo-CT made of it, in a brain and a bone window.

    Args:
        mr: (1, I, J, K).
        pseudo_ct_hu: HU, on any grid in the same space.
    """
    scene = _Scene.of(mr)
    planes = scene.planes(scene.view)
    ct = sample_planes(array_of(pseudo_ct_hu)[0], affine_of(pseudo_ct_hu), scene.view)
    return compose(
        [
            [Cell("MR", scene.window.text, _greys(planes, scene.window))],
            [Cell("pseudo-CT, brain", BRAIN.text, _greys(ct, BRAIN))],
            [Cell("pseudo-CT, bone", BONE.text, _greys(ct, BONE))],
        ],
        scene.view,
    )


def draw_segment(image: Volume, label: LabelVolume, label_names: Mapping[int, str]) -> bytes:
    """The image, and the labels in colour over it with the largest structures named.

    Args:
        image: (1, I, J, K).
        label: integers, on any grid in the same space.
        label_names: value -> structure; a value without a name is shown by its number.
    """
    scene = _Scene.of(image)
    values = array_of(label)[0]
    counts = np.bincount(values.ravel())
    present = [int(v) for v in np.flatnonzero(counts) if v != 0]
    names = {v: label_names.get(v, f"label {v}") for v in {*present, *label_names} if v != 0}
    hues = label_hues(names)
    grey = _greys(scene.planes(scene.view), scene.window)
    cut = sample_planes(values, affine_of(label), scene.view, order=0)
    table = np.full(len(counts), -1, dtype=np.int16)
    for value in present:
        table[value] = hues[value]
    painted = {
        name: _paint(grey[name], table[np.nan_to_num(cut[name]).astype(int)]) for name in cut
    }
    voxel_ml = voxel_volume_ml(affine_of(label))
    legend = _legend({v: float(counts[v]) * voxel_ml for v in present}, names, hues)
    n_structures = f"{len(present)} labels"
    blank = [(-1, "")] * len(legend)
    return compose(
        [
            [Cell("image", scene.window.text, grey, blank)],
            [Cell("labels", n_structures, painted, legend)],
        ],
        scene.view,
    )


def label_hues(label_names: Mapping[int, str]) -> dict[int, int]:
    """Value -> hue. Left and right share one; the same names have the same hues in every study."""
    groups: dict[str, int] = {}
    hues = {}
    for value in sorted(label_names):
        group = _without_side(label_names[value])
        hues[value] = groups.setdefault(group, len(groups)) % N_HUES
    return hues


def _without_side(name: str) -> str:
    """A structure's name without left or right, in lower case.

    >>> _without_side("Left-Hippocampus"), _without_side("hippocampus, right")
    ('hippocampus', 'hippocampus')
    """
    words = [w for w in re.split(r"[\s,_\-]+", name.lower()) if w not in ("left", "right")]
    return " ".join(w for w in words if w)


def _legend(
    volumes_ml: Mapping[int, float], names: Mapping[int, str], hues: Mapping[int, int]
) -> list[tuple[int, str]]:
    groups: dict[str, tuple[int, float]] = {}
    for value, volume_ml in volumes_ml.items():
        group = _without_side(names[value])
        hue, so_far = groups.get(group, (hues[value], 0.0))
        groups[group] = (hue, so_far + volume_ml)
    largest = sorted(groups.items(), key=lambda item: (-item[1][1], item[0]))
    lines = [
        (hue, f"{name[:24]}  {volume_ml:.{0 if volume_ml >= 100 else 1}f} mL")
        for name, (hue, volume_ml) in largest[:_LEGEND_LINES]
    ]
    more = len(largest) - len(lines)
    return [*lines, (-1, f"and {more} smaller")] if more > 0 else lines


def _paint(grey: npt.NDArray[np.uint8], hue: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """Indices (rows, columns): grey where `hue` is negative, else the hue as bright as the grey."""
    shade = grey.astype(int) * N_SHADES // N_GREYS
    step = hue_index(1) - hue_index(0)
    coloured = hue_index(0, 0) + hue.astype(int) * step + shade
    return np.where(hue < 0, grey, coloured).astype(np.uint8)


def _over(grey: npt.NDArray[np.uint8], edges: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    return np.where(edges, hue_index(ACCENT), grey).astype(np.uint8)


def _edges(grey: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """One pixel wide contours of a picture (Canny, 1986, doi:10.1109/TPAMI.1986.4767851)."""
    from skimage.feature import canny

    if not valid.any():
        return np.zeros(grey.shape, dtype=np.bool_)
    share = grey.astype(np.float64) / (N_GREYS - 1)
    return np.asarray(canny(share, sigma=2.0, low_threshold=0.05, high_threshold=0.12, mask=valid))


def _checkerboard(
    a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], view: View
) -> npt.NDArray[np.uint8]:
    tile = max(1, round(_TILE_MM / view.pixel_mm))
    rows, columns = np.indices(a.shape) // tile
    return np.where((rows + columns) % 2 == 0, a, b)
