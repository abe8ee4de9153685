"""A head as a formula: seen at any point, so that truth needs no interpolation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from radloom.geometry import affine_from_parts, apply_affine
from radloom.shapes import Volume, make_volume
from radloom.transforms.spatial import Transform, grid_points

# centre, radii in mm, then what T1, T2, CT and PET show there; later ones lie over earlier ones
PARTS = (
    ((0, 0, 0), (78, 98, 88), 250, 60, 30, 0.6),  # scalp and fat
    ((0, 0, 2), (72, 92, 82), 25, 20, 1000, 0.4),  # skull
    ((0, 0, 3), (66, 86, 76), 40, 380, 8, 0.3),  # CSF
    ((0, 0, 3), (62, 82, 72), 160, 180, 38, 8),  # grey matter
    ((-4, 6, 8), (48, 64, 55), 230, 120, 30, 3.5),  # white matter, off the middle
    ((-12, 4, 14), (8, 26, 10), 40, 380, 8, 0.3),  # ventricles
    ((12, 8, 12), (7, 22, 9), 40, 380, 8, 0.3),
    ((10, -52, -34), (34, 22, 18), 170, 170, 36, 7),  # cerebellum
    ((-30, 92, -18), (12, 12, 12), 50, 400, 12, 0.8),  # eyes
    ((30, 92, -18), (12, 12, 12), 50, 400, 12, 0.8),
    ((0, 108, -38), (9, 16, 14), 220, 70, 20, 0.6),  # nose
    ((-35, -20, 30), (9, 11, 7), 90, 320, 22, 1),  # a lesion
)
# column, air, units, modality, noise
KINDS = {
    "t1": (2, 0.0, "arbitrary", "MR", 6.0),
    "t2": (3, 0.0, "arbitrary", "MR", 6.0),
    "ct": (4, -1000.0, "HU", "CT", 15.0),
    "pet": (5, 0.0, "SUV", "PT", 0.4),
}


def head_at(points: np.ndarray, kind: str) -> np.ndarray:
    column, air, *_ = KINDS[kind]
    values = np.full(points.shape[:-1], air)
    for part in PARTS:
        centre, radii = np.array(part[0]), np.array(part[1])
        distance = np.sqrt((((points - centre) / radii) ** 2).sum(-1))
        share = np.clip((1 - distance) * radii.min() / 3.0 + 0.5, 0, 1)
        values = values * (1 - share) + part[column] * share
    return values


def picture(
    kind: str,
    *,
    moved: Transform | None = None,
    spacing=(3.0, 3.0, 3.0),
    extent=(190.0, 240.0, 200.0),
    centre=(0.0, 5.0, 0.0),
    direction=None,
    seed: int = 0,
) -> Volume:
    """The head after `moved` (moving_from_fixed), on a grid of its own."""
    direction = np.eye(3) if direction is None else direction
    shape = tuple(int(n) for n in np.ceil(np.array(extent) / spacing))
    affine = affine_from_parts((0, 0, 0), spacing, direction)
    middle = apply_affine(affine, (np.array(shape) - 1) / 2)
    affine[:3, 3] = np.array(centre) - middle
    points = grid_points(affine, shape)
    if moved is not None:
        points = moved.inverse().apply(points)
    values = head_at(points, kind)
    noise = np.random.default_rng(seed).normal(size=values.shape)
    _, _, units, modality, deviation = KINDS[kind]
    values = values + deviation * noise
    if kind != "ct":
        values = np.abs(values)
    return make_volume(values, affine, modality=modality, units=units)


def move(rotation_degrees, shift_mm) -> Transform:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(rotation_degrees)).as_matrix()
    matrix[:3, 3] = shift_mm
    return Transform(matrix)


def head_error_mm(found: Transform, truth: Transform) -> float:
    """Mean distance over the head between two maps."""
    axis = np.linspace(-90, 90, 9)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    points = points[(points**2).sum(-1) < 85**2]
    return float(np.linalg.norm(found.apply(points) - truth.apply(points), axis=1).mean())


def bulge(*, height_mm: float) -> Transform:
    """A smooth displacement of `height_mm` at its middle, 25 mm wide."""
    spacing, shape = 4.0, (56, 64, 56)
    grid = np.diag([spacing, spacing, spacing, 1.0])
    grid[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    points = grid_points(grid, shape)
    weight = np.exp(-((points - [20, 10, 10]) ** 2).sum(-1) / (2 * 25.0**2))
    field = height_mm * np.stack([weight, -0.6 * weight, 0.5 * weight])
    return Transform(np.eye(4), field.astype(np.float32), grid)


@pytest.fixture(scope="session")
def scene() -> SimpleNamespace:
    return SimpleNamespace(picture=picture, move=move, error_mm=head_error_mm, bulge=bulge)


@pytest.fixture(scope="session")
def fixed() -> Volume:
    return picture("t1")
