"""The gradient table of a diffusion series, in FSL's convention, from its headers.

Directions stand in the image's own axes, of unit length, zeros for volumes without one. Where the
image's axes are right-handed, which those of a volume from DICOM are, the first component is
negated: FSL counts a right-handed image's first axis from its other end. So a reader that follows
FSL (as dcm2niix writes it) finds the same direction in the world, whichever way rows run.
Source: FSL, https://fsl.fmrib.ox.ac.uk/fsl/docs/#/diffusion/fdt/user_guide, "bvecs".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from radloom.geometry import Affine
from radloom.pipelines.ingest.verdicts import Part, volumes_of

__all__ = ["b_values_of", "fsl_from_lps", "gradients_of"]


def b_values_of(part: Part) -> list[float]:
    """The b-value of each volume in s/mm2; 0 where headers name none."""
    return [volume[0].b_value or 0.0 for volume in volumes_of(part)]


def gradients_of(part: Part, affine: Affine) -> list[list[float]]:
    """(T, 3) directions in FSL's convention for an image with `affine`; zeros for none."""
    directions = [
        volume[0].gradient if volume[0].b_value and volume[0].gradient else (0.0, 0.0, 0.0)
        for volume in volumes_of(part)
    ]
    return [[round(v, 7) + 0.0 for v in row] for row in fsl_from_lps(directions, affine).tolist()]


def fsl_from_lps(directions: Sequence[Sequence[float]], affine: Affine) -> npt.NDArray[np.float64]:
    """(N, 3) directions in LPS+ as (N, 3) unit vectors in FSL's convention; zeros stay zeros.

    >>> image = np.diag([-2.0, -2.0, 3.0, 1.0])  # rows to the left, columns to the back
    >>> fsl_from_lps([(1, 0, 0), (0, 2, 0)], image).tolist()
    [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    world = np.asarray(directions, dtype=np.float64).reshape(-1, 3) * (-1, -1, 1)
    local = np.linalg.solve(axes, world.T).T
    if np.linalg.det(axes) > 0:
        local[:, 0] *= -1
    lengths = np.linalg.norm(local, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = np.divide(
        local, lengths, out=np.zeros_like(local), where=lengths > 0
    )
    return unit + 0.0
