from __future__ import annotations

import numpy as np
import pytest

from radloom.shapes import array_of, make_volume
from radloom.transforms.defacing import face_planes, remove_face
from radloom.transforms.spatial import Transform

BRAIN = np.array([[x, y, z] for x in (-60, 0, 60) for y in (-95, 65) for z in (-45, 70)], float)


def volume(affine, shape=(40, 50, 45), units="arbitrary", modality="MR"):
    return make_volume(
        np.full((1, *shape), 100, np.float32), affine, modality=modality, units=units
    )


AFFINE = np.array([[5.0, 0, 0, -100], [0, 5, 0, -125], [0, 0, 5, -125], [0, 0, 0, 1]])


def test_the_planes_keep_their_distance_from_every_point_of_the_brain():
    planes = face_planes(BRAIN, margin_mm=8)
    distances = planes.offsets_mm - BRAIN @ planes.normals.T
    np.testing.assert_allclose(distances.min(axis=0), 8)
    np.testing.assert_allclose(np.linalg.norm(planes.normals, axis=1), 1)


def test_nose_and_mouth_go_and_crown_and_nape_stay():
    out, removed = remove_face(volume(AFFINE), face_planes(BRAIN), Transform.identity())

    def at(*point):
        i, j, k = np.round((np.array(point) - AFFINE[:3, 3]) / 5).astype(int)
        return removed[i, j, k]

    assert at(0, 105, -45)  # tip of the nose
    assert at(0, 95, -85)  # mouth
    assert not at(0, 0, 85)  # crown
    assert not at(0, -100, -60)  # nape
    assert not at(0, -35, -120)  # cervical cord
    values = array_of(out)[0]
    assert set(np.unique(values[removed])) == {0.0}
    assert set(np.unique(values[~removed])) == {100.0}


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_the_face_is_where_the_world_says_whatever_the_axes_of_the_file(flip):
    affine = AFFINE @ np.diag([*flip, 1.0])
    affine[:3, 3] += (np.array(flip) < 0) * 5 * (np.array([40, 50, 45]) - 1)
    _, plain = remove_face(volume(AFFINE), face_planes(BRAIN), Transform.identity())
    _, turned = remove_face(volume(affine), face_planes(BRAIN), Transform.identity())
    axes = tuple(axis for axis, sign in enumerate(flip) if sign < 0)
    np.testing.assert_array_equal(np.flip(turned, axes), plain)


def test_a_turned_head_loses_the_same_voxels():
    angle = np.radians(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    _, straight = remove_face(volume(AFFINE), face_planes(BRAIN), Transform.identity())
    _, turned = remove_face(volume(turn @ AFFINE), face_planes(BRAIN), Transform(turn).inverse())
    assert (straight != turned).mean() < 1e-3


def test_ct_gets_air():
    out, removed = remove_face(
        volume(AFFINE, units="HU", modality="CT"), face_planes(BRAIN), Transform.identity()
    )
    assert set(np.unique(array_of(out)[0][removed])) == {-1024.0}
