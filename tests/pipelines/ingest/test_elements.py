from __future__ import annotations

import io
import random

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from radloom.pipelines.ingest import headers
from radloom.pipelines.ingest.elements import Bounded, Elements, Unusual, read_elements
from radloom.pipelines.ingest.headers import PARSE_ERRORS, quiet_dicom
from radloom.pipelines.ingest.scan import scan_folder


def by_pydicom(content: bytes, path: str) -> list[headers.SliceHeader]:
    with quiet_dicom():
        dataset = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
        return headers._slices(dataset, path)


def written(syntax: str, **tags: object) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    dataset.SOPInstanceUID = "1.2.3"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def read(content: bytes) -> Elements:
    return read_elements(io.BytesIO(content), len(content))[0]


SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

VALUES = {
    "ImageType": ["ORIGINAL", "PRIMARY", "M"],
    "SeriesDescription": "T1 of the head",
    "EchoTime": "2.98",
    "PixelSpacing": ["0.9", "1.10"],
    "InstanceNumber": "007",
    "Rows": 256,
    "RescaleSlope": "",
    "DiffusionBValue": 1000.5,
    "AcquisitionTime": "101112.130000",
    "FrameOfReferenceUID": "1.2.3.4.5",
    "InversionTimes": [900.0, 2700.0],
    "ImageComments": "long " * 300,
}


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("keyword", VALUES)
def test_a_value_reads_as_pydicom_reads_it(syntax, keyword):
    content = written(syntax, **{keyword: VALUES[keyword]})
    expected = pydicom.dcmread(io.BytesIO(content)).get(keyword)
    got = read(content).get(keyword)
    assert got == expected if not isinstance(got, tuple) else list(got) == list(expected)
    assert str(got) == str(expected)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_nest_and_iterate_in_the_order_of_tags(syntax, undefined):
    inner, outer = Dataset(), Dataset()
    inner.EchoTime = "30"
    outer.RepetitionTime = "2000"
    outer.MREchoSequence = Sequence([inner])
    content = written(syntax, SharedFunctionalGroupsSequence=Sequence([outer]), PatientID="x")
    dataset = pydicom.dcmread(io.BytesIO(content))
    for element in dataset:
        element.is_undefined_length = undefined and element.VR == "SQ"
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset)
    elements = read(stream.getvalue())
    (item,) = elements.get("SharedFunctionalGroupsSequence")
    assert [element.VR for element in item] == ["DS", "SQ"]
    assert item.get("MREchoSequence")[0].get("EchoTime") == 30
    assert elements["SharedFunctionalGroupsSequence"].value[0].get("RepetitionTime") == 2000
    assert elements.get("PatientID") == "x"


CHARACTER_SETS = {
    "Müller": "ISO_IR 100",
    "Müller, Ł": "ISO_IR 192",
    "テスト": ["", "ISO 2022 IR 87"],
    "Ελλάδα": "ISO_IR 126",
}


@pytest.mark.parametrize(("text", "charset"), CHARACTER_SETS.items())
def test_text_in_every_character_set(text, charset):
    content = written(ExplicitVRLittleEndian, SpecificCharacterSet=charset, SeriesDescription=text)
    assert read(content).get("SeriesDescription") == text


def test_private_elements_are_named_by_their_creator():
    for syntax in SYNTAXES:
        dataset = pydicom.dcmread(io.BytesIO(written(syntax)))
        dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, dataset)
        elements = read(stream.getvalue())
        assert (0x0019, 0x100C) in elements
        assert elements[0x0019, 0x100C].value == 1000


def test_a_long_value_is_passed_over_and_what_follows_is_found():
    dataset = pydicom.dcmread(io.BytesIO(written(ExplicitVRLittleEndian, SeriesNumber="4")))
    dataset.private_block(0x0019, "BLOB", create=True).add_new(0x01, "OB", bytes(200_000))
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset)
    content = stream.getvalue()
    counted = Counted(content)
    elements, _ = read_elements(counted, len(content))
    assert elements.get("SeriesNumber") == 4
    assert counted.n < 50_000
    with pytest.raises(Unusual):
        _ = elements[0x0019, 0x1001].value


class Counted(io.BytesIO):
    n = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.n += len(content)
        return content


def test_a_file_that_claims_too_much_is_left_to_pydicom():
    content = bytearray(written(ExplicitVRLittleEndian, SeriesNumber="4"))
    at = content.index(b"IS") + 2
    content[at : at + 2] = b"\xfe\xff"
    with pytest.raises(Unusual):
        read(bytes(content))
    bounded = Bounded(io.BytesIO(b"abc"), 3)
    assert (bounded.read(1 << 40), bounded.read()) == (b"abc", b"")


def test_what_is_remembered_of_one_file_never_speaks_for_another(tmp_path, series):
    series(tmp_path, edit=lambda d, k: setattr(d, "EchoTime", 10 + k % 2))
    files = sorted(tmp_path.iterdir())
    echoes = [headers.read_headers(f, f.name)[0].echo_time_ms for f in files]
    assert echoes == [10.0 + k % 2 for k in range(5)]
    assert headers.read_headers(files[0], "x")[0].facts["EchoTime"] == pytest.approx(0.01)


@pytest.mark.real_data
@pytest.mark.slow
def test_every_real_file_reads_as_pydicom_reads_it(real_data):
    n_same = n_left = 0
    for found in scan_folder(real_data):
        if found.kind != "dicom":
            continue
        content = (real_data / found.path).read_bytes()
        try:
            with quiet_dicom():
                got = headers._slices(read(content), found.path)
        except Unusual:
            n_left += 1
            continue
        expected = by_pydicom(content, found.path)
        assert repr(got) == repr(expected), found.path
        n_same += 1
    assert n_same > 20 * n_left > 0


@pytest.mark.real_data
def test_a_damaged_file_is_never_read_otherwise_than_pydicom_reads_it(real_data):
    generator = random.Random(7)
    files = [f for f in scan_folder(real_data / "dicom" / "nih") if f.kind == "dicom"][:4]
    n_read = 0
    for found in files:
        content = (real_data / "dicom" / "nih" / found.path).read_bytes()[:40_000]
        for _ in range(40):
            damaged = bytearray(content)
            for _ in range(generator.randrange(1, 4)):
                damaged[generator.randrange(132, 12_000)] = generator.randrange(256)
            n_read += same_or_left(bytes(damaged), found.path)
    assert n_read > 60


def same_or_left(content: bytes, path: str) -> bool:
    try:
        with quiet_dicom():
            got = headers._slices(read(content), path)
    except (Unusual, *PARSE_ERRORS):
        return False
    try:
        expected = by_pydicom(content, path)
    except PARSE_ERRORS:
        return False  # pydicom decodes all of a sequence, also what nobody asked for
    assert repr(got) == repr(expected)
    return True
