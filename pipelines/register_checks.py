"""What a registration says of itself: numbers with the range they are expected in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from radloom.models.registration.deformable import Deformation
from radloom.models.registration.methods import Found
from radloom.models.registration.similarity import Similarity
from radloom.models.registration.start import inverse_error_mm
from radloom.pipelines.stage import Check
from radloom.shapes import LabelVolume, Volume
from radloom.transforms.spatial import Transform

__all__ = ["deformation_checks", "registration_checks"]


def registration_checks(
    fixed: Volume, moving: Volume, moving_from_fixed: Transform, mask: LabelVolume | None = None
) -> Iterator[Check]:
    """The checks of one map, named without a role: ``similarity_gain``.

    Args:
        fixed: (1, I, J, K).
        moving: the same, on its own grid.
        moving_from_fixed: what was found.
        mask: where the volumes were compared; the head unless given.
    """
    judge = Similarity.of(
        fixed,
        moving,
        spacing_mm=3.0,
        n_points=20_000,
        fixed_mask=mask,
        seed=2,
        between_voxels=True,
    )
    before, _ = judge.measure(Transform.identity())
    after, overlap = judge.measure(moving_from_fixed)
    moved = np.linalg.norm(moving_from_fixed.apply(judge.points) - judge.points, axis=1)
    yield Check(
        "similarity_before",
        before,
        meaning="Normalised mutual information of the two volumes where the scanners put them.",
    )
    yield Check(
        "similarity_after",
        after,
        low=1.03,
        meaning="Normalised mutual information after registration, from 1 (nothing in common) to "
        "2. Low: look whether the outlines of the brain and the skull meet.",
    )
    yield Check(
        "similarity_gain",
        after - before,
        low=-0.002,
        meaning="What registration gained. Below zero: it made things worse; do not use the map.",
    )
    yield Check(
        "similarity_peak",
        judge.peak(moving_from_fixed),
        low=0.25,
        meaning="Share of what is alike that goes when the map is moved by 12 mm or 9 degrees. "
        "Low: the volumes hardly show the same head, or the map is wrong; do not use it unseen.",
    )
    yield Check(
        "overlap",
        overlap,
        low=0.6,
        meaning="Share of the fixed head that the moving volume shows. Low: a small field of view, "
        "or a map that carried the head out of it.",
    )
    yield Check(
        "moved_mm",
        float(moved.mean()),
        high=120.0,
        unit="mm",
        meaning="How far the map carries the head, on average. High: volumes of different "
        "sessions, or a map that went astray; look.",
    )
    if moving_from_fixed.is_affine:
        yield Check(
            "inverse_error_mm",
            inverse_error_mm(fixed, moving, moving_from_fixed.matrix, seed=3),
            high=4.0,
            unit="mm",
            meaning="How far a coarse search from moving to fixed ends from the inverse of the "
            "map, on average. High: the map is one of many that are as good; look.",
        )
    yield from _shape_checks(moving_from_fixed)


def _shape_checks(moving_from_fixed: Transform) -> Iterator[Check]:
    linear = moving_from_fixed.matrix[:3, :3]
    if moving_from_fixed.is_affine:
        u, _, vt = np.linalg.svd(linear)
        cosine = (np.trace(u @ vt) - 1) / 2
        yield Check(
            "rotation_degrees",
            float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))),
            high=60.0,
            unit="degree",
            meaning="How far the head was turned. High: no patient turns that far; look.",
        )
        yield Check(
            "volume_ratio",
            float(np.linalg.det(linear)),
            low=0.8,
            high=1.25,
            meaning="How much the map enlarges (1 for a rigid one). Out of range: one head is not "
            "so much larger than another; look at the affine map.",
        )
        return
    yield Check(
        "folded_voxels",
        moving_from_fixed.folded_share(),
        high=0.0001,
        meaning="Share of voxels where the map turns tissue inside out. Above zero: look at the "
        "warped volume for smears.",
    )


def deformation_checks(
    fixed: Volume, moving: Volume, found: Found, mask: LabelVolume | None = None
) -> Iterator[Check]:
    """What is to be said of a deformation besides; nothing where the method gave none.

    Args:
        fixed: (1, I, J, K).
        moving: the same, on its own grid.
        found: by voxelmorph or hybrid.
        mask: where the volumes were compared; the head unless given.
    """
    deformation, affine = found.deformation, found.affine
    if deformation is None or affine is None:
        return
    judge = Similarity.of(fixed, moving, spacing_mm=3.0, fixed_mask=mask, seed=4)
    yield Check(
        "deformation_gain",
        judge.measure(found.moving_from_fixed)[0] - judge.measure(affine)[0],
        low=-0.002,
        meaning="Similarity gained over the affine map alone. Below zero: the deformation made "
        "things worse; use the affine map.",
    )
    yield Check(
        "network_start",
        float(deformation.start == "network"),
        meaning="1 where the map goes back to the trained network's answer, 0 where to that of a "
        "search for large displacements: without weights, or where that laid the heads better on "
        "each other.",
    )
    yield from _structure_checks(deformation)
    yield Check(
        "refined_mm",
        deformation.refined_mm,
        high=6.0,
        unit="mm",
        meaning="How far the search for this pair carried the head from where it began, on "
        "average. High: they do not agree; look.",
    )
    yield Check(
        "inverse_error_mm",
        deformation.inconsistency_mm,
        high=0.5,
        unit="mm",
        meaning="How far there and back misses, median over the head. High: the map is torn; look.",
    )


def _structure_checks(deformation: Deformation) -> Iterator[Check]:
    """What the segmentation network says of the map, where it took part."""
    before, after = deformation.structures_before, deformation.structures_after
    if before is None or after is None:
        return
    yield Check(
        "structures_after",
        after,
        meaning="Mean Dice of what the segmentation network sees in the fixed and in the warped "
        "head, which guided the method. Absent: no weights, or not two MR.",
    )
    yield Check(
        "structures_gain",
        after - before,
        low=0.0,
        meaning="What of it the deformation gained over the affine map. Below zero: it drew "
        "structures apart; use the affine map.",
    )
