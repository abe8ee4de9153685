"""nnU-Net trained on a data set of ours, and its result back in ``radloom segment``."""

from __future__ import annotations

import json
import os

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from radloom import cli
from radloom.errors import ConfigError
from radloom.models.training.nnunet_training import NnunetJob, splits_of, trainer_of
from radloom.pipelines.dataset.train import TrainingPlan, find_dataset, train_dataset

KEYS = [f"sub-{name}_ses-1" for name in ("a", "b", "c")]


def radloom(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_subject_is_never_on_both_sides():
    cases = [f"sub-{s}_ses-{n}" for s in "abcdefg" for n in (1, 2)]
    splits = splits_of(cases)
    assert len(splits) == 5
    for split in splits:
        sides = [{case.partition("_")[0] for case in split[side]} for side in ("train", "val")]
        assert not sides[0] & sides[1]
        assert sorted(split["train"] + split["val"]) == cases
    assert sorted(case for split in splits for case in split["val"]) == cases


def test_one_subject_cannot_be_split():
    assert splits_of(["sub-a_ses-1", "sub-a_ses-2"]) == []


@pytest.mark.parametrize("name", ["Left-Thalamus", "lh cortex", "right_eye"])
def test_sides_are_not_mirrored(name):
    expected = "nnUNetTrainerNoMirroring"
    assert trainer_of(["background", name.replace("-", " ")]) == expected


def test_jobs_that_cannot_be_done():
    with pytest.raises(ConfigError, match="expected folds of all, 0, 1, 2, 3, 4, got 7"):
        NnunetJob("raw", "preprocessed", "results", folds=("7",))
    with pytest.raises(ConfigError, match="expected epochs, steps"):
        NnunetJob("raw", "preprocessed", "results", epochs=0)


def test_no_data_set_to_train_on(tmp_path):
    with pytest.raises(ConfigError, match="expected one data set below"):
        train_dataset(tmp_path, TrainingPlan(), {})
    for name in ("Dataset501_A", "Dataset502_B"):
        folder = tmp_path / "nnUNet_raw" / name
        folder.mkdir(parents=True)
        (folder / "dataset.json").write_text("{}")
    with pytest.raises(ConfigError, match="got Dataset501_A, Dataset502_B"):
        find_dataset(tmp_path)
    assert find_dataset(tmp_path, "Dataset502_B").name == "Dataset502_B"


def ellipsoid(shape, shift):
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sqrt(sum((a - s) ** 2 for a, s in zip(axes, (0.1, -0.1, shift), strict=True)))
    return np.where(radius < 0.3, 9, np.where(radius < 0.6, 4, 0)).astype(np.int32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # timm's, which nnU-Net imports
def test_from_labelled_studies_to_a_model_that_segments(run, tmp_path):
    affine = np.diag([-5.0, 5, 6, 1])
    for n, key in enumerate(KEYS):
        labels = ellipsoid((24, 26, 20), 0.05 * n)
        run.volume(run.study(key), "t1", array=run.picture(labels, n), affine=affine)
        run.save_label(tmp_path / "labels" / f"{key}.nii.gz", labels, affine)
    (tmp_path / "names.tsv").write_text("index\tname\n4\tleft shell\n9\tcore\n")
    dest = tmp_path / "dest"
    given = ["--name", "Dataset501_Mine", "--labels", tmp_path / "labels"]
    code, text = radloom("dataset", run.out, dest, *given, "--names", tmp_path / "names.tsv")
    assert code == 0, text
    plan = TrainingPlan(epochs=1, steps=1, device="cpu")
    folder = train_dataset(dest, plan, os.environ)
    assert folder.name == "nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres"
    assert (folder / "fold_all" / "checkpoint_final.pth").is_file()
    image = run.out / "sub-a" / "ses-1" / "anat" / "sub-a_ses-1_ingest_t1.nii.gz"
    code, text = radloom("segment", image, tmp_path / "found.nii.gz", "--model", folder)
    assert code == 0, text
    found = nib.load(tmp_path / "found.nii.gz")
    assert np.allclose(found.affine, affine)
    assert set(np.unique(np.asanyarray(found.dataobj))) <= {0, 1, 2}
    assert "left shell" in (tmp_path / "found.tsv").read_text()
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "left shell": 1, "core": 2}
