from __future__ import annotations

import numpy as np
from scipy import ndimage

from radloom.models.registration.similarity import Similarity
from radloom.shapes import make_volume
from radloom.transforms.spatial import Transform


def scene(seed: int, *, of: int = 7):
    """A smooth scene, the same for every seed, with noise of its own; 48^3 at 4 mm."""
    random = np.random.default_rng(of)
    smooth = ndimage.gaussian_filter(random.standard_normal((48, 48, 48)), 5)
    noise = np.random.default_rng(seed).standard_normal(smooth.shape)
    image = 100 + 40 * smooth / smooth.std() + 25 * noise
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    return make_volume(image.clip(0).astype(np.float32), affine, modality="MR", units="arbitrary")


def shifted(mm: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = mm
    return matrix


def test_grid_upon_grid_scores_no_higher_than_its_neighbours():
    """Measured on the voxels it lay 0.029 off here, though a millimetre hardly matters."""
    similarity = Similarity.of(scene(1), scene(2), between_voxels=True)
    on_grid, _ = similarity.measure_matrix(np.eye(4))
    beside = [similarity.measure_matrix(shifted(mm))[0] for mm in (-1.0, 1.0)]
    assert abs(on_grid - np.mean(beside)) < 0.002


def test_alike_is_more_than_unlike():
    similarity = Similarity.of(scene(1), scene(1))
    same, share = similarity.measure_matrix(np.eye(4))
    away, _ = similarity.measure_matrix(shifted(40.0))
    assert same > away + 0.1
    assert share == 1


def test_the_same_scene_lies_on_a_peak_and_another_does_not():
    similarity = Similarity.of(scene(1), scene(2), between_voxels=True)
    assert similarity.peak(Transform.identity()) > 0.3
    assert similarity.peak(Transform(shifted(60.0))) < 0.1
    other = Similarity.of(scene(1), scene(2, of=8), between_voxels=True)
    assert abs(other.peak(Transform.identity())) < 0.1


def test_a_displacement_has_the_peak_of_the_matrix_that_it_says():
    similarity = Similarity.of(scene(1), scene(2), n_points=1000, between_voxels=True)
    matrix = Transform(shifted(3.0))
    grid = np.diag([8.0, 8.0, 8.0, 1.0])
    grid[:3, 3] = -40
    field = matrix.as_displacement(grid, (35, 35, 35))
    assert abs(similarity.peak(field) - similarity.peak(matrix)) < 1e-6
