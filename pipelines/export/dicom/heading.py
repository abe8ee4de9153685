"""What all instances of one series of results share, and how an instance is finished and written.

Times are the source's: `ContentDate` and `SeriesDate` (and their times) are the latest that the
sources tell of their acquisition, and there is no InstanceCreationDate, so that the same run gives
the same bytes on any day. The receipt knows when a stage ran, as far as anything does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

from radloom import __version__
from radloom.errors import StageFailed
from radloom.pipelines.export.dicom.equipment import (
    IMPLEMENTATION_UID,
    equipment_arguments,
    mark_research,
    set_equipment,
)
from radloom.pipelines.export.dicom.source import SourceSeries
from radloom.pipelines.export.dicom.uids import ObjectUIDs

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Heading", "file_bytes", "finish", "latest_time", "read_file_bytes", "require"]

HIGHDICOM_ROOT = "1.2.826.0.1.3680043.10.511.3."
"""Under which highdicom draws random UIDs."""

LONGEST_DESCRIPTION = 64
"""Characters of a value of VR LO (PS3.5 6.2)."""

_SUFFIX = " (research)"

INHERITED = (
    # Patient and Clinical Trial Subject, PS3.3 C.7.1.1, C.7.1.3
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "OtherPatientIDsSequence", "PatientSpeciesDescription", "PatientSpeciesCodeSequence",
    "EthnicGroup", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
    # General Study and Patient Study, C.7.2.1, C.7.2.2
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID",
    "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyDescription",
    "PhysiciansOfRecord", "ProcedureCodeSequence", "PatientAge", "PatientSize", "PatientWeight",
    # SOP Common, C.12.1
    "LongitudinalTemporalInformationModified", "TimezoneOffsetFromUTC",
)  # fmt: skip
"""What every object takes over of its source as it is there."""


@dataclass(frozen=True)
class Heading:
    """One series of results: identity, number, description, sources."""

    uids: ObjectUIDs
    number: int
    """SeriesNumber (0020,0011)."""
    description: str
    """SeriesDescription (0008,103E), English, ASCII, without "(research)"."""
    sources: tuple[SourceSeries, ...] = field(repr=False)
    """What it was made from; patient and study are those of the first."""

    @property
    def source(self) -> SourceSeries:
        """The series whose patient, study and, as a rule, grid the objects share."""
        return self.sources[0]

    @property
    def series_description(self) -> str:
        """The description, cut to what a value holds, and that it is for research."""
        return self.description[: LONGEST_DESCRIPTION - len(_SUFFIX)] + _SUFFIX

    def arguments(self, index: int = 0) -> dict[str, Any]:
        """What every class of highdicom asks for: series, instance `index` (from 0), equipment."""
        return {
            "series_instance_uid": self.uids.series,
            "series_number": self.number,
            "sop_instance_uid": self.uids.instance(index),
            "instance_number": index + 1,
            "series_description": self.series_description,
            **equipment_arguments(),
        }

    def study_arguments(self) -> dict[str, Any]:
        """Patient and study, for those classes of highdicom that copy nothing themselves."""
        first = self.source.first
        return {
            "study_instance_uid": str(first.StudyInstanceUID),
            "patient_id": first.PatientID,
            "patient_name": first.PatientName,
            "patient_birth_date": first.PatientBirthDate,
            "patient_sex": first.PatientSex,
            "accession_number": first.AccessionNumber,
            "study_id": first.StudyID,
            "study_date": first.StudyDate or None,
            "study_time": first.StudyTime or None,
            "referring_physician_name": first.ReferringPhysicianName,
        }


def finish(dataset: Dataset, heading: Heading, index: int = 0) -> Dataset:
    """`dataset`, in place, as instance `index` of the series that `heading` describes.

    Patient and study as in the source with its character set; series, equipment, research mark;
    times of the source; every UID that highdicom drew replaced by one that follows from content.
    """
    first = heading.source.first
    for keyword in INHERITED:
        if keyword in first:
            dataset[keyword] = first[keyword]
    _set_character_set(dataset, first)
    _set_body_part(dataset, first)
    dataset.SeriesInstanceUID = heading.uids.series
    dataset.SeriesNumber = heading.number
    dataset.SeriesDescription = heading.series_description
    dataset.SOPInstanceUID = heading.uids.instance(index)
    dataset.InstanceNumber = index + 1
    _set_times(dataset, heading.sources)
    set_equipment(dataset, [source.first for source in heading.sources])
    mark_research(dataset)
    _replace_drawn_uids(dataset, heading)
    _set_file_meta(dataset)
    return dataset


def file_bytes(dataset: Dataset) -> bytes:
    """The file (DICOM PS3.10) that holds a finished data set; the same bytes each time."""
    import pydicom

    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def read_file_bytes(content: bytes) -> Dataset:
    """The data set in a file."""
    import pydicom

    return pydicom.dcmread(BytesIO(content))


def latest_time(sources: Sequence[SourceSeries]) -> tuple[str, str]:
    """Date (DA) and time (TM) of the latest acquisition among `sources`; empty where none says.

    A date counts with the time beside it: of the acquisition, else the content, series, study.
    """
    found = [
        (str(date), str(dataset.get(f"{level}Time", "") or ""))
        for source in sources
        for dataset in (source.datasets[0], source.datasets[-1])
        for level in ("Acquisition", "Content", "Series", "Study")
        if (date := dataset.get(f"{level}Date"))
    ]
    return max(found, default=("", ""))


def _set_times(dataset: Dataset, sources: Sequence[SourceSeries]) -> None:
    date, time = latest_time(sources)
    for keyword in _OF_NOW:
        if keyword in dataset:
            del dataset[keyword]
    for level in ("Content", "Series", "PresentationCreation"):
        if level == "Series" or f"{level}Date" in dataset:
            # a type 1 attribute must hold something; a study without any date gets the first day
            # that DICOM's own standard was there
            setattr(dataset, f"{level}Date", date or _NO_DATE)
            setattr(dataset, f"{level}Time", time or "000000")


_NO_DATE = "19930101"

_OF_NOW = (
    "InstanceCreationDate",
    "InstanceCreationTime",
    "InstanceCreatorUID",
    "DateOfSecondaryCapture",
    "TimeOfSecondaryCapture",
)
"""Optional times of making, which would differ from run to run."""


def _set_body_part(dataset: Dataset, first: Dataset) -> None:
    """BodyPartExamined of the source; without one, Laterality must be there, though empty.

    Reports and documents have a series module of their own without either.
    """
    if dataset.Modality in ("SR", "DOC"):
        return
    if first.get("BodyPartExamined"):
        dataset.BodyPartExamined = first.BodyPartExamined
    elif "Laterality" not in dataset:
        dataset.Laterality = ""


def _set_character_set(dataset: Dataset, first: Dataset) -> None:
    """The source's SpecificCharacterSet, which its names are written in; our own text is ASCII."""
    if "SpecificCharacterSet" in first:
        dataset.SpecificCharacterSet = first.SpecificCharacterSet
    elif "SpecificCharacterSet" in dataset:
        del dataset.SpecificCharacterSet


def _replace_drawn_uids(dataset: Dataset, heading: Heading) -> None:
    known = {
        str(header.get(keyword, ""))
        for source in heading.sources
        for header in source.datasets
        for keyword in (
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "SOPInstanceUID",
            "FrameOfReferenceUID",
        )
    }
    drawn: dict[str, str] = {}
    for element in _elements(dataset):
        if element.VR != "UI" or isinstance(element.value, (list, tuple)) or not element.value:
            continue
        value = str(element.value)
        if value.startswith(HIGHDICOM_ROOT) and value not in known:
            drawn.setdefault(value, heading.uids.other("drawn", len(drawn)))
            element.value = drawn[value]


def _elements(dataset: Dataset) -> Iterator[Any]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)
        else:
            yield element


def _set_file_meta(dataset: Dataset) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    old: Mapping[str, Any] = getattr(dataset, "file_meta", None) or {}
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = old.get("TransferSyntaxUID") or ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"RADLOOM {__version__}"[:16]
    dataset.file_meta = meta
    dataset.preamble = bytes(128)


def require(condition: bool, where: str, expected: str, got: object) -> None:  # noqa: FBT001
    """Nothing, if what was read back is what was meant.

    Raises:
        StageFailed: it is not.
    """
    if not condition:
        raise StageFailed(f"{where}: a read gives {got}, expected {expected}")
