"""A right registration passes its checks; what shows no head, or no longer fits, is flagged."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from radloom.models.registration.start import find_start
from radloom.pipelines.register_checks import registration_checks
from radloom.shapes import Volume, affine_of, array_of, make_volume
from radloom.transforms.nifti import read_nifti
from radloom.transforms.spatial import Transform


def flags(fixed: Volume, moving: Volume, found: Transform) -> set[str]:
    return {check.name for check in registration_checks(fixed, moving, found) if check.flagged}


def moved_by(mm: float) -> Transform:
    matrix = np.eye(4)
    matrix[:3, 3] = mm / np.sqrt(3)
    return Transform(matrix)


def noise(smoothness: float) -> Volume:
    white = np.random.default_rng(0).standard_normal((70, 80, 70))
    smooth = ndimage.gaussian_filter(white, smoothness)
    values = (100 + 40 * smooth / smooth.std()).clip(0)
    return make_volume(values, np.diag([3.0, 3, 3, 1]), modality="MR", units="arbitrary")


@pytest.mark.parametrize("role", ["t2", "ct"])
def test_the_truth_passes_and_what_lies_beside_it_does_not(demo_truth, role):
    fixed, moving = demo_truth.volumes["t1"], demo_truth.volumes[role]
    truth = demo_truth.moving_from_fixed[role]
    assert flags(fixed, moving, truth) == set()
    beside = flags(fixed, moving, truth @ moved_by(25.0))
    assert {"similarity_peak", "inverse_error_mm"} <= beside


@pytest.mark.slow
@pytest.mark.parametrize("smoothness", [0.0, 3.0])
def test_noise_is_flagged_wherever_the_search_ends(demo_truth, smoothness):
    fixed, moving = demo_truth.volumes["t1"], noise(smoothness)
    found = flags(fixed, moving, find_start(fixed, moving))
    assert "similarity_peak" in found


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", ["example_ct", "example_mr_sm"])
def test_a_body_is_flagged_wherever_the_search_ends(demo_truth, real_data, name):
    scan = read_nifti(real_data / "real" / "body_ct" / f"{name}.nii.gz")
    kind = ("CT", "HU") if name == "example_ct" else ("MR", "arbitrary")
    body = make_volume(array_of(scan), affine_of(scan), modality=kind[0], units=kind[1])
    fixed = demo_truth.volumes["t1"]
    assert "similarity_peak" in flags(fixed, body, find_start(fixed, body))
