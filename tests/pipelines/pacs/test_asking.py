"""Addresses, queries, secrets: what a user may say, and what is refused without repeating it."""

from __future__ import annotations

import pytest

from radloom.errors import ConfigError, PacsFailed
from radloom.pipelines.pacs.address import parse_address, parse_dimse, parse_web
from radloom.pipelines.pacs.head import HEAD_BYTES, read_head
from radloom.pipelines.pacs.identity import TLS, read_credentials
from radloom.pipelines.pacs.multipart import boundary_of, split
from radloom.pipelines.pacs.query import parse_query


@pytest.mark.parametrize(
    "text",
    [
        "dicomweb+ftp://h/x", "dicomweb+http://", "dicomweb+http://h/../x", "dicomweb+http://h/x?a=b",
        "dicom://HOST:104", "dicom://A@host", "dicom://A@host:99999", "dicom://TOO-LONG-A-TITLE-X@h:1",
        "dicom://A\\B@h:1", "dicom://A@h:1/x", "http://h/x",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError, match="expected"):
        parse_address(text)


def test_addresses_say_the_same_again():
    for text in ("dicomweb+https://h:8443/a/b", "dicom://AE 1@[::1]:104", "dicom+tls://A@h:2762"):
        assert str(parse_address(text)) == text
    assert parse_dimse("A@h:104") == parse_address("dicom://A@h:104")


def test_a_password_in_an_address_is_refused_and_not_shown():
    with pytest.raises(ConfigError, match="--credentials") as caught:
        parse_web("http://me:hunter2@h/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [[], ["Modality=MR"], ["Nonsense=1"], ["PatientID="], ["PatientID"], ["PatientID=a\\b"],
     ["StudyInstanceUID=../x"], ["PatientID=" + "x" * 400], ["@absent"]],
)  # fmt: skip
def test_a_query_that_selects_nothing_or_nonsense_is_refused(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="expected"):
        parse_query(words)


def test_a_query_may_come_from_a_file_and_is_never_shown(tmp_path):
    path = tmp_path / "query"
    path.write_text("# those of the trial\nPatientID=SECRET-7\n\nModality=MR\n")
    query = parse_query([f"@{path}", "PatientID=8"])
    assert query.studies == ({"PatientID": "SECRET-7"}, {"PatientID": "8"})
    assert query.series == ({"Modality": "MR"},)
    assert "SECRET" not in repr(query)


@pytest.mark.parametrize("text", ["", "token", "bearer a b", "basic nobody", "digest x:y"])
def test_credentials_have_one_of_two_forms(tmp_path, text):
    path = tmp_path / "c"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="expected one line"):
        read_credentials(path)


def test_credentials_that_others_can_read_are_refused(tmp_path):
    path = tmp_path / "c"
    path.write_text("basic me:hunter2")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        read_credentials(path)
    assert "hunter2" not in str(caught.value)
    path.chmod(0o600)
    assert read_credentials(path).header == "Basic bWU6aHVudGVyMg=="


def test_tls_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="expected PEM"):
        TLS(ca=tmp_path / "x.pem").for_client()
    with pytest.raises(ConfigError, match="expected PEM"):
        TLS(cert=tmp_path / "absent.pem").for_client()
    with pytest.raises(ConfigError, match="--tls-cert"):
        TLS(ca=tmp_path / "x.pem").for_server()
    with pytest.raises(ConfigError, match="together with --tls-key"):
        TLS(key=tmp_path / "x.pem").for_client()


@pytest.mark.parametrize(
    "kind", ["text/html", "multipart/related", "multipart/related; boundary=" + "x" * 500]
)
def test_only_multipart_with_a_boundary_is_taken_apart(kind):
    with pytest.raises(PacsFailed, match="expected a multipart"):
        boundary_of(kind)


def test_a_message_is_taken_apart_the_same_however_it_arrives():
    message = b"pre\r\n--b\r\nContent-Type: x\r\n\r\none\r\n-\r\n--b\r\n\r\n\r\n--b--\r\nafter"
    for size in range(1, len(message) + 1):
        pieces = [message[i : i + size] for i in range(0, len(message), size)]
        bodies: list[bytes] = []
        for event in split(pieces, b"b"):
            if isinstance(event, bytes):
                bodies[-1] += event
            elif type(event).__name__ == "PartBegin":
                bodies.append(b"")
        assert bodies == [b"one\r\n-", b""]


@pytest.mark.parametrize(
    "message", [b"", b"--b\r\n\r\nab", b"x" * 99_000, b"--b\r\n" + b"y" * 99_000]
)
def test_a_message_that_does_not_end_or_begin_is_refused(message):
    with pytest.raises(PacsFailed):
        list(split([message], b"b"))


def test_bombs_cost_little():
    import tracemalloc
    import zlib

    deflate = zlib.compressobj(wbits=-15)
    bomb = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(64)) + deflate.flush()
    nested = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x05\x00SQ\0\0\xff\xff\xff\xff" * 4_000
    sequence = b"\x08\x00\x05\x00SQ\0\0\xff\xff\xff\xff"
    tracemalloc.start()
    for content, syntax in [
        (bomb[:HEAD_BYTES], "1.2.840.10008.1.2.1.99"),
        (sequence + nested, "1.2.840.10008.1.2.1"),
        (b"\x08\x00\x05\x00OB\0\0\xfe\xff\xff\xff", "1.2.840.10008.1.2.1"),
    ]:
        with pytest.raises(PacsFailed):
            read_head(content, syntax)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
