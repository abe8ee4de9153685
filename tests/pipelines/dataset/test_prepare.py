"""The nnU-Net data set: what is in it, what is left out and why, and what a second look does."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from radloom.errors import ConfigError, InputError
from radloom.pipelines.dataset.prepare import prepare_dataset
from radloom.pipelines.dataset.train import find_dataset
from radloom.shapes import make_volume
from radloom.transforms.nifti import write_nifti

NAME = "Dataset501_Mine"


def prepare(run, tmp_path, **more):
    given = {"name": NAME, "labels": str(tmp_path / "labels"), "roles": ("t1",), **more}
    return prepare_dataset(run.out, tmp_path / "dest", **given)


def reasons(made):
    return {case.study: case.reason for case in made.cases if case.status != "taken"}


def values_of(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_a_data_set_as_nnunet_wants_it(two_studies, tmp_path):
    made = prepare(two_studies, tmp_path, names={3: "shell", 7: "core"})
    assert made.folder == tmp_path / "dest" / "nnUNet_raw" / NAME
    content = json.loads((made.folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "shell": 1, "core": 2}
    assert content["channel_names"] == {"0": "T1"}
    assert content["numTraining"] == 2
    label = nib.load(made.folder / "labelsTr" / "sub-a_ses-1.nii.gz")
    expected = np.searchsorted([0, 3, 7], two_studies.truth())
    assert label.get_data_dtype() == np.uint8
    assert np.array_equal(np.asanyarray(label.dataobj), expected)
    assert np.allclose(label.affine, two_studies.affine)
    image = made.folder / "imagesTr" / "sub-a_ses-1_0000.nii.gz"
    assert np.allclose(nib.load(image).affine, two_studies.affine)
    assert image.samefile(two_studies.out / "sub-a/ses-1/anat/sub-a_ses-1_ingest_t1.nii.gz")
    assert find_dataset(tmp_path / "dest") == made.folder


def test_nnunet_finds_nothing_wrong_with_it(two_studies, tmp_path, capsys):
    from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    folder = prepare(two_studies, tmp_path).folder
    content = json.loads((folder / "dataset.json").read_text())
    found = get_filenames_of_train_images_and_targets(str(folder), content)
    assert sorted(found) == ["sub-a_ses-1", "sub-b_ses-1"]
    reader = determine_reader_writer_from_dataset_json(content, verbose=False)
    for case in found.values():
        assert check_cases(case["images"], case["label"], 1, reader)


def test_several_channels_lie_on_the_grid_of_the_first(run, tmp_path):
    moved = np.diag([1.0, 1, 1, 1])
    for key in ("sub-a_ses-1", "sub-b_ses-1", "sub-c_ses-1"):
        run.study(key)
        run.volume(key, "t1")
        run.save_label(tmp_path / "labels" / f"{key}.nii.gz", run.truth())
    run.volume("sub-a_ses-1", "flair", affine=moved)
    registered = run.volume("sub-a_ses-1", "flair", space="t1", stage="register", place=1)
    run.volume("sub-b_ses-1", "flair")  # acquired on the grid of t1
    run.volume("sub-c_ses-1", "flair", affine=moved)
    made = prepare(run, tmp_path, roles=("t1", "flair"))
    assert made.n_taken == 2
    assert "flair does not lie on the grid of t1" in reasons(made)["sub-c_ses-1"]
    second = made.folder / "imagesTr" / "sub-a_ses-1_0001.nii.gz"
    assert second.samefile(registered)
    content = json.loads((made.folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "T1", "1": "FLAIR"}


def test_the_newest_volume_of_a_role_is_taken(two_studies, tmp_path):
    denoised = two_studies.volume("sub-a_ses-1", "t1", stage="denoise", place=1)
    made = prepare(two_studies, tmp_path)
    assert (made.folder / "imagesTr" / "sub-a_ses-1_0000.nii.gz").samefile(denoised)


def test_each_bad_study_costs_only_itself_and_says_why(two_studies, tmp_path):
    run, labels = two_studies, tmp_path / "labels"
    for key in ("sub-c_ses-1", "sub-d_ses-1", "sub-e_ses-1", "sub-f_ses-1", "sub-g_ses-1"):
        run.volume(run.study(key), "t1")
    run.volume(run.study("sub-h_ses-1"), "t2")
    two_studies.save_label(labels / "sub-d_ses-1.nii.gz", two_studies.truth()[:-1])
    fractions = make_volume(
        two_studies.truth() + 0.5, two_studies.affine, modality="MR", units="arbitrary"
    )
    write_nifti(fractions, labels / "sub-e_ses-1.nii.gz")
    two_studies.save_label(labels / "sub-f_ses-1_a.nii.gz", two_studies.truth())
    two_studies.save_label(labels / "sub-f_ses-1_b.nii.gz", two_studies.truth())
    two_studies.save_label(labels / "sub-g_ses-1.nii.gz", two_studies.truth() + 1)
    two_studies.save_label(labels / "sub-g_ses-12.nii.gz", two_studies.truth())  # of another study
    made = prepare(run, tmp_path, names={3: "shell", 7: "core"})
    assert made.n_taken == 2
    found = reasons(made)
    assert "expected one label file for the study, got none" in found["sub-c_ses-1"]
    assert "another grid than the image: (11, 14, 9) voxels" in found["sub-d_ses-1"]
    assert "fractions" in found["sub-e_ses-1"]
    assert "<sub-f_ses-1_a.nii.gz>, <sub-f_ses-1_b.nii.gz>" in found["sub-f_ses-1"]
    assert "holds 1, 4, 8, which --names does not name" in found["sub-g_ses-1"]
    assert found["sub-h_ses-1"] == "no t1; the study has none of the roles asked"
    table = (made.folder / "studies.tsv").read_text()
    assert "sub-a_ses-1\ttaken" in table
    assert "sub-c_ses-1\tleft out" in table
    assert str(tmp_path) not in table


def test_a_label_in_another_order_of_voxels_is_turned(two_studies, tmp_path):
    image = nib.Nifti1Image(two_studies.truth().astype(np.uint8), two_studies.affine)
    turned = nib.as_closest_canonical(image)
    assert turned.shape != image.shape
    nib.save(turned, tmp_path / "labels" / "sub-b_ses-1_seg.nii.gz")
    made = prepare(two_studies, tmp_path)
    assert made.n_taken == 2
    first, second = (made.folder / "labelsTr" / f"sub-{s}_ses-1.nii.gz" for s in "ab")
    assert np.array_equal(values_of(first), values_of(second))


def test_a_label_on_another_grid_is_resampled_only_when_asked(two_studies, tmp_path):
    fine = two_studies.affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine[:3, 3] = two_studies.affine[:3, 3] + two_studies.affine[:3, :3] @ [-0.25, -0.25, -0.25]
    doubled = two_studies.truth().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    two_studies.save_label(tmp_path / "labels" / "sub-b_ses-1_seg.nii.gz", doubled, fine)
    assert (
        "--resample takes the nearest voxel"
        in reasons(prepare(two_studies, tmp_path))["sub-b_ses-1"]
    )
    made = prepare(two_studies, tmp_path, resample=True)
    first, second = (made.folder / "labelsTr" / f"sub-{s}_ses-1.nii.gz" for s in "ab")
    assert np.array_equal(values_of(first), values_of(second))


def test_itk_labels_of_every_format_come_to_the_same(two_studies, tmp_path):
    for ending in ("nrrd", "mha"):
        label = tmp_path / "labels" / "sub-b_ses-1_seg.nii.gz"
        if label.is_file():
            sitk.WriteImage(sitk.ReadImage(label), label.with_name(f"sub-b_ses-1.{ending}"))
            label.unlink()
        made = prepare(two_studies, tmp_path)
        first, second = (made.folder / "labelsTr" / f"sub-{s}_ses-1.nii.gz" for s in "ab")
        assert np.array_equal(values_of(first), values_of(second))


@pytest.mark.parametrize(
    "where", ["labels/{study}_*.nii.gz", "labels/sub-{subject}_ses-{session}_seg.nii.gz"]
)
def test_labels_by_pattern(two_studies, tmp_path, where):
    assert prepare(two_studies, tmp_path, labels=str(tmp_path / where)).n_taken == 2


def test_labels_by_table(two_studies, tmp_path):
    rows = ["study\tlabel", "sub-a_ses-1\tlabels/sub-a_ses-1_seg.nii.gz", "sub-b_ses-1\tnone.nii"]
    (tmp_path / "mine.tsv").write_text("\n".join(rows))
    made = prepare(two_studies, tmp_path, labels=str(tmp_path / "mine.tsv"))
    assert list(reasons(made)) == ["sub-b_ses-1"]


def test_the_same_again_writes_nothing_and_a_new_label_its_case_alone(two_studies, tmp_path):
    folder = prepare(two_studies, tmp_path).folder
    before = {p: p.stat().st_mtime_ns for p in (folder / "labelsTr").iterdir()}
    prepare(two_studies, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    changed = two_studies.truth()
    changed[0, 0, 0] = 3
    two_studies.save_label(tmp_path / "labels" / "sub-b_ses-1_seg.nii.gz", changed)
    prepare(two_studies, tmp_path)
    after = {p.name: p.stat().st_mtime_ns != before[p] for p in before}
    assert after == {"sub-a_ses-1.nii.gz": False, "sub-b_ses-1.nii.gz": True}


def test_another_label_gone_takes_its_case_along(two_studies, tmp_path):
    prepare(two_studies, tmp_path)
    (tmp_path / "labels" / "sub-b_ses-1_seg.nii.gz").unlink()
    folder = prepare(two_studies, tmp_path).folder
    left = sorted(p.name for p in folder.rglob("*.nii.gz"))
    assert left == ["sub-a_ses-1.nii.gz", "sub-a_ses-1_0000.nii.gz"]
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 1


def test_a_new_value_anywhere_renumbers_every_case(two_studies, tmp_path):
    prepare(two_studies, tmp_path)
    more = two_studies.truth()
    more[0, 0, 0] = 5
    two_studies.save_label(tmp_path / "labels" / "sub-b_ses-1_seg.nii.gz", more)
    made = prepare(two_studies, tmp_path)
    assert made.classes.labels() == {"background": 0, "label_3": 1, "label_5": 2, "label_7": 3}
    assert values_of(made.folder / "labelsTr" / "sub-a_ses-1.nii.gz").max() == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "Mine"}, "expected a --name such as Dataset501_Mine"),
        ({"roles": ("t1", "dti")}, "expected --roles, each once, of t1"),
        ({"labels": "nowhere"}, "expected --labels to be a pattern"),
        ({"labels": "{patient}.nii.gz"}, "expected {study}, {subject} and {session} alone"),
    ],
)
def test_impossible_arguments(two_studies, tmp_path, wrong, said):
    with pytest.raises(ConfigError, match="expected") as error:
        prepare(two_studies, tmp_path, **wrong)
    assert said in str(error.value)


def test_no_study_at_all_is_an_error_with_the_reasons(run, tmp_path):
    run.volume(run.study("sub-a_ses-1"), "t1", array=run.picture(0 * run.truth(), 0))
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="no study of <out> can be used: expected one label file"):
        prepare(run, tmp_path)
    assert not (tmp_path / "dest").exists()
