"""Rotation matrices from angles about the axes of the world."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["rotation_matrix"]


def rotation_matrix(degrees: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """(3, 3) rotation of points, right-handed about x, then y, then z.

    >>> (rotation_matrix((0.0, 0.0, 90.0)) @ [1.0, 0.0, 0.0]).round(6) + 0.0
    array([0., 1., 0.])
    """
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turn: npt.NDArray[np.float64] = about_z @ about_y @ about_x
    return turn
