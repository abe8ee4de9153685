"""The header of one DICOM file, read without its pixels, as plain values.

A classic file is one slice; an enhanced multi-frame file is expanded into a slice a frame, so that
the same geometry checks serve both. Only what ingestion decides on is kept.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date as date_of
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydicom.errors import BytesLengthException

from radloom.errors import ReasonCode
from radloom.pipelines.ingest.canon import CanonWeighting, canon_weighting, is_canon
from radloom.pipelines.ingest.elements import Bounded, Elements, Unusual, read_elements
from radloom.pipelines.ingest.names import made_uid
from radloom.pipelines.ingest.pet import pet_image
from radloom.pipelines.ingest.quiet import quiet_dicom
from radloom.pipelines.ingest.real_world import real_world_mapping
from radloom.pipelines.ingest.remembered import Remembered
from radloom.pipelines.ingest.rules import ROLE_KEYWORDS
from radloom.transforms.dicom import SlicePlane
from radloom.transforms.suv import PetImage

__all__ = [
    "PARSE_ERRORS",
    "SliceHeader",
    "headers_of",
    "is_dicom",
    "quiet_dicom",
    "read_headers",
]

PARSE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    BytesLengthException,
    struct.error,
    zlib.error,
)
"""What pydicom and its decoders raise on damaged files; memory errors and interrupts pass."""

PREAMBLE = 128
"""Bytes before the letters DICM (DICOM PS3.10 section 7.1)."""

DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR (PS3.10 section 8), whatever its file is called."""

UNDEFINED_LENGTH = 0xFFFFFFFF
"""The length of encapsulated pixel data (DICOM PS3.5 section A.4)."""

LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN", b"UT", b"SQ", b"UC", b"UR")
"""Value representations with a four-byte length (DICOM PS3.5 section 7.1.2)."""

PHILIPS_EPI_FACTOR = (0x2001, 0x1013)
"""Echoes a shot; Philips calls an echo-planar sequence SE or GR in ScanningSequence."""

PIXEL_TAGS = ((0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009))
"""PixelData, FloatPixelData, DoubleFloatPixelData."""

SIDECAR_SECONDS = ("RepetitionTime", "EchoTime", "InversionTime")
"""Milliseconds in DICOM, seconds in BIDS."""

SIDECAR_FACTS = {
    "Manufacturer": ("Manufacturer",),
    "ManufacturersModelName": ("ManufacturerModelName",),
    "MagneticFieldStrength": ("MagneticFieldStrength",),
    "FlipAngle": ("FlipAngle",),
    "RepetitionTime": ("RepetitionTime",),
    "EchoTime": ("EchoTime", "EffectiveEchoTime"),
    "InversionTime": ("InversionTime", "InversionTimes"),
    "EchoTrainLength": ("EchoTrainLength",),
    "SliceThickness": ("SliceThickness",),
    "SpacingBetweenSlices": ("SpacingBetweenSlices",),
    "ScanningSequence": ("ScanningSequence",),
    "SequenceVariant": ("SequenceVariant",),
    "MRAcquisitionType": ("MRAcquisitionType",),
    "KVP": ("KVP",),
    "ConvolutionKernel": ("ConvolutionKernel",),
    "BodyPartExamined": ("BodyPartExamined",),
    "LossyImageCompression": ("LossyImageCompression",),
    "PixelPaddingValue": ("PixelPaddingValue",),
}
"""BIDS name -> DICOM keywords. None of them names a person, a place or a date."""


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """One slice: a classic file, or one frame of a multi-frame file."""

    path: str
    """Relative to the folder that was searched, with forward slashes."""
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    patient_id: str = ""
    identifiers: tuple[str, ...] = ()
    """Name parts, ID, birth date, accession: looked for and removed, never written."""
    modality: str = ""
    sop_class: str = ""
    image_type: tuple[str, ...] = ()
    description: str = ""
    series_number: int = 0
    instance_number: int = 0
    frame: int = 0
    n_frames: int = 1
    samples: int = 1
    photometric: str = ""
    has_pixels: bool = True
    plane: SlicePlane | None = None
    frame_of_reference: str = ""
    component: str = ""
    """M, P, R or I: magnitude, phase, real, imaginary; empty where unsaid."""
    echo_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle: float | None = None
    """Degrees."""
    b_value: float | None = None
    """Diffusion weighting in s/mm2."""
    gradient: tuple[float, ...] | None = None
    """Diffusion gradient direction in LPS+, of any length; None where there is none."""
    frame_type: tuple[str, ...] = ()
    """FrameType (0008,9007) of a frame, ImageType (0008,0008) of a file, in capitals."""
    kernel: str = ""
    """ConvolutionKernel (0018,1210)."""
    acquired_s: float | None = None
    """When its acquisition began, in seconds since some midnight: for differences alone."""
    duration_s: float | None = None
    """How long it was acquired (0018,1242), (0018,9220)."""
    reference_s: float | None = None
    """FrameReferenceTime (0054,1300): seconds from the series' reference time, PET."""
    slice_times_s: tuple[float, ...] = ()
    """When each slice of a Siemens mosaic was acquired (0019,1029), from the volume's start."""
    scale_slope: float | None = None
    """Philips' private ScaleSlope (2005,100E), from display value to floating point."""
    temporal: tuple[str, ...] = ()
    """Temporal position index and identifier, trigger time, acquisition number, as written."""
    acquisition_number: str = ""
    rescale: tuple[float, float] | None = None
    """Slope and intercept (0028,1053), (0028,1052)."""
    mapped: tuple[float, float] | None = None
    """First and last stored value that a Real World Value Mapping holds for; None without one."""
    rescale_type: str = ""
    pet: PetImage | None = None
    """What the units and SUV of a PET image depend on; None for other modalities."""
    has_modality_lut: bool = False
    mosaic: int = 0
    """How many slices a Siemens mosaic holds; -1: a mosaic of unknown number."""
    problem: ReasonCode | None = None
    problem_detail: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For the sidecar, with BIDS names and units."""
    tags: Mapping[str, Any] = field(default_factory=dict)
    """What the role rules look at: see `ROLE_KEYWORDS`."""


def is_dicom(head: bytes) -> bool:
    """Whether a file's first bytes look like DICOM, with its preamble or without.

    Args:
        head: the first 132 bytes or more.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"not at all" * 20)
    (True, False)
    """
    if head[PREAMBLE : PREAMBLE + 4] == b"DICM":
        return True
    # Without preamble a data set starts with group 0002 or 0008 (PS3.10 section 7.5, old files).
    if len(head) < 16 or head[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    element, vr = struct.unpack_from("<H", head, 2)[0], head[4:6]
    implicit_length = struct.unpack_from("<I", head, 4)[0]
    return element <= 0x0018 and (vr in (b"UL", b"UI", b"CS", b"SH") or implicit_length <= 128)


def read_headers(file: Path, path: str) -> list[SliceHeader]:
    """The slices that `file` holds; one, with a `problem`, where it cannot be used.

    Args:
        file: where it lies.
        path: its path relative to the folder searched.
    """
    try:
        with file.open("rb", buffering=0) as stream:
            return headers_of(stream, os.fstat(stream.fileno()).st_size, path)
    except PermissionError:
        return [_broken(path, ReasonCode.UNREADABLE, "no permission to read the file")]
    except OSError as error:
        return [_broken(path, ReasonCode.UNREADABLE, f"damaged header ({type(error).__name__})")]


def headers_of(stream: BinaryIO, size: int, path: str, head: bytes = b"") -> list[SliceHeader]:
    """As `read_headers`, of a file that is open.

    Args:
        stream: at its start, or where `head` ends.
        size: its length in bytes.
        path: relative to the folder searched.
        head: the bytes that have been read of it.
    """
    try:
        try:
            dataset, pixels = read_elements(stream, size, head)
            return _headers(stream, size, path, dataset, pixels)
        except (Unusual, *PARSE_ERRORS):
            return _headers_by_pydicom(stream, size, path)
    except PARSE_ERRORS as error:
        return [_broken(path, ReasonCode.UNREADABLE, f"damaged header ({type(error).__name__})")]


def _headers_by_pydicom(stream: BinaryIO, size: int, path: str) -> list[SliceHeader]:
    import pydicom

    stream.seek(0)
    with quiet_dicom():
        bounded = cast("BinaryIO", Bounded(stream, size))
        dataset = pydicom.dcmread(bounded, stop_before_pixels=True, force=True)
        return _headers(stream, size, path, dataset, stream.tell())


def _headers(
    stream: BinaryIO, size: int, path: str, dataset: Any, pixels: int
) -> list[SliceHeader]:
    headers = _slices(dataset, path)
    stream.seek(pixels)
    cut = _cut_pixels(stream, dataset, size)
    if cut is None:
        return [replace(h, has_pixels=False) for h in headers]
    if cut:
        return [replace(h, problem=ReasonCode.TRUNCATED, problem_detail=cut) for h in headers]
    return headers


def _broken(path: str, code: ReasonCode, detail: str) -> SliceHeader:
    return SliceHeader(path=path, problem=code, problem_detail=detail)


def _slices(dataset: Any, path: str) -> list[SliceHeader]:
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and str(meta.get("MediaStorageSOPClassUID", "")) == DIRECTORY:
        return []  # it lists files that lie there too
    if not any(_text(dataset, k) for k in ("SOPClassUID", "SeriesInstanceUID", "Modality")):
        return [_broken(path, ReasonCode.UNREADABLE, "no SOP class, series UID or modality in it")]
    frames = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if not frames:
        values = _single_frame_values(dataset)
        return [SliceHeader(**{**values, **_own(dataset, path, values), **_places([dataset])})]
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    sources = [[*_parts(frame, *shared), dataset] for frame in frames]
    values = _series_values(dataset, sources[0])
    common = {**values, **_own(dataset, path, values)}
    slices = []
    for index, (frame, source) in enumerate(zip(frames, sources, strict=True)):
        own = {**common, "frame": index, **_settings(source), **_places(source)}
        if values["modality"] == "PT":
            own = _pet_frame(own, source, [frame, *shared])
        slices.append(SliceHeader(**own))
    return slices


def _pet_frame(own: dict[str, Any], source: Sequence[Any], groups: Sequence[Any]) -> dict[str, Any]:
    """The values of a frame of PET, in the units that its Real World Value Mapping gives.

    Where Units (0054,1001) is there too, as in objects converted from classic ones, both must lead
    to the same values.
    """
    image = pet_image(_Layers(source))
    if own["sop_class"] == ENHANCED_PET and image.dose_bq is not None:
        image = replace(image, dose_bq=image.dose_bq * 1e6)  # in MBq there (PS3.3 C.8.22.4)
    sequences = (_many(group.get("RealWorldValueMappingSequence")) for group in groups)
    mapping = real_world_mapping(next(filter(None, sequences), []))
    if mapping is not None and image.units in ("", mapping.units):
        if image.units and mapping.rescale != own["rescale"]:
            image = replace(image, units=f"two scales to {mapping.units}")
        else:
            own = {**own, "rescale": mapping.rescale or own["rescale"], "mapped": mapping.stored}
            image = replace(image, units=mapping.units)
    return {**own, "pet": image}


ENHANCED_PET = "1.2.840.10008.5.1.4.1.1.130"


class _Layers:
    """What answers like a data set with the value of the first source that has one.

    Objects converted from classic ones keep what the standard has no macro for, such as the units
    of PET, in the sequences of unassigned attributes (PS3.3 C.7.6.16.2.25).
    """

    def __init__(self, sources: Sequence[Any]) -> None:
        self._sources = sources

    def get(self, keyword: str) -> Any:
        return _first(self._sources, keyword)

    def __contains__(self, tag: object) -> bool:
        return any(tag in source for source in self._sources)

    def __getitem__(self, tag: Any) -> Any:
        return next(source[tag] for source in self._sources if tag in source)


def _parts(*groups: Any) -> list[Any]:
    """The first items of every functional group macro, those of the frame before the shared.

    Private sequences come last: Philips repeats in them, frame by frame, what the classic image
    would have said, other than what the standard's macros say of the same frame.
    """
    macros = [
        element for group in groups for element in group if element.VR == "SQ" and element.value
    ]
    macros.sort(key=lambda element: element.is_private)
    return [element.value[0] for element in macros]


def _series_values(dataset: Any, sources: Sequence[Any]) -> dict[str, Any]:
    """What the files of a series mostly share; UIDs may be empty."""
    image_type = tuple(str(v).strip().upper() for v in _many(dataset.get("ImageType")))
    return {
        "study_uid": _text(dataset, "StudyInstanceUID"),
        "series_uid": _text(dataset, "SeriesInstanceUID"),
        "patient_id": _text(dataset, "PatientID"),
        "identifiers": _identifiers(dataset),
        "modality": _text(dataset, "Modality").upper(),
        "sop_class": _text(dataset, "SOPClassUID"),
        "image_type": image_type,
        "description": _text(dataset, "SeriesDescription"),
        "series_number": int(_number(dataset, "SeriesNumber") or 0),
        "n_frames": int(_number(dataset, "NumberOfFrames") or 1),
        "samples": int(_number(dataset, "SamplesPerPixel") or 1),
        "photometric": _text(dataset, "PhotometricInterpretation").upper(),
        "frame_of_reference": _text(dataset, "FrameOfReferenceUID"),
        "has_modality_lut": "ModalityLUTSequence" in dataset,
        "mosaic": _mosaic(dataset, image_type),
        "facts": _facts(sources),
        "tags": _role_tags(sources),
    }


def _own(dataset: Any, path: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What each file has for itself, and the UIDs where the series' values lack them.

    De-identified files may; the folder and the series number then stand for the series.
    """
    own: dict[str, Any] = {
        "path": path,
        "sop_uid": _text(dataset, "SOPInstanceUID"),
        "instance_number": int(_number(dataset, "InstanceNumber") or 0),
        "acquisition_number": _text(dataset, "AcquisitionNumber"),
        "pet": pet_image(dataset) if values["modality"] == "PT" else None,
    }
    folder = path.rpartition("/")[0]
    if not values["study_uid"]:
        own["study_uid"] = made_uid("study", folder)
    if not values["series_uid"]:
        own["series_uid"] = made_uid("series", folder, _text(dataset, "SeriesNumber"))
    return own


def _settings(sources: Sequence[Any]) -> dict[str, Any]:
    """How a slice was made, from the first source that knows it: the same for most of a series."""
    slope, intercept = (_as_float(_first(sources, f"Rescale{k}")) for k in ("Slope", "Intercept"))
    return {
        "component": _component(sources),
        "echo_time_ms": _as_float(_first(sources, "EchoTime", "EffectiveEchoTime")),
        "inversion_time_ms": _as_float(_first(sources, "InversionTime", "InversionTimes")),
        "flip_angle": _as_float(_first(sources, "FlipAngle")),
        "b_value": _b_value(sources),
        "gradient": _gradient(sources),
        "frame_type": _frame_type(sources),
        "kernel": "_".join(str(v).strip() for v in _many(_first(sources, "ConvolutionKernel"))),
        "duration_s": _seconds(_first(sources, "ActualFrameDuration", "FrameAcquisitionDuration")),
        "scale_slope": _scale_slope(sources),
        "rescale": None if slope is None or intercept is None else (slope, intercept),
        "rescale_type": str(_first(sources, "RescaleType") or "").upper(),
    }


@Remembered
def _single_frame_values(dataset: Any) -> dict[str, Any]:
    """The series' values and the settings of a file that holds one slice."""
    return {**_series_values(dataset, [dataset]), **_settings([dataset])}


def _places(sources: Sequence[Any]) -> dict[str, Any]:
    """Where and when a slice was taken."""
    return {
        "plane": _plane(sources),
        "acquired_s": _acquired_s(sources),
        "reference_s": _seconds(_first(sources, "FrameReferenceTime")),
        "slice_times_s": _slice_times_s(sources),
        "temporal": tuple(
            _written(_first(sources, keyword))
            for keyword in (
                "TemporalPositionIndex",
                "TemporalPositionIdentifier",
                "TriggerTime",
                "AcquisitionNumber",
            )
        ),
    }


def _plane(sources: Sequence[Any]) -> SlicePlane | None:
    position = _floats(_first(sources, "ImagePositionPatient"), 3)
    grid = _file_grid(sources[0]) if len(sources) == 1 else _grid(sources)
    if position is None or grid is None:
        return None
    cosines, spacing, rows, columns = grid
    place = (position[0], position[1], position[2])
    return SlicePlane(place, cosines, spacing, int(rows), int(columns))


def _grid(sources: Sequence[Any]) -> tuple[Any, Any, Any, Any] | None:
    """Direction cosines, pixel spacing, rows and columns: the same for most of a series."""
    cosines = _floats(_first(sources, "ImageOrientationPatient"), 6)
    spacing = _floats(_first(sources, "PixelSpacing"), 2)
    rows, columns = (_first(sources, k) for k in ("Rows", "Columns"))
    if not (cosines and spacing and rows and columns):
        return None
    return cosines, spacing, rows, columns


@Remembered
def _file_grid(dataset: Any) -> tuple[Any, Any, Any, Any] | None:
    return _grid([dataset])


def _component(sources: Sequence[Any]) -> str:
    named = str(_first(sources, "ComplexImageComponent") or "").upper()
    words = {"MAGNITUDE": "M", "PHASE": "P", "REAL": "R", "IMAGINARY": "I"}
    if named in words:
        return words[named]
    raw = _as_float(_private(sources, GE_RAW_DATA_TYPE))
    if raw is not None and "GE" in str(_first(sources, "Manufacturer") or "").upper().split():
        return dict(enumerate("MPRI")).get(int(raw), "")
    for value in _many(_first(sources, "ImageType"))[2:]:
        head = str(value).strip().upper().split("_")
        letters = [part for part in head if part in ("M", "P", "R", "I")]
        if letters:
            return letters[0]
    return ""


GE_RAW_DATA_TYPE = (0x0043, 0x102F)
"""0 magnitude, 1 phase, 2 real, 3 imaginary."""


def _b_value(sources: Sequence[Any]) -> float | None:
    """Diffusion b-value in s/mm2, from the standard's tag or a vendor's."""
    standard = _as_float(_first(sources, "DiffusionBValue"))
    if standard is not None:
        return standard
    # Siemens, GE (with a flag in the billions), Philips, United Imaging
    for tag in ((0x0019, 0x100C), (0x0043, 0x1039), (0x2001, 0x1003), (0x0065, 0x1009)):
        for source in sources:
            if tag in source:
                value = _plain(_many(source[tag].value)[:1])
                number = _as_float(value[0] if isinstance(value, list) and value else value)
                if number is not None:
                    return number % 1e9
    comment = _canon_weighting(sources)
    return None if comment is None else comment.b_value


def _canon_weighting(sources: Sequence[Any]) -> CanonWeighting | None:
    if not is_canon(str(_first(sources, "Manufacturer") or "")):
        return None
    phase = str(_first(sources, "InPlanePhaseEncodingDirection") or "")
    comment = str(_first(sources, "ImageComments") or "")
    return canon_weighting(comment, is_row=phase.upper().startswith("ROW"))


SIEMENS_GRADIENT = (0x0019, 0x100E)
"""DiffusionGradientDirection: three numbers in LPS+."""

PHILIPS_GRADIENT = ((0x2005, 0x10B0), (0x2005, 0x10B1), (0x2005, 0x10B2))
"""DiffusionDirectionRL, AP, FH: LPS+."""

GE_GRADIENT = ((0x0019, 0x10BB), (0x0019, 0x10BC), (0x0019, 0x10BD))
"""Direction along the frequency-encoding, phase-encoding and slice axes of the image."""

UIH_GRADIENT = (0x0065, 0x1037)
"""United Imaging's direction: three numbers in the image's own axes."""


def _gradient(sources: Sequence[Any]) -> tuple[float, ...] | None:
    """Diffusion gradient direction in LPS+, from the standard's tag or a vendor's.

    Sources of the vendors' frames: the Siemens and Philips tags hold patient coordinates; GE counts
    along the encoding axes, of which the first is along the rows unless phase encoding is (its
    conformance statement for MR, and dcm2niix's comparison of all makers).
    """
    standard = _floats(_first(sources, "DiffusionGradientOrientation"), 3)
    if standard is not None:
        return standard
    maker = str(_first(sources, "Manufacturer") or "").upper()
    if "GE" in maker.split() or maker.startswith("GE "):
        return _ge_gradient(sources)
    if "PHILIPS" in maker:
        return _together([_private(sources, tag) for tag in PHILIPS_GRADIENT])
    if "UIH" in maker or "UNITED IMAGING" in maker:
        return _from_image(sources, _floats(_private(sources, UIH_GRADIENT), 3))
    comment = _canon_weighting(sources)
    if comment is not None:
        return _from_image(sources, comment.gradient)
    return _floats(_private(sources, SIEMENS_GRADIENT), 3) if "SIEMENS" in maker else None


def _ge_gradient(sources: Sequence[Any]) -> tuple[float, ...] | None:
    along = _together([_private(sources, tag) for tag in GE_GRADIENT])
    if along is None:
        return None
    frequency, phase, through = along
    is_row = str(_first(sources, "InPlanePhaseEncodingDirection") or "").upper().startswith("ROW")
    # Held to dcm2niix: GE's third axis runs against the normal, so that its frame is left-handed.
    local = (phase, -frequency, -through) if is_row else (frequency, phase, -through)
    return _from_image(sources, local)


def _from_image(
    sources: Sequence[Any], local: tuple[float, ...] | None
) -> tuple[float, ...] | None:
    """A direction along rows, columns and normal as one in LPS+."""
    cosines = _floats(_first(sources, "ImageOrientationPatient"), 6)
    if local is None or cosines is None:
        return None
    row, column = cosines[:3], cosines[3:]
    normal = (
        row[1] * column[2] - row[2] * column[1],
        row[2] * column[0] - row[0] * column[2],
        row[0] * column[1] - row[1] * column[0],
    )
    return tuple(local[0] * row[i] + local[1] * column[i] + local[2] * normal[i] for i in range(3))


def _together(values: Sequence[Any]) -> tuple[float, ...] | None:
    numbers = [_as_float(_many(value)[0]) if _many(value) else None for value in values]
    return None if None in numbers else tuple(v for v in numbers if v is not None)


def _private(sources: Sequence[Any], tag: tuple[int, int]) -> Any:
    for source in sources:
        if tag in source:
            return source[tag].value
    return None


def _frame_type(sources: Sequence[Any]) -> tuple[str, ...]:
    values = _first(sources, "FrameType") or _first(sources, "ImageType")
    return tuple(str(value).strip().upper() for value in _many(values))


def _scale_slope(sources: Sequence[Any]) -> float | None:
    maker = str(_first(sources, "Manufacturer") or "").upper()
    value = _as_float(_private(sources, (0x2005, 0x100E))) if "PHILIPS" in maker else None
    return value or None


def _slice_times_s(sources: Sequence[Any]) -> tuple[float, ...]:
    values = [_as_float(v) for v in _many(_private(sources, (0x0019, 0x1029)))]
    return tuple(round(v / 1000.0, 6) for v in values if v is not None)


def _seconds(milliseconds: Any) -> float | None:
    value = _as_float(milliseconds)
    return None if value is None else value / 1000.0


SOME_DAY = date_of(2000, 1, 1)
"""From which days are counted: near enough that float64 holds a tenth of a microsecond."""


def _acquired_s(sources: Sequence[Any]) -> float | None:
    """Seconds from an arbitrary midnight to the start of acquisition; days count in full."""
    moment = str(_first(sources, "FrameAcquisitionDateTime", "AcquisitionDateTime") or "").strip()
    if not moment:
        date = str(_first(sources, "AcquisitionDate", "SeriesDate") or "").strip()
        moment = date + str(_first(sources, "AcquisitionTime") or "").strip() if date else ""
    return _moment_s(moment)


@lru_cache(maxsize=1 << 12)
def _moment_s(moment: str) -> float | None:
    """Of YYYYMMDDHHMMSS.FFFFFF; None where it is something else."""
    found = re.match(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d(?:\.\d+)?)", moment)
    if not found:
        return None
    year, month, day, hour, minute = (int(found[i]) for i in range(1, 6))
    try:
        days = (date_of(year, month, day) - SOME_DAY).days
    except ValueError:
        return None
    return days * 86400.0 + hour * 3600.0 + minute * 60.0 + float(found[6])


def _mosaic(dataset: Any, image_type: Sequence[str]) -> int:
    if "MOSAIC" not in image_type:
        return 0
    number = dataset.get((0x0019, 0x100A))
    value = _as_float(number.value) if number is not None else None
    return int(value) if value else _csa_mosaic(dataset)


def _csa_mosaic(dataset: Any) -> int:
    """The number of slices from the Siemens CSA header; -1 where there is none."""
    if isinstance(dataset, Elements):
        raise Unusual  # nibabel asks for more than Elements can answer
    from nibabel.nicom import csareader

    try:
        header = csareader.get_csa_header(dataset, "image")
        number = csareader.get_n_mosaic(header) if header else None
    except (*PARSE_ERRORS, csareader.CSAReadError):
        return -1
    return int(number) if number else -1


def _facts(sources: Sequence[Any]) -> dict[str, Any]:
    found = {k: _first(sources, *names) for k, names in SIDECAR_FACTS.items()}
    facts = {k: _plain(value) for k, value in found.items() if value is not None}
    if facts.get("LossyImageCompression") == "00":
        del facts["LossyImageCompression"]
    for name in SIDECAR_SECONDS:
        value = _as_float(facts.pop(name, None))
        if value is not None:
            facts[name] = round(value / 1000.0, 9)
    return facts


def _role_tags(sources: Sequence[Any]) -> dict[str, Any]:
    found = {k: _first(sources, k) for k in ROLE_KEYWORDS}
    found["EchoTime"] = _first(sources, "EchoTime", "EffectiveEchoTime")
    found["InversionTime"] = _first(sources, "InversionTime", "InversionTimes")
    found["EPIFactor"] = _private_number(sources, PHILIPS_EPI_FACTOR)
    agents = _many(_first(sources, "ContrastBolusAgentSequence"))
    if agents and found["ContrastBolusAgent"] is None:
        codes = _many(agents[0].get("CodeMeaning")) or ["contrast agent"]
        found["ContrastBolusAgent"] = codes[0]
    return {k: _plain(value) for k, value in found.items() if value is not None}


def _private_number(sources: Sequence[Any], tag: tuple[int, int]) -> float | None:
    values = (_many(source[tag].value)[:1] for source in sources if tag in source)
    return next((_as_float(value) for several in values for value in several), None)


def _identifiers(dataset: Any) -> tuple[str, ...]:
    keywords = ("PatientID", "PatientBirthDate", "AccessionNumber", "OtherPatientIDs", "StudyID")
    words = {_text(dataset, keyword) for keyword in keywords}
    name = str(dataset.get("PatientName", "") or "")
    for mark in "^=,_":
        name = name.replace(mark, " ")
    words.update(name.split())
    words.add("_".join(name.split()))
    return tuple(sorted(word for word in words if len(word) >= 3))


def _cut_pixels(stream: BinaryIO, dataset: Any, size: int) -> str | None:
    """Empty if the pixel data end before the file does; None without pixels; else what is wrong.

    The stream stands at the pixel data element, where pydicom stopped.
    """
    syntax = str((getattr(dataset, "file_meta", None) or {}).get("TransferSyntaxUID", ""))
    if syntax == "1.2.840.10008.1.2.1.99":  # deflated: pydicom has unpacked it, or failed
        return ""
    big = syntax == "1.2.840.10008.1.2.2"
    head = stream.read(12)
    order = ">" if big else "<"
    if len(head) < 8 or struct.unpack_from(order + "HH", head) not in PIXEL_TAGS:
        return None
    long_form = head[4:6] in LONG_VRS
    length = struct.unpack_from(order + "I", head, 8 if long_form else 4)[0]
    start = stream.tell() - (0 if long_form else len(head) - 8)
    if length != UNDEFINED_LENGTH:
        lacking = start + length - size
        wanted = _native_bytes(dataset)
        if lacking > 0:
            return f"the file ends {lacking} bytes before its pixels do"
        if wanted > length and not _is_compressed(syntax):
            return f"expected {wanted} bytes of pixels, got {length}"
        return ""
    return _cut_fragments(stream, start, size)


def _cut_fragments(stream: BinaryIO, start: int, size: int) -> str:
    """Walk the fragments of encapsulated pixel data to their end (PS3.5 section A.4)."""
    while start + 8 <= size:
        stream.seek(start)
        group, element, length = struct.unpack("<HHI", stream.read(8))
        if (group, element) == (0xFFFE, 0xE0DD):
            return ""
        if (group, element) != (0xFFFE, 0xE000):
            return "the fragments of the compressed pixels are damaged"
        start += 8 + length
    return "the file ends before its compressed pixels do"


def _is_compressed(syntax: str) -> bool:
    return syntax.startswith("1.2.840.10008.1.2.4") or syntax == "1.2.840.10008.1.2.5"


@Remembered
def _native_bytes(dataset: Any) -> int:
    numbers = [
        _number(dataset, keyword) or 1
        for keyword in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated")
    ]
    rows, columns, samples, frames, bits = (int(n) for n in numbers)
    if str(dataset.get("PhotometricInterpretation", "")).upper() == "YBR_FULL_422":
        samples = 2
    return (rows * columns * samples * frames * bits + 7) // 8


def _first(sources: Sequence[Any], *keywords: str) -> Any:
    for source in sources:
        for keyword in keywords:
            value = source.get(keyword)
            if value not in (None, ""):
                return value
    return None


def _written(value: Any) -> str:
    """A value as text; zero is one too."""
    return "" if value is None else str(value)


def _many(value: Any) -> list[Any]:
    if value is None or isinstance(value, (str, bytes)):
        return [] if value in (None, "", b"") else [value]
    try:
        return list(value)
    except TypeError:
        return [value]


def _floats(value: Any, n: int) -> tuple[float, ...] | None:
    numbers = [_as_float(v) for v in _many(value)]
    if len(numbers) != n or any(v is None for v in numbers):
        return None
    return tuple(v for v in numbers if v is not None)


def _as_float(value: Any) -> float | None:
    try:
        number = float(value.strip().decode() if isinstance(value, bytes) else value)
    except (TypeError, ValueError):
        return None
    return number if number - number == 0 else None


def _number(dataset: Any, keyword: str) -> float | None:
    values = _many(dataset.get(keyword))
    return _as_float(values[0]) if values else None


def _text(dataset: Any, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).replace("\x00", "").strip()


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    if isinstance(value, (str, int)):
        return int(value) if isinstance(value, int) else str(value)
    number = _as_float(value)
    if number is not None:
        return number
    return [_plain(v) for v in _many(value) if v is not value]
