"""One DICOM object without what identifies its patient, by the Basic Profile of PS3.15 Annex E.

What is known to be safe stays, all else goes: an attribute that neither the table nor a rule for
its value representation lets stay is removed, in nested sequences as well. Values that stay are
searched for the identifiers that the object itself holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radloom import __version__
from radloom.errors import InputError
from radloom.pipelines.deidentify.keys import Names, Pseudonyms
from radloom.pipelines.deidentify.profile import SCHEME, Options, Profile, load_profile, methods_of
from radloom.pipelines.deidentify.words import clean_words, holds_identifier, identifier_words
from radloom.pipelines.ingest.canon import canon_weighting

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

__all__ = ["MODALITIES", "NotDeidentifiable", "deidentify_dataset", "patient_of", "session_of"]

MODALITIES = ("MR", "CT", "PT", "NM")
"""Modality (0008,0060) whose pixels hold the patient and no text, as a rule."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class, and the root of its multi-frame variants: pictures of screens, with text in them."""

NUMBERS = ("DS", "IS", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV")
TEXTS = ("SH", "LO", "UC", "ST", "LT", "UT")
BINARIES = ("OB", "OD", "OF", "OL", "OV", "OW")

LONG_NUMBER = 5
"""Digits from which a number that equals an identifier is one; instance numbers are shorter."""

LONGEST_NUMBER_BYTES = 6
"""Three 16-bit numbers: the descriptor of a look-up table."""

IDENTIFYING = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "AccessionNumber",
    "StudyID",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "DeviceSerialNumber",
    "MedicalRecordLocator",
    "AdmissionID",
    "IssuerOfPatientID",
)
"""Attributes whose values are looked for wherever else text stays."""

TRUSTED_CODES = (
    "Modality",
    "ImageType",
    "FrameType",
    "PhotometricInterpretation",
    "SpecificCharacterSet",
    "PatientPosition",
    "BodyPartExamined",
)
"""Code strings that are not searched: without them no image can be read, and they name nobody."""


class NotDeidentifiable(InputError):
    """An object that cannot be cleaned for certain.

    Attributes:
        code: one word: burned_in_annotation, unsupported_modality, secondary_capture, colour,
            not_an_image, no_pixels_access.
        detail: one sentence for people.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class _Work:
    """What every element of one object is held against."""

    profile: Profile
    names: Names
    options: Options
    patient: str
    label: str
    identifiers: frozenset[str]


def patient_of(dataset: Dataset) -> str:
    """What tells a patient from others: PatientID, else the study, as in `radloom inspect`."""
    study = str(dataset.get("StudyInstanceUID", "") or "").strip()
    return str(dataset.get("PatientID", "") or "").strip() or f"study {study}"


def session_of(dataset: Dataset, names: Pseudonyms) -> str:
    """The moved study date, or digits that stand for the study where it has no date."""
    moved = names.date(patient_of(dataset), str(dataset.get("StudyDate", "") or ""))
    return moved or names.digest("study", str(dataset.get("StudyInstanceUID", "")))


def deidentify_dataset(dataset: Dataset, names: Names, options: Options | None = None) -> None:
    """Cleans a data set in place, its file meta information and preamble included.

    Args:
        dataset: as read from a file, with its pixels.
        names: pseudonyms of the key.
        options: what may stay.

    Raises:
        NotDeidentifiable: its pixels may show who the patient is, or it is no image.
    """
    options = options or Options()
    _require_cleanable(dataset, options)
    patient = patient_of(dataset)
    work = _Work(
        load_profile(), names, options, patient, names.subject(patient), _identifiers(dataset)
    )
    _clear_hidden_overlays(dataset)
    _clean(dataset, work)
    _stamp(dataset, options)
    _renew_file_meta(dataset)


def _require_cleanable(dataset: Dataset, options: Options) -> None:
    modality = _text(dataset, "Modality").upper()
    if _text(dataset, "BurnedInAnnotation").upper() == "YES":
        raise NotDeidentifiable(
            "burned_in_annotation",
            "BurnedInAnnotation (0028,0301): expected NO or nothing, got YES: the pixels show text",
        )
    if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise NotDeidentifiable("not_an_image", f"expected pixels, got none ({modality or '?'})")
    if modality in options.accept:
        return
    if modality not in MODALITIES:
        raise NotDeidentifiable(
            "unsupported_modality",
            f"Modality (0008,0060): expected {', '.join(MODALITIES)}, got {modality or 'nothing'}, "
            f"whose pixels may show text; look at them, then say --accept {modality or 'MODALITY'}",
        )
    if _text(dataset, "SOPClassUID").startswith(SECONDARY_CAPTURE) or "SCREEN SAVE" in _many(
        dataset.get("ImageType")
    ):
        raise NotDeidentifiable("secondary_capture", "a picture of a screen may show text")
    if int(dataset.get("SamplesPerPixel", 1) or 1) > 1:
        raise NotDeidentifiable("colour", "expected grey values, got colour, which may show text")


def _clean(dataset: Dataset, work: _Work) -> None:
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            stays = _apply(dataset, element, work)
        except Exception:  # noqa: BLE001  # what cannot even be read cannot be shown to be safe
            stays = False
        if not stays:
            del dataset[tag]


def _apply(dataset: Dataset, element: DataElement, work: _Work) -> bool:
    """Whether the element stays; its value is what may stay of it."""
    tag = element.tag
    if tag.is_private:
        return _is_safe_private(dataset, element, work)
    if tag.element == 0 or tag.group in range(0x5000, 0x5100) or tag.group in range(0x6000, 0x6100):
        return False
    action = work.profile.actions.get(int(tag))
    if action == "characteristics":
        if work.options.keep_characteristics:
            return element.VR in ("CS", "AS", *NUMBERS)
        action = "empty" if element.keyword == "PatientSex" else "remove"
    if action == "remove":
        return element.keyword == "ImageComments" and _is_weighting(element, work)
    if action in ("empty", "dummy", "label"):
        element.value = {
            "empty": None,
            "dummy": work.profile.dummies.get(int(tag), ""),
            "label": work.label,
        }[action]
        return True
    if element.VR in TEXTS:
        return _text_stays(element, action, work)
    if element.VR in BINARIES or element.VR in ("OB or OW", "US or OW"):
        return action == "binary"
    rule = _RULES.get(element.VR)
    return rule is not None and rule(element, work)


def _is_weighting(element: DataElement, work: _Work) -> bool:
    """Whether a comment is nothing but the b-value and gradient that Canon writes there."""
    said = str(element.value)
    return canon_weighting(said, is_row=False) is not None and not holds_identifier(
        said, work.identifiers
    )


def _text_stays(element: DataElement, action: str | None, work: _Work) -> bool:
    if action == "words":
        cleaned = [
            clean_words(str(value), work.profile.vocabulary, work.identifiers)
            for value in _many(element.value)
        ]
        if element.keyword == "ContrastBolusAgent" and any(map(str, _many(element.value))):
            cleaned = [text or "CONTRAST AGENT" for text in cleaned]
        element.value = cleaned if len(cleaned) > 1 else "".join(cleaned)
        return any(cleaned)
    return action == "text" and not any(
        holds_identifier(str(value), work.identifiers) for value in _many(element.value)
    )


def _sequence(element: DataElement, work: _Work) -> bool:
    for item in element.value:
        _clean(item, work)
    return True


def _uid(element: DataElement, work: _Work) -> bool:
    values = [str(value) for value in _many(element.value)]
    if not all(re.fullmatch(r"[0-9.]*", value.strip(" \x00")) for value in values):
        return False
    mapped = [work.names.uid(value) for value in values]
    element.value = mapped if len(mapped) > 1 else "".join(mapped)
    return True


def _date(element: DataElement, work: _Work) -> bool:
    move = work.names.date if element.VR == "DA" else work.names.datetime
    values = [str(value) for value in _many(element.value)]
    moved = [move(work.patient, value) for value in values]
    element.value = moved if len(moved) > 1 else "".join(moved)
    return all(moved) if moved else True


def _time(element: DataElement, work: _Work) -> bool:
    del work
    return all(re.fullmatch(r"[\d:]*(\.\d+)?\s*", str(v)) for v in _many(element.value))


def _number(element: DataElement, work: _Work) -> bool:
    if element.VR not in ("DS", "IS"):
        return True
    texts = [str(getattr(v, "original_string", v)) for v in _many(element.value)]
    return all(re.fullmatch(r"\s*[-+]?[\d.]*([eE][-+]?\d+)?\s*", t) for t in texts) and not any(
        len(t.strip()) >= LONG_NUMBER and t.strip() in work.identifiers for t in texts
    )


def _few_bytes(element: DataElement, work: _Work) -> bool:
    """Whether a number whose sign the object decides on writing is short enough to be one."""
    del work
    return not isinstance(element.value, bytes) or len(element.value) <= LONGEST_NUMBER_BYTES


def _code(element: DataElement, work: _Work) -> bool:
    values = [str(v) for v in _many(element.value)]
    if not all(re.fullmatch(r"[A-Z0-9_ .+/-]{0,16}", v.upper()) for v in values):
        return element.keyword in TRUSTED_CODES
    if element.keyword in TRUSTED_CODES:
        return True
    return not any(holds_identifier(v, work.identifiers) for v in values)


_RULES: dict[str, Callable[[DataElement, _Work], bool]] = {
    "SQ": _sequence,
    "UI": _uid,
    "DA": _date,
    "DT": _date,
    "TM": _time,
    "CS": _code,
    "AT": lambda element, work: True,  # noqa: ARG005  # tags name attributes, not people
    **dict.fromkeys(("US or SS", "US or SS or OW"), _few_bytes),
    **dict.fromkeys(NUMBERS, _number),
}
"""Value representation -> what becomes of an element that the table does not name."""


def _is_safe_private(dataset: Dataset, element: DataElement, work: _Work) -> bool:
    """Whether a private element, or a block's creator, is on the list and holds what it should."""
    group, number = element.tag.group, element.tag.element
    if element.tag.is_private_creator:
        return any(
            (str(element.value), group) == known and _block_has(dataset, group, number, elements)
            for known, elements in work.profile.safe_private.items()
        )
    block = (group << 16) | (number >> 8)
    if block not in dataset:
        return False
    safe = work.profile.safe_private.get((str(dataset[block].value), group), frozenset())
    if number & 0xFF not in safe:
        return False
    if element.VR == "SQ":
        return _sequence(element, work)
    return element.VR in NUMBERS and _number(element, work)


def _block_has(dataset: Dataset, group: int, block: int, elements: frozenset[int]) -> bool:
    return any((group << 16) | (block << 8) | e in dataset for e in elements)


def _identifiers(dataset: Dataset) -> frozenset[str]:
    """Every name in the object, at whatever depth, and what its identifying attributes hold."""
    values: list[str] = []
    for element in _elements(dataset):
        if element.VR == "PN" or element.keyword in IDENTIFYING:
            values += [str(value) for value in _many(element.value)]
    return identifier_words(values)


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # noqa: BLE001, S112  # it is removed later for the same reason
            continue
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)


def _clear_hidden_overlays(dataset: Dataset) -> None:
    """Zeros in the bits of the pixels that the image does not use, where overlays may be drawn.

    Retired overlays lie in unused bits of the pixel data (PS3.3-2004 section C.9.2).
    """
    drawn = any(t.group in range(0x6000, 0x6100) and t.element == 0x0102 for t in dataset.keys())  # noqa: SIM118
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    used, stored = int(dataset.get("BitsAllocated", 0) or 0), int(dataset.get("BitsStored", 0) or 0)
    if not drawn or used != 16 or not 0 < stored < used or "PixelData" not in dataset:
        return
    if syntax is not None and syntax.is_encapsulated:
        return  # a codec holds the stored bits alone
    import numpy as np

    big = syntax is not None and not syntax.is_little_endian
    values = np.frombuffer(dataset.PixelData, ">u2" if big else "<u2").copy()
    values &= np.uint16((1 << stored) - 1)
    if int(dataset.get("PixelRepresentation", 0)) == 1:
        sign = np.uint16(1 << (stored - 1))
        values = ((values ^ sign) - sign).astype(values.dtype)
    dataset.PixelData = values.tobytes()


def _stamp(dataset: Dataset, options: Options) -> None:
    """(0012,0062) to (0012,0064), (0028,0303): that it was done, and how (PS3.15 E.1.1)."""
    from pydicom.dataset import Dataset as Item

    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"Radloom {__version__}, PS3.15 Basic Profile"
    codes = []
    for value, meaning in methods_of(options):
        item = Item()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, SCHEME, meaning
        codes.append(item)
    dataset.DeidentificationMethodCodeSequence = codes
    dataset.LongitudinalTemporalInformationModified = "MODIFIED"


def _renew_file_meta(dataset: Dataset) -> None:
    """File meta information (group 0002) that names this program and the new instance alone."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ExplicitVRLittleEndian
    from pydicom.uid import ImplicitVRLittleEndian as Implicit

    old = getattr(dataset, "file_meta", None) or {}
    implicit, little = dataset.original_encoding
    guessed = Implicit if implicit else ExplicitVRLittleEndian
    if not old.get("TransferSyntaxUID") and little is False:
        raise NotDeidentifiable("not_an_image", "TransferSyntaxUID (0002,0010): expected one")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "")
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "")
    meta.TransferSyntaxUID = old.get("TransferSyntaxUID") or guessed
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"RADLOOM {__version__}"[:16]
    dataset.file_meta = meta
    dataset.preamble = bytes(128)


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \x00")


def _many(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    # A PersonName has an __iter__, and is no sequence.
    is_several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return list(value) if is_several else [value]
