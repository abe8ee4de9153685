"""How alike two volumes are under a map: normalised mutual information at sample points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.models.registration.coarse import at_spacing, clipped
from radloom.models.registration.foreground import head_mask
from radloom.shapes import LabelVolume, Volume, affine_of, array_of, make_label, spatial_shape
from radloom.transforms.spatial import Transform, resample

__all__ = ["Similarity"]

N_BINS = 32
NUDGE_MM, NUDGE_DEGREES = 12.0, 9.0
MARGIN_MM = 8.0
"""How much air round the head counts: the skin is an edge that both volumes show."""


@dataclass(frozen=True, eq=False)
class Similarity:
    r"""Normalised mutual information of a fixed and a moving volume, ready to be asked often.

    .. math:: NMI = \frac{H(fixed) + H(moving)}{H(fixed, moving)}

    from 1 (independent) to 2 (one determines the other), with the entropies H of a joint histogram
    over those sample points that fall into the moving volume (Studholme et al., An overlap
    invariant entropy measure of 3D medical image alignment, Pattern Recognition 1999,
    doi:10.1016/S0031-3203(98)00091-0).
    """

    points: npt.NDArray[np.float64]
    """(N, 3) sample points in the fixed volume, RAS+ mm."""
    fixed_bins: npt.NDArray[np.intp]
    """(N,) histogram bin of the fixed volume at each."""
    moving_levels: npt.NDArray[np.float32]
    """(I, J, K) the moving volume in units of bins."""
    moving_from_world: npt.NDArray[np.float64]
    """(4, 4) RAS+ mm -> voxel of the moving volume."""

    @staticmethod
    def of(
        fixed: Volume,
        moving: Volume,
        *,
        spacing_mm: float = 4.0,
        n_points: int = 6000,
        fixed_mask: LabelVolume | None = None,
        seed: int = 0,
        between_voxels: bool = False,
    ) -> Similarity:
        """For two volumes, at about `spacing_mm`, at up to `n_points` points round the head.

        With `between_voxels` the points lie off the voxels of the fixed volume, so that both
        volumes are always interpolated: on the voxels, a map that lays grid upon grid scores
        otherwise than its neighbours for that alone (Pluim et al., Interpolation artefacts in
        mutual information-based image registration, Computer Vision and Image Understanding 77,
        2000). For the comparison of one map with none; searches stay on the voxels, within masks.
        """
        coarse = clipped(at_spacing(fixed, spacing_mm))
        if fixed_mask is None:
            mask = head_mask(coarse, margin_mm=MARGIN_MM)
        else:
            mask = _mask_on(fixed_mask, coarse)
        random = np.random.default_rng(seed)
        chosen = np.flatnonzero(mask)
        if chosen.size > n_points:
            chosen = np.sort(random.choice(chosen, n_points, replace=False))
        index = np.stack(np.unravel_index(chosen, mask.shape)).astype(np.float64)
        if between_voxels:
            index += random.uniform(-0.5, 0.5, index.shape)
        fixed_levels = _levels_at(_in_bins(array_of(coarse)[0]), index)
        other = clipped(at_spacing(moving, spacing_mm))
        return Similarity(
            points=_mapped(np.asarray(affine_of(coarse), dtype=np.float64), index.T).T,
            fixed_bins=fixed_levels.astype(np.intp),
            moving_levels=_in_bins(array_of(other)[0]),
            moving_from_world=np.array(np.linalg.inv(affine_of(other)), dtype=np.float64),
        )

    def measure(self, moving_from_fixed: Transform) -> tuple[float, float]:
        """Normalised mutual information, and the share of sample points inside moving."""
        if moving_from_fixed.is_affine:
            return self.measure_matrix(moving_from_fixed.matrix)
        return self._at(_mapped(self.moving_from_world, moving_from_fixed.apply(self.points)))

    def measure_matrix(self, matrix: npt.NDArray[np.float64]) -> tuple[float, float]:
        """As `measure`, for a (4, 4) world -> world matrix."""
        return self._at(_mapped(self.moving_from_world @ matrix, self.points))

    def peak(self, moving_from_fixed: Transform) -> float:
        """How much of what is alike goes when the map is moved a little: all (1) to nothing (0).

        On average over twelve moves, 12 mm along and 9 degrees about each axis, of the similarity
        above 1. Where the volumes show the same head, and the map is right, most of it goes; a map
        between a head and something else lies on no peak, and its similarity hardly changes.
        """
        found, _ = self.measure(moving_from_fixed)
        beside = []
        for nudge in _nudges(self.points.mean(axis=0)):
            if moving_from_fixed.is_affine:
                beside.append(self.measure_matrix(moving_from_fixed.matrix @ nudge)[0])
            else:
                points = moving_from_fixed.apply(_mapped(nudge, self.points).T)
                beside.append(self._at(_mapped(self.moving_from_world, points))[0])
        lost = (found - sum(beside) / len(beside)) / max(found - 1, 1e-6)
        return min(max(lost, -1.0), 1.0)

    def _at(self, index: npt.NDArray[np.float64]) -> tuple[float, float]:
        """For (3, N) voxel indices of moving."""
        size = np.array(self.moving_levels.shape, dtype=np.float64)[:, None]
        inside = ((index >= -0.5) & (index <= size - 0.5)).all(axis=0)
        share = float(inside.mean())
        if not inside.any():
            return 1.0, 0.0
        levels = _levels_at(self.moving_levels, index[:, inside])
        joint = np.bincount(
            self.fixed_bins[inside] * N_BINS + levels.astype(np.intp), minlength=N_BINS**2
        ).reshape(N_BINS, N_BINS)
        return _nmi(joint), share


def _nudges(pivot: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """(4, 4) each: moves along and about the three axes, forth and back, about a point."""
    from scipy.spatial.transform import Rotation

    result = []
    for step in (*np.eye(3), *-np.eye(3)):
        shift, turn = np.eye(4), np.eye(4)
        shift[:3, 3] = NUDGE_MM * step
        turn[:3, :3] = Rotation.from_rotvec(np.radians(NUDGE_DEGREES) * step).as_matrix()
        turn[:3, 3] = pivot - (turn[:3, :3] * pivot).sum(axis=1)
        result += [shift, turn]
    return result


def _mask_on(mask: LabelVolume, volume: Volume) -> npt.NDArray[np.bool_]:
    """(I, J, K) bool: `mask` on the grid of `volume`, nearest."""
    label = make_label((mask.as_tensor() > 0).byte(), affine_of(mask))
    moved = resample(label, None, affine_of(volume), spatial_shape(volume))
    return np.asarray(array_of(moved)[0] > 0)


def _mapped(matrix: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> Any:
    """(3, N) mapped (N, 3) points; without BLAS, whose last bits may follow the core count."""
    x, y, z = points.T
    return np.stack([row[0] * x + row[1] * y + row[2] * z + row[3] for row in matrix[:3]])


def _levels_at(
    levels: npt.NDArray[np.float32], index: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """(N,) at (3, N) voxel indices, linear."""
    from scipy.ndimage import map_coordinates

    found: npt.NDArray[np.float32] = map_coordinates(levels, index, order=1, mode="nearest")
    return found


def _in_bins(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    scale = (N_BINS - 0.001) / (high - low) if high > low else 0.0
    return np.asarray((values - low) * scale, dtype=np.float32)


def _nmi(joint: npt.NDArray[np.intp]) -> float:
    both = _entropy(joint.ravel())
    apart = _entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))
    return apart / both if both > 0 else 1.0


def _entropy(counts: npt.NDArray[np.intp]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
