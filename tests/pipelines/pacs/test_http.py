"""DICOMweb against servers that misbehave: bounded, explained, and without identifiers."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from radloom.errors import PacsFailed
from radloom.pipelines.pacs.address import WebAddress
from radloom.pipelines.pacs.dicomweb import DicomWeb
from radloom.pipelines.pacs.fetch import fetch
from radloom.pipelines.pacs.http import WebClient
from radloom.pipelines.pacs.identity import TLS, read_credentials
from radloom.pipelines.pacs.query import parse_query

QUERY = parse_query(["PatientID=SECRET-7"])


@contextmanager
def serving(answer, *, context=None, times: int = 50):
    """A server that gives each request's socket and text to `answer`; yields port and requests."""
    asked: list[str] = []
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.1)
    stop = threading.Event()

    def serve_one(connection: socket.socket) -> None:
        try:
            with connection:
                secured = (
                    context.wrap_socket(connection, server_side=True) if context else connection
                )
                with secured:
                    text = b""
                    while b"\r\n\r\n" not in text:
                        piece = secured.recv(4096)
                        if not piece:
                            return
                        text += piece
                    asked.append(text.decode("latin-1"))
                    answer(secured, asked[-1])
        except OSError:
            pass

    def serve() -> None:
        for _ in range(times * 100):
            if stop.is_set():
                return
            try:
                connection, _address = listening.accept()
            except TimeoutError:
                continue
            connection.settimeout(5)
            serve_one(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1], asked
    finally:
        stop.set()
        thread.join()
        listening.close()


def reply(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def web(port: int, limits, **options) -> DicomWeb:
    return DicomWeb(
        WebClient(WebAddress("http", "127.0.0.1", port, "/dw"), limits=limits, **options)
    )


@pytest.mark.parametrize(
    ("status", "passing", "hint"),
    [
        ("401 No", False, "--credentials"), ("403 No", False, "credentials"),
        ("404 No", False, "is the path right"), ("302 Go", False, "sends elsewhere"),
        ("500 Oh", True, "it failed"), ("503 Later", True, "busy"), ("418 Tea", False, "418"),
    ],
)  # fmt: skip
def test_each_status_is_explained_and_tried_again_only_if_it_may_pass(
    tmp_path, limits, status, passing, hint
):
    answer = reply(status, b"SECRET-7", "Location: http://127.0.0.1:1/x")
    with serving(lambda s, _: s.sendall(answer)) as (port, asked):
        with pytest.raises(PacsFailed, match=hint) as caught:
            fetch(web(port, limits), QUERY, tmp_path / "in", limits=limits, sleep=lambda _: None)
        assert len(asked) == (limits.attempts if passing else 1)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>no</html>", "DICOM JSON"),
        (b'{"a": 1}', "DICOM JSON"),
        (b"[" * 200_000, "DICOM JSON"),
        (b'[{"0020000D": {"vr": "UI", "Value": ["../../etc/passwd"]}}]', "expected a UID"),
        (b"[{}]", "expected a UID"),
        (b"x" * 70_000, "longer than"),
    ],
    ids=["html", "object", "nested", "path", "nothing", "long"],
)
def test_answers_to_queries_are_bounded_and_looked_at(limits, body, why):
    tight = replace(limits, answer_bytes=max(60_000, 300_000 if b"[[" in body else 0))
    with (
        serving(lambda s, _: s.sendall(reply("200 OK", body))) as (port, _),
        pytest.raises(PacsFailed, match=why),
    ):
        web(port, tight).find_studies(QUERY)


def test_pages_without_end_end(limits):
    number = iter(range(10**9))

    def page(connection, _):
        uids = [f"1.2.{next(number)}" for _ in range(50)]
        items = [{"0020000D": {"vr": "UI", "Value": [uid]}} for uid in uids]
        connection.sendall(reply("200 OK", json.dumps(items).encode()))

    with serving(page) as (port, asked):
        with pytest.raises(PacsFailed, match="more than 120"):
            web(port, replace(limits, studies=120)).find_studies(QUERY)
        assert len(asked) == 3


def trickle(connection, _):
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9999\r\n\r\n"
    )
    for _ in range(100):
        connection.sendall(b"x")
        time.sleep(0.1)


def trickling_headers(connection, _):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(100):
        connection.sendall(f"X-{number}: x\r\n".encode())
        time.sleep(0.1)


@pytest.mark.parametrize(
    "answer", [trickle, trickling_headers, lambda s, _: time.sleep(6)],
    ids=["body", "headers", "silent"],
)  # fmt: skip
def test_a_server_that_trickles_or_stays_silent_is_left(limits, answer):
    impatient = replace(limits, stall_s=0.4, answer_s=0.8)
    with serving(answer) as (port, _):
        started = time.monotonic()
        with pytest.raises(PacsFailed) as caught:
            web(port, impatient).find_studies(QUERY)
        assert time.monotonic() - started < 4
    assert caught.value.passing


def multipart(*bodies: bytes, end: bytes = b"--B--\r\n") -> bytes:
    parts = b"".join(
        b"--B\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n" for body in bodies
    )
    return reply(
        "200 OK",
        parts + end,
        'Content-Type: multipart/related; type="application/dicom"; boundary=B',
    )


def items(*uids: str, tag: str) -> bytes:
    return reply(
        "200 OK", json.dumps([{tag: {"vr": "UI", "Value": [uid]}} for uid in uids]).encode()
    )


def pacs(paths, wado):
    """A DICOMweb service that lists `paths` as one series, and gives `wado` for each retrieval."""

    def answer(connection, text: str) -> None:
        line = text.split("\r\n", 1)[0]
        if "offset=0" not in line and "?" in line:
            connection.sendall(reply("204 Empty"))
        elif "/studies?" in line:
            connection.sendall(items("1.2.826.1", tag="0020000D"))
        elif "/series?" in line:
            connection.sendall(items(paths[0].head.series_uid, tag="0020000E"))
        elif "/instances?" in line:
            connection.sendall(items(*(p.head.sop_uid for p in paths), tag="00080018"))
        else:
            wado(connection, line)

    return answer


def test_a_broken_connection_costs_only_what_was_on_its_way(tmp_path, limits, objects):
    files = objects.stored(objects.write("a", n=4))
    contents = [f.path.read_bytes() for f in files]
    tries = []

    def wado(connection, line):
        tries.append(line)
        if len(tries) == 1:
            connection.sendall(multipart(*contents[:2], contents[2])[:-400])
            return
        wanted = [c for f, c in zip(files, contents, strict=True) if f.head.sop_uid + " " in line]
        connection.sendall(multipart(*wanted))

    with serving(pacs(files, wado)) as (port, _):
        found = fetch(web(port, limits), QUERY, tmp_path / "in", limits=limits)
    assert (found.n_new, found.failures) == (4, ())
    assert len(tries) == 3  # once all, then the two that lacked
    assert set(objects.below(found.studies)) == {f.head.sop_uid for f in files}


def test_what_nobody_asked_for_is_not_kept_and_lies_fail_the_study(tmp_path, limits, objects):
    files = objects.stored(objects.write("a", n=1))
    stranger = objects.stored(objects.write("b", n=1, study="1.2.826.9"))

    def wado(connection, _):
        connection.sendall(multipart(stranger[0].path.read_bytes()))

    with serving(pacs(files, wado)) as (port, _):
        found = fetch(web(port, limits), QUERY, tmp_path / "in", limits=limits)
    assert found.failures == (
        "study 1 of 1: 1 of 1 instances missing: the PACS lists more than it sends",
    )
    assert objects.below(tmp_path / "in") == {}


@pytest.mark.parametrize(
    "body",
    [b"", b"x" * 3000, bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\xff" * 5000,
     bytes(128) + b"DICM" + b"\x08\x00\x05\x00UN\0\0\xff\xff\xff\x7f" + b"y" * 100],
    ids=["empty", "text", "no elements", "ff", "huge length"],
)  # fmt: skip
def test_parts_that_are_no_dicom_leave_nothing(tmp_path, limits, objects, body):
    files = objects.stored(objects.write("a", n=1))
    with serving(pacs(files, lambda s, _: s.sendall(multipart(body)))) as (port, _):
        found = fetch(web(port, limits), QUERY, tmp_path / "in", limits=limits)
    assert len(found.failures) == 1
    assert not list((tmp_path / "in").rglob("*.dcm"))
    assert not list((tmp_path / "in" / "receiving").iterdir())


def test_an_instance_without_end_is_cut_off(tmp_path, limits, objects):
    files = objects.stored(objects.write("a", n=1))
    written = []

    def flood(connection, _):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/related; boundary=B\r\n\r\n--B\r\n\r\n"
        connection.sendall(head)
        for _ in range(1000):
            connection.sendall(b"z" * 65536)
            written.append(65536)

    tight = replace(limits, instance_bytes=1 << 20)
    with serving(pacs(files, flood)) as (port, _):
        found = fetch(web(port, tight), QUERY, tmp_path / "in", limits=tight)
    assert "longer than" in found.failures[0]
    assert sum(written) < 20 << 20
    assert not list((tmp_path / "in" / "receiving").iterdir())


def test_credentials_go_into_the_header_and_nowhere_else(tmp_path, limits):
    secret = tmp_path / "secret"
    secret.write_text("bearer t0ken\n")
    secret.chmod(0o600)
    credentials = read_credentials(secret)
    with (
        serving(lambda s, _: s.sendall(reply("401 No"))) as (port, asked),
        pytest.raises(PacsFailed) as caught,
    ):
        web(port, limits, credentials=credentials).find_studies(QUERY)
    assert "Authorization: Bearer t0ken" in asked[0]
    assert "t0ken" not in f"{caught.value} {credentials!r}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    return folder


def test_tls_is_verified(limits, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    body = items("1.2.3", tag="0020000D")

    def answer(connection, text):
        connection.sendall(body if "offset=0" in text else reply("204 Empty"))

    with serving(answer, context=context) as (port, _):
        address = WebAddress("https", "127.0.0.1", port, "")
        trusting = WebClient(address, tls=TLS(certificate / "cert.pem"), limits=limits)
        assert DicomWeb(trusting).find_studies(QUERY) == ["1.2.3"]
        with pytest.raises(PacsFailed, match="expected TLS that holds") as caught:
            DicomWeb(WebClient(address, limits=limits)).find_studies(QUERY)
    assert not caught.value.passing


def test_dicom_over_tls_with_certificates_on_both_ends(tmp_path, limits, certificate, objects):
    pytest.importorskip("pynetdicom")
    from radloom.pipelines.pacs.address import DimseAddress
    from radloom.pipelines.pacs.association import Caller
    from radloom.pipelines.pacs.dimse import Dimse
    from radloom.pipelines.pacs.listen import Listener, Settings

    both = TLS(certificate / "cert.pem", certificate / "cert.pem", certificate / "key.pem")
    ports: list[int] = []
    ready = threading.Event()
    listener = Listener(tmp_path / "in", Settings(0, tls=both, limits=limits), lambda _: "over")
    thread = threading.Thread(
        target=listener.serve, args=(lambda p: (ports.append(p), ready.set()),)
    )
    thread.start()
    try:
        assert ready.wait(10)
        address = DimseAddress("RADLOOM", "127.0.0.1", ports[0], tls=True)
        files = objects.stored(objects.write("a", n=1))
        with socket.create_connection(("127.0.0.1", ports[0])):  # says nothing: no one waits for it
            results = Dimse(Caller(address, tls=both, limits=limits)).store(files)
            assert results[files[0].head.sop_uid].accepted
        alone = TLS(certificate / "cert.pem")
        with pytest.raises(PacsFailed):
            Dimse(Caller(address, tls=alone, limits=limits)).store(files)
        with pytest.raises(PacsFailed, match="expected TLS that holds"):
            Dimse(Caller(address, tls=TLS(), limits=limits)).store(files)
        with pytest.raises(PacsFailed):
            Dimse(Caller(replace(address, tls=False), limits=limits)).store(files)
    finally:
        listener.stop()
        thread.join(10)
