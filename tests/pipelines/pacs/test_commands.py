"""The commands towards a PACS, as a user gives them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from radloom import cli
from radloom.pipelines.deidentify.keys import make_key
from radloom.pipelines.pacs.address import DimseAddress
from radloom.pipelines.pacs.association import Caller
from radloom.pipelines.pacs.dimse import Dimse


def radloom(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", ".", "out", "--query", "PatientID=7"), "expected the address of a PACS"),
        (("run", "dicomweb+http://h/x", "out"), "expected --query"),
        (("run", "dicom://h:1", "out", "--query", "PatientID=7"), "expected dicomweb+http://"),
        (("inspect", "dicom://A@h:1", "--query", "PatientID=7"), "expected --incoming"),
        (("convert", "dicom://A@h:1", "out", "--query", "PatientID=7", "--incoming", "out/in"),
         "outside of"),
        (("send", "made"), "both or neither"),
        (("send", "made", "--dicom", "A@h"), "dicom://AET@HOST:PORT"),
        (("send", "made", "--dicomweb", "http://u:p@h/x"), "--credentials"),
        (("send", "made", "--dicom", "A@h:1", "--credentials", "x"), "with dicom://"),
        (("send", "absent", "--dicom", "A@h:1"), "expected a folder"),
        (("listen", "--port", "0", "--out", "out", "--host", "0.0.0.0"), "expected --allow"),
        (("listen", "--port", "0", "--out", "out", "--workflow", "absent.yaml"), "absent.yaml"),
        (("listen", "--port", "0", "--out", "out", "--incoming", "out/in"), "outside of"),
        (("listen", "--port", "0", "--out", "out", "--allow", "A" * 17), "AE title"),
    ],
)  # fmt: skip
def test_unusable_arguments_are_told_at_once(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made" / "stages").mkdir(parents=True)
    (tmp_path / "made" / "manifest.json").write_text("[]")
    code, text = radloom(*words)
    assert (code, message in text) == (2, True), text


def test_send_and_inspect_speak_with_a_pacs(orthanc, tmp_path, objects):
    out = objects.run(tmp_path / "out", objects.write("a", n=3))
    url = f"http://127.0.0.1:{orthanc.http_port}/dicom-web"
    code, text = radloom("send", out, "--dicomweb", url, "--dry-run")
    assert (code, text.count("would be sent: sub-x")) == (0, 3)
    code, text = radloom("send", out, "--dicomweb", url)
    assert (code, "3 objects: 3 sent, 0 there already, 0 failed" in text) == (0, True), text
    code, text = radloom("send", out, "--dicom", f"WRONG@127.0.0.1:{orthanc.dicom_port}")
    assert code == 1
    assert "3 not sent" in text
    assert "its AE title is not WRONG" in text
    query = ["--query", "PatientID=SECRET-7", "--incoming", tmp_path / "in"]
    done = subprocess.run(
        [sys.executable, "-m", "radloom", "inspect", f"dicomweb+{url}", "--json", *query],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [row["modality"] for row in json.loads(done.stdout)] == ["MR"]
    assert "SECRET" not in done.stderr
    assert "DOE" not in done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_listener_that_is_killed_loses_nothing_and_ends_in_good_order(
    tmp_path, objects, small_study, limits
):
    files = objects.stored(list(objects.below(small_study).values()))
    port, out = free_port(), tmp_path / "out"
    (tmp_path / "w.yaml").write_text("name: ingest\nstages:\n  - stage: ingest\n")
    make_key(tmp_path / "k")
    command = [
        sys.executable, "-m", "radloom", "listen", "--port", port, "--out", out, "--settle", "1",
        "--workflow", tmp_path / "w.yaml", "--deidentify", tmp_path / "k", "--device", "cpu",
    ]  # fmt: skip

    def start() -> subprocess.Popen[bytes]:
        started = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:  # noqa: PERF203  # each turn asks the network
                time.sleep(0.1)
            else:
                return started
        pytest.fail("the listener does not listen")

    listener = start()
    results = Dimse(Caller(DimseAddress("RADLOOM", "127.0.0.1", port), limits=limits)).store(files)
    assert all(result.accepted for result in results.values())
    listener.kill()
    listener.wait()
    listener = start()
    try:
        for _ in range(900):
            # not rglob: it fails where a folder is renamed below it, as the stage does at its end
            if list(out.glob("stages/*/ingest/stage.json")) and list(
                (tmp_path / "out.incoming/state").iterdir()
            ):
                break
            time.sleep(0.1)
    finally:
        listener.send_signal(signal.SIGTERM)
        assert listener.wait(60) == 0
    (study,) = (tmp_path / "out.incoming" / "studies").iterdir()
    assert len(objects.below(study)) == len(files)
    assert (tmp_path / "out.incoming" / "state" / f"{study.name}.json").is_file()
    assert list(out.rglob("*_T1w.nii.gz"))
    assert not list(out.rglob("*.dcm"))
    original = files[0].head.study_uid.encode()
    assert not any(original in p.read_bytes() for p in out.rglob("*") if p.is_file())
