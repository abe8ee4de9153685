"""Whole heads as the generator holds them: a structure in every voxel, prepared once.

A label map (FreeSurfer's numbers in the brain, the table of `tissues` outside it) becomes an
`Anatomy`: RAS+, 1 mm, cropped, one byte a voxel. The procedural phantom becomes one too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from radloom.errors import InputError
from radloom.geometry import Affine
from radloom.transforms.synthesis.fields import Grid, smooth_noise
from radloom.transforms.synthesis.tissues import CODES, STRUCTURES, Code

if TYPE_CHECKING:  # the phantom is rendered by what stands on this module
    from radloom.transforms.synthesis.phantom import HeadPhantom

__all__ = [
    "RIGHT",
    "Anatomy",
    "anatomy_of_labels",
    "anatomy_of_phantom",
    "coarsened",
    "code_of",
    "labels_of",
    "mirrored",
    "pack_anatomy",
    "unpack_anatomy",
]

RIGHT = 64
"""Added to the code of a paired structure on the right: a *structure byte* is code + RIGHT or 0."""

_MARGIN_VOX = ((2, 2), (2, 2), (0, 2))
"""Air round the head, but none below: there the field of view cuts the neck, which goes on."""


@dataclass(frozen=True)
class Anatomy:
    """One head, ready to be deformed and rendered; its centre is the origin of its world."""

    name: str
    structures: torch.Tensor
    """(I, J, K) uint8 structure bytes, RAS+."""
    spacing_mm: float = 1.0
    """Of the voxels, the same along each axis."""

    @property
    def grid(self) -> Grid:
        """The voxels of `structures` in the anatomy's world, whose origin is their middle."""
        i, j, k = self.structures.shape
        return Grid((i, j, k), (self.spacing_mm,) * 3)

    def to(self, device: torch.device | str) -> Anatomy:
        """The same on another device."""
        return replace(self, structures=self.structures.to(device))


def code_of(structures: torch.Tensor) -> torch.Tensor:
    """The `Code` of structure bytes, without the side."""
    return structures & (RIGHT - 1)


def mirrored(structures: torch.Tensor) -> torch.Tensor:
    """Structure bytes with left and right swapped, where they are; flips no axis."""
    return _lookup(_mirror_table(), structures)


def labels_of(structures: torch.Tensor) -> torch.Tensor:
    """Structure bytes as int16 labels of the table (`tissues.LABEL_NAMES`)."""
    table = np.zeros(2 * RIGHT, np.int16)
    for code, structure in enumerate(STRUCTURES):
        table[code], table[code + RIGHT] = structure.label
    return _lookup(table, structures)


def _mirror_table() -> npt.NDArray[np.uint8]:
    table = np.arange(2 * RIGHT, dtype=np.uint8)
    for code, structure in enumerate(STRUCTURES):
        if structure.label[0] != structure.label[1]:
            table[code], table[code + RIGHT] = code + RIGHT, code
    return table


def _lookup(table: npt.NDArray[np.generic], structures: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(table).to(structures.device)[structures.int()]


def _byte_of_label() -> dict[int, int]:
    """Label -> structure byte; where several structures share a label, the one named here."""
    table: dict[int, int] = {}
    for code, structure in enumerate(STRUCTURES):
        for side, label in zip((0, RIGHT), structure.label, strict=True):
            table.setdefault(label, code + (side if len(set(structure.label)) == 2 else 0))
    table |= {506: Code.VITREOUS, 507: Code.MUSCLE}
    return table


def anatomy_of_labels(
    name: str, labels: npt.NDArray[np.integer], affine: Affine, *, seed: int = 0
) -> Anatomy:
    """The anatomy of a whole-head label map.

    Voxels go to RAS+ at 1 mm (nearest); pieces that touch nothing of the head go; fat, which the
    maps do not tell from other soft tissue, is laid under the skin, behind the eyes and between the
    muscles, and the eyes get a wall and a lens.

    Args:
        name: for messages and receipts.
        labels: (I, J, K) of the table.
        affine: voxel -> RAS+ mm.
        seed: of the pattern of fat.

    Raises:
        InputError: a label that the table does not have, or no head in it.
    """
    bytes_ = _to_ras_1mm(_as_bytes(name, labels), affine)
    if not bytes_.any():
        raise InputError(f"<{name}>: expected a head, got a label map of background alone")
    bytes_ = _cropped(_without_specks(bytes_))
    _lay_fat(bytes_, seed)
    _furnish_eyes(bytes_)
    return Anatomy(name, torch.from_numpy(np.pad(bytes_, _MARGIN_VOX)))


def anatomy_of_phantom(name: str, head: HeadPhantom) -> Anatomy:
    """The anatomy of a procedural head, at the spacing it was built with."""
    main = torch.where(head.share >= 0.5, head.top, head.under).numpy()
    left = np.array([s.label[0] for s in STRUCTURES])[main]
    paired = np.array([s.label[0] != s.label[1] for s in STRUCTURES])[main]
    right = paired & (head.labels[0].numpy() != left)
    bytes_ = (main + RIGHT * right).astype(np.uint8)
    padded = np.pad(_cropped(bytes_), _MARGIN_VOX)
    return Anatomy(name, torch.from_numpy(padded), float(head.affine[0, 0]))


def _as_bytes(name: str, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    known = _byte_of_label()
    values, index = np.unique(labels, return_inverse=True)
    unknown = [int(v) for v in values if int(v) not in known]
    if unknown:
        raise InputError(
            f"<{name}>: expected labels of the table in the documentation, got {unknown[:8]}; "
            "rename them, or set them to the structure around them"
        )
    table = np.array([known[int(v)] for v in values], np.uint8)
    result: npt.NDArray[np.uint8] = table[index.reshape(labels.shape)]
    return result


def _to_ras_1mm(bytes_: npt.NDArray[np.uint8], affine: Affine) -> npt.NDArray[np.uint8]:
    """Nearest voxel on an axis-aligned RAS+ grid of 1 mm over the same box."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in bytes_.shape])).reshape(3, -1)
    world = affine[:3, :3] @ corners + affine[:3, 3:]
    low, high = world.min(1), world.max(1)
    shape = tuple(int(n) for n in np.round(high - low) + 1)
    to_voxel = np.linalg.inv(affine)
    matrix = to_voxel[:3, :3]
    offset = matrix @ low + to_voxel[:3, 3]
    result: npt.NDArray[np.uint8] = ndimage.affine_transform(
        bytes_, matrix, offset, shape, order=0, mode="constant"
    )
    return result


def _without_specks(bytes_: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Only the largest piece of the head, and no single voxels of air in soft tissue."""
    pieces, n = ndimage.label(bytes_ > 0)
    if n > 1:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        bytes_ = np.where(pieces == sizes.argmax(), bytes_, 0).astype(np.uint8)
    soft = np.isin(bytes_, (Code.MUSCLE, Code.SKIN))
    alone = (bytes_ == 0) & (ndimage.uniform_filter(soft.astype(np.float32), 3) > 0.8)
    bytes_[alone] = Code.MUSCLE
    return bytes_


def _cropped(bytes_: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    box = ndimage.find_objects((bytes_ > 0).astype(np.uint8))[0]
    return np.ascontiguousarray(bytes_[box])


def _lay_fat(bytes_: npt.NDArray[np.uint8], seed: int) -> None:
    """Soft tissue near the skin, around the eyes and in planes between the muscles becomes fat."""
    soft = bytes_ == Code.MUSCLE
    depth = ndimage.distance_transform_edt(~np.isin(bytes_, (Code.AIR, Code.SKIN)))
    shape = (bytes_.shape[0], bytes_.shape[1], bytes_.shape[2])
    uneven = smooth_noise(shape, (24.0,) * 3, seed)[0].numpy()
    planes = smooth_noise(shape, (9.0, 9.0, 22.0), seed + 1)[0].numpy()
    below_skin = depth < 3.5 + 1.5 * uneven
    between = (np.abs(planes) < 0.1) & (depth > 4)
    fat = below_skin | between
    eyes = bytes_ == Code.VITREOUS
    if eyes.any():
        near = ndimage.distance_transform_edt(~_behind_eyes(eyes)) < 9
        fat |= near & (planes > -1.3)
    bytes_[soft & fat] = Code.FAT


def _behind_eyes(eyes: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The eyes and the axis of each orbit, 25 mm backwards and towards the middle."""
    result: npt.NDArray[np.bool_] = eyes.copy()
    pieces, n = ndimage.label(eyes)
    middle = np.argwhere(eyes)[:, 0].mean()
    for centre in ndimage.center_of_mass(eyes, pieces, range(1, n + 1)):
        for step in range(26):
            inward = 0.35 * step * np.sign(middle - centre[0])
            point = np.round([centre[0] + inward, centre[1] - step, centre[2]]).astype(int)
            if ((point >= 0) & (point < result.shape)).all():
                result[tuple(point)] = True
    return result


def _furnish_eyes(bytes_: npt.NDArray[np.uint8]) -> None:
    """The outer millimetre of each globe is sclera; the lens lies in front."""
    eyes = bytes_ == Code.VITREOUS
    pieces, n = ndimage.label(eyes)
    sizes = np.bincount(pieces.ravel(), minlength=n + 1)
    sclera = eyes & ~ndimage.binary_erosion(eyes)
    bytes_[sclera] = Code.SCLERA
    index = np.indices(bytes_.shape, dtype=np.float32)
    for piece in np.flatnonzero(sizes[1:] > 2000) + 1:
        points = np.argwhere(pieces == piece)
        front = points[:, 1].max()
        middle = points.mean(0)
        offset = [index[0] - middle[0], index[1] - (front - 4.0), index[2] - middle[2]]
        lens = (offset[0] / 4.5) ** 2 + (offset[1] / 2.0) ** 2 + (offset[2] / 4.5) ** 2 < 1
        bytes_[lens & (pieces == piece)] = Code.LENS


def coarsened(anatomy: Anatomy, factor: int) -> Anatomy:
    """The same head in voxels `factor` times as large, each what most of its parts are."""
    sizes = [n - n % factor for n in anatomy.structures.shape]
    parts = anatomy.structures[: sizes[0], : sizes[1], : sizes[2]]
    for axis in (0, 2, 4):
        parts = parts.unflatten(axis, (-1, factor))
    cells = parts.permute(0, 2, 4, 1, 3, 5).flatten(3)
    return replace(
        anatomy, structures=cells.mode(-1).values, spacing_mm=factor * anatomy.spacing_mm
    )


def pack_anatomy(anatomy: Anatomy) -> bytes:
    """A compressed NumPy archive that holds the anatomy; about 1.3 MB a head."""
    stream = BytesIO()
    np.savez_compressed(
        stream,
        name=np.array(anatomy.name),
        structures=anatomy.structures.cpu().numpy(),
        spacing_mm=np.array(anatomy.spacing_mm),
    )
    return stream.getvalue()


def unpack_anatomy(content: bytes) -> Anatomy:
    """What `pack_anatomy` wrote; holds no pickles.

    Raises:
        InputError: it is not such an archive.
    """
    try:
        with np.load(BytesIO(content), allow_pickle=False) as archive:
            name, structures = str(archive["name"]), archive["structures"]
            spacing_mm = float(archive["spacing_mm"])
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise InputError(
            f"expected a packed anatomy, got {error}; pack the label maps anew"
        ) from error
    if structures.dtype != np.uint8 or structures.ndim != 3 or (structures % RIGHT).max() >= CODES:
        raise InputError(f"<{name}>: expected (I, J, K) structure bytes; pack the label maps anew")
    return Anatomy(name, torch.from_numpy(structures), spacing_mm)
