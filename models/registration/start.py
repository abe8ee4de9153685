"""A rigid map from several starts, at coarse resolution, so that the fine search begins at home."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

from radloom.geometry import Affine
from radloom.models.registration.coarse import at_spacing
from radloom.models.registration.foreground import head_mask
from radloom.models.registration.similarity import Similarity
from radloom.shapes import LabelVolume, Volume, affine_of
from radloom.transforms.spatial import Transform, grid_points

__all__ = ["find_start"]

SPACING_MM = 5.0
TURNS_DEGREES = (-20.0, 0.0, 20.0)
N_REFINED = 5
"""How many of the best starts are refined."""
HEAD_HEIGHT_MM = 150.0
"""From the crown down: what a scan with a cut neck and one with shoulders have in common."""
LEAST_OVERLAP = 0.35
"""Starts that leave less than this share of the fixed head inside moving are not considered."""
RADIUS_MM = 80.0
"""A rotation of 1 rad counts as this many mm: the radius of a head."""


def find_start(
    fixed: Volume, moving: Volume, *, fixed_mask: LabelVolume | None = None, seed: int = 0
) -> Transform:
    """The rigid map (moving_from_fixed) with the highest coarse similarity over all starts.

    Starts are the scanner's own coordinates, the centres of the fields of view, the centres of the
    heads, and the centres of the upper parts of the heads, each with 27 rotations about the centre
    of the fixed head. The best are refined by Powell's method.
    """
    similarity = Similarity.of(
        fixed, moving, spacing_mm=SPACING_MM, n_points=4000, fixed_mask=fixed_mask, seed=seed
    )
    fixed_centres, moving_centres = _centres(fixed), _centres(moving)
    pivot = fixed_centres[1]
    shifts = [np.zeros(3), *(b - a for a, b in zip(fixed_centres, moving_centres, strict=True))]
    turns = [np.radians(turn) * RADIUS_MM for turn in product(TURNS_DEGREES, repeat=3)]
    starts = [np.concatenate([turn, shift]) for shift in shifts for turn in turns]
    costs = [_cost(start, pivot, similarity) for start in starts]
    best = np.argsort(costs, kind="stable")[:N_REFINED]
    still = np.zeros(6)
    refined = [_refine(start, pivot, similarity) for start in [still, *(starts[n] for n in best)]]
    _, parameters = min(refined, key=lambda result: result[0])
    return Transform(rigid_matrix(parameters.round(4), pivot))


def rigid_matrix(parameters: npt.NDArray[np.float64], pivot: npt.NDArray[np.float64]) -> Affine:
    """(4, 4) from (6,): a rotation vector in radians times `RADIUS_MM`, then a shift in mm.

    The rotation turns about `pivot`.
    """
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(parameters[:3] / RADIUS_MM).as_matrix()
    matrix[:3, 3] = pivot + parameters[3:] - (matrix[:3, :3] * pivot).sum(axis=1)
    return matrix


def _cost(
    parameters: npt.NDArray[np.float64], pivot: npt.NDArray[np.float64], similarity: Similarity
) -> float:
    value, overlap = similarity.measure_matrix(rigid_matrix(parameters, pivot))
    return -value + 10.0 * max(0.0, LEAST_OVERLAP - overlap)


def _refine(
    start: npt.NDArray[np.float64], pivot: npt.NDArray[np.float64], similarity: Similarity
) -> tuple[float, npt.NDArray[np.float64]]:
    from scipy.optimize import minimize

    found = minimize(
        lambda step: _cost(start + 4.0 * step, pivot, similarity),
        np.zeros(6),
        method="Powell",
        options={"xtol": 0.02, "ftol": 1e-4, "maxfev": 500},
    )
    return float(found.fun), start + 4.0 * np.asarray(found.x)


def _centres(volume: Volume) -> list[npt.NDArray[np.float64]]:
    """Centre of the field of view, of the head, and of the head's upper part; (3,) RAS+ mm each."""
    coarse = at_spacing(volume, SPACING_MM)
    mask = head_mask(coarse)
    shape = (mask.shape[0], mask.shape[1], mask.shape[2])
    points = grid_points(affine_of(coarse), shape)
    inside = points[mask]
    crown = np.quantile(inside[:, 2], 0.999)
    upper = inside[inside[:, 2] > crown - HEAD_HEIGHT_MM]
    return [points.reshape(-1, 3).mean(axis=0), inside.mean(axis=0), upper.mean(axis=0)]
