"""The bundle as a user of MONAI runs it: in a process of its own, from inside and elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from radloom.models.denoising.classical import denoise_image

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "head_mr_denoising"


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    truth = np.zeros((40, 36, 24), np.float32)
    truth[6:34, 6:30, 4:20] = 500
    noise = 30 * np.random.default_rng(0).standard_normal((2, *truth.shape))
    affine = np.array([[0, 0, 2.5, -30], [-0.9, 0, 0, 20], [0, 1.1, 0, 5], [0, 0, 0, 1.0]])
    path = tmp_path_factory.mktemp("scan") / "head.nii.gz"
    image = np.hypot(truth + noise[0], noise[1]).astype(np.float32)
    nib.save(nib.Nifti1Image(image, affine), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False])
def test_runs_alone(scan, tmp_path, inside):
    config = "configs/inference.yaml" if inside else str(BUNDLE / "configs" / "inference.yaml")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config]
    command += ["--image", str(scan), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(
        command,
        cwd=BUNDLE if inside else tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    got, given = nib.load(tmp_path / "out" / "head_denoised.nii.gz"), nib.load(scan)
    assert got.get_data_dtype() == np.float32
    np.testing.assert_allclose(got.affine, given.affine, atol=1e-5)
    spacing = tuple(float(s) for s in given.header.get_zooms())
    want = denoise_image(np.asarray(given.dataobj), spacing, modality="MR")[0]
    np.testing.assert_array_equal(np.asarray(got.dataobj), want)


def test_metadata_says_what_the_model_zoo_asks():
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    wanted = {
        "version",
        "changelog",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "task",
        "required_packages_version",
        "description",
        "authors",
        "copyright",
        "network_data_format",
    }
    assert wanted <= set(metadata)
    assert metadata["version"] in metadata["changelog"]


def test_licence_is_the_projects():
    assert (BUNDLE / "LICENSE").read_bytes() == (BUNDLE.parents[1] / "LICENSE").read_bytes()
    assert "no network" in (BUNDLE / "docs" / "README.md").read_text()
