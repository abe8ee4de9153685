"""Labels as RT Structure Set: contours in the slices that planning systems draw and plan on.

Contours come from `radloom.transforms.contours` in the planes of the labels' slices, whichever way
those lie in the patient: closed, planar, holes as keyholes, one frame of reference. Where the
labels lie on the source's own slices, each contour names its image.

The file is Implicit VR Little Endian: an explicit VR has two bytes for the length of ContourData,
and a skin with its holes is longer than 65534 characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radloom import __version__
from radloom.errors import StageFailed
from radloom.geometry import (
    Affine,
    apply_affine,
    flip_lps_ras,
    shifted_affine,
    spacing_of,
    voxel_volume_ml,
)
from radloom.pipelines.export.dicom.codes import ANATOMY, Concept
from radloom.pipelines.export.dicom.equipment import RESEARCH
from radloom.pipelines.export.dicom.heading import Heading, finish, latest_time, require
from radloom.pipelines.export.dicom.references import code_item, image_reference
from radloom.pipelines.export.dicom.result import Desk, ObjectSeries, content_digest
from radloom.pipelines.export.dicom.segmentation import (
    CENTROID_TOLERANCE_MM,
    LabelGrid,
    label_grid,
    model_of,
    without_laterality,
)
from radloom.pipelines.export.dicom.structures import Structure, centroid_mm, structures_of
from radloom.pipelines.export.naming import SPACE_LABELS
from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.study import Output, Study
from radloom.transforms.contours import Contour, contours_of, rasterise

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "check_structure_set",
    "rasterised",
    "read_structure_set",
    "structure_set_dataset",
    "structure_set_series",
]

Points = npt.NDArray[np.float64]

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired, which RTReferencedStudySequence still has to name."""

DECIMALS = 4
"""Of a coordinate in mm. Vertices keep a fifth of a voxel from every voxel's centre."""

VOLUME_TOLERANCE = 0.01
"""Largest relative difference between what contours enclose and what voxels fill."""

CONTOUR_DATA = 0x30060050

WITHOUT_CONTOURS = frozenset(("tissues",))
"""Names of labels that are maps of a whole head, air and all, and no structures to be outlined."""


def structure_set_series(study: Study, desk: Desk) -> Iterator[ObjectSeries]:
    """A structure set for each label of the study that holds anything.

    Raises:
        NoDicomSource: the volume behind a label came from no DICOM.
    """
    for output in study.find(kind="label"):
        if output.name in WITHOUT_CONTOURS:
            continue
        grid = label_grid(output.volume, desk.source(output.space or output.role))
        structures = structures_of(grid.labels, output.label_names)
        if structures:
            yield _series(desk, output, grid, structures)


def _series(
    desk: Desk, output: Output, grid: LabelGrid, structures: tuple[Structure, ...]
) -> ObjectSeries:
    heading = desk.heading(
        "structure_set",
        f"{output.role}/{output.name}/{output.space}",
        f"{SPACE_LABELS.get(output.role, output.role)} {output.name} structure set",
        content_digest(output),
        grid.source,
    )
    return ObjectSeries(
        kind="structure_set",
        role=output.role,
        name=output.name,
        space=output.space,
        datasets=(structure_set_dataset(grid, structures, heading, model=model_of(output)),),
        check=partial(
            check_structure_set, grid=grid, structures=structures, where=heading.description
        ),
    )


def structure_set_dataset(
    grid: LabelGrid,
    structures: Sequence[Structure],
    heading: Heading,
    *,
    model: tuple[str, str] = ("Radloom", __version__),
) -> Dataset:
    """A finished RT Structure Set, region n + 1 for structure n.

    Sources: PS3.3 A.19 and C.8.8.5 (Structure Set), C.8.8.6 (ROI Contour), C.8.8.8 (RT ROI
    Observations).
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.SOPClassUID = RT_STRUCTURE_SET
    dataset.Modality = "RTSTRUCT"
    dataset.OperatorsName = ""
    dataset.FrameOfReferenceUID = grid.source.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.StructureSetLabel = "RADLOOM"
    dataset.StructureSetName = heading.series_description
    dataset.StructureSetDescription = f"Contours by {model[0]} {model[1]}, {RESEARCH}"
    dataset.StructureSetDate, dataset.StructureSetTime = latest_time(heading.sources)
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(grid)]
    dataset.ApprovalStatus = "UNAPPROVED"
    without_laterality(
        finish(dataset, heading)
    )  # looks at every element: better before there are a million numbers
    volume_ml = voxel_volume_ml(grid.affine)
    rois, drawn, seen = [], [], []
    for number, item in enumerate(structures, 1):
        mask = grid.labels[item.box] == item.label
        contours = contours_of(mask, offset=[part.start for part in item.box])
        rois.append(_roi(number, item, grid, float(mask.sum()) * volume_ml, model))
        drawn.append(_contours(number, item, contours, grid))
        seen.append(_observation(number, item))
    dataset.StructureSetROISequence = rois
    dataset.ROIContourSequence = drawn
    dataset.RTROIObservationsSequence = seen
    return dataset


def _frame_of_reference(grid: LabelGrid) -> Dataset:
    from pydicom.dataset import Dataset

    source = grid.source
    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ContourImageSequence = [image_reference(header) for header in source.datasets]
    study = Dataset()
    study.ReferencedSOPClassUID = STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = source.study_uid
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = source.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(
    number: int, structure: Structure, grid: LabelGrid, volume_ml: float, model: tuple[str, str]
) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = grid.source.frame_of_reference_uid
    item.ROIName = structure.name
    item.ROIDescription = f"label {structure.label}"
    item.ROIVolume = f"{volume_ml:.6g}"
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{model[0]} {model[1]}"[:64]
    return item


def _contours(
    number: int, structure: Structure, contours: Sequence[Contour], grid: LabelGrid
) -> Dataset:
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag

    lps_from_index = flip_lps_ras(grid.affine)
    items = []
    for order, contour in enumerate(contours, 1):
        item = Dataset()
        item.ContourNumber = order
        if grid.is_own:
            header, frame = grid.source.slice_source(contour.plane)
            item.ContourImageSequence = [image_reference(header, (frame,))]
        item.ContourGeometricType = "CLOSED_PLANAR"
        item.NumberOfContourPoints = len(contour.points)
        text = _decimal_string(apply_affine(lps_from_index, contour.points))
        # as bytes: a number that pydicom holds takes thirty times the memory of its digits
        tag = Tag(CONTOUR_DATA)
        item[tag] = RawDataElement(tag, "DS", len(text), text, 0, True, True)  # noqa: FBT003
        # pydicom leaves elements alone only in items that say they are in the file's encoding
        item.set_original_encoding(True, True, item._character_set)  # noqa: FBT003
        items.append(item)
    drawn = Dataset()
    drawn.ROIDisplayColor = list(structure.rgb)
    drawn.ContourSequence = items
    drawn.ReferencedROINumber = number
    return drawn


def _decimal_string(points_lps: Points) -> bytes:
    """Coordinates as the value of a DS: digits, backslashes, an even number of bytes."""
    numbers = (np.round(points_lps, DECIMALS) + 0.0).ravel().tolist()
    text = "\\".join(map(repr, numbers)).encode("ascii")
    return text + b" " * (len(text) % 2)


def _observation(number: int, structure: Structure) -> Dataset:
    from pydicom.dataset import Dataset

    codes = structure.codes
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    item.RTROIInterpretedType = "ORGAN" if codes.category == ANATOMY else ""
    item.ROIInterpreter = ""
    if codes.is_known:
        known = _code(codes.type)
        if codes.side is not None:
            known.SegmentedPropertyTypeModifierCodeSequence = [_code(codes.side)]
        category = _code(codes.category)
        item.SegmentedPropertyCategoryCodeSequence = [category]
        item.RTROIIdentificationCodeSequence = [known]
    return item


def _code(concept: Concept) -> Dataset:
    return code_item(concept.value, concept.scheme, concept.meaning)


def read_structure_set(dataset: Dataset) -> dict[int, tuple[str, list[Points]]]:
    """Region number -> name and contours, each (N, 3) in RAS+ mm."""
    names = {int(item.ROINumber): str(item.ROIName) for item in dataset.StructureSetROISequence}
    found: dict[int, tuple[str, list[Points]]] = {}
    for item in dataset.ROIContourSequence:
        contours = [_points(contour) for contour in item.get("ContourSequence") or ()]
        number = int(item.ReferencedROINumber)
        found[number] = names[number], contours
    return found


def _points(contour: Dataset) -> Points:
    """(N, 3) RAS+ mm; the data set keeps the digits as they are in the file."""
    element = contour.get_item(CONTOUR_DATA)
    assert element is not None
    value: Any = element.value
    parts = bytes(value).split(b"\\") if isinstance(value, (bytes, bytearray)) else value
    points = np.asarray([float(part) for part in parts], dtype=np.float64).reshape(-1, 3)
    expected = int(contour.NumberOfContourPoints)
    if len(points) != expected:
        raise StageFailed(f"expected {expected} points in a contour, got {len(points)}")
    return apply_affine(np.diag([-1.0, -1.0, 1.0, 1.0]), points)


def rasterised(
    contours: Iterable[Points], affine: Affine, shape: tuple[int, int, int]
) -> npt.NDArray[np.bool_]:
    """The (I, J, K) mask that contours (N, 3) in RAS+ mm go round, in slices of the grid given.

    Raises:
        StageFailed: a contour does not lie in a slice.
    """
    index_from_world = np.linalg.inv(affine)
    in_slices = []
    for points in contours:
        index = apply_affine(index_from_world, points)
        plane = round(float(index[:, 2].mean()))
        beside = float(np.abs(index[:, 2] - plane).max()) * spacing_of(affine)[2]
        if beside > CENTROID_TOLERANCE_MM:
            raise StageFailed(f"a contour lies {beside:.3g} mm beside its slice")
        in_slices.append(Contour(plane, index))
    return rasterise(in_slices, shape)


def check_structure_set(
    datasets: Sequence[Dataset],
    *,
    grid: LabelGrid,
    structures: Sequence[Structure],
    where: str,
) -> Iterable[Check]:
    """How far volumes and centres by contours are from those by voxels; raises for the rest.

    Raises:
        StageFailed: rasterised contours give other voxels, a region has another name, or the
            object is in another frame of reference.
    """
    require(len(datasets) == 1, where, "one object", len(datasets))
    dataset = datasets[0]
    frame = str(dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID)
    require(frame == grid.source.frame_of_reference_uid, where, "the frame of reference", "another")
    regions = read_structure_set(dataset)
    require(len(regions) == len(structures), where, f"{len(structures)} regions", len(regions))
    thickness = float(spacing_of(grid.affine)[2])
    volume, centre = 0.0, 0.0
    for number, item in enumerate(structures, 1):
        name, contours = regions.get(number, ("", []))
        require(name == item.name, f"{where}, region {number}", repr(item.name), repr(name))
        enclosed, middle = _measured(contours)
        filled = int(np.count_nonzero(grid.labels[item.box] == item.label))
        meant = filled * voxel_volume_ml(grid.affine)
        volume = max(volume, abs(enclosed * thickness / 1000.0 / meant - 1.0))
        apart = middle - centroid_mm(grid.labels, item, grid.affine)
        centre = max(centre, float(np.linalg.norm(apart)))
        wrong = _wrong_voxels(contours, item, grid)
        require(wrong == 0, f"{where}, {item.name}", "every voxel as it was", f"{wrong} others")
    require(volume <= VOLUME_TOLERANCE, where, f"volumes within {VOLUME_TOLERANCE}", f"{volume:g}")
    stem = f"dicom_{where.lower().replace(' ', '_')}"
    return (
        Check(
            f"{stem}_volumes",
            round(volume, 6),
            high=VOLUME_TOLERANCE,
            meaning="Largest relative difference between the volume that a structure's contours "
            "enclose and that of its voxels.",
        ),
        Check(
            f"{stem}_centroids",
            round(centre, 6),
            high=float(spacing_of(grid.affine).max()),
            unit="mm",
            meaning="How far the centre of what a structure's contours enclose lies from that of "
            "its voxels, at most.",
        ),
    )


def _measured(contours: Sequence[Points]) -> tuple[float, Points]:
    """Area that planar contours (N, 3) enclose, mm², and the centre of it, from points alone."""
    total, moment = 0.0, np.zeros(3)
    for points in contours:
        following = np.roll(points, -1, axis=0)
        start = points[0]
        crossed = np.cross(points - start, following - start) / 2.0
        normal = crossed.sum(axis=0)
        area = float(np.linalg.norm(normal))
        share = crossed @ (normal / area)
        middle = (points + following + start) / 3.0
        total += area
        moment += share @ middle
    return total, moment / total


def _wrong_voxels(contours: Sequence[Points], structure: Structure, grid: LabelGrid) -> int:
    """How many voxels of the structure's box, one wider, rasterised contours give otherwise."""
    start = [max(part.start - 1, 0) for part in structure.box]
    stop = [min(p.stop + 1, n) for p, n in zip(structure.box, grid.labels.shape, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    meant = grid.labels[box] == structure.label
    i, j, k = meant.shape
    found = rasterised(contours, shifted_affine(grid.affine, start), (i, j, k))
    return int(np.count_nonzero(found != meant))
