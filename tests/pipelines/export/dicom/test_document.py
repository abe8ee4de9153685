import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radloom.errors import StageFailed
from radloom.pipelines.export.dicom.document import document_series, report_pdf
from radloom.pipelines.export.dicom.heading import file_bytes, read_file_bytes
from radloom.pipelines.export.dicom.pdf import Line, Picture, make_pdf
from radloom.pipelines.export.dicom.pictures import picture_series
from radloom.pipelines.export.dicom.result import Desk
from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.study import Output, Study


def _png(seed: int, rows: int) -> bytes:
    rgb = np.random.default_rng(seed).integers(0, 255, (rows, 30, 3)).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def reported(study: Study) -> Study:
    pictures = tuple(
        Output("report", role, stage, _png(number, 20 + number), sidecar={"stage": stage})
        for number, (stage, role) in enumerate([("ingest", "t1"), ("register", "t2")])
    )
    checks = (Check("t2_(odd)\\name", 99.0, high=1.0, unit="mm", meaning="Look " * 40),)
    return study.with_outputs("register", (), checks).with_outputs("report", pictures)


def test_captures_hold_the_pictures(
    reported: Study, validate: Callable[[bytes], list[str]]
) -> None:
    (series,) = picture_series(reported, Desk(reported, "f"))
    back = [read_file_bytes(file_bytes(ds)) for ds in series.datasets]
    assert list(series.check(back)) == []
    for number, dataset in enumerate(back):
        with Image.open(BytesIO(_png(number, 20 + number))) as image:
            np.testing.assert_array_equal(dataset.pixel_array, np.asarray(image))
        assert validate(file_bytes(series.datasets[number])) == []
    assert back[1].ImageComments.startswith("register, t2.")
    assert "research" in back[0].ImageComments
    back[1].PixelData = bytes(len(back[1].PixelData))
    with pytest.raises(StageFailed, match="capture of register, t2: a read gives others"):
        series.check(back)


def test_document_holds_the_pdf(reported: Study, validate: Callable[[bytes], list[str]]) -> None:
    (series,) = document_series(reported, Desk(reported, "f"))
    (dataset,) = series.datasets
    content = file_bytes(dataset)
    assert content == file_bytes(next(document_series(reported, Desk(reported, "f"))).datasets[0])
    assert validate(content) == []
    back = read_file_bytes(content)
    assert back.EncapsulatedDocument[: back.EncapsulatedDocumentLength] == report_pdf(reported)
    assert list(series.check([back])) == []
    assert b"Mustermann" not in report_pdf(reported)
    back.EncapsulatedDocument = back.EncapsulatedDocument[:-9] + b"x" * 9
    with pytest.raises(StageFailed, match="encapsulated PDF"):
        series.check([back])


def test_another_program_reads_text_and_pages(reported: Study, tmp_path: Path) -> None:
    program = shutil.which("pdftotext")
    if program is None:
        pytest.skip("pdftotext (Debian package poppler-utils) is not here")
    path = tmp_path / "report.pdf"
    path.write_bytes(report_pdf(reported))
    done = subprocess.run(
        [program, "-layout", str(path), "-"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert "t2_(odd)\\name" in done.stdout
    assert "For research use, not for diagnosis." in done.stdout
    assert "LOOK" in done.stdout


def test_pages_break_where_they_are_full() -> None:
    picture = Picture(np.zeros((100, 100, 3), np.uint8), Line("caption"))
    assert make_pdf([picture, picture], title="t").count(b"/Type /Page ") == 2
    assert make_pdf([Line("x")] * 20, title="t").count(b"/Type /Page ") == 1
    assert make_pdf([Line("x")] * 200, title="t").count(b"/Type /Page ") == 4


def test_offsets_of_the_file_are_those_of_its_objects() -> None:
    content = make_pdf([Line("a (b) \\c"), Picture(np.zeros((3, 4, 3), np.uint8))], title="t")
    start = int(content.rsplit(b"startxref\n", 1)[1].split()[0])
    assert content[start : start + 4] == b"xref"
    offsets = [int(row[:10]) for row in content[start:].split(b"\n")[3:] if row.endswith(b" n ")]
    for number, offset in enumerate(offsets, start=1):
        assert content[offset:].startswith(b"%d 0 obj" % number)


def test_a_study_without_pictures_has_neither(study: Study) -> None:
    assert list(picture_series(study, Desk(study, "f"))) == []
    assert list(document_series(study, Desk(study, "f"))) == []
