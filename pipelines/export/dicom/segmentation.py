"""Labels as DICOM Segmentation: a bit plane a structure (BINARY), or numbers (LABELMAP).

**Which.** BINARY (1.2.840.10008.5.1.4.1.1.66.4) is what every viewer and PACS with segmentations
takes, and what the kind ``segmentation`` writes. Label Map Segmentation (…66.7, of 2024) is one
frame a slice and a hundredth of the size with many structures; the kind ``labelmap`` writes it for
those whose archive accepts it. FreeSurfer's and every other model's numbers stay as its pixels.

**Grid.** Where the labels lie on the source's own slices, each frame has position, orientation and
spacing of its source image digit by digit, and refers to it. Elsewhere the frames have the labels'
own geometry in the source's frame of reference, and refer to the series as a whole: a frame that
named the nearest image would be drawn onto it.

**Empty frames.** OHIF before version 3 took frame n of a segment for slice n of the series, and
showed segmentations without empty frames shifted (monai-deploy-app-sdk#397). A label map has a
frame for each slice, empty or not: compressed, an empty one is nothing. In BINARY a frame more for
each slice and structure would make 100 structures on 512x512x300 a file of a gigabyte instead of a
fraction; empty frames are left out, and each frame that is there says its source image
(DerivationImageSequence), its position and its place in order (DimensionIndexValues): OHIF 3 goes
by the first, Slicer by the second, and both show the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from radloom import __version__
from radloom.errors import StageFailed
from radloom.geometry import (
    Affine,
    affine_from_parts,
    apply_affine,
    flip_lps_ras,
    parts_from_affine,
    same_grid,
    shifted_affine,
)
from radloom.pipelines.export.dicom.codes import Concept, cielab_of
from radloom.pipelines.export.dicom.geometry import decimals, slice_plane
from radloom.pipelines.export.dicom.heading import Heading, finish, require
from radloom.pipelines.export.dicom.references import code_item, series_references, source_image
from radloom.pipelines.export.dicom.result import Desk, ObjectSeries, content_digest
from radloom.pipelines.export.dicom.source import SourceSeries
from radloom.pipelines.export.dicom.structures import Structure, centroid_mm, structures_of
from radloom.pipelines.export.dicom.uids import make_uid
from radloom.pipelines.export.naming import SPACE_LABELS
from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.study import Output, Study
from radloom.shapes import LabelVolume, affine_of, array_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "LabelGrid",
    "check_segmentation",
    "label_grid",
    "labelmap_series",
    "model_of",
    "placed",
    "read_segmentation",
    "segmentation_dataset",
    "segmentation_series",
    "without_laterality",
]

Form = Literal["BINARY", "LABELMAP"]

Labels = npt.NDArray[np.integer]

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
"""A class of single-frame images."""

CENTROID_TOLERANCE_MM = 0.15
"""How far a structure may lie from where it was meant: what header positions may differ from an
even grid, as ingestion allows."""

_PLACES = (
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
)
"""What makes a header one of several frames."""


@dataclass(frozen=True, eq=False)
class LabelGrid:
    """Labels with K along the normal of their slices, and the source that they belong to."""

    labels: Labels
    """(I, J, K)."""
    affine: Affine
    """(4, 4) voxel -> RAS+ mm, right-handed."""
    source: SourceSeries
    is_own: bool
    """Whether the slices are those of the source, one by one."""


def segmentation_series(study: Study, desk: Desk) -> Iterator[ObjectSeries]:
    """A BINARY segmentation for each label of the study that holds anything.

    Raises:
        NoDicomSource: the volume behind a label came from no DICOM.
    """
    return _every_label(study, desk, "BINARY")


def labelmap_series(study: Study, desk: Desk) -> Iterator[ObjectSeries]:
    """A label map for each label of the study that holds anything.

    Raises:
        NoDicomSource: the volume behind a label came from no DICOM.
    """
    return _every_label(study, desk, "LABELMAP")


def _every_label(study: Study, desk: Desk, form: Form) -> Iterator[ObjectSeries]:
    for output in study.find(kind="label"):
        source = desk.source(output.space or output.role)
        grid = label_grid(output.volume, source)
        structures = structures_of(grid.labels, output.label_names)
        if structures:
            yield _series(desk, output, grid, structures, form)


def _series(
    desk: Desk, output: Output, grid: LabelGrid, structures: tuple[Structure, ...], form: Form
) -> ObjectSeries:
    label = SPACE_LABELS.get(output.role, output.role)
    heading = desk.heading(
        "segmentation",
        f"{output.role}/{output.name}/{output.space}/{form}",
        f"{label} {output.name} segmentation" + (" (label map)" if form == "LABELMAP" else ""),
        content_digest(output),
        grid.source,
    )
    dataset = segmentation_dataset(grid, structures, heading, form=form, model=model_of(output))
    return ObjectSeries(
        kind="segmentation",
        role=output.role,
        name=output.name,
        space=output.space,
        datasets=(dataset,),
        check=partial(
            check_segmentation, grid=grid, structures=structures, where=heading.description
        ),
        entities={"suffix": "labelmap"} if form == "LABELMAP" else {},
    )


def model_of(output: Output) -> tuple[str, str]:
    """Name and version of the model that gave a label."""
    name = str(output.sidecar.get("Model", "") or output.name)
    digest = str(output.sidecar.get("ModelSHA256", ""))
    return name.encode("ascii", "replace").decode()[:64], digest[:16] or __version__


def label_grid(label: LabelVolume, source: SourceSeries) -> LabelGrid:
    """`label` (1, I, J, K) beside its source; turned round along K where it is left-handed."""
    labels, affine = array_of(label)[0], affine_of(label)
    if np.linalg.det(affine[:3, :3]) < 0:
        affine = shifted_affine(affine, (0, 0, labels.shape[2] - 1))
        affine[:3, 2] *= -1
        labels = labels[:, :, ::-1]
    is_own = source.has_slices and same_grid(affine, labels.shape, source.affine, source.shape)
    return LabelGrid(labels, source.affine if is_own else affine, source, is_own)


def segmentation_dataset(
    grid: LabelGrid,
    structures: Sequence[Structure],
    heading: Heading,
    *,
    form: Form = "BINARY",
    model: tuple[str, str] = ("Radloom", __version__),
) -> Dataset:
    """A finished Segmentation.

    Args:
        grid: the labels; `grid.source` is the heading's first source.
        structures: all that the labels hold, by rising label. In BINARY structure n is segment
            n + 1, in LABELMAP the segment number is the label.
        heading: of the series.
        form: BINARY or LABELMAP.
        model: name and version of the algorithm.
    """
    import highdicom as hd
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    is_map = form == "LABELMAP"
    numbers = [item.label if is_map else n for n, item in enumerate(structures, 1)]
    dataset = hd.seg.Segmentation(
        source_images=_stand_ins(grid),
        pixel_array=_frames(grid.labels, structures, numbers),
        segmentation_type=form,
        segment_descriptions=[
            _segment(number, item, heading, model)
            for number, item in zip(numbers, structures, strict=True)
        ],
        omit_empty_frames=not is_map,
        transfer_syntax_uid=RLELossless if is_map else ExplicitVRLittleEndian,
        content_label="SEGMENTATION",
        content_description=heading.series_description,
        content_creator_name="Radloom^",
        **heading.arguments(),
    )
    _set_references(dataset, grid, heading)
    return without_laterality(finish(_plain(dataset), heading))


def _frames(labels: Labels, structures: Sequence[Structure], numbers: Sequence[int]) -> Labels:
    """(K, J, I) segment numbers."""
    table = np.zeros(int(labels.max()) + 1, np.uint8 if max(numbers) <= 255 else np.uint16)
    table[[item.label for item in structures]] = numbers
    return np.ascontiguousarray(table[labels.transpose(2, 1, 0)])


def _stand_ins(grid: LabelGrid) -> list[Dataset]:
    """A single-frame header for each slice of the labels, that highdicom takes places from.

    Sources differ in more than it knows of (several multi-frame files, mosaics, no
    SliceThickness), so it is shown one kind of image; what refers to the source is set after it,
    and so are the names of persons, which highdicom would quote in the log.
    """
    from pydicom.dataset import Dataset

    stand_ins = []
    for k in range(grid.labels.shape[2]):
        header, _ = grid.source.slice_source(k if grid.is_own else 0)
        own = {
            **_plane(grid, k),
            "Columns": grid.labels.shape[0],
            "Rows": grid.labels.shape[1],
            "FrameOfReferenceUID": grid.source.frame_of_reference_uid,
            "StudyDate": header.get("StudyDate") or None,
            "StudyTime": header.get("StudyTime") or None,
            "PatientName": "Stand^In",
            "ReferringPhysicianName": None,
        }
        if not grid.is_own or grid.source.is_multiframe:
            own |= {"SOPClassUID": MR_IMAGE, "SOPInstanceUID": make_uid("stand-in", str(k))}
        stand_in = Dataset()  # a value set on an element taken over would be set in the source too
        stand_in.update({e.tag: e for e in header if e.keyword not in (*_PLACES, *own)})
        for keyword, value in own.items():
            setattr(stand_in, keyword, value)
        stand_ins.append(stand_in)
    return stand_ins


def _plane(grid: LabelGrid, k: int) -> dict[str, Any]:
    """Keyword -> value of the Image Plane module for slice `k` of the labels."""
    if grid.is_own:
        first = slice_plane(grid.source, 0)
        return slice_plane(grid.source, k) | {
            key: first[key] for key in ("ImageOrientationPatient", "PixelSpacing")
        }
    origin, spacing, direction = parts_from_affine(flip_lps_ras(grid.affine))
    return {
        "ImagePositionPatient": decimals(origin + direction[:, 2] * spacing[2] * k),
        "ImageOrientationPatient": decimals(direction[:, :2].T.ravel()),
        "PixelSpacing": decimals((spacing[1], spacing[0])),
        "SliceThickness": decimals(spacing[2])[0],
        "SpacingBetweenSlices": decimals(spacing[2])[0],
    }


def _segment(number: int, structure: Structure, heading: Heading, model: tuple[str, str]) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    codings = structure.codes
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.name,
        segmented_property_category=_code(codings.category),
        segmented_property_type=_code(codings.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model[0], version=model[1], family=codes.DCM.ArtificialIntelligence
        ),
        tracking_uid=heading.uids.other("segment", structure.label),
        tracking_id=f"{structure.name[:48]} (label {structure.label})",
    )
    segment.SegmentDescription = f"label {structure.label}"
    segment.RecommendedDisplayCIELabValue = list(cielab_of(structure.rgb))
    if codings.side is not None:
        side = code_item(codings.side.value, codings.side.scheme, codings.side.meaning)
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [side]
    return segment


def _code(concept: Concept) -> Any:
    from pydicom.sr.coding import Code

    return Code(concept.value, concept.scheme, concept.meaning)


def _set_references(dataset: Dataset, grid: LabelGrid, heading: Heading) -> None:
    """Which instances the object, and each of its frames, was made from."""
    dataset.ReferencedSeriesSequence = series_references(heading.sources)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        if not grid.is_own:
            del frame.DerivationImageSequence
        elif grid.source.is_multiframe:
            k = int(np.atleast_1d(frame.FrameContentSequence[0].DimensionIndexValues)[-1]) - 1
            header, number = grid.source.slice_source(k)
            item = source_image(header, (number,))
            item.SpatialLocationsPreserved = "YES"
            frame.DerivationImageSequence[0].SourceImageSequence = [item]


def without_laterality(dataset: Dataset) -> Dataset:
    """The data set without an empty Laterality (0020,0060).

    It is conditional on one paired body part (PS3.3 C.7.3.1); labels are of many parts, and each
    segment tells its own side.
    """
    if "Laterality" in dataset and not dataset.Laterality:
        del dataset.Laterality
    return dataset


def _plain(dataset: Dataset) -> Dataset:
    """The same elements without highdicom's tables of frames, which nobody asks again."""
    from pydicom.dataset import Dataset

    plain = Dataset()
    plain.update(dataset)
    plain.file_meta = dataset.file_meta
    return plain


def read_segmentation(dataset: Dataset) -> tuple[Labels, Affine]:
    """Labels (I, J, K), 0 or the segment's number, and their affine to RAS+ mm.

    The grid spans the frames that are there; I runs along the columns, J along the rows and K along
    their normal. Frames are decoded one by one.

    Raises:
        StageFailed: frames lie between slices, or two segments claim one voxel.
    """
    from pydicom.pixels import iter_pixels

    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames = dataset.PerFrameFunctionalGroupsSequence
    row, column = np.reshape(
        _numbers(shared.PlaneOrientationSequence[0].ImageOrientationPatient), (2, 3)
    )
    measures = shared.PixelMeasuresSequence[0]
    between_rows, between_columns = _numbers(measures.PixelSpacing)
    normal = np.cross(row, column)
    positions = np.stack(
        [_numbers(frame.PlanePositionSequence[0].ImagePositionPatient) for frame in frames]
    )
    place, step, origin = _places(positions, normal, float(measures.SpacingBetweenSlices))
    is_map = dataset.SegmentationType == "LABELMAP"
    labels = np.zeros((int(place.max()) + 1, int(dataset.Rows), int(dataset.Columns)), np.uint16)
    for k, frame, pixels in zip(place, frames, iter_pixels(dataset), strict=True):
        if is_map:
            labels[k] = pixels
            continue
        inside = pixels > 0
        if labels[k][inside].any():
            raise StageFailed(f"segments overlap in slice {k}, expected a voxel in one at most")
        labels[k][inside] = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    direction = np.column_stack([row, column, step / np.linalg.norm(step)])
    spacing = (between_columns, between_rows, float(np.linalg.norm(step)))
    affine = flip_lps_ras(affine_from_parts(origin, spacing, direction))
    return labels.transpose(2, 1, 0), affine


def _places(
    positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], spacing: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Each frame's K, the step from slice to slice (3,) and the first position (3,), LPS mm."""
    depth = positions @ normal
    low, high = int(depth.argmin()), int(depth.argmax())
    place = (depth - depth[low]) / spacing
    off = float(np.abs(place - np.rint(place)).max()) * spacing
    if off > CENTROID_TOLERANCE_MM:
        raise StageFailed(f"a frame lies {off:.3g} mm beside its slice")
    whole = np.rint(place).astype(np.intp)
    n_steps = int(whole[high])
    step = (positions[high] - positions[low]) / n_steps if n_steps else normal * spacing
    return whole, step, positions[low]


def _numbers(values: Any) -> npt.NDArray[np.float64]:
    return np.asarray([float(value) for value in values], dtype=np.float64)


def placed(labels: Labels, affine: Affine, like: LabelGrid) -> Labels:
    """`labels` on the larger grid of `like`, 0 where they say nothing.

    Raises:
        StageFailed: the grids are not each other's shifted or turned by quarters.
    """
    like_from_labels = np.linalg.inv(like.affine) @ affine
    turn = np.rint(like_from_labels[:3, :3])
    corner = like_from_labels[:3, 3]
    size = np.asarray(labels.shape)
    middle = np.rint(apply_affine(like_from_labels, (size - 1) / 2) - turn @ ((size - 1) / 2))
    start = middle.astype(np.intp)
    if not np.array_equal(turn, np.eye(3)) or np.abs(corner - start).max() > 0.5:
        raise StageFailed("a read gives another orientation or spacing than was written")
    stop = start + size
    if (start < 0).any() or (stop > like.labels.shape).any():
        raise StageFailed("a read gives voxels beside the grid that was written")
    result = np.zeros(like.labels.shape, dtype=labels.dtype)
    result[tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))] = labels
    return cast("Labels", result)


def check_segmentation(
    datasets: Sequence[Dataset],
    *,
    grid: LabelGrid,
    structures: Sequence[Structure],
    where: str,
) -> Iterable[Check]:
    """How far structures lie from where they were meant, in mm; raises where more is wrong.

    Raises:
        StageFailed: a voxel differs, a segment has another name or code, or the object is in
            another frame of reference.
    """
    require(len(datasets) == 1, where, "one object", len(datasets))
    dataset = datasets[0]
    frame = str(dataset.FrameOfReferenceUID)
    require(frame == grid.source.frame_of_reference_uid, where, "the frame of reference", "another")
    labels, affine = read_segmentation(dataset)
    number_of = _check_segments(dataset, structures, where)
    table = np.zeros(int(max(grid.labels.max(), 1)) + 1, dtype=labels.dtype)
    for item in structures:
        table[item.label] = number_of[item.label]
    found = placed(labels, affine, grid)
    wrong = sum(
        int(np.count_nonzero(found[:, :, k] != table[grid.labels[:, :, k]]))
        for k in range(found.shape[2])
    )
    require(wrong == 0, where, "every voxel as it was", f"{wrong} others")
    shift = _shift(labels.shape, affine, grid)
    worst = 0.0
    for item in structures:
        meant = centroid_mm(grid.labels, item, grid.affine)
        back = centroid_mm(grid.labels, item, shift)
        worst = max(worst, float(np.linalg.norm(meant - back)))
    return (
        Check(
            f"dicom_{where.lower().replace(' ', '_')}_centroids",
            round(worst, 6),
            high=CENTROID_TOLERANCE_MM,
            unit="mm",
            meaning="How far the centre of a structure lies, read from the DICOM Segmentation, "
            "from that of the labels, at most.",
        ),
    )


def _shift(shape: tuple[int, ...], affine: Affine, grid: LabelGrid) -> Affine:
    """The affine that was read, for indices of the whole grid."""
    index = np.linalg.inv(grid.affine) @ affine
    middle = (np.asarray(shape) - 1) / 2
    start = np.rint(apply_affine(index, middle) - middle)
    return shifted_affine(affine, -start)


def _check_segments(
    dataset: Dataset, structures: Sequence[Structure], where: str
) -> dict[int, int]:
    """Label -> segment number, once names, codes and numbers are what was meant."""
    is_map = dataset.SegmentationType == "LABELMAP"
    segments = {int(item.SegmentNumber): item for item in dataset.SegmentSequence}
    segments.pop(0, None)
    require(len(segments) == len(structures), where, f"{len(structures)} segments", len(segments))
    number_of = {}
    for number, structure in enumerate(structures, 1):
        key = structure.label if is_map else number
        item = segments.get(key)
        found = (
            (str(item.SegmentLabel), str(item.SegmentedPropertyTypeCodeSequence[0].CodeValue))
            if item is not None
            else ("", "")
        )
        meant = (structure.name, structure.codes.type.value)
        require(found == meant, f"{where}, segment {key}", f"{meant}", f"{found}")
        number_of[structure.label] = key
    return number_of
