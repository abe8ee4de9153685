"""Every bundle's ``train.yaml`` runs dry on the CPU, with the generator's samples, and goes on.

Networks and grids are made tiny by arguments that the command line takes as well.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from radloom.errors import MissingWeights
from radloom.models.bundles import bundles_folder, weights_path
from radloom.models.training.ema import export_weights

TINY = {
    "head_mr_denoising": {"network_def#backbone#network#init_filters": 8},
    "head_ct_denoising": {"network_def#backbone#network#init_filters": 8},
    "head_mr_registration": {
        "task#window": [32, 32, 32],
        "network_def#backbone#features_per_stage": [4, 4, 8, 8],
    },
    "head_mr_to_ct_translation": {
        "network_def#backbone#n_stages": 3,
        "network_def#backbone#features_per_stage": [4, 8, 8],
        "network_def#backbone#strides": [1, 2, 2],
        "network_def#backbone#n_conv_per_stage": 1,
    },
    "brain_mr_segmentation": {"network_def#features_per_stage": [4, 4, 8, 8, 8], "task#stride": 1},
}
COMMON = {
    "recipe#grid#shape": [32, 32, 32],
    "recipe#grid#spacing_mm": [6.0, 6.0],
    "settings#batch_size": 1,
    "settings#crop_shape": [32, 32, 32],
    "settings#mix": 1,
    "settings#prefetch": 0,
    "settings#validation_cases": 1,
    "settings#log_every": 1,
}
MAX_WEIGHTS_BYTES = 16 * 2**20


def config_of(name: str) -> Path:
    return bundles_folder() / name / "configs" / "train.yaml"


def curve(out: Path) -> list[list[str]]:
    return [line.split("\t") for line in (out / "curve.tsv").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TINY))
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning:monai.bundle")
def test_a_minute_on_the_cpu(name, heads, tmp_path) -> None:
    from monai.bundle import run

    begun = time.process_time()
    out = tmp_path / "run"
    given = {**COMMON, **TINY[name], "dataset_dir": str(heads), "output_dir": str(out)}
    run(config_file=str(config_of(name)), max_minutes=0.0, max_steps=5, **given)
    assert [row[0] for row in curve(out)] == ["step", "1"]
    run(config_file=str(config_of(name)), max_minutes=9.0, max_steps=3, **given)
    head, *rows = curve(out)
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert all(math.isfinite(float(cell)) for row in rows for cell in row)
    assert len({row[head.index("loss")] for row in rows}) == 3
    metrics = json.loads((out / "validation.jsonl").read_text().splitlines()[-1])
    assert metrics.pop("step") == 3
    assert all(math.isfinite(value) for value in metrics.values())
    assert (out / "sheets" / "step-00000003.png").is_file()
    assert torch.load(out / "model.pt", weights_only=True)
    config = [str(config_of(name)), str(config_of(name).with_name("evaluate.yaml"))]
    given |= {"output_dir": str(tmp_path / "evaluated"), "weights": str(out / "model.pt")}
    run(config_file=config, **given)
    assert (tmp_path / "evaluated" / "metrics.json").is_file()
    assert time.process_time() - begun < 90


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("head_mr_denoising", ("image", "clean")),
        ("head_mr_registration", ("fixed_image", "moving_image")),
        ("head_mr_to_ct_translation", ("image", "ct_hu")),
        ("brain_mr_segmentation", ("image", "label")),
    ],
)
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning:monai.bundle")
def test_own_scans_train_with_the_same_command(name, columns, tmp_path) -> None:
    import nibabel as nib
    from monai.bundle import run

    random = np.random.default_rng(0)
    rows = ["\t".join(columns)]
    for case in range(2):
        files = [f"{case}_{column}.nii.gz" for column in columns]
        rows.append("\t".join(files))
        for column, file in zip(columns, files, strict=True):
            values = random.random((20, 24, 22)).astype(np.float32)
            if column == "ct_hu":
                values = 2000 * values - 1000
            if column == "label":
                values = random.choice(np.array([0, 2, 3, 41, 42], np.int16), values.shape)
            nib.save(nib.Nifti1Image(values, np.diag([-2.0, -2.0, 2.0, 1.0])), tmp_path / file)
    (tmp_path / "scans.tsv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "run"
    given = {key: value for key, value in COMMON.items() if not key.startswith("recipe")}
    given |= {**TINY[name], "settings#crop_shape": [32, 32, 32], "max_steps": 2}
    run(
        config_file=str(config_of(name)),
        dataset_dir=str(tmp_path),
        output_dir=str(out),
        max_minutes=9.0,
        **given,
    )
    _, *steps = curve(out)
    assert len(steps) == 2
    assert all(math.isfinite(float(cell)) for row in steps for cell in row)
    assert (out / "model.pt").is_file()


@pytest.mark.slow
def test_the_command_line_trains(heads, tmp_path) -> None:
    arguments = {**COMMON, **TINY["brain_mr_segmentation"], "max_steps": 2, "max_minutes": 9}
    arguments |= {"dataset_dir": heads, "output_dir": tmp_path / "run"}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/train.yaml"]
    for key, value in arguments.items():
        command += [f"--{key}", str(value)]
    folder = bundles_folder() / "brain_mr_segmentation"
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step 2  loss" in done.stdout
    assert len(curve(tmp_path / "run")) == 3


@pytest.mark.parametrize("name", sorted(TINY))
def test_the_weights_will_fit_into_one_file_of_the_repository(name, tmp_path) -> None:
    from monai.bundle import ConfigParser

    parser = ConfigParser(yaml.safe_load(config_of(name).read_text()))
    network = parser.get_parsed_content("network_def")
    export_weights(network, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size <= MAX_WEIGHTS_BYTES
    trained = parser.get("network_def")
    inference = yaml.safe_load((config_of(name).parent / "inference.yaml").read_text())
    if "network_def" in inference:
        assert inference["network_def"] == trained


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_bundle_without_weights_says_so(name) -> None:
    folder = bundles_folder() / name
    if (folder / "models" / "model.pt").exists():
        pytest.skip("the weights are here")
    with pytest.raises(MissingWeights, match=f"<{name}> has no weights.*or train it"):
        weights_path(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "files", "result"),
    [
        ("head_mr_to_ct_translation", ("image",), "image_pseudoct.nii.gz"),
        ("brain_mr_segmentation", ("image",), "image_dseg.nii.gz"),
        ("head_mr_registration", ("fixed", "moving"), "fixed_ddf.nii.gz"),
    ],
)
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning:monai.bundle")
@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
def test_inference_runs_with_weights_of_the_training(name, files, result, tmp_path) -> None:
    import nibabel as nib
    from monai.bundle import ConfigParser, run

    config = bundles_folder() / name / "configs" / "inference.yaml"
    parser = ConfigParser(yaml.safe_load(config.read_text()))
    network = {key: value for key, value in TINY[name].items() if key.startswith("network_def")}
    for key, value in network.items():
        parser[key] = value
    export_weights(parser.get_parsed_content("network_def"), tmp_path / "models" / "model.pt")
    affine = np.diag([-2.0, 2.5, 2.0, 1.0])
    given = {"bundle_root": str(tmp_path), "output_dir": str(tmp_path / "out"), **network}
    for file in files:
        image = np.random.default_rng(0).random((20, 22, 24)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, affine), tmp_path / f"{file}.nii.gz")
        given[file] = str(tmp_path / f"{file}.nii.gz")
    if name == "head_mr_to_ct_translation":
        given["inferer#roi_size"] = [32, 32, 32]
    shutil.copytree(config.parent, tmp_path / "configs")
    run(config_file=str(config), **given)
    found = nib.load(tmp_path / "out" / result)
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)
    assert found.shape[:3] == (20, 22, 24)
    assert np.isfinite(np.asarray(found.dataobj)).all()
