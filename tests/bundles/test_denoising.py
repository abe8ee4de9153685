"""The bundle as a user of MONAI runs it: in a process of its own, from inside and elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from radloom.models.denoising.methods import How, denoise_image

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
BUNDLE = BUNDLES / "head_mr_denoising"
BOTH = ["head_mr_denoising", "head_ct_denoising"]


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
    command += [] if inside else ["--bundle_root", str(BUNDLE)]
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
    want = denoise_image(np.asarray(given.dataobj), spacing, modality="MR", how=How("network"))[0]
    np.testing.assert_array_equal(np.asarray(got.dataobj), want)


@pytest.mark.parametrize("name", BOTH)
def test_metadata_says_what_the_model_zoo_asks(name):
    metadata = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())
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


@pytest.mark.slow
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning:monai.bundle")
def test_the_network_is_what_the_metadata_says(name):
    from monai.bundle import verify_net_in_out

    configs = BUNDLES / name / "configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.yaml"),
        n=4,
        device="cpu",
    )


@pytest.fixture(params=BOTH)
def random_network(request):
    """The bundle's network, every weight drawn, for what starts at zero hides all others."""
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(BUNDLES / request.param / "configs" / "inference.yaml"))
    network = parser.get_parsed_content("network_def").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(0.05 * torch.randn(weights.shape, generator=generator))
    return request.param, network


def pair_of(*shape):
    import torch

    return torch.rand(1, 2, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_the_network_can_be_exported(random_network):
    import torch

    _, network = random_network
    multiples = {axis: 8 * torch.export.Dim(f"n{axis}", min=2, max=32) for axis in (2, 3, 4)}
    with torch.no_grad():
        exported = torch.export.export(
            network, (pair_of(32, 32, 32),), dynamic_shapes=(multiples,)
        ).module()
        other = pair_of(16, 24, 40)
        clean = network(other)
        assert (clean - other[:, :1]).abs().max() > 0.01
        torch.testing.assert_close(exported(other), clean)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python")  # to a constant, as it is
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning:monai.bundle")
def test_the_zoos_own_export_gives_the_same(random_network, tmp_path):
    import torch
    from monai.bundle import ckpt_export

    name, network = random_network
    torch.save(network.state_dict(), tmp_path / "model.pt")
    configs = BUNDLES / name / "configs"
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.yaml"),
        use_trace=True,
        input_shape=[1, 2, 32, 32, 32],
    )
    exported, other = torch.jit.load(tmp_path / "model.ts"), pair_of(16, 24, 40)
    with torch.no_grad():
        torch.testing.assert_close(exported(other), network(other))


@pytest.mark.parametrize("name", BOTH)
def test_networks_of_training_and_inference_are_one(name):
    train, inference = (
        yaml.safe_load((BUNDLES / name / "configs" / f"{config}.yaml").read_text())
        for config in ("train", "inference")
    )
    assert train["network_def"] == inference["network_def"]


@pytest.mark.parametrize("name", BOTH)
def test_licence_is_the_projects(name):
    licence = (BUNDLES / name / "LICENSE").read_bytes()
    assert licence == (BUNDLES.parent / "LICENSE").read_bytes()
    has_weights = (BUNDLES / name / "models" / "model.pt").is_file()
    assert ("no weights yet" in (BUNDLES / name / "docs" / "README.md").read_text()) != has_weights
