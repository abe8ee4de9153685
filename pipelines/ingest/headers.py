"""The header of one DICOM file, read without its pixels, as plain values.

A classic file is one slice; an enhanced multi-frame file is expanded into a slice a frame, so that
the same geometry checks serve both. Only what ingestion decides on is kept.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from radloom.errors import ReasonCode
from radloom.pipelines.ingest.names import made_uid
from radloom.transforms.dicom import SlicePlane

__all__ = [
    "PARSE_ERRORS",
    "SliceHeader",
    "is_dicom",
    "quiet_pydicom",
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
    struct.error,
    zlib.error,
)
"""What pydicom and its decoders raise on damaged files; memory errors and interrupts pass."""

PREAMBLE = 128
"""Bytes before the letters DICM (DICOM PS3.10 section 7.1)."""

UNDEFINED_LENGTH = 0xFFFFFFFF
"""The length of encapsulated pixel data (DICOM PS3.5 section A.4)."""

LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN", b"UT", b"SQ", b"UC", b"UR")
"""Value representations with a four-byte length (DICOM PS3.5 section 7.1.2)."""

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
}
"""BIDS name -> DICOM keywords. None of them names a person, a place or a date."""


@dataclass(frozen=True)
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
    b_value: float | None = None
    """Diffusion weighting in s/mm2."""
    gradient: tuple[float, ...] | None = None
    """Diffusion gradient direction (0018,9089)."""
    temporal: tuple[str, ...] = ()
    """Temporal position, trigger time, acquisition number, acquisition time, as written."""
    acquisition_number: str = ""
    rescale: tuple[float, float] | None = None
    """Slope and intercept (0028,1053), (0028,1052)."""
    rescale_type: str = ""
    units: str = ""
    """Units (0054,1001) of PET."""
    has_modality_lut: bool = False
    mosaic: int = 0
    """How many slices a Siemens mosaic holds; -1: a mosaic of unknown number."""
    problem: ReasonCode | None = None
    problem_detail: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For the sidecar, with BIDS names and units."""
    tags: Mapping[str, Any] = field(default_factory=dict)
    """What the role rules look at: see `ROLE_TAGS`."""


ROLE_TAGS = (
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "ScanningSequence",
    "SequenceVariant",
    "MRAcquisitionType",
    "ContrastBolusAgent",
    "ProtocolName",
    "SequenceName",
    "BodyPartExamined",
    "EchoTrainLength",
    "PulseSequenceName",
    "AcquisitionContrast",
)
"""Keywords that the role rules may look at."""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence for pydicom's remarks on values that break the standard without harm.

    They quote the values, and so could carry a patient's name into a log.
    """
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


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
    import pydicom

    try:
        with quiet_pydicom(), file.open("rb") as stream:
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
            headers = _slices(dataset, path)
            cut = _cut_pixels(stream, dataset, file.stat().st_size)
    except PermissionError:
        return [_broken(path, ReasonCode.UNREADABLE, "no permission to read the file")]
    except PARSE_ERRORS as error:
        return [_broken(path, ReasonCode.UNREADABLE, f"damaged header ({type(error).__name__})")]
    if cut is None:
        return [replace(h, has_pixels=False) for h in headers]
    if cut:
        headers = [replace(h, problem=ReasonCode.TRUNCATED, problem_detail=cut) for h in headers]
    return headers


def _broken(path: str, code: ReasonCode, detail: str) -> SliceHeader:
    return SliceHeader(path=path, problem=code, problem_detail=detail)


def _slices(dataset: Any, path: str) -> list[SliceHeader]:
    if not any(_text(dataset, k) for k in ("SOPClassUID", "SeriesInstanceUID", "Modality")):
        return [_broken(path, ReasonCode.UNREADABLE, "no SOP class, series UID or modality in it")]
    frames = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    sources = [[*_parts(frame, *shared), dataset] for frame in frames] or [[dataset]]
    common = _common(dataset, path, sources[0])
    return [
        replace(common, frame=index, **_slice_values(source))
        for index, source in enumerate(sources)
    ]


def _parts(*groups: Any) -> list[Any]:
    """The first items of every functional group macro, those of the frame before the shared."""
    return [
        element.value[0]
        for group in groups
        for element in group
        if element.VR == "SQ" and element.value
    ]


def _common(dataset: Any, path: str, sources: Sequence[Any]) -> SliceHeader:
    image_type = tuple(str(v).strip().upper() for v in _many(dataset.get("ImageType")))
    folder = path.rpartition("/")[0]
    # De-identified files may lack UIDs; the folder and series number then stand for the series.
    made = made_uid("series", folder, _text(dataset, "SeriesNumber"))
    return SliceHeader(
        path=path,
        study_uid=_text(dataset, "StudyInstanceUID") or made_uid("study", folder),
        series_uid=_text(dataset, "SeriesInstanceUID") or made,
        sop_uid=_text(dataset, "SOPInstanceUID"),
        patient_id=_text(dataset, "PatientID"),
        identifiers=_identifiers(dataset),
        modality=_text(dataset, "Modality").upper(),
        sop_class=_text(dataset, "SOPClassUID"),
        image_type=image_type,
        description=_text(dataset, "SeriesDescription"),
        series_number=int(_number(dataset, "SeriesNumber") or 0),
        instance_number=int(_number(dataset, "InstanceNumber") or 0),
        n_frames=int(_number(dataset, "NumberOfFrames") or 1),
        samples=int(_number(dataset, "SamplesPerPixel") or 1),
        photometric=_text(dataset, "PhotometricInterpretation").upper(),
        frame_of_reference=_text(dataset, "FrameOfReferenceUID"),
        acquisition_number=_text(dataset, "AcquisitionNumber"),
        units=_text(dataset, "Units").upper(),
        has_modality_lut="ModalityLUTSequence" in dataset,
        mosaic=_mosaic(dataset, image_type),
        facts=_facts(sources),
        tags=_role_tags(sources),
    )


def _slice_values(sources: Sequence[Any]) -> dict[str, Any]:
    """What differs from slice to slice, from the first source that knows it."""
    slope, intercept = _first(sources, "RescaleSlope"), _first(sources, "RescaleIntercept")
    echo = _first(sources, "EchoTime", "EffectiveEchoTime")
    known = slope is not None and intercept is not None
    return {
        "plane": _plane(sources),
        "component": _component(sources),
        "echo_time_ms": None if echo is None else float(echo),
        "b_value": _b_value(sources),
        "gradient": _floats(_first(sources, "DiffusionGradientOrientation"), 3),
        "temporal": tuple(
            str(_first(sources, keyword) or "")
            for keyword in (
                "TemporalPositionIndex",
                "TemporalPositionIdentifier",
                "TriggerTime",
                "AcquisitionNumber",
                "FrameAcquisitionDateTime",
                "AcquisitionTime",
            )
        ),
        "rescale": (float(slope), float(intercept)) if known else None,
        "rescale_type": str(_first(sources, "RescaleType") or "").upper(),
    }


def _plane(sources: Sequence[Any]) -> SlicePlane | None:
    position = _floats(_first(sources, "ImagePositionPatient"), 3)
    cosines = _floats(_first(sources, "ImageOrientationPatient"), 6)
    spacing = _floats(_first(sources, "PixelSpacing"), 2)
    rows, columns = (_first(sources, k) for k in ("Rows", "Columns"))
    if not (position and cosines and spacing and rows and columns):
        return None
    return SlicePlane(
        (position[0], position[1], position[2]),
        (cosines[0], cosines[1], cosines[2], cosines[3], cosines[4], cosines[5]),
        (spacing[0], spacing[1]),
        int(rows),
        int(columns),
    )


def _component(sources: Sequence[Any]) -> str:
    named = str(_first(sources, "ComplexImageComponent") or "").upper()
    words = {"MAGNITUDE": "M", "PHASE": "P", "REAL": "R", "IMAGINARY": "I"}
    if named in words:
        return words[named]
    for value in _many(_first(sources, "ImageType"))[2:]:
        head = str(value).strip().upper().split("_")
        letters = [part for part in head if part in ("M", "P", "R", "I")]
        if letters:
            return letters[0]
    return ""


def _b_value(sources: Sequence[Any]) -> float | None:
    """Diffusion b-value in s/mm2, from the standard's tag or a vendor's."""
    standard = _first(sources, "DiffusionBValue")
    if standard is not None:
        return float(standard)
    # Siemens, GE (with a flag in the billions), Philips
    for tag in ((0x0019, 0x100C), (0x0043, 0x1039), (0x2001, 0x1003)):
        for source in sources:
            if tag in source:
                value = _plain(_many(source[tag].value)[:1])
                number = _as_float(value[0] if isinstance(value, list) and value else value)
                if number is not None:
                    return number % 1e9
    return None


def _mosaic(dataset: Any, image_type: Sequence[str]) -> int:
    if "MOSAIC" not in image_type:
        return 0
    number = dataset.get((0x0019, 0x100A))
    value = _as_float(number.value) if number is not None else None
    return int(value) if value else _csa_mosaic(dataset)


def _csa_mosaic(dataset: Any) -> int:
    """The number of slices from the Siemens CSA header; -1 where there is none."""
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
    for name in SIDECAR_SECONDS:
        value = _as_float(facts.pop(name, None))
        if value is not None:
            facts[name] = round(value / 1000.0, 9)
    return facts


def _role_tags(sources: Sequence[Any]) -> dict[str, Any]:
    found = {k: _first(sources, k) for k in ROLE_TAGS}
    found["EchoTime"] = _first(sources, "EchoTime", "EffectiveEchoTime")
    found["InversionTime"] = _first(sources, "InversionTime", "InversionTimes")
    return {k: _plain(value) for k, value in found.items() if value is not None}


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
        return value if isinstance(value, int) else str(value)
    number = _as_float(value)
    if number is not None:
        return number
    return [_plain(v) for v in _many(value) if v is not value]
