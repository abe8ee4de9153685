"""There and back again with a real PACS: nothing changed, nothing twice, nothing lost."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from radloom.errors import PacsFailed
from radloom.pipelines.pacs.association import Caller
from radloom.pipelines.pacs.dicomweb import DicomWeb
from radloom.pipelines.pacs.dimse import Dimse, Reception
from radloom.pipelines.pacs.fetch import fetch
from radloom.pipelines.pacs.http import WebClient
from radloom.pipelines.pacs.limits import DEFAULT_LIMITS
from radloom.pipelines.pacs.query import parse_query
from radloom.pipelines.pacs.send import LEDGER, send

pytestmark = pytest.mark.filterwarnings(
    # pynetdicom leaves the socket of a connection that was refused to the garbage collector
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)

QUICK = replace(DEFAULT_LIMITS, wait_s=0.05, free_bytes=0, connect_s=10, stall_s=10, answer_s=30)


def peers(orthanc, limits=QUICK):
    caller = Caller(orthanc.dicom, limits=limits)
    reception = Reception(port=orthanc.our_port, wait_s=10)
    return {
        "web": DicomWeb(WebClient(orthanc.web, limits=limits)),
        "get": Dimse(caller, reception=reception),
        "move": Dimse(caller, method="move", reception=reception),
    }


def same(objects, before: dict[str, Path], after: dict[str, Path]) -> None:
    assert set(before) == set(after)
    different = {uid: objects.differences(before[uid], after[uid]) for uid in before}
    assert {uid: found for uid, found in different.items() if found} == {}


@pytest.mark.parametrize("way", ["web", pytest.param("get", marks=pytest.mark.slow)])
def test_a_study_comes_back_as_it_went_whichever_way(orthanc, tmp_path, objects, small_study, way):
    before = objects.below(small_study)
    out = objects.run(tmp_path / "out", list(before.values()))
    first = send(out, peers(orthanc)[way], limits=QUICK)
    assert (first.n_sent, first.failures) == (len(before), ())
    assert first.confirmation == {"web": "found by QIDO-RS", "get": "storage commitment"}[way]
    second = send(out, peers(orthanc)[way], limits=QUICK)
    assert (second.n_sent, second.n_before, second.failures) == (0, len(before), ())
    (out / LEDGER).unlink()
    third = send(out, peers(orthanc)[way], limits=QUICK)  # without a ledger: no copy either
    assert third.failures == ()
    assert orthanc.instances() == sorted(before)
    for name, peer in peers(orthanc).items():
        fetched = fetch(peer, parse_query(["ModalitiesInStudy=MR"]), tmp_path / name, limits=QUICK)
        assert (fetched.n_studies, fetched.n_new, fetched.failures) == (1, len(before), ())
        same(objects, before, objects.below(fetched.studies))
        again = fetch(peer, parse_query(["ModalitiesInStudy=CT"]), tmp_path / name, limits=QUICK)
        assert (again.n_studies, again.n_new) == (1, 0)


@pytest.mark.slow
@pytest.mark.real_data
def test_compressed_scans_stay_as_they_are_compressed(orthanc, tmp_path, objects, real_data):
    before = objects.below(real_data / "dicom" / "compressed")
    syntaxes = {item.head.transfer_syntax for item in objects.stored(list(before.values()))}
    assert len(syntaxes) > 5
    out = objects.run(tmp_path / "out", list(before.values()))
    assert send(out, peers(orthanc)["get"], limits=QUICK).failures == ()
    for name, peer in peers(orthanc).items():
        fetched = fetch(peer, parse_query(["StudyDate=19000101-"]), tmp_path / name, limits=QUICK)
        missing = {uid for uid in before if uid not in objects.below(fetched.studies)}
        assert missing == set()
        same(objects, before, objects.below(fetched.studies))


def test_only_the_series_asked_for_come(orthanc, tmp_path, objects, small_study):
    before = objects.below(small_study)
    send(objects.run(tmp_path / "out", list(before.values())), peers(orthanc)["web"])
    wanted = parse_query(["StudyDate=20200101-20201231", "ModalitiesInStudy=MR", "Modality=CT"])
    for name, peer in peers(orthanc).items():
        fetched = fetch(peer, wanted, tmp_path / name, limits=QUICK)
        assert fetched.failures == ()
        assert 0 < fetched.n_new < len(before)
        assert fetched.n_studies == 1
        none = fetch(peer, parse_query(["PatientID=nobody"]), tmp_path / name, limits=QUICK)
        assert none.n_studies == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", ["web", "get"])
def test_nothing_is_lost_or_twice_when_the_pacs_is_killed_while_it_takes(
    orthanc, tmp_path, objects, way
):
    paths = objects.write("a", n=80, size=128)
    out = objects.run(tmp_path / "out", paths)
    killer = threading.Thread(target=_kill_once_it_has, args=(orthanc, 20))
    killer.start()
    broken = send(out, peers(orthanc)[way], limits=replace(QUICK, attempts=2))
    killer.join()
    assert broken.failures
    assert 0 < len(broken.failures) <= len(paths)
    orthanc.start()
    whole = send(out, peers(orthanc)[way], limits=QUICK)
    assert whole.failures == ()
    assert whole.n_sent + whole.n_before == len(paths)
    assert orthanc.instances() == sorted(objects.below(objects.folder))
    again = send(out, peers(orthanc)[way], limits=QUICK)
    assert (again.n_sent, again.failures) == (0, ())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["web", "get", "move"])
def test_a_fetch_goes_on_where_the_pacs_was_killed(orthanc, tmp_path, objects, way):
    paths = objects.write("a", n=60, size=512)  # more than sockets hold on their way
    send(objects.run(tmp_path / "out", paths), peers(orthanc)["web"])
    root = tmp_path / "in"
    killer = threading.Thread(target=_kill_once_there_are, args=(orthanc, root, 20))
    killer.start()
    query = parse_query(["StudyInstanceUID=1.2.826.1"])
    impatient = replace(QUICK, attempts=2)
    broken = fetch(peers(orthanc, impatient)[way], query, root, limits=impatient)
    killer.join()
    assert len(broken.failures) == 1
    assert objects.below(broken.studies) == {}  # nothing half done where a run would look
    orthanc.start()
    whole = fetch(peers(orthanc)[way], query, root, limits=QUICK)
    assert whole.failures == ()
    assert broken.n_new + whole.n_new == len(paths)
    assert 0 < broken.n_new < len(paths)
    same(objects, objects.below(objects.folder), objects.below(whole.studies))


def _kill_once_it_has(orthanc, n: int) -> None:
    for _ in range(2000):
        if orthanc.get("/statistics")["CountInstances"] >= n:
            break
        time.sleep(0.002)
    orthanc.kill()


def _kill_once_there_are(orthanc, root: Path, n: int) -> None:
    for _ in range(4000):
        if len(list(root.glob("unfinished/*/*/*.dcm"))) >= n:
            break
        time.sleep(0.002)
    orthanc.kill()


def test_what_the_pacs_does_not_keep_is_said(orthanc, tmp_path, objects):
    paths = objects.write("a", n=3)
    out = objects.run(tmp_path / "out", paths)
    peer = peers(orthanc)["get"]
    store = peer.store

    def store_and_lose_one(files):
        results = store(files)
        (lost,) = orthanc.get("/instances")[:1]
        orthanc.delete(f"/instances/{lost}")
        return results

    peer.store = store_and_lose_one
    summary = send(out, peer, limits=QUICK)
    assert len(summary.failures) == 1
    assert "FailureReason 0x0112" in summary.failures[0].status
    whole = send(out, peers(orthanc)["get"], limits=QUICK)
    assert (whole.n_sent, whole.n_before, whole.failures) == (1, 2, ())


def test_without_a_port_for_its_answer_commitment_is_replaced_by_a_query(
    orthanc, tmp_path, objects
):
    out = objects.run(tmp_path / "out", objects.write("a", n=2))
    peer = Dimse(Caller(orthanc.dicom, limits=QUICK), reception=Reception(wait_s=0.5))
    summary = send(out, peer, limits=QUICK)
    assert summary.failures == ()
    assert summary.confirmation.startswith("found by C-FIND; no storage commitment: no result")


def test_wrong_titles_and_paths_are_told_apart(orthanc, objects):
    files = objects.stored(objects.write("a", n=1))
    wrong = Caller(replace(orthanc.dicom, ae_title="WRONG"), limits=QUICK)
    with pytest.raises(PacsFailed, match="its AE title is not WRONG"):
        Dimse(wrong).find_studies(parse_query(["PatientID=7"]))
    path = WebClient(replace(orthanc.web, path="/other"), limits=QUICK)
    with pytest.raises(PacsFailed, match="HTTP 404"):
        DicomWeb(path).store(files)
    unknown = Dimse(Caller(orthanc.dicom, "STRANGER", limits=QUICK))
    with pytest.raises(PacsFailed, match="broke off during C-FIND"):
        unknown.find_studies(parse_query(["PatientID=*"]))


def test_a_rejection_that_comes_before_anybody_looks_is_one(orthanc):
    from pynetdicom import build_context, evt

    def look_late(event):
        time.sleep(0.5)

    wrong = Caller(replace(orthanc.dicom, ae_title="WRONG"), limits=QUICK)
    contexts = [build_context("1.2.840.10008.1.1")]
    late = [(evt.EVT_REQUESTED, look_late)]
    with (
        pytest.raises(PacsFailed, match="its AE title is not WRONG"),
        wrong.associated(contexts, on_event=late),
    ):
        pass


def test_what_we_store_is_what_another_client_retrieves(orthanc, tmp_path, objects):
    client_module = pytest.importorskip("dicomweb_client")
    (path,) = objects.write("a", n=1)
    send(objects.run(tmp_path / "out", [path]), peers(orthanc)["web"], limits=QUICK)
    (item,) = objects.stored([path])
    client = client_module.DICOMwebClient(f"http://127.0.0.1:{orthanc.http_port}/dicom-web")
    head = item.head
    got = client.retrieve_instance(head.study_uid, head.series_uid, head.sop_uid)
    got.save_as(tmp_path / "got.dcm")
    assert objects.differences(path, tmp_path / "got.dcm") == []


@pytest.mark.parametrize("way", ["web", pytest.param("get", marks=pytest.mark.slow)])
def test_one_bad_object_does_not_keep_the_others_out(orthanc, tmp_path, objects, way):
    limits = replace(QUICK, answer_s=3, attempts=2)  # Orthanc never answers to half a data set
    paths = objects.write("a", n=4)
    content = paths[1].read_bytes()
    head = objects.stored([paths[1]])[0].head
    paths[1].write_bytes(
        content.replace(head.sop_class.encode(), b"1.2.840.10008.5.1.4.1.1.9", 2)[:700]
    )
    out = objects.run(tmp_path / "out", paths)
    summary = send(out, peers(orthanc, limits)[way], limits=limits)
    assert len(orthanc.instances()) == 3 + (4 - 3 - len(summary.failures))
    assert summary.n_sent == 4 - len(summary.failures)
    good = {item.head.sop_uid for item in objects.stored([paths[0], *paths[2:]])}
    assert good <= set(orthanc.instances())
