"""At the size of real scans, and on them."""

from __future__ import annotations

import numpy as np
import pytest

from radloom.models.registration.coarse import at_spacing
from radloom.models.registration.elastix import register
from radloom.models.registration.foreground import head_mask
from radloom.shapes import affine_of, array_of, make_volume
from radloom.transforms.itk_files import read_transform
from radloom.transforms.nifti import read_nifti
from radloom.transforms.spatial import grid_points


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t2", "ct"])
def test_a_head_of_1_mm_comes_home(scene, kind):
    truth = scene.move((10, -8, 15.3), (15, -14, 14))
    fixed = scene.picture("t1", spacing=(1, 1, 1))
    view = {"spacing": (1, 1, 3)}
    if kind == "ct":
        view = {"spacing": (1, 1, 2), "extent": (300, 300, 150), "centre": (5, 0, 40)}
    found = register(fixed, scene.picture(kind, moved=truth, seed=2, **view))
    assert scene.error_mm(found, truth) < 0.5


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("sequence", ["T1W", "T2W"])
def test_real_scans_agree_with_their_authors_transforms(real_data, sequence):
    """Theirs are affine (Lesjak et al., Neuroinformatics 2016), ours rigid."""
    folder = real_data / "real" / "ms" / "patient03"
    fixed, moving = (
        make_volume(array_of(volume), affine_of(volume), modality="MR", units="arbitrary")
        for volume in map(read_nifti, (folder / f"study2_{s}.nii.gz" for s in ("FLAIR", sequence)))
    )
    reference = read_transform(folder / f"study2_{sequence}_intrastudy_to_FLAIR.txt")
    coarse = at_spacing(fixed, 4.0)
    mask = head_mask(coarse)
    points = grid_points(affine_of(coarse), mask.shape)[mask]
    apart = register(fixed, moving).apply(points) - reference.apply(points)
    assert np.linalg.norm(apart, axis=1).mean() < 1.2
