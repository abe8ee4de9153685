"""Who made an object, from whose images, and that it is for research."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from radloom import __version__
from radloom.pipelines.export.dicom.uids import make_uid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "IMPLEMENTATION_UID",
    "RESEARCH",
    "equipment_arguments",
    "mark_research",
    "set_equipment",
]

MANUFACTURER = "Radloom"
MODEL = "Radloom"

RESEARCH = "for research use, not for diagnosis"
"""Where the standard has free text and no attribute of its own."""

IMPLEMENTATION_UID = make_uid("radloom implementation")
"""ImplementationClassUID (0002,0012)."""

CONTENT_QUALIFICATION = {
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
    "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
}
"""SOP classes whose IOD has ContentQualification (0018,9004)."""

IMAGE_COMMENTS = {
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.128",  # PET
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
}
"""SOP classes with the General Image module, whose ImageComments (0020,4000) viewers show."""

_KEPT = (
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "StationName",
    "InstitutionName",
    "InstitutionalDepartmentName",
    "SpatialResolution",
)
"""What an item of ContributingEquipmentSequence (0018,A001) takes over of a source."""


def equipment_arguments() -> dict[str, str]:
    """What highdicom's classes ask for: manufacturer, model, software version, serial number."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL,
        "software_versions": __version__,
        "device_serial_number": __version__,
    }


def set_equipment(dataset: Dataset, sources: Sequence[Dataset]) -> None:
    """General Equipment of Radloom, and who contributed: the sources' scanners, then Radloom.

    Sources: PS3.3 C.7.5.1 (General Equipment), C.12.1 (Contributing Equipment Sequence); purposes
    from CID 7005.
    """
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MODEL
    dataset.SoftwareVersions = __version__
    dataset.DeviceSerialNumber = __version__
    items: list[Dataset] = []
    for source in sources:
        for item in _contributors(source):
            if item not in items:
                items.append(item)
    dataset.ContributingEquipmentSequence = [*items, _ours()]


def mark_research(dataset: Dataset) -> None:
    """Says that the object is for research, where its IOD has a place for it.

    ContentQualification (0018,9004) RESEARCH in enhanced images and parametric maps; ImageComments
    (0020,4000) in classic images; SeriesDescription says it in every object (`Heading`).
    """
    if dataset.SOPClassUID in CONTENT_QUALIFICATION:
        dataset.ContentQualification = "RESEARCH"
    if dataset.SOPClassUID in IMAGE_COMMENTS:
        dataset.ImageComments = f"Made by Radloom {__version__}, {RESEARCH}"


def _contributors(source: Dataset) -> Iterator[Dataset]:
    """What the source says of its own contributors, then its own equipment."""
    yield from source.get("ContributingEquipmentSequence") or ()
    own = {keyword: source.get(keyword) for keyword in _KEPT}
    if own["Manufacturer"] or own["ManufacturerModelName"]:
        item = _item("109101", "Acquisition Equipment")
        item.Manufacturer = own["Manufacturer"] or "unknown"
        for keyword, value in own.items():
            if value not in (None, "") and keyword != "Manufacturer":
                setattr(item, keyword, value)
        yield item


def _ours() -> Dataset:
    item = _item("109102", "Processing Equipment")
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = MODEL
    item.SoftwareVersions = __version__
    item.ContributionDescription = RESEARCH
    return item


def _item(code: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.sr.coding import Code

    purpose = Dataset()
    known = Code(code, "DCM", meaning)
    purpose.CodeValue = known.value
    purpose.CodingSchemeDesignator = known.scheme_designator
    purpose.CodeMeaning = known.meaning
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
