from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from radloom.errors import StageFailed
from radloom.geometry import corners
from radloom.pipelines.export.dicom.heading import file_bytes, read_file_bytes
from radloom.pipelines.export.dicom.registration import registration_series
from radloom.pipelines.export.dicom.result import Desk, ObjectSeries
from radloom.pipelines.study import Output, Study
from radloom.transforms.spatial import Transform

FLIP = np.array([-1.0, -1.0, 1.0])


def _rigid() -> np.ndarray:
    a, b = 0.3, -0.2
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, (4.5, -7.25, 11.125)
    return matrix


def _affine() -> np.ndarray:
    matrix = _rigid()
    matrix[:3, :3] = matrix[:3, :3] @ np.diag([1.1, 0.95, 1.02])
    return matrix


def _field(*, left_handed: bool = False, matrix: np.ndarray | None = None) -> Transform:
    rng = np.random.default_rng(3)
    grid = np.diag([6.0, 5.0, 7.0, 1.0])
    grid[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ grid[:3, :3]
    if (np.linalg.det(grid[:3, :3]) < 0) is not left_handed:
        grid[:3, 0] *= -1
    grid[:3, 3] = -20, 10, -15
    field = rng.normal(scale=2.0, size=(3, 8, 9, 7)).astype(np.float32)
    return Transform(np.eye(4) if matrix is None else matrix, field, grid)


def _made(study: Study, transform: Transform, role: str = "t2") -> ObjectSeries:
    output = Output("transform", role, "moving_from_fixed", transform, space="t1")
    study = study.with_outputs("register", (output,))
    (series,) = registration_series(study, Desk(study, "f"))
    return series


def _read(series: ObjectSeries) -> Any:
    (dataset,) = series.datasets
    return read_file_bytes(file_bytes(dataset))


@pytest.mark.parametrize(("matrix", "kind"), [(_rigid(), "RIGID"), (_affine(), "AFFINE")])
def test_matrix_takes_moving_into_fixed_as_simpleitk_reads_it(
    study: Study, matrix: np.ndarray, kind: str
) -> None:
    transform = Transform(matrix)
    dataset = _read(_made(study, transform))
    fixed, moving = dataset.RegistrationSequence
    item = moving.MatrixRegistrationSequence[0].MatrixSequence[0]
    assert item.FrameOfReferenceTransformationMatrixType == kind
    numbers = np.reshape([float(v) for v in item.FrameOfReferenceTransformationMatrix], (4, 4))
    fixed_from_moving = sitk.AffineTransform(3)
    fixed_from_moving.SetMatrix(numbers[:3, :3].ravel().tolist())
    fixed_from_moving.SetTranslation(numbers[:3, 3].tolist())
    for point in corners(np.diag([40.0, 50, 60, 1]), (3, 3, 3)):
        there = transform.apply(point)
        back = fixed_from_moving.TransformPoint((there * FLIP).tolist())
        np.testing.assert_allclose(np.array(back) * FLIP, point, atol=1e-9)
    unmoved = fixed.MatrixRegistrationSequence[0].MatrixSequence[0]
    same = np.reshape([float(v) for v in unmoved.FrameOfReferenceTransformationMatrix], (4, 4))
    np.testing.assert_array_equal(same, np.eye(4))
    assert dataset.FrameOfReferenceUID == fixed.FrameOfReferenceUID == "1.2.826.77.1"


def test_items_name_their_images_where_both_share_a_frame(study: Study) -> None:
    dataset = _read(_made(study, Transform(_rigid())))
    fixed, moving = dataset.RegistrationSequence
    assert fixed.FrameOfReferenceUID == moving.FrameOfReferenceUID
    named = [
        {str(image.ReferencedSOPInstanceUID) for image in item.ReferencedImageSequence}
        for item in (fixed, moving)
    ]
    assert named[0] == {f"1.2.826.99.1.{k}" for k in range(1, 8)}
    assert named[1] == {f"1.2.826.99.2.{k}" for k in range(1, 10)}
    assert len(dataset.ReferencedSeriesSequence) == 2
    ct = _read(_made(study, Transform(_rigid()), "ct"))
    assert ct.RegistrationSequence[1].FrameOfReferenceUID == "1.2.826.77.2"
    assert ct.FrameOfReferenceUID == "1.2.826.77.1"


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("with_matrix", [False, True])
def test_field_takes_fixed_into_moving_as_simpleitk_reads_it(
    study: Study, left_handed: bool, with_matrix: bool
) -> None:
    """PS3.3 C.20.3.1.1: source = M_post (x + D(x)), D by ITK's own field transform."""
    transform = _field(left_handed=left_handed, matrix=_affine() if with_matrix else None)
    item = _read(_made(study, transform)).DeformableRegistrationSequence[-1]
    (grid,) = item.DeformableRegistrationGridSequence
    i, j, k = grid.GridDimensions
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(k, j, i, 3).astype(np.float64)
    image = sitk.GetImageFromArray(vectors, isVector=True)
    row, column = np.reshape([float(v) for v in grid.ImageOrientationPatient], (2, 3))
    image.SetOrigin([float(v) for v in grid.ImagePositionPatient])
    image.SetSpacing([float(v) for v in grid.GridResolution])
    image.SetDirection(np.column_stack([row, column, np.cross(row, column)]).ravel().tolist())
    chain = [sitk.DisplacementFieldTransform(image)]
    if with_matrix:
        (post,) = item.PostDeformationMatrixRegistrationSequence
        numbers = np.reshape([float(v) for v in post.FrameOfReferenceTransformationMatrix], (4, 4))
        after = sitk.AffineTransform(3)
        after.SetMatrix(numbers[:3, :3].ravel().tolist())
        after.SetTranslation(numbers[:3, 3].tolist())
        chain.insert(0, after)
    moving_from_fixed = sitk.CompositeTransform(chain)
    assert transform.grid_affine is not None
    inside = np.random.default_rng(0).uniform(0.3, [6.5, 7.5, 5.5], size=(40, 3))
    points = inside @ transform.grid_affine[:3, :3].T + transform.grid_affine[:3, 3]
    for point, wanted in zip(points, transform.apply(points), strict=True):
        found = moving_from_fixed.TransformPoint((point * FLIP).tolist())
        np.testing.assert_allclose(np.array(found) * FLIP, wanted, atol=2e-4)


@pytest.mark.parametrize("transform", [Transform(_rigid()), Transform(_affine()), _field()])
def test_check_measures_and_finds_what_is_wrong(study: Study, transform: Transform) -> None:
    series = _made(study, transform)
    dataset = _read(series)
    (check,) = series.check([dataset])
    assert check.value <= 1e-4
    if transform.is_affine:
        item = dataset.RegistrationSequence[1].MatrixRegistrationSequence[0].MatrixSequence[0]
        numbers = list(item.FrameOfReferenceTransformationMatrix)
        item.FrameOfReferenceTransformationMatrix = [*numbers[:3], numbers[3] + 0.01, *numbers[4:]]
    else:
        grid = dataset.DeformableRegistrationSequence[1].DeformableRegistrationGridSequence[0]
        grid.VectorGridData = (np.frombuffer(grid.VectorGridData, "<f4") * -1).tobytes()
    with pytest.raises(StageFailed, match="T2w registered to T1w: a read gives"):
        series.check([dataset])


@pytest.mark.parametrize("transform", [Transform(_rigid()), Transform(_affine()), _field()])
def test_checkers_find_no_error(
    study: Study, transform: Transform, validate: Callable[[bytes], list[str]]
) -> None:
    (dataset,) = _made(study, transform).datasets
    assert validate(file_bytes(dataset)) == []
