from __future__ import annotations

import json
import shutil

import pytest

from radloom.errors import ConfigError
from radloom.pipelines.receipts.receipt import read_receipt, write_receipt
from radloom.pipelines.receipts.story import find_out, story_of

HOME = "sub-a/ses-1/anat"


def test_the_story_goes_back_to_the_series_through_the_stages_that_led_to_the_file(results):
    story = story_of(results / HOME / "dseg.nii.gz")
    assert [step.receipt.stage for step in story.steps] == ["ingest", "denoise", "segment"]
    assert [one.series_uid for one in story.series] == ["1.2.1"]  # not the t2
    assert not story.changed
    text = story.text()
    for wanted in (
        f"{HOME}/dseg.nii.gz", "label, role t1, brain", "series 1.2.1, MR, role t1 (name: t1)",
        "10 x 20 x 30 voxels of 1 x 1 x 2.5 mm", "method = denoise method",
        f"brain, sha256 {'ab' * 32}", "2" * 64, "1 source files", story.sha256,
        "denoise_noise = 0.5 HU, expected at least 0 and at most 0.7",
        "segment_noise = 1 HU, expected at least 0 and at most 0.7 FLAGGED",
        "3.5 s, 2.0 GiB memory", "cpu, Linux, 2 cores", "radloom 0.1.0",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "DOE" not in text


def test_a_file_of_an_early_stage_has_a_short_story(results):
    story = story_of(results / HOME / "T2w.json")
    assert [step.receipt.stage for step in story.steps] == ["ingest"]
    assert [one.series_uid for one in story.series] == ["1.2.2"]
    assert f"beside       {HOME}/T2w.nii.gz" in story.text()


def test_json_holds_the_same_and_no_text_from_headers(results):
    content = json.dumps(story_of(results / HOME / "dseg.nii.gz").plain())
    said = json.loads(content)
    assert [stage["stage"] for stage in said["stages"]] == ["ingest", "denoise", "segment"]
    assert said["stages"][2]["weights"] == {"brain": "ab" * 32}
    assert said["stages"][2]["checks"][0]["flagged"]
    assert said["stages"][0]["taken"]["9" * 64] == "source"
    assert said["series"][0]["series_uid"] == "1.2.1"
    assert "DOE" not in content


def test_a_deidentified_study_tells_no_uids(results, make):
    make(results, "b", salt="pepper")
    story = story_of(results / "sub-b/ses-1/anat/T1w.nii.gz")
    assert story.deidentified
    assert "1.2.1" not in story.text()
    assert "series_uid" not in story.plain()["series"][0]


def test_results_may_be_moved(results, tmp_path):
    before = story_of(results / HOME / "dseg.nii.gz").plain()
    shutil.move(results, tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / HOME / "dseg.nii.gz"
    assert story_of(moved).plain() == before
    assert find_out(moved) == (tmp_path / "elsewhere", f"{HOME}/dseg.nii.gz")


def test_changed_bytes_and_inputs_that_are_others_by_now(results):
    (results / HOME / "dseg.nii.gz").write_bytes(b"edited")
    place = results / "stages" / "sub-a_ses-1" / "denoise" / "stage.json"
    receipt = read_receipt(place)
    (path, *_) = receipt.inputs
    write_receipt(place, type(receipt)(**{**vars(receipt), "inputs": {path: "0" * 64}}))
    story = story_of(results / HOME / "dseg.nii.gz")
    assert story.changed
    assert "CHANGED since it was written" in story.text()
    assert f"{path}  {'0' * 64} (no longer known)" in story.text()
    assert [step.receipt.stage for step in story.steps] == ["denoise", "segment"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("out/studies.tsv", "it is made from all receipts"),
        (f"out/{HOME}/notes.txt", "no stage wrote it"),
        ("out/stages/sub-a_ses-1/study.json", "no stage wrote it"),
        ("alone.txt", "no folder above it has receipts"),
    ],
)
def test_files_without_a_story(results, tmp_path, path, message):
    (tmp_path / path).touch()
    with pytest.raises(ConfigError, match=message):
        story_of(tmp_path / path)


def test_a_folder_has_no_story(results):
    with pytest.raises(ConfigError, match="expected a file"):
        story_of(results)
