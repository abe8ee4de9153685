"""Items that point from an object to the instances that it came from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from radloom.pipelines.export.dicom.source import SourceSeries

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "code_item",
    "encoded_items",
    "image_reference",
    "raw_sequence",
    "series_references",
    "source_image",
]


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence (PS3.3 8.8).

    >>> code_item("113087", "DCM", "Smoothing").CodeMeaning
    'Smoothing'
    """
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def image_reference(dataset: Dataset, frames: Iterable[int] = ()) -> Dataset:
    """An item of ReferencedImageSequence (0008,1140): an instance, and frames of it (from 0)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = dataset.SOPClassUID
    item.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    numbers = [frame + 1 for frame in frames]
    if numbers and int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        item.ReferencedFrameNumber = numbers
    return item


def source_image(dataset: Dataset, frames: Iterable[int] = ()) -> Dataset:
    """An item of SourceImageSequence (0008,2112): as `image_reference`, with the purpose."""
    item = image_reference(dataset, frames)
    purpose = code_item("121322", "DCM", "Source of Image Processing Operation")
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def series_references(sources: Iterable[SourceSeries]) -> list[Dataset]:
    """Items of ReferencedSeriesSequence (0008,1115): every instance of every source series."""
    from pydicom.dataset import Dataset

    items: dict[str, Dataset] = {}
    for source in sources:
        item = Dataset()
        item.SeriesInstanceUID = source.series_uid
        item.ReferencedInstanceSequence = [image_reference(ds) for ds in source.datasets]
        items.setdefault(source.series_uid, item)
    return list(items.values())


def encoded_items(items: Iterable[Dataset]) -> bytes:
    """Items of a sequence as they stand in a file, explicit VR, little-endian."""
    from pydicom.dataset import Dataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_sequence_item

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    for item in items:
        assert isinstance(item, Dataset)
        write_sequence_item(buffer, item, ["iso8859"])
    return bytes(buffer.getvalue())


def raw_sequence(keyword: str, items: bytes) -> Any:
    """A sequence from items that are encoded already, so that hundreds of files share the work."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = tag_for_keyword(keyword)
    assert tag is not None
    return RawDataElement(
        Tag(tag), "SQ", len(items), items, 0, is_implicit_VR=False, is_little_endian=True
    )
