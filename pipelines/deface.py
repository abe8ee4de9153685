"""The face removed from a head volume: a template head finds it, planes cut it off.

The template is the procedural phantom, drawn once; no scan of anyone is in it. elastix maps the
volume into its frame (affine, mutual information, so that any MR contrast will do), where the axes
of a head and the place of its brain are known. See `radloom.transforms.defacing` for the planes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from radloom.errors import ReasonCode, SeriesRefused
from radloom.geometry import apply_affine
from radloom.shapes import LabelVolume, Volume, affine_of, array_of, require_volume
from radloom.transforms.defacing import FacePlanes, face_planes, remove_face
from radloom.transforms.spatial import Transform

__all__ = ["Defaced", "deface"]

TEMPLATE_SEED = 0
TEMPLATE_SPACING_MM = 3.0
"""Fine enough for an affine map, and quick to make."""

BRAIN_BELOW = 500
"""Labels of the phantom, and of SynthSeg's whole-head maps, from here on are no brain."""

CSF = 24

SCALES = (0.5, 2.0)
"""Determinants of the affine map that a head may have against the template; others found none."""

SMALLEST_EXTENT_MM = 100.0
"""Along each axis; below, no head can be told from its parts."""


@dataclass(frozen=True)
class Defaced:
    """A volume without its face."""

    volume: Volume
    removed: npt.NDArray[np.bool_]
    """(I, J, K), where the face, and the air before it, was."""
    head_from_volume: Transform
    """Maps points of the volume's world into the template's frame, RAS+ mm."""


def deface(volume: Volume, brain: LabelVolume | None = None, *, n_threads: int = 1) -> Defaced:
    """The volume with air where its face was.

    Args:
        volume: (1, I, J, K), MR or CT of a head.
        brain: labels in the volume's world; values below 500, CSF (24) left out, are brain. The
            planes then keep clear of that brain instead of the template's.
        n_threads: for elastix; the result does not depend on it.

    Raises:
        SeriesRefused: NOT_DEFACED: no MR or CT of a head, or the template cannot be laid onto it.
    """
    from radloom.models.registration.elastix import register

    require_volume(volume, "volume")
    _require_head(volume)
    template, planes = _template("ct" if volume.meta["modality"] == "CT" else "t1")
    found = register(volume, template, transform="affine", n_threads=n_threads, fast=True)
    size = float(np.linalg.det(found.matrix[:3, :3]))
    if not SCALES[0] <= size <= SCALES[1]:
        raise _refused(f"expected a head of the template's size, got {size:.2f} times its volume")
    if brain is not None:
        planes = face_planes(found.apply(_brain_points(brain)))
    cut, removed = remove_face(volume, planes, found)
    return Defaced(cut, removed, found)


def _require_head(volume: Volume) -> None:
    modality, shape = volume.meta["modality"], volume.shape
    if modality not in ("MR", "CT") or shape[0] != 1:
        raise _refused(f"expected a 3D volume of MR or CT, got {modality} with {shape[0]} channels")
    spacing = np.linalg.norm(affine_of(volume)[:3, :3], axis=0)
    extent = spacing * np.asarray(shape[1:])
    if extent.min() < SMALLEST_EXTENT_MM:
        raise _refused(
            f"expected at least {SMALLEST_EXTENT_MM:.0f} mm along each axis to find a head, got "
            f"{extent.min():.0f}"
        )


@functools.cache
def _template(kind: Literal["t1", "ct"]) -> tuple[Volume, FacePlanes]:
    """A picture of the template head, and the planes before its brain."""
    from radloom.transforms.synthesis.phantom import make_head, render_ct, render_mr

    head = make_head(torch.Generator().manual_seed(TEMPLATE_SEED), spacing_mm=TEMPLATE_SPACING_MM)
    noise = torch.Generator().manual_seed(TEMPLATE_SEED)
    picture = (
        render_ct(head, generator=noise) if kind == "ct" else render_mr(head, "t1", generator=noise)
    )
    return picture, face_planes(_brain_points(head.labels))


def _brain_points(labels: LabelVolume) -> npt.NDArray[np.float64]:
    """(M, 3) positions of brain, RAS+ mm."""
    values = array_of(labels)[0]
    index = np.argwhere((values > 0) & (values < BRAIN_BELOW) & (values != CSF))
    if not len(index):
        raise _refused("expected labels of a brain (1 to 499), got none")
    return np.asarray(apply_affine(affine_of(labels), index), dtype=np.float64)


def _refused(detail: str) -> SeriesRefused:
    return SeriesRefused(ReasonCode.NOT_DEFACED, detail)
