from __future__ import annotations

import random

import pytest

from radloom.pipelines.export import write_tables
from radloom.pipelines.receipts.verify import verify_results

HOME = "sub-a/ses-1/anat"
RECEIPT = "stages/sub-a_ses-1/denoise/stage.json"


@pytest.fixture
def whole(results, make):
    make(results, "b")
    write_tables(results)
    for name in (".lock", "workflow.yaml", "run.jsonl", "report.html", "stages/sub-a_ses-1/.lock"):
        (results / name).touch()
    for name in ("logs/worker-0.log", "report/sub-a_ses-1.html", "sent/ledger.jsonl"):
        (results / name).parent.mkdir()
        (results / name).touch()
    return results


def test_what_a_run_left_is_all_right_and_stays_as_it_is(whole):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    found = verify_results(whole)
    assert found.all_right, found.text()
    assert (found.n_studies, found.n_files) == (2, 16)
    assert "16 files of 2 studies" in found.text()
    assert "all as the receipts say" in found.text()
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()} == before


def test_each_fault_is_named(whole):
    (whole / HOME / "T1w.nii.gz").unlink()
    (whole / HOME / "dseg.nii.gz").write_bytes(b"x")
    unknown = [f"{HOME}/more.nii.gz", "sub-z/ses-1/anat/a.nii.gz", "notes.txt",
               "stages/sub-a_ses-1/segment.partial/a.nii.gz"]  # fmt: skip
    for path in unknown:
        (whole / path).parent.mkdir(parents=True, exist_ok=True)
        (whole / path).write_bytes(b"y")
    found = verify_results(whole)
    assert found.missing == [f"{HOME}/T1w.nii.gz"]
    assert found.changed == [f"{HOME}/dseg.nii.gz"]
    assert found.unknown == sorted(unknown)
    assert not found.all_right
    assert f"changed: {HOME}/dseg.nii.gz" in found.text()
    assert "1 missing, 1 changed, 4 unknown" in found.text()


def test_any_single_changed_byte_anywhere_is_seen(whole):
    files = sorted(p for p in whole.glob("sub-*/**/*") if p.is_file())
    for path in random.Random(0).sample(files, 8):
        content = path.read_bytes()
        place = random.Random(str(path)).randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert verify_results(whole).changed == [path.relative_to(whole).as_posix()]
        path.write_bytes(content)
    assert verify_results(whole).all_right


def test_a_receipt_that_was_edited_together_with_its_file(whole):
    import hashlib

    path = f"{HOME}/desc-denoised_T1w.nii.gz"
    old = hashlib.sha256((whole / path).read_bytes()).hexdigest()
    (whole / path).write_bytes(b"forged")
    text = (whole / RECEIPT).read_text()
    (whole / RECEIPT).write_text(text.replace(old, hashlib.sha256(b"forged").hexdigest()))
    found = verify_results(whole)
    assert (found.changed, found.unlisted) == ([], [path])
    assert not found.all_right


def test_a_torn_receipt_and_the_outputs_that_nothing_tells_of_any_more(whole):
    content = (whole / RECEIPT).read_bytes()
    (whole / RECEIPT).write_bytes(content[: len(content) // 2])
    found = verify_results(whole)
    assert found.unreadable == [RECEIPT]
    stem = f"{HOME}/desc-denoised_T1w"
    assert found.unknown == [f"{stem}.json", f"{stem}.nii.gz"]
    assert found.unlisted == [f"{stem}.nii.gz"]


def test_progress_and_many_files_ahead(whole, make):
    said: list[tuple[int, int]] = []
    for number in range(32):
        make(whole, f"c{number}")
    write_tables(whole)
    found = verify_results(whole, n_threads=3, on_progress=lambda *news: said.append(news))
    assert found.all_right
    assert [n_files for _, n_files in said] == [100, 200]
