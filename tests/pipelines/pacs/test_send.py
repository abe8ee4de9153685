"""Sending: each instance once, whatever the destination does, and nothing lost from the account."""

from __future__ import annotations

import json

import pytest

from radloom.errors import ConfigError, PacsFailed
from radloom.pipelines.pacs.ledger import Entry, Ledger
from radloom.pipelines.pacs.peer import Confirmation, StoreResult
from radloom.pipelines.pacs.send import LEDGER, plan, send


class FakePacs:
    """Takes what it is told to take, and remembers every instance that came."""

    name = "dicom://FAKE@127.0.0.1:104"

    def __init__(self, *, keeps=lambda _uid: True) -> None:
        self.came: list[str] = []
        self.has: set[str] = set()
        self.script: list = []
        self.keeps = keeps

    def store(self, files):
        step = self.script.pop(0) if self.script else None
        results = {}
        for file in files:
            uid = file.head.sop_uid
            answer = step(len(results), uid) if step else StoreResult("0x0000", accepted=True)
            if isinstance(answer, Exception):
                raise answer
            if answer is None:
                break
            self.came.append(uid)
            if answer.accepted or answer.status == "lost answer":
                self.has.add(uid)
            results[uid] = answer
        return results

    def holds(self, files):
        return self.has & {f.head.sop_uid for f in files}

    def confirm(self, files):
        kept = frozenset(uid for uid in self.holds(files) if self.keeps(uid))
        lost = {f.head.sop_uid: "lost" for f in files if f.head.sop_uid not in kept}
        return Confirmation("asked", kept, lost)


OK = StoreResult("0x0000", accepted=True)


def go(out, pacs, limits):
    return send(out, pacs, limits=limits, sleep=lambda _: None)


def test_an_answer_that_was_lost_is_asked_for_before_anything_is_sent_again(
    tmp_path, objects, limits
):
    out = objects.run(tmp_path / "out", objects.write("a", n=5))
    pacs = FakePacs()
    pacs.script = [
        lambda n, _: OK if n < 2 else StoreResult("lost answer", doubtful=True) if n == 2 else None
    ]
    summary = go(out, pacs, limits)
    assert (summary.n_sent, summary.failures) == (5, ())
    assert sorted(pacs.came) == sorted(pacs.has)  # nothing came twice


def test_a_refused_instance_is_reported_with_its_code_and_tried_by_the_next(
    tmp_path, objects, limits
):
    out = objects.run(tmp_path / "out", objects.write("a", n=3))
    pacs = FakePacs()
    pacs.script = [lambda n, _: StoreResult("0xC000: it cannot") if n == 1 else OK]
    summary = go(out, pacs, limits)
    assert [f.status for f in summary.failures] == ["0xC000: it cannot"]
    assert summary.failures[0].path == "sub-x/ses-1/dicom/0001.dcm"
    whole = go(out, pacs, limits)
    assert (whole.n_sent, whole.n_before, whole.failures) == (1, 2, ())


def test_a_destination_that_turns_everything_away_is_asked_once(tmp_path, objects, limits):
    out = objects.run(tmp_path / "out", objects.write("a", n=3))
    pacs = FakePacs()
    pacs.script = [lambda *_: PacsFailed("its AE title is not that")] * 9
    summary = go(out, pacs, limits)
    assert {f.status for f in summary.failures} == {"its AE title is not that"}
    assert len(pacs.script) == 8
    assert summary.n_sent == 0


def test_attempts_are_bounded(tmp_path, objects, limits):
    out = objects.run(tmp_path / "out", objects.write("a", n=2))
    pacs = FakePacs()
    pacs.script = [lambda *_: PacsFailed("broke", passing=True)] * 99
    assert len(go(out, pacs, limits).failures) == 2
    assert len(pacs.script) == 99 - limits.attempts


def test_what_is_accepted_and_not_kept_is_a_failure_and_sent_again(tmp_path, objects, limits):
    out = objects.run(tmp_path / "out", objects.write("a", n=2))
    lost = min(objects.below(out))
    pacs = FakePacs(keeps=lambda uid: uid != lost)
    assert [f.status for f in go(out, pacs, limits).failures] == ["not kept: lost"]
    pacs.keeps = lambda _: True
    assert go(out, pacs, limits).n_sent == 1


def test_a_file_that_changed_since_the_run_is_not_sent(tmp_path, objects, limits):
    out = objects.run(tmp_path / "out", objects.write("a", n=2))
    (out / "sub-x/ses-1/dicom/0001.dcm").write_bytes(b"other")
    pacs = FakePacs()
    summary = go(out, pacs, limits)
    assert [f.status for f in summary.failures] == ["changed since the run: run again"]
    assert len(pacs.came) == 1


def test_other_content_under_a_uid_that_was_taken_is_not_sent(tmp_path, objects, limits):
    first = objects.run(tmp_path / "out", objects.write("a", n=1))
    pacs = FakePacs()
    go(first, pacs, limits)
    objects.run(tmp_path / "out", objects.write("a", n=1, size=16))
    summary = go(first, pacs, limits)
    assert "other content was taken under the same UID" in summary.failures[0].status
    assert len(pacs.came) == 1


def test_a_manifest_cannot_lead_out_of_the_folder(tmp_path, objects, limits):
    out = objects.run(tmp_path / "out", objects.write("a", n=1))
    entries = json.loads((out / "manifest.json").read_text())
    entries[0]["path"] = "../objects/a/0.dcm"
    (out / "manifest.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="expected a path below the output folder"):
        go(out, FakePacs(), limits)
    (out / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="expected the manifest of a run"):
        go(out, FakePacs(), limits)


def test_the_plan_asks_nobody(tmp_path, objects, limits):
    out = objects.run(tmp_path / "out", objects.write("a", n=2))
    assert [what for _, what in plan(out, FakePacs.name)] == ["would be sent"] * 2
    go(out, FakePacs(), limits)
    assert [what for _, what in plan(out, FakePacs.name)] == ["there already"] * 2
    assert [what for _, what in plan(out, "dicom://OTHER@h:1")] == ["would be sent"] * 2


def test_a_ledger_survives_a_line_cut_short_at_any_byte(tmp_path):
    path = tmp_path / LEDGER
    Ledger(path, "here").note(Entry("1.2", "a", "accepted"), Entry("1.3", "b", "sent"))
    Ledger(path, "there").note(Entry("1.4", "c", "kept"))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        ledger = Ledger(path, "here")
        ledger.note(Entry("1.5", "d", "kept"))
        again = Ledger(path, "here")
        assert again.taken("1.5") == "d"
        assert again.taken("1.4") is None
        assert again.taken("1.2") == ("a" if length >= content.index(b"\n") else None)


def test_the_ledger_names_nobody_and_no_time(tmp_path, objects, limits):
    out = objects.run(tmp_path / "out", objects.write("a", n=1))
    go(out, FakePacs(), limits)
    lines = [json.loads(line) for line in (out / LEDGER).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["sent", "accepted", "kept"]
    assert {key for line in lines for key in line} == {
        "destination", "sop_uid", "sha256", "event", "status",
    }  # fmt: skip
    assert "SECRET" not in (out / LEDGER).read_text()


def test_an_instance_that_breaks_every_connection_keeps_no_other_out(tmp_path, objects, limits):
    out = objects.run(tmp_path / "out", objects.write("a", n=4))
    bad = min(objects.below(out))
    pacs = FakePacs()
    broken: list[bool] = []

    def step(_, uid):
        if uid == bad:
            broken.append(True)
            return StoreResult("no answer", doubtful=True)
        return None if broken and broken.pop() else OK

    pacs.script = [step] * 99
    summary = go(out, pacs, limits)
    assert (summary.n_sent, len(summary.failures)) == (3, 1)
