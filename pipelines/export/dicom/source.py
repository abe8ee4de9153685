"""The DICOM instances that a volume came from: headers without pixels, in the volume's order.

Where a run is de-identified, the headers pass `radloom.pipelines.deidentify` under the study's
pseudonyms before anything else sees them, so that no object can inherit an identifier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radloom.errors import InputError, SeriesRefused
from radloom.geometry import Affine
from radloom.pipelines.export.dicom.uids import make_uid
from radloom.pipelines.study import SeriesRecord, Study, StudyRecord

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from radloom.pipelines.ingest.verdicts import Part

__all__ = ["NoDicomSource", "SourceSeries", "source_of_role", "source_of_series"]

FILE_READERS = ("nifti", "itk")
"""`SeriesRecord.reader` of files that are no DICOM."""


class NoDicomSource(InputError):
    """A volume without DICOM instances behind it: nothing that an object could refer to."""


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """The instances behind one volume."""

    datasets: tuple[Dataset, ...]
    """Headers without pixels or private elements, each instance once, in slice order (K = 0 first);
    one for a multi-frame file. Not to be changed."""
    slices: tuple[tuple[int, int], ...]
    """For each K: index into `datasets`, and frame from 0 (0 for classic files). Empty where the
    volume's slices are not the source's: mosaics, resampled stacks."""
    affine: Affine
    """(4, 4) voxel (I, J, K) -> RAS+ mm, before rounding to float32."""
    shape: tuple[int, int, int]
    """(I, J, K)."""
    frame_of_reference_uid: str
    """FrameOfReferenceUID (0020,0052); made from the series' UID where the source has none."""

    @property
    def first(self) -> Dataset:
        """The header of K = 0."""
        return self.datasets[0]

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID (0020,000D)."""
        return str(self.first.StudyInstanceUID)

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID (0020,000E)."""
        return str(self.first.SeriesInstanceUID)

    @cached_property
    def is_multiframe(self) -> bool:
        """Whether a file holds several slices."""
        return any(int(ds.get("NumberOfFrames", 1) or 1) > 1 for ds in self.datasets)

    @property
    def has_slices(self) -> bool:
        """Whether the volume's slices are those of the source, one by one."""
        return bool(self.slices)

    def slice_source(self, k: int) -> tuple[Dataset, int]:
        """Header and frame (from 0) of slice `k`; the first instance where slices differ."""
        if not self.slices:
            return self.first, 0
        index, frame = self.slices[k]
        return self.datasets[index], frame


def source_of_role(study: Study, role: str) -> SourceSeries:
    """The instances behind the volume that ingestion gave for `role`.

    Raises:
        NoDicomSource: the volume came from no DICOM, or its headers cannot be used.
    """
    found = study.find(kind="volume", role=role, stage="ingest")
    if not found:
        raise NoDicomSource(f"{role}: expected a volume from ingestion, got none")
    uid = str(found[0].sidecar.get("SeriesInstanceUID", ""))
    records = [r for r in study.record.series if r.series_uid == uid and r.status != "rejected"]
    exact = [r for r in records if dict(r.entities) == dict(found[0].entities)]
    if not records:
        raise NoDicomSource(f"{role}: expected its series in the index of the study, got none")
    return source_of_series(study.record, (exact or records)[0])


def source_of_series(record: StudyRecord, series: SeriesRecord) -> SourceSeries:
    """The instances behind one series of a study's index, headers read anew.

    Raises:
        NoDicomSource: it is no DICOM, its files changed, or they cannot be cleaned for certain.
    """
    from radloom.pipelines.deidentify.dicom import NotDeidentifiable
    from radloom.pipelines.ingest.archives import unpacked
    from radloom.pipelines.ingest.headers import PARSE_ERRORS
    from radloom.pipelines.ingest.pixels import part_of_record

    if series.reader in FILE_READERS or not series.files:
        raise NoDicomSource("the volume came from no DICOM")
    if record.salt and record.pseudonyms is None:
        raise NoDicomSource("the study stands under pseudonyms that are not known here")
    try:
        with unpacked(record, series) as there:
            part = part_of_record(there.root, series)
            order = tuple(dict.fromkeys(header.path for header in part.slices))
            datasets = tuple(_read(there.root / path, record) for path in order)
    except SeriesRefused as refusal:
        raise NoDicomSource(f"the source cannot be read again: {refusal.code.value}") from refusal
    except NotDeidentifiable as refusal:
        raise NoDicomSource(f"the source cannot be de-identified: {refusal.code}") from refusal
    except PARSE_ERRORS as error:
        reason = f"the source's headers cannot be read ({type(error).__name__})"
        raise NoDicomSource(reason) from error
    return _series(datasets, order, part, series)


def _series(
    datasets: tuple[Dataset, ...], order: Sequence[str], part: Part, series: SeriesRecord
) -> SourceSeries:
    if part.geometry is None:
        raise NoDicomSource("the source says nothing of where its slices lie")
    own = series.reader == "highdicom" and part.n_volumes == 1
    place = {path: index for index, path in enumerate(order)}
    slices = tuple((place[h.path], h.frame) for h in part.slices) if own else ()
    for dataset in datasets:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
            if not _text(dataset, keyword):
                raise NoDicomSource(f"the source lacks {keyword}")
    first = datasets[0]
    frame_of_reference = str(first.get("FrameOfReferenceUID", "") or "").strip()
    return SourceSeries(
        datasets=datasets,
        slices=slices,
        affine=part.geometry.affine,
        shape=part.geometry.shape,
        frame_of_reference_uid=frame_of_reference
        or make_uid("frame of reference", str(first.SeriesInstanceUID)),
    )


def _read(path: Path, record: StudyRecord) -> Dataset:
    """One header, clean where the run asks for it, in values that the standard allows."""
    import pydicom

    from radloom.pipelines.ingest.quiet import quiet_dicom

    with quiet_dicom():
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        for tag in list(dataset.keys()):
            if tag.is_private or 0x6000 <= tag.group <= 0x60FF:  # overlays hold pixels
                del dataset[tag]
        if record.pseudonyms is not None:
            _deidentify(dataset, record)
        _tidy(dataset)
    return dataset


def _deidentify(dataset: Dataset, record: StudyRecord) -> None:
    from radloom.pipelines.deidentify.dicom import deidentify_dataset

    assert record.pseudonyms is not None
    dataset.PixelData = b""  # objects without pixels are refused, and this one's were left behind
    deidentify_dataset(dataset, record.pseudonyms)
    del dataset.PixelData


_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")


def _tidy(dataset: Dataset) -> None:
    """What every object inherits, in the forms of the standard; what has another form goes."""
    for keyword in (
        "StudyDate",
        "SeriesDate",
        "AcquisitionDate",
        "ContentDate",
        "PatientBirthDate",
    ):
        if keyword in dataset and not _DATE.fullmatch(_text(dataset, keyword)):
            setattr(dataset, keyword, "")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        if keyword in dataset and not _TIME.fullmatch(_text(dataset, keyword)):
            setattr(dataset, keyword, "")
    charset = dataset.get("SpecificCharacterSet")
    if isinstance(charset, Sequence) and not isinstance(charset, str) and not charset[0]:
        # the same, in the words that highdicom knows (PS3.3 C.12.1.1.2)
        dataset.SpecificCharacterSet = ["ISO 2022 IR 6", *charset[1:]]
    sex = _text(dataset, "PatientSex").upper()
    dataset.PatientSex = sex if sex in ("M", "F", "O") else ""
    for keyword in _TYPE_2:
        if keyword not in dataset:
            setattr(dataset, keyword, "")


_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""There, though perhaps empty (PS3.3 C.7.1.1 Patient, C.7.2.1 General Study)."""


def _text(dataset: Dataset, keyword: str) -> str:
    value: Any = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \x00")
