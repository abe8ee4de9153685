"""The study's report as Encapsulated PDF: volumes, checks, pictures; no patient in its text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from radloom import __version__
from radloom.pipelines.export.dicom.equipment import RESEARCH
from radloom.pipelines.export.dicom.heading import Heading, finish, require
from radloom.pipelines.export.dicom.pdf import Block, Line, Picture, make_pdf
from radloom.pipelines.export.dicom.pictures import pictures_of, rgb_of, title_of
from radloom.pipelines.export.dicom.references import image_reference
from radloom.pipelines.export.dicom.result import Desk, ObjectSeries, content_digest
from radloom.pipelines.receipts.plain import plain
from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.study import Study

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["check_document", "document_dataset", "document_series", "report_pdf"]

ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"

_TITLE = "Radloom report"


def document_series(study: Study, desk: Desk) -> Iterator[ObjectSeries]:
    """One document for the study; none where the stage `report` has drawn nothing yet.

    Raises:
        NoDicomSource: no volume of the study came from DICOM.
    """
    pictures = pictures_of(study)
    if not pictures:
        return
    tables = study.find(kind="table", name="volumes")
    heading = desk.heading(
        "document",
        "report",
        "Report",
        content_digest(*pictures, *tables, plain(study.checks), study.record.key),
        desk.any_source(),
    )
    content = report_pdf(study)
    yield ObjectSeries(
        kind="document",
        role="",
        name="report",
        datasets=[document_dataset(content, heading)],
        check=partial(check_document, content=content),
        entities={"desc": ""},
    )


def report_pdf(study: Study) -> bytes:
    """The report of one study as PDF."""
    blocks: list[Block] = [
        Line(_TITLE, 18, "bold"),
        Line(f"Study {study.record.key}, Radloom {__version__}", 10),
        Line(RESEARCH.capitalize() + ".", 10, "bold"),
        Line(""),
    ]
    blocks.extend(_volume_lines(study))
    blocks.extend(_check_lines(study))
    for output in pictures_of(study):
        blocks += [Picture(rgb_of(output), Line(title_of(output), 11, "bold")), Line("")]
    return make_pdf(blocks, title=f"{_TITLE} {study.record.key}")


def _volume_lines(study: Study) -> Iterator[Line]:
    for output in study.find(kind="table", name="volumes"):
        yield Line(f"Volumes, {output.role}", 11, "bold")
        for row in output.table:
            if float(row["volume_ml"]):
                yield Line(f"{row['structure']!s:<48.48} {row['volume_ml']:>12.4f} mL", 8, "mono")
        yield Line("")


def _check_lines(study: Study) -> Iterator[Line]:
    for stage, checks in study.checks.items():
        if not checks:
            continue
        yield Line(f"Checks of {stage}", 11, "bold")
        for check in checks:
            mark = "LOOK" if check.flagged else "ok"
            text = (
                f"{mark:<5}{check.name:<44.44}{check.value:>12.5g} {check.unit:<7}{_range(check)}"
            )
            yield Line(text, 8, "mono")
            if check.flagged:
                for line in textwrap.wrap(check.meaning, 96):
                    yield Line(f"     {line}", 8)
        yield Line("")


def _range(check: Check) -> str:
    low = "" if check.low is None else f"{check.low:g}"
    high = "" if check.high is None else f"{check.high:g}"
    return f"[{low} .. {high}]" if low or high else ""


def document_dataset(content: bytes, heading: Heading) -> Dataset:
    """One finished Encapsulated PDF (PS3.3 A.45.1)."""
    from pydicom.dataset import Dataset

    dataset: Any = Dataset()
    dataset.SOPClassUID = ENCAPSULATED_PDF
    dataset.Modality = "DOC"
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "NO"
    dataset.ContentDate = ""
    dataset.AcquisitionDateTime = ""
    dataset.DocumentTitle = f"{_TITLE}, {RESEARCH}"
    dataset.ConceptNameCodeSequence = []
    dataset.SourceInstanceSequence = [
        image_reference(instance) for source in heading.sources for instance in source.datasets
    ]
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(content)
    dataset.EncapsulatedDocument = content + b"\x00" * (len(content) % 2)
    return finish(dataset, heading)


def check_document(datasets: Sequence[Dataset], *, content: bytes) -> Iterable[Check]:
    """Nothing, if the document that a read gives is the one that was made.

    Raises:
        StageFailed: it is another.
    """
    dataset = datasets[0]
    read = dataset.EncapsulatedDocument[: int(dataset.EncapsulatedDocumentLength)]
    require(read == content, "encapsulated PDF", f"{len(content)} bytes as made", "others")
    return ()
