"""Denoised, warped and pseudo-CT volumes as series of MR, CT or PET images.

Classic single-frame images, one a slice, and not the enhanced multi-frame ones: every PACS, viewer
and planning system takes them, they lie over classic source images one by one, and an enhanced
image asks for dozens of acquisition attributes that a classic source does not have.

A series lies on the grid, and in the frame of reference, of the volume that it was resampled to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radloom import __version__
from radloom.errors import StageFailed
from radloom.geometry import apply_affine, corners, flip_lps_ras
from radloom.pipelines.export.dicom.geometry import affine_of_slices, require_grid_of, slice_plane
from radloom.pipelines.export.dicom.heading import (
    Heading,
    file_bytes,
    finish,
    read_file_bytes,
    require,
)
from radloom.pipelines.export.dicom.parametric import QUANTITIES
from radloom.pipelines.export.dicom.references import (
    code_item,
    encoded_items,
    image_reference,
    raw_sequence,
    source_image,
)
from radloom.pipelines.export.dicom.result import Desk, ObjectSeries, content_digest
from radloom.pipelines.export.dicom.source import SourceSeries
from radloom.pipelines.export.dicom.stored import StoredForm, stored_form
from radloom.pipelines.export.naming import SPACE_LABELS
from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.study import Output, Study
from radloom.shapes import Volume, array_of, spatial_shape
from radloom.transforms.spatial import Transform

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["check_images", "derived_series", "image_datasets"]

SOP_CLASSES: Mapping[str, str] = {
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
"""Modality -> the classic image storage class."""

DERIVATIONS: Mapping[str, tuple[str, str, str]] = {
    "denoised": ("113087", "DCM", "Smoothing"),
    "registered": ("113085", "DCM", "Spatial resampling"),
    "deformed": ("125027", "DCM", "Deformed for registration"),
    "pseudoct": ("PSEUDOCT", "99RADLOOM", "Pseudo-CT computed from MR"),
}
"""What was done -> DerivationCodeSequence (0008,9215), CID 7203."""

OURS = "RADLOOM"
"""Last value of ImageType (0008,0008): ingestion gives such a series no role (`roles.yaml`), so
that a run over a study that holds results already starts from the scans."""

POSITION_TOLERANCE_MM = 0.15
"""What header positions may differ from an even grid; as ingestion allows."""

_ACQUISITION = {
    "MR": (
        "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "SequenceName",
        "RepetitionTime", "EchoTime", "EchoTrainLength", "InversionTime", "FlipAngle",
        "MagneticFieldStrength", "ImagingFrequency", "ImagedNucleus", "EchoNumbers",
    ),
    "CT": ("KVP", "ConvolutionKernel", "GantryDetectorTilt"),
    "PT": (
        "SeriesType", "CountsSource", "NumberOfRRIntervals", "NumberOfTimeSlots",
        "NumberOfTimeSlices", "CorrectedImage", "RandomsCorrectionMethod",
        "AttenuationCorrectionMethod", "ScatterCorrectionMethod", "DecayCorrection",
        "CollimatorType", "RadiopharmaceuticalInformationSequence", "FrameReferenceTime",
        "ActualFrameDuration", "DoseCalibrationFactor", "DecayFactor", "SliceSensitivityFactor",
        "PatientOrientationCodeSequence", "PatientGantryRelationshipCodeSequence",
    ),
}  # fmt: skip
"""Modality -> what a result takes over of how its source was acquired."""

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "MR": {
        "ScanningSequence": "RM",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "",
        "RepetitionTime": "",
        "EchoTime": "",
        "EchoTrainLength": "",
    },
    "CT": {"KVP": "", "AcquisitionNumber": ""},
    "PT": {
        "AcquisitionDate": "",
        "AcquisitionTime": "",
        "SeriesType": ["STATIC", "IMAGE"],
        "CountsSource": "EMISSION",
        "CorrectedImage": "",
        "DecayCorrection": "NONE",
        "CollimatorType": "",
        "FrameReferenceTime": 0,
        "ActualFrameDuration": "",
        "RadiopharmaceuticalInformationSequence": [],
        "PatientOrientationCodeSequence": [],
        "PatientGantryRelationshipCodeSequence": [],
    },
}
"""Modality -> attributes of type 1 and 2 that a source may lack."""

_IMAGE_TYPES = {
    "MR": ("DERIVED", "SECONDARY", "OTHER"),
    "CT": ("DERIVED", "SECONDARY", "AXIAL"),
    "PT": ("DERIVED", "PRIMARY", "OTHER"),
}
"""Modality -> first values of ImageType (0008,0008); PET is PRIMARY always (C.8.9.4.1.1)."""

_GENERAL = ("BodyPartExamined", "PatientPosition", "PositionReferenceIndicator", "Laterality")


@dataclass(frozen=True, eq=False)
class _Result:
    """One volume, and what it came from."""

    output: Output
    what: str
    """A key of `DERIVATIONS`."""
    grid: SourceSeries
    """On whose grid it lies."""
    origin: SourceSeries
    """Whose voxels it was made from."""
    transform: Transform | None
    """Points of the grid's world to the origin's; None where it is the identity."""


def derived_series(study: Study, desk: Desk) -> Iterator[ObjectSeries]:
    """A series for each volume that a stage after ingestion gave, maps of quantities left out.

    Raises:
        NoDicomSource: none of the volumes behind them came from DICOM.
    """
    stages = [stage for stage in study.outputs if stage != "ingest"]
    for output in (o for stage in stages for o in study.find(kind="volume", stage=stage)):
        if output.role and output.name not in QUANTITIES:
            yield _series(desk, _result(study, desk, output), output.volume)


def _result(study: Study, desk: Desk, output: Output) -> _Result:
    grid = desk.source(output.space or output.role)
    if output.name != "registered":
        return _Result(output, output.name, grid, grid, None)
    found = [t for t in study.find(kind="transform", role=output.role) if t.space == output.space]
    transform = found[-1].transform if found else None
    what = "registered" if transform is None or transform.is_affine else "deformed"
    return _Result(output, what, grid, desk.source(output.role), transform)


def _series(desk: Desk, result: _Result, volume: Volume) -> ObjectSeries:
    output = result.output
    label = SPACE_LABELS.get(output.role, output.role)
    onto = f" on {SPACE_LABELS.get(output.space, output.space)}" if output.space else ""
    sources = dict.fromkeys((result.grid, result.origin))
    heading = desk.heading(
        "derived",
        f"{output.role}/{output.name}/{output.space}",
        f"{label} {output.name}{onto}",
        content_digest(output),
        *sources,
    )
    form = stored_form(array_of(volume), hounsfield=volume.meta["units"] == "HU")
    return ObjectSeries(
        kind="derived",
        role=output.role,
        name=output.name,
        space=output.space,
        datasets=image_datasets(
            volume,
            heading,
            form,
            what=result.what,
            description=_description(output),
            grid=result.grid,
            origin=result.origin,
            transform=result.transform,
        ),
        check=partial(
            check_images, volume=volume, heading=heading, form=form, where=heading.description
        ),
    )


_SAID = ("Denoising", "Noise", "Registration", "Interpolation", "Model", "TranslatedFrom", "Fast")


def _description(output: Output) -> str:
    """DerivationDescription (0008,2111), ST of at most 1024 characters."""
    said = [
        f"{key}={value}"
        for key, value in output.sidecar.items()
        if key.startswith(_SAID) and isinstance(value, (str, int, float, bool)) and value != ""
    ]
    text = f"{output.name} by Radloom {__version__}" + "".join(f"; {one}" for one in said)
    return text.encode("ascii", "replace").decode()[:1024]


def image_datasets(
    volume: Volume,
    heading: Heading,
    form: StoredForm,
    *,
    what: str,
    description: str,
    grid: SourceSeries,
    origin: SourceSeries,
    transform: Transform | None = None,
) -> Iterator[Dataset]:
    """A classic image for each slice of `volume` (1, I, J, K), K = 0 first, finished.

    Args:
        volume: on the grid of `grid`.
        heading: of the series.
        form: how numbers become integers.
        what: a key of `DERIVATIONS`; others are described by words alone.
        description: DerivationDescription.
        grid: whose grid and frame of reference the images share.
        origin: whose voxels they were made from.
        transform: points of the grid's world to the origin's; None where it is the identity.

    Raises:
        GridMismatch: the volume does not lie on the grid.
    """
    require_grid_of(volume, grid, heading.description)
    template = _as_raw(_template(volume, heading, form, what, description, grid, origin))
    used = _slices_used(volume, grid, origin, transform)
    references = _SourceItems(origin)
    array = array_of(volume)[0]
    for k in range(array.shape[2]):
        dataset = _slice(template, heading, form, array[:, :, k].T, k, grid)
        items = references.of(used(k))
        if items:
            sequence = raw_sequence("SourceImageSequence", items)
            dataset[sequence.tag] = sequence
        if grid is not origin and grid.has_slices:
            instance, frame = grid.slice_source(k)
            dataset.ReferencedImageSequence = [image_reference(instance, (frame,))]
        yield dataset


def _template(
    volume: Volume,
    heading: Heading,
    form: StoredForm,
    what: str,
    description: str,
    grid: SourceSeries,
    origin: SourceSeries,
) -> Dataset:
    """What all slices share."""
    from pydicom.dataset import Dataset

    modality = str(volume.meta["modality"])
    i, j, k = spatial_shape(volume)
    low, high = _window(array_of(volume))
    is_ct = modality == "CT"
    values: dict[str, Any] = {
        "SOPClassUID": _sop_class(modality),
        "Modality": modality,
        **_defaults(modality, volume),
        **_inherited(modality, grid, origin),
        "ImageType": [*_IMAGE_TYPES[modality], what.upper(), OURS],
        "FrameOfReferenceUID": grid.frame_of_reference_uid,
        "DerivationDescription": description,
        "BurnedInAnnotation": "NO",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": j,
        "Columns": i,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(form.signed),
        "RescaleIntercept": "0",
        "RescaleSlope": form.slope_text,
        "WindowCenter": "40" if is_ct else f"{(low + high) / 2:.6g}",
        "WindowWidth": "400" if is_ct else f"{max(high - low, 2 * form.slope, 1e-6):.6g}",
        "ContentDate": "",
        **({"RescaleType": "HU" if is_ct else "US"} if modality != "PT" else {"NumberOfSlices": k}),
    }
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    if float(dataset.WindowWidth) < 1:  # LINEAR is defined from there on (PS3.3 C.11.2.1.2)
        dataset.VOILUTFunction = "LINEAR_EXACT"
    if "PositionReferenceIndicator" not in dataset:
        dataset.PositionReferenceIndicator = ""
    if what in DERIVATIONS:
        dataset.DerivationCodeSequence = [code_item(*DERIVATIONS[what])]
    lossy = str(origin.first.get("LossyImageCompression", "") or "")
    if lossy == "01":
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio",
                        "LossyImageCompressionMethod"):  # fmt: skip
            if keyword in origin.first:
                dataset[keyword] = origin.first[keyword]
    finish(dataset, heading)
    for keyword in ("SOPInstanceUID", "InstanceNumber"):
        del dataset[keyword]
    return dataset


def _sop_class(modality: str) -> str:
    if modality not in SOP_CLASSES:
        raise StageFailed(f"expected a volume of {', '.join(SOP_CLASSES)}, got {modality!r}")
    return SOP_CLASSES[modality]


def _defaults(modality: str, volume: Volume) -> dict[str, Any]:
    defaults = dict(_DEFAULTS[modality])
    if modality == "PT":
        defaults["Units"] = "GML" if volume.meta["units"] == "SUV" else "BQML"
    return defaults


def _inherited(modality: str, grid: SourceSeries, origin: SourceSeries) -> dict[str, Any]:
    """Of the acquisition, where source and result are of one modality; of body and position."""
    first = origin.first
    kept = {key: grid.first[key].value for key in _GENERAL if key in grid.first}
    if str(first.get("Modality", "")) == modality:
        kept |= {key: first[key].value for key in _ACQUISITION[modality] if key in first}
    kept |= {key: first.get(key) for key in ("AcquisitionDate", "AcquisitionTime")}
    if modality == "PT":  # its orientation has a module of its own
        kept["PatientPosition"] = ""
    return {key: value for key, value in kept.items() if value not in (None, "")}


def _window(array: npt.NDArray[Any]) -> tuple[float, float]:
    """From the lowest to the 99.5th percentile of what is not background."""
    sampled = array[..., ::2, ::2, ::2] if array.size > 1_000_000 else array
    low = float(np.percentile(sampled, 1))
    inside = sampled[sampled > low]
    return low, float(np.percentile(inside, 99.5)) if inside.size else low + 1.0


def _as_raw(template: Dataset) -> Dataset:
    """The template with its elements encoded, which hundreds of slices then share."""
    template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID
    read = read_file_bytes(file_bytes(template))
    del read[0x0008, 0x0018]
    return read


def _slice(
    template: Dataset,
    heading: Heading,
    form: StoredForm,
    plane: npt.NDArray[Any],
    k: int,
    grid: SourceSeries,
) -> Dataset:
    """One image; elements that slices share are shared, none of them is changed."""
    import copy

    from pydicom.dataset import Dataset

    dataset = Dataset()
    for tag in template.keys():  # noqa: SIM118  # a data set's items are elements
        dataset[tag] = template.get_item(tag)
    dataset.set_original_encoding(*template.original_encoding, template.original_character_set)
    dataset.file_meta = copy.deepcopy(template.file_meta)
    dataset.SOPInstanceUID = heading.uids.instance(k)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.InstanceNumber = k + 1
    for keyword, value in slice_plane(grid, k).items():
        setattr(dataset, keyword, value)
    if dataset.Modality == "PT":
        dataset.ImageIndex = k + 1
    dataset.PixelData = np.ascontiguousarray(form.stored(plane)).tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


class _SourceItems:
    """Encoded items of SourceImageSequence, each instance encoded once."""

    def __init__(self, origin: SourceSeries) -> None:
        self._origin = origin
        self._known: dict[tuple[int, tuple[int, ...]], bytes] = {}

    def of(self, used: Sequence[int]) -> bytes:
        """Items for slices of the origin; all its instances where slices are not its own."""
        origin = self._origin
        if not origin.has_slices:
            return b"".join(self._item(index, ()) for index in range(len(origin.datasets)))
        frames: dict[int, list[int]] = {}
        for k in used:
            index, frame = origin.slices[k]
            frames.setdefault(index, []).append(frame)
        return b"".join(self._item(index, tuple(each)) for index, each in frames.items())

    def _item(self, index: int, frames: tuple[int, ...]) -> bytes:
        known = self._known.get((index, frames))
        if known is None:
            known = encoded_items([source_image(self._origin.datasets[index], frames)])
            self._known[index, frames] = known
        return known


def _slices_used(
    volume: Volume, grid: SourceSeries, origin: SourceSeries, transform: Transform | None
) -> Callable[[int], Sequence[int]]:
    """Slice of the result -> slices of the origin that it was interpolated from."""
    if grid is origin:
        return lambda k: (k,)
    i, j, _ = spatial_shape(volume)
    to_index = np.linalg.inv(origin.affine)
    moving_from_fixed = transform or Transform.identity()
    steps = np.stack(
        np.meshgrid(np.linspace(0, i - 1, 17), np.linspace(0, j - 1, 17), indexing="ij"), axis=-1
    ).reshape(-1, 2)

    def used(k: int) -> Sequence[int]:
        index = np.column_stack([steps, np.full(len(steps), float(k))])
        there = apply_affine(to_index, moving_from_fixed.apply(apply_affine(grid.affine, index)))
        size = np.asarray(origin.shape)
        inside = there[((there > -1) & (there < size)).all(axis=1), 2]
        if not inside.size:
            return ()
        low = max(0, int(np.floor(inside.min())))
        return range(low, min(origin.shape[2] - 1, int(np.ceil(inside.max()))) + 1)

    return used


def check_images(
    datasets: Sequence[Dataset], *, volume: Volume, heading: Heading, form: StoredForm, where: str
) -> Iterable[Check]:
    """How far the images' voxels lie from the volume's, at most half a step; raises beyond.

    Raises:
        StageFailed: a slice is absent, lies elsewhere, or holds other voxels.
    """
    array = array_of(volume)[0]
    require(len(datasets) == array.shape[2], where, f"{array.shape[2]} images", len(datasets))
    ordered = sorted(datasets, key=lambda ds: int(ds.InstanceNumber))
    uids = [str(ds.SOPInstanceUID) for ds in ordered]
    require(len(set(uids)) == len(uids), where, "a UID for each image", len(set(uids)))
    _check_place(ordered, volume, heading, where)
    worst = 0.0
    for k, dataset in enumerate(ordered):
        stored = np.frombuffer(dataset.PixelData, "<i2" if form.signed else "<u2")
        stored = stored.reshape(int(dataset.Rows), int(dataset.Columns))
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
        apart = np.abs(stored * slope + intercept - array[:, :, k].T.astype(np.float64))
        worst = max(worst, float(apart.max()))
    limit = form.slope * (0.5 + 1e-6)
    require(worst <= limit, where, f"voxels within {limit:g}", f"one {worst:g} away")
    name = f"{where.lower().replace(' ', '_')}_rounding"
    with suppress(KeyError):
        unit = {"HU": "HU", "SUV": "SUV", "Bq/mL": "Bq/mL"}[str(volume.meta["units"])]
        return (_rounding(name, worst, limit, unit),)
    return (_rounding(name, worst, limit, ""),)


def _rounding(name: str, worst: float, limit: float, unit: str) -> Check:
    return Check(
        f"dicom_{name}",
        worst,
        high=limit,
        unit=unit,
        meaning="How far a voxel of the DICOM images lies from the volume's, at most: half a step "
        "of their 16-bit integers.",
    )


def _check_place(ordered: Sequence[Dataset], volume: Volume, heading: Heading, where: str) -> None:
    grid = heading.source
    frame = {str(ds.FrameOfReferenceUID) for ds in ordered}
    require(frame == {grid.frame_of_reference_uid}, where, "one frame of reference", len(frame))
    shape = spatial_shape(volume)
    if len(ordered) < 2:
        return
    found = affine_of_slices(ordered)
    apart = float(np.abs(corners(found, shape) - corners(grid.affine, shape)).max())
    require(apart <= POSITION_TOLERANCE_MM, where, "the volume's grid", f"one {apart:.3g} mm away")
    affine_lps = flip_lps_ras(grid.affine)
    for k, dataset in enumerate(ordered):
        meant = affine_lps[:3, 3] + affine_lps[:3, 2] * k
        away = float(np.abs(meant - np.asarray(dataset.ImagePositionPatient, dtype=float)).max())
        require(away <= POSITION_TOLERANCE_MM, f"{where}, slice {k}", "its place", f"{away:.3g} mm")
