"""A rigid map from many starts, at coarse resolution, so that the fine search begins at home.

Mutual information has hills only round its summit: a search that begins 30 degrees away climbs
another one. So turns up to 50 degrees about any axis are tried at several shifts, the best are
searched at 6 mm, and of what these end at, the best that lie apart are searched again at 4 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from radloom.geometry import Affine
from radloom.models.registration.coarse import at_spacing
from radloom.models.registration.foreground import head_mask
from radloom.models.registration.similarity import Similarity
from radloom.shapes import LabelVolume, Volume, affine_of
from radloom.transforms.spatial import Transform, grid_points

__all__ = ["Start", "find_start", "find_starts", "inverse_error_mm"]

COARSE_MM, FINE_MM = 6.0, 4.0
N_COARSE_POINTS, N_FINE_POINTS = 3000, 5000
TURN_STEP_DEGREES = 22.5
MOST_DEGREES = 51.0
"""57 turns of that lattice, about any axis: no turn up to 45 degrees is 20 from all of them."""
N_SEARCHED = 12
"""How many of the best starts are searched."""
N_KEPT = 3
"""How many of the places that they end at are searched again."""
APART_MM = 8.0
"""Two maps that take the head's points further apart than this, on average, are two places."""
HEAD_HEIGHT_MM = 150.0
"""From the crown down: what a scan with a cut neck and one with shoulders have in common."""
LEAST_OVERLAP = 0.35
"""Starts that leave less than this share of the fixed head inside moving are not considered."""
RADIUS_MM = 80.0
"""A rotation of 1 rad counts as this many mm: the radius of a head."""

Vector: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Start:
    """A place where the coarse search ended."""

    moving_from_fixed: Transform
    similarity: float
    """Normalised mutual information at 4 mm, less than 1 where moving shows too little."""


def find_start(
    fixed: Volume, moving: Volume, *, fixed_mask: LabelVolume | None = None, seed: int = 0
) -> Transform:
    """The rigid map (moving_from_fixed) with the highest coarse similarity over all starts."""
    return find_starts(fixed, moving, fixed_mask=fixed_mask, seed=seed)[0].moving_from_fixed


def find_starts(
    fixed: Volume, moving: Volume, *, fixed_mask: LabelVolume | None = None, seed: int = 0
) -> tuple[Start, ...]:
    """Rigid maps (moving_from_fixed) that lie apart, the most alike first; at most `N_KEPT`.

    Shifts are the scanner's own coordinates, the centres of the fields of view, of the heads, and
    of the upper parts of the heads, each with every turn about the centre of the fixed head.
    """
    fixed_centres, moving_centres = _centres(fixed), _centres(moving)
    shifts = [np.zeros(3), *(b - a for a, b in zip(fixed_centres, moving_centres, strict=True))]
    coarse, fine = (
        _Search(
            Similarity.of(
                fixed, moving, spacing_mm=mm, n_points=n, fixed_mask=fixed_mask, seed=seed
            ),
            fixed_centres[1],
        )
        for mm, n in ((COARSE_MM, N_COARSE_POINTS), (FINE_MM, N_FINE_POINTS))
    )
    starts = [np.concatenate([turn, shift]) for shift in shifts for turn in _turns()]
    costs = [coarse.cost(start) for start in starts]
    best = [starts[n] for n in np.argsort(costs, kind="stable")[:N_SEARCHED]]
    ends = [coarse.descend(start, step_mm=4.0, n_calls=200) for start in [np.zeros(6), *best]]
    again = [fine.descend(p, step_mm=2.0, n_calls=400) for p in coarse.apart(ends)[:N_KEPT]]
    found = [p.round(4) for p in fine.apart(again)]
    return tuple(Start(Transform(fine.matrix(p)), -fine.cost(p)) for p in found)


def inverse_error_mm(
    fixed: Volume, moving: Volume, moving_from_fixed: Affine, *, seed: int = 0
) -> float:
    """How far a search the other way ends from the inverse of a map, on average over the head.

    The search begins at the inverse, at 4 mm, with sample points in the moving volume: a map on a
    peak of similarity is found again, another slides away.
    """
    back = np.array(np.linalg.inv(moving_from_fixed), dtype=np.float64)
    similarity = Similarity.of(
        moving, fixed, spacing_mm=FINE_MM, n_points=N_FINE_POINTS, seed=seed, between_voxels=True
    )
    search = _Search(similarity, similarity.points.mean(axis=0), back)
    _, found = search.descend(np.zeros(6), step_mm=2.0, n_calls=400)
    points = similarity.points[::10]
    there, again = Transform(back).apply(points), Transform(search.matrix(found)).apply(points)
    return _mean_distance(there, again)


@dataclass(frozen=True)
class _Search:
    """Rigid maps of six numbers: a turn in radians times `RADIUS_MM`, then a shift in mm."""

    similarity: Similarity
    pivot: Vector
    """(3,) what is turned about."""
    then: Affine | None = None
    """(4, 4) what comes after the rigid map; None: nothing."""

    def matrix(self, parameters: Vector) -> Affine:
        rigid = rigid_matrix(parameters, self.pivot)
        return rigid if self.then is None else self.then @ rigid

    def cost(self, parameters: Vector) -> float:
        value, overlap = self.similarity.measure_matrix(self.matrix(parameters))
        return -value + 10.0 * max(0.0, LEAST_OVERLAP - overlap)

    def descend(self, start: Vector, *, step_mm: float, n_calls: int) -> tuple[float, Vector]:
        """Cost and place where Powell's method ends."""
        from scipy.optimize import minimize

        found = minimize(
            lambda step: self.cost(start + step_mm * step),
            np.zeros(6),
            method="Powell",
            options={"xtol": 0.02, "ftol": 1e-4, "maxfev": n_calls},
        )
        return float(found.fun), start + step_mm * np.asarray(found.x)

    def apart(self, ends: Sequence[tuple[float, Vector]]) -> list[Vector]:
        """The best of the ends, and those after it that lie apart from all before them."""
        kept: list[tuple[Vector, Vector]] = []
        points = self.similarity.points[::10]
        for _, parameters in sorted(ends, key=lambda end: end[0]):
            places = Transform(self.matrix(parameters)).apply(points)
            if all(_mean_distance(places, other) > APART_MM for _, other in kept):
                kept.append((parameters, places))
        return [parameters for parameters, _ in kept]


def rigid_matrix(parameters: Vector, pivot: Vector) -> Affine:
    """(4, 4) from (6,): a rotation vector in radians times `RADIUS_MM`, then a shift in mm.

    The rotation turns about `pivot`.
    """
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(parameters[:3] / RADIUS_MM).as_matrix()
    matrix[:3, 3] = pivot + parameters[3:] - (matrix[:3, :3] * pivot).sum(axis=1)
    return matrix


def _turns() -> list[Vector]:
    """(3,) rotation vectors in radians times `RADIUS_MM`."""
    n = int(MOST_DEGREES // TURN_STEP_DEGREES)
    lattice = [TURN_STEP_DEGREES * np.array(t) for t in product(range(-n, n + 1), repeat=3)]
    return [np.radians(t) * RADIUS_MM for t in lattice if (t**2).sum() <= MOST_DEGREES**2]


def _mean_distance(a: Vector, b: Vector) -> float:
    return float(np.sqrt(((a - b) ** 2).sum(axis=-1)).mean())


def _centres(volume: Volume) -> list[Vector]:
    """Centre of the field of view, of the head, and of the head's upper part; (3,) RAS+ mm each."""
    coarse = at_spacing(volume, 5.0)
    mask = head_mask(coarse)
    shape = (mask.shape[0], mask.shape[1], mask.shape[2])
    points = grid_points(affine_of(coarse), shape)
    inside = points[mask]
    crown = np.quantile(inside[:, 2], 0.999)
    upper = inside[inside[:, 2] > crown - HEAD_HEIGHT_MM]
    return [points.reshape(-1, 3).mean(axis=0), inside.mean(axis=0), upper.mean(axis=0)]
