from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from radloom import geometry
from radloom.errors import GridMismatch, InputError
from radloom.shapes import (
    affine_of,
    like,
    make_label,
    make_volume,
    require_same_grid,
    require_volume,
)


def oblique(angles: tuple[float, float, float], spacing: tuple[float, float, float]) -> np.ndarray:
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        turn = np.eye(3)
        i, j = [n for n in range(3) if n != axis]
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        rotation = turn @ rotation
    return geometry.affine_from_parts((10, -20, 30), spacing, rotation)


angles = st.tuples(*[st.floats(-3.1, 3.1)] * 3)
spacings = st.tuples(*[st.floats(0.2, 6.0)] * 3)


@given(angles, spacings)
def test_affine_agrees_with_simpleitk_in_lps(angles, spacing):
    affine = oblique(angles, spacing)
    origin, step, direction = geometry.parts_from_affine(geometry.flip_lps_ras(affine))
    image = sitk.Image(4, 5, 6, sitk.sitkUInt8)
    image.SetOrigin(origin.tolist())
    image.SetSpacing(step.tolist())
    image.SetDirection(direction.ravel().tolist())
    point_lps = image.TransformIndexToPhysicalPoint((3, 2, 1))
    point = geometry.apply_affine(affine, (3, 2, 1))
    np.testing.assert_allclose(np.array(point_lps) * (-1, -1, 1), point, atol=1e-9)
    np.testing.assert_allclose(geometry.spacing_of(affine), spacing)
    np.testing.assert_allclose(geometry.voxel_volume_ml(affine), np.prod(spacing) / 1000, rtol=1e-9)


@given(angles, spacings)
def test_orientation_agrees_with_nibabel(angles, spacing):
    affine = oblique(angles, spacing)
    assert geometry.orientation_of(affine) == "".join(nib.aff2axcodes(affine))


@given(angles)
def test_transform_flip_is_its_own_inverse_and_maps_points(angles):
    matrix = oblique(angles, (1, 1, 1))
    matrix_lps = geometry.flip_transform_lps_ras(matrix)
    np.testing.assert_allclose(geometry.flip_transform_lps_ras(matrix_lps), matrix)
    sign = np.array([-1, -1, 1])
    point = np.array([3.0, -7.0, 11.0])
    np.testing.assert_allclose(
        geometry.apply_affine(matrix_lps, point * sign) * sign,
        geometry.apply_affine(matrix, point),
        atol=1e-9,
    )


def test_shifted_affine_puts_the_sub_grid_where_it_was():
    affine = oblique((0.1, 0.2, 0.3), (1, 2, 3))
    shifted = geometry.shifted_affine(affine, (4, 5, 6))
    np.testing.assert_allclose(
        geometry.apply_affine(shifted, (1, 1, 1)), geometry.apply_affine(affine, (5, 6, 7))
    )


def test_as_stored_survives_a_nifti_file(tmp_path):
    affine = geometry.as_stored(oblique((0.3, -0.7, 1.1), (0.9375, 0.9375, 1.2)))
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.float32), affine), tmp_path / "a.nii.gz")
    assert np.array_equal(nib.load(tmp_path / "a.nii.gz").affine, affine)


def test_same_grid_tolerates_rounding_and_no_more():
    affine = oblique((0.3, -0.7, 1.1), (1, 1, 1))
    moved = affine.copy()
    moved[0, 3] += 5e-4
    assert geometry.same_grid(affine, (9, 9, 9), moved, (1, 9, 9, 9))
    moved[0, 3] += 1e-3
    assert not geometry.same_grid(affine, (9, 9, 9), moved, (9, 9, 9))
    assert not geometry.same_grid(affine, (9, 9, 9), affine, (9, 9, 8))


def test_make_volume_keeps_the_contract():
    volume = make_volume(np.ones((2, 3, 4)), np.eye(4), modality="MR", units="arbitrary")
    assert volume.shape == (1, 2, 3, 4)
    assert require_volume(volume) is volume
    brighter = like(volume, volume * 2, units="HU")
    assert brighter.meta["modality"] == "MR"
    assert brighter.meta["units"] == "HU"
    np.testing.assert_array_equal(affine_of(brighter), np.eye(4))
    require_same_grid(volume, brighter)


def test_make_volume_refuses_what_breaks_the_contract():
    with pytest.raises(InputError, match="expected units"):
        make_volume(np.ones((2, 3, 4)), np.eye(4), modality="MR", units="furlongs")
    with pytest.raises(InputError, match="singular"):
        make_volume(np.ones((2, 3, 4)), np.zeros((4, 4)), modality="MR", units="HU")
    with pytest.raises(InputError, match="NaN or infinity"):
        require_volume(
            make_volume(np.full((2, 3, 4), np.nan), np.eye(4), modality="MR", units="HU")
        )
    with pytest.raises(GridMismatch, match="expected spatial shape"):
        like(
            make_volume(np.ones((2, 3, 4)), np.eye(4), modality="MR", units="HU"), np.ones((9,) * 3)
        )


def test_make_label_takes_the_smallest_type_and_refuses_fractions():
    assert str(make_label(np.full((2, 2, 2), 255), np.eye(4)).dtype) == "torch.uint8"
    assert str(make_label(np.full((2, 2, 2), 530), np.eye(4)).dtype) == "torch.uint16"
    with pytest.raises(InputError, match="whole numbers"):
        make_label(np.full((2, 2, 2), 0.5), np.eye(4))
    with pytest.raises(InputError, match="expected labels within"):
        make_label(np.full((2, 2, 2), -1), np.eye(4))
