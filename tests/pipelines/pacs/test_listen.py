"""A listener takes studies in, runs each once it has settled, and bears with bad peers."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from radloom.errors import ConfigError, PacsFailed
from radloom.pipelines.pacs.address import DimseAddress
from radloom.pipelines.pacs.association import Caller
from radloom.pipelines.pacs.dimse import Dimse, _from_files
from radloom.pipelines.pacs.inbox import digest_of
from radloom.pipelines.pacs.limits import Limits
from radloom.pipelines.pacs.listen import Listener, Settings


class Runs:
    """What a listener was asked to run: the number of instances each time."""

    def __init__(self, *results: str) -> None:
        self.counts: list[int] = []
        self.folders: list[str] = []
        self.results = list(results)

    def __call__(self, folder: Path) -> str:
        self.folders.append(folder.name)
        self.counts.append(len(list(folder.rglob("*.dcm"))))
        return self.results.pop(0) if self.results else "over"


@contextmanager
def listening(root: Path, runs: Runs, limits: Limits, **settings):
    given = {"port": 0, "settle_s": 0.3, "limits": limits, **settings}
    listener = Listener(root, Settings(**given), runs)
    port: list[int] = []
    ready = threading.Event()
    thread = threading.Thread(
        target=listener.serve, args=(lambda p: (port.append(p), ready.set()),)
    )
    thread.start()
    try:
        assert ready.wait(10)
        yield port[0]
    finally:
        listener.stop()
        thread.join(10)
        assert not thread.is_alive()


def caller(port: int, limits: Limits, title: str = "SCANNER", called: str = "RADLOOM") -> Dimse:
    return Dimse(Caller(DimseAddress(called, "127.0.0.1", port), title, limits=limits))


def until(reached, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_settled_study_is_run_once_and_late_instances_run_it_again(tmp_path, objects, limits):
    files = objects.stored(objects.write("a", n=4))
    runs = Runs()
    with listening(tmp_path / "in", runs, limits) as port:
        peer = caller(port, limits)
        assert all(r.accepted for r in peer.store(files[:3]).values())
        until(lambda: runs.counts == [3])
        peer.store(files[:3])  # the same again is no news
        time.sleep(0.8)
        assert runs.counts == [3]
        peer.store(files[3:])
        until(lambda: runs.counts == [3, 4])
    arrived = objects.below(tmp_path / "in")
    assert set(arrived) == {f.head.sop_uid for f in files}
    assert not any(objects.differences(f.path, arrived[f.head.sop_uid]) for f in files)
    assert runs.folders[0] == digest_of("1.2.826.1")


def test_studies_are_run_apart_and_what_was_not_run_is_taken_up_by_the_next(
    tmp_path, objects, limits
):
    files = objects.stored(objects.write("a") + objects.write("b", study="1.2.826.2"))
    with listening(tmp_path / "in", Runs(), limits, settle_s=60) as port:
        caller(port, limits).store(files)
    runs = Runs("again", "over", "over")
    with listening(tmp_path / "in", runs, limits):
        until(lambda: len(runs.counts) == 3)
    assert runs.counts == [3, 3, 3]
    again = Runs()
    with listening(tmp_path / "in", again, limits):
        time.sleep(0.8)
    assert again.counts == []


def test_an_open_association_keeps_its_study_from_settling(tmp_path, objects, limits):
    from pynetdicom import build_context

    files = objects.stored(objects.write("a", n=2))
    runs = Runs()
    with listening(tmp_path / "in", runs, limits, settle_s=0.2) as port:
        asking = Caller(DimseAddress("RADLOOM", "127.0.0.1", port), limits=limits)
        head = files[0].head
        with asking.associated([build_context(head.sop_class, head.transfer_syntax)]) as open_one:
            open_one.send_c_store(files[0].path)
            time.sleep(0.7)
            assert runs.counts == []
            open_one.send_c_store(files[1].path)
        until(lambda: runs.counts == [2])


def test_only_those_who_may_send_get_in(tmp_path, objects, limits):
    files = objects.stored(objects.write("a", n=1))
    with listening(tmp_path / "in", Runs(), limits, allow=("SCANNER",)) as port:
        with pytest.raises(PacsFailed, match="does not know the AE title STRANGER"):
            caller(port, limits, "STRANGER").store(files)
        with pytest.raises(PacsFailed, match="its AE title is not OTHER"):
            caller(port, limits, called="OTHER").store(files)
        assert caller(port, limits).store(files)[files[0].head.sop_uid].accepted


def test_long_instances_and_studies_are_turned_away(tmp_path, objects, limits):
    long, short = objects.write("long", n=1, size=400), objects.write("short", n=3)
    files = objects.stored(long + short)
    tight = replace(limits, instance_bytes=100_000, memory_bytes=20_000, study_instances=2)
    with listening(tmp_path / "in", Runs(), tight) as port:
        for file in files[1:3]:
            assert caller(port, limits).store([file])[file.head.sop_uid].accepted
        over = caller(port, limits).store(files[3:])[files[3].head.sop_uid]
        assert not over.accepted
        assert "0xA700" in over.status
        assert not caller(port, limits).store(files[:1])[files[0].head.sop_uid].accepted
    assert len(objects.below(tmp_path / "in")) == 2
    assert not list((tmp_path / "in" / "receiving").iterdir())


def test_instances_longer_than_memory_may_be_come_by_a_file(tmp_path, objects, limits):
    files = objects.stored(objects.write("long", n=1, size=512))
    tight = replace(limits, memory_bytes=20_000)
    with listening(tmp_path / "in", Runs(), tight) as port:
        assert caller(port, limits).store(files)[files[0].head.sop_uid].accepted
    arrived = objects.below(tmp_path / "in")[files[0].head.sop_uid]
    assert objects.differences(files[0].path, arrived) == []


def test_a_lying_data_set_is_refused_and_never_names_a_path(tmp_path, objects, limits):
    import pydicom

    (path,) = objects.write("a", n=1)
    item = pydicom.dcmread(path)
    item.file_meta.MediaStorageSOPInstanceUID = "1.2.3"  # the command says another than the data
    item.save_as(path)
    (file,) = objects.stored([path])
    with listening(tmp_path / "in", Runs(), limits) as port:
        result = caller(port, limits).store([file])[file.head.sop_uid]
    assert result.status.startswith("0xA900")
    assert objects.below(tmp_path / "in") == {}


def test_uids_that_are_paths_are_refused(tmp_path, objects, limits):
    from pynetdicom import build_context

    (path,) = objects.write("a", n=1)
    content = path.read_bytes()
    evil = content.replace(b"1.2.826.1\0", b"../../etc\0", 1)
    assert evil != content
    path.write_bytes(evil)
    with listening(tmp_path / "in", Runs(), limits) as port:
        asking = Caller(DimseAddress("RADLOOM", "127.0.0.1", port), limits=limits)
        mr, explicit = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1"
        with asking.associated([build_context(mr, explicit)]) as open_one, _from_files():
            assert open_one.send_c_store(path).Status == 0xC000
    assert not list(tmp_path.rglob("etc"))


def send_raw(port: int, *pieces: bytes, pause: float = 0.0, wait: float = 6.0) -> float:
    """Seconds until the other side has closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as peer:
        started = time.monotonic()
        try:
            for piece in pieces:
                peer.sendall(piece)
                time.sleep(pause)
            while peer.recv(4096):
                pass
        except ConnectionError:
            pass
        return time.monotonic() - started


@pytest.mark.parametrize(
    ("pieces", "pause"),
    [
        ((struct.pack(">BBL", 1, 0, 0xFFFFFFFF), b"x" * 1000), 0.0),
        ((struct.pack(">BBL", 9, 0, 4), b"abcd", struct.pack(">BBL", 1, 0, 0xFFFFFFFF)), 0.0),
        ((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",), 0.0),
        (tuple(bytes([b]) for b in struct.pack(">BBL", 1, 0, 200)) + (b"x",) * 20, 0.25),
        ((), 0.0),
        ((struct.pack(">BBL", 1, 0, 68) + bytes(68),), 0.0),
        ((struct.pack(">BBL", 4, 0, 0),), 0.0),
    ],
    ids=["4 GiB", "no PDU", "HTTP", "trickles", "silent", "empty request", "early data"],
)
def test_peers_that_make_no_sense_are_dropped_and_others_are_served(
    tmp_path, objects, limits, pieces, pause
):
    files = objects.stored(objects.write("a", n=1))
    with listening(tmp_path / "in", Runs(), limits) as port:
        assert send_raw(port, *pieces, pause=pause) < 6
        assert caller(port, limits).store(files)[files[0].head.sop_uid].accepted


def test_too_many_connections_are_turned_away_and_their_places_come_free(tmp_path, objects, limits):
    files = objects.stored(objects.write("a", n=1))
    few = replace(limits, associations=2)
    with listening(tmp_path / "in", Runs(), few) as port:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(12)]
        time.sleep(0.5)
        assert sum("AcceptorThread" in t.name for t in threading.enumerate()) <= 4
        for connection in silent:
            connection.close()
        until(lambda: not any("AcceptorThread" in t.name for t in threading.enumerate()))
        assert caller(port, limits).store(files)[files[0].head.sop_uid].accepted


def test_who_stores_nothing_is_dropped(tmp_path, limits):
    from pynetdicom import build_context

    with listening(tmp_path / "in", Runs(), replace(limits, idle_s=0.5)) as port:
        asking = Caller(DimseAddress("RADLOOM", "127.0.0.1", port), limits=limits)
        with asking.associated([build_context("1.2.840.10008.1.1")]) as open_one:
            assert open_one.send_c_echo().Status == 0
            time.sleep(0.7)
            assert "Status" not in open_one.send_c_echo()


def test_an_association_that_breaks_within_an_instance_leaves_nothing(tmp_path, objects, limits):
    from pynetdicom import build_context

    files = objects.stored(objects.write("long", n=1, size=600))
    with listening(tmp_path / "in", Runs(), replace(limits, memory_bytes=1000)) as port:
        asking = Caller(DimseAddress("RADLOOM", "127.0.0.1", port), limits=limits)
        head = files[0].head
        with asking.associated([build_context(head.sop_class, head.transfer_syntax)]) as broken:
            send = broken.dul.send_pdu
            sent = []

            def a_few(primitive):
                sent.append(primitive)
                if len(sent) == 6:
                    broken.dul.socket.socket.shutdown(socket.SHUT_RDWR)
                send(primitive)

            broken.dul.send_pdu = a_few
            assert "Status" not in broken.send_c_store(files[0].path)
        time.sleep(0.3)
    assert [p for p in (tmp_path / "in").rglob("*") if p.is_file() and p.name != ".lock"] == []


def test_two_listeners_do_not_share_a_folder_or_a_port(tmp_path, limits):
    with listening(tmp_path / "in", Runs(), limits) as port:
        with pytest.raises(ConfigError, match="expected no other process"):
            Listener(tmp_path / "in", Settings(0, limits=limits), Runs()).serve()
        with pytest.raises(ConfigError, match="expected to listen at"):
            Listener(tmp_path / "other", Settings(port, limits=limits), Runs()).serve()
