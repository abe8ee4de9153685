"""Transforms as Spatial Registration (a matrix) and Deformable Spatial Registration (a field).

Radloom's transforms map points of fixed into moving; DICOM's two objects go opposite ways.

- Spatial Registration (PS3.3 C.20.2): the matrix of an item takes coordinates of that item's images
  into the registered frame of reference, here fixed's. So moving's matrix is the inverse.
- Deformable Spatial Registration (C.20.3.1.1): a coordinate of the registered frame, plus the
  deformation there, times the post-deformation matrix, gives the place in the source: moving from
  fixed, as here.

All is in LPS+ mm. T1 and T2 of one visit often share a frame of reference, although the patient
moved between them, so that each item names its images besides its frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radloom.geometry import (
    Affine,
    affine_from_parts,
    apply_affine,
    corners,
    flip_lps_ras,
    flip_transform_lps_ras,
    parts_from_affine,
)
from radloom.pipelines.export.dicom.geometry import decimals
from radloom.pipelines.export.dicom.heading import Heading, finish, require
from radloom.pipelines.export.dicom.references import (
    code_item,
    image_reference,
    series_references,
)
from radloom.pipelines.export.dicom.result import Desk, ObjectSeries, content_digest
from radloom.pipelines.export.dicom.source import SourceSeries
from radloom.pipelines.export.naming import SPACE_LABELS
from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.study import Study
from radloom.transforms.spatial import Transform, grid_points

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["check_registration", "read_registration", "registration_dataset", "registration_series"]

SPATIAL_REGISTRATION = "1.2.840.10008.5.1.4.1.1.66.1"
DEFORMABLE_REGISTRATION = "1.2.840.10008.5.1.4.1.1.66.3"

POINT_TOLERANCE_MM = 1e-3
"""How far a point may lie from where it was meant, once mapped by what a read gives."""

_RIGID_TOLERANCE = 1e-6
"""Largest departure of a matrix from a rotation that still counts as one."""

_IDENTITY = ("125021", "DCM", "Frame of Reference Identity")
_CONTENT = ("125024", "DCM", "Image Content-based Alignment")

_LPS = np.array([-1.0, -1.0, 1.0])


def registration_series(study: Study, desk: Desk) -> Iterator[ObjectSeries]:
    """An object for each transform of the study.

    Raises:
        NoDicomSource: fixed or moving came from no DICOM.
    """
    for output in study.find(kind="transform"):
        fixed, moving = desk.source(output.space), desk.source(output.role)
        labels = [SPACE_LABELS.get(role, role) for role in (output.role, output.space)]
        heading = desk.heading(
            "registration",
            f"{output.role}/{output.space}/{output.name}",
            f"{labels[0]} registered to {labels[1]}",
            content_digest(output),
            fixed,
            moving,
        )
        transform = output.transform
        yield ObjectSeries(
            kind="registration",
            role=output.role,
            name=output.name,
            space=output.space,
            datasets=[registration_dataset(transform, heading, fixed, moving)],
            check=partial(
                check_registration, transform=transform, fixed=fixed, where=heading.description
            ),
            entities={"from": labels[0], "to": labels[1], "mod": "", "space": ""},
        )


def registration_dataset(
    moving_from_fixed: Transform, heading: Heading, fixed: SourceSeries, moving: SourceSeries
) -> Dataset:
    """One finished object in fixed's frame of reference."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    dataset.Modality = "REG"
    dataset.FrameOfReferenceUID = fixed.frame_of_reference_uid
    dataset.PositionReferenceIndicator = fixed.first.get("PositionReferenceIndicator", "") or ""
    dataset.ContentDate = ""
    dataset.ContentLabel = "REGISTRATION"
    dataset.ContentDescription = heading.series_description
    dataset.ContentCreatorName = ""
    if moving_from_fixed.is_affine:
        dataset.SOPClassUID = SPATIAL_REGISTRATION
        back = moving_from_fixed.inverse().matrix
        dataset.RegistrationSequence = [
            _matrix_item(fixed, np.eye(4), _IDENTITY),
            _matrix_item(moving, back, _CONTENT),
        ]
    else:
        dataset.SOPClassUID = DEFORMABLE_REGISTRATION
        dataset.DeformableRegistrationSequence = [
            _unmoved_item(fixed),
            _field_item(moving, moving_from_fixed),
        ]
    dataset.ReferencedSeriesSequence = series_references((fixed, moving))
    return finish(dataset, heading)


def _matrix_item(source: SourceSeries, matrix: Affine, how: tuple[str, str, str]) -> Dataset:
    """Images, and the matrix (RAS+) that takes their world into the registered frame."""
    from pydicom.dataset import Dataset

    registration = _matrix(matrix)
    holder = Dataset()
    holder.RegistrationTypeCodeSequence = [code_item(*how)]
    holder.MatrixSequence = [registration]
    item = Dataset()
    item.FrameOfReferenceUID = source.frame_of_reference_uid
    item.ReferencedImageSequence = [image_reference(ds) for ds in source.datasets]
    item.MatrixRegistrationSequence = [holder]
    return item


def _matrix(matrix_ras: Affine) -> Dataset:
    from pydicom.dataset import Dataset

    matrix = flip_transform_lps_ras(matrix_ras)
    linear = matrix[:3, :3]
    is_rigid = (
        np.abs(linear.T @ linear - np.eye(3)).max() <= _RIGID_TOLERANCE
        and np.linalg.det(linear) > 0
    )
    item = Dataset()
    item.FrameOfReferenceTransformationMatrixType = "RIGID" if is_rigid else "AFFINE"
    item.FrameOfReferenceTransformationMatrix = decimals(matrix.ravel())
    return item


def _unmoved_item(fixed: SourceSeries) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.SourceFrameOfReferenceUID = fixed.frame_of_reference_uid
    item.ReferencedImageSequence = [image_reference(ds) for ds in fixed.datasets]
    item.RegistrationTypeCodeSequence = [code_item(*_IDENTITY)]
    return item


def _field_item(moving: SourceSeries, transform: Transform) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.SourceFrameOfReferenceUID = moving.frame_of_reference_uid
    item.ReferencedImageSequence = [image_reference(ds) for ds in moving.datasets]
    item.RegistrationTypeCodeSequence = [code_item(*_CONTENT)]
    item.DeformableRegistrationGridSequence = [_grid(transform)]
    if not np.array_equal(transform.matrix, np.eye(4)):
        item.PostDeformationMatrixRegistrationSequence = [_matrix(transform.matrix)]
    return item


def _grid(transform: Transform) -> Dataset:
    """The displacement, its third axis turned where its grid is left-handed."""
    from pydicom.dataset import Dataset

    assert transform.displacement_mm is not None
    assert transform.grid_affine is not None
    field, affine = transform.displacement_mm, flip_lps_ras(transform.grid_affine)
    if np.linalg.det(affine[:3, :3]) < 0:
        affine[:3, 3] += affine[:3, 2] * (field.shape[3] - 1)
        affine[:3, 2] *= -1
        field = field[..., ::-1]
    origin, spacing, direction = parts_from_affine(affine)
    vectors = field * _LPS[:, None, None, None].astype(np.float32)
    item = Dataset()
    item.ImageOrientationPatient = decimals(direction[:, :2].T.ravel())
    item.ImagePositionPatient = decimals(origin)
    item.GridDimensions = [int(n) for n in field.shape[1:]]
    item.GridResolution = [float(step) for step in spacing]
    item.VectorGridData = np.ascontiguousarray(vectors.transpose(3, 2, 1, 0), "<f4").tobytes()
    return item


def read_registration(dataset: Dataset) -> Transform:
    """`moving_from_fixed` as the last item of a registration object tells it."""
    if dataset.SOPClassUID == SPATIAL_REGISTRATION:
        item = dataset.RegistrationSequence[-1].MatrixRegistrationSequence[0].MatrixSequence[0]
        return Transform(_read_matrix(item)).inverse()
    item = dataset.DeformableRegistrationSequence[-1]
    post = item.get("PostDeformationMatrixRegistrationSequence")
    grid = item.DeformableRegistrationGridSequence[0]
    n_i, n_j, n_k = (int(n) for n in grid.GridDimensions)
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(n_k, n_j, n_i, 3)
    row, column = np.reshape([float(v) for v in grid.ImageOrientationPatient], (2, 3))
    affine_lps = affine_from_parts(
        [float(v) for v in grid.ImagePositionPatient],
        [float(v) for v in grid.GridResolution],
        np.column_stack([row, column, np.cross(row, column)]),
    )
    field = vectors.transpose(3, 2, 1, 0) * _LPS[:, None, None, None].astype(np.float32)
    matrix = _read_matrix(post[0]) if post else np.eye(4)
    return Transform(matrix, field, flip_lps_ras(affine_lps))


def _read_matrix(item: Any) -> Affine:
    numbers = [float(v) for v in item.FrameOfReferenceTransformationMatrix]
    return flip_transform_lps_ras(np.reshape(numbers, (4, 4)))


def check_registration(
    datasets: Sequence[Dataset], *, transform: Transform, fixed: SourceSeries, where: str
) -> Iterable[Check]:
    """How far points of fixed's grid land from where the transform carries them, at most.

    Raises:
        StageFailed: further than `POINT_TOLERANCE_MM`, or another frame of reference.
    """
    dataset = datasets[0]
    frame = str(dataset.FrameOfReferenceUID)
    require(frame == fixed.frame_of_reference_uid, where, "fixed's frame of reference", "another")
    read = read_registration(dataset)
    points = _probe(fixed, transform)
    apart = float(np.abs(read.apply(points) - transform.apply(points)).max())
    require(
        apart <= POINT_TOLERANCE_MM, where, f"points within {POINT_TOLERANCE_MM} mm", f"{apart:g}"
    )
    return (
        Check(
            f"dicom_{where.lower().replace(' ', '_')}_points",
            apart,
            high=POINT_TOLERANCE_MM,
            unit="mm",
            meaning="How far points land from where the transform carries them, mapped by the "
            "DICOM registration object.",
        ),
    )


def _probe(fixed: SourceSeries, transform: Transform) -> npt.NDArray[np.float64]:
    """(N, 3) points, RAS+ mm: corners and 5 x 5 x 5 places of fixed's grid, and of the field's."""
    shape = fixed.shape
    steps = np.diag([*((np.asarray(shape) - 1) / 4), 1.0])
    points = [corners(fixed.affine, shape), grid_points(fixed.affine @ steps, (5, 5, 5))]
    if transform.displacement_mm is not None and transform.grid_affine is not None:
        inner = np.asarray(transform.displacement_mm.shape[1:]) - 1
        inside = np.meshgrid(*(np.linspace(0.25, n - 0.25, 4) for n in inner), indexing="ij")
        points.append(apply_affine(transform.grid_affine, np.stack(inside, axis=-1)))
    return np.concatenate([part.reshape(-1, 3) for part in points])
