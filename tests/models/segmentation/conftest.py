"""Real nnU-Net results folders, planned, trained and written by nnU-Net itself, in seconds."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import nibabel as nib
import numpy as np
import pytest
import torch

from radloom.shapes import Volume, make_volume

NUMBER = 901
DATASET = f"Dataset{NUMBER}_RadloomTest"
NAMES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture(scope="session")
def nnunet_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nnU-Net's three folders: nnUNet_raw, nnUNet_preprocessed, nnUNet_results."""
    root = tmp_path_factory.mktemp("nnunet")
    for name in NAMES:
        (root / name).mkdir()
    return root


@pytest.fixture(scope="session")
def nnunet_folder(nnunet_root: Path) -> Path:
    """``nnUNetTrainer__nnUNetPlans__3d_fullres`` with folds 0 and 1, trained two steps each.

    The voxels are 4 x 1.25 x 1 mm, so that no two axes can be taken for each other, and nnU-Net's
    plans put the thick axis first (transpose_forward); the folds differ, so that an ensemble
    differs from each of them.
    """
    with nnunet_environment(nnunet_root), quiet(), threads_for_processes():
        plans = plan(nnunet_root)
        for fold in (0, 1):
            folder = train(plans, nnunet_root, fold)
    return folder


@pytest.fixture(scope="session")
def region_folder(nnunet_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two channels and two nested regions: nnU-Net's network with random weights."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = copy_model(nnunet_folder, tmp_path_factory.mktemp("regions"))
    plans, dataset = read(folder / "plans.json"), read(folder / "dataset.json")
    dataset["channel_names"] = {"0": "T1", "1": "FLAIR"}
    dataset["labels"] = {"background": 0, "whole": [1, 2], "core": [2]}
    dataset["regions_class_order"] = [1, 2]
    intensities = plans["foreground_intensity_properties_per_channel"]
    intensities["1"] = intensities["0"]
    configuration = plans["configurations"]["3d_fullres"]
    for key in ("normalization_schemes", "use_mask_for_norm"):
        configuration[key] = configuration[key] * 2
    write(folder / "plans.json", plans)
    write(folder / "dataset.json", dataset)
    torch.manual_seed(3)
    manager = PlansManager(plans)
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 2, 2, enable_deep_supervision=False
    )
    balance(network, configuration["patch_size"], n_channels=2)
    for path in folder.glob("fold_*/checkpoint_final.pth"):
        checkpoint = torch.load(path, weights_only=False)
        torch.save({**checkpoint, "network_weights": network.state_dict()}, path)
    return folder


@pytest.fixture(scope="session")
def grid_volume() -> Callable[..., Volume]:
    """``grid_volume(name, seed=0)``: a noisy ellipsoid pair on one of `GRIDS`."""

    def make(name: str, seed: int = 0) -> Volume:
        image = render(ellipsoids(SHAPES[name]), np.random.default_rng(seed))
        return make_volume(image, GRIDS[name], modality="MR", units="arbitrary", series_uid="1.2")

    return make


@pytest.fixture(scope="session")
def other_folders(nnunet_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """2d, 3d_lowres and 3d_cascade_fullres beside each other: nnU-Net's networks, random weights.

    The planner makes the 2D plans; such small images get no cascade from it, so its parts are
    written as the planner writes them, the lowres one at half the resolution.
    """
    root = tmp_path_factory.mktemp("kinds")
    plans, dataset = read(nnunet_folder / "plans.json"), read(nnunet_folder / "dataset.json")
    every = plans["configurations"]
    full = every["3d_fullres"]
    low = json.loads(json.dumps(full))
    low["spacing"] = [mm * factor for mm, factor in zip(full["spacing"], (1, 2, 2), strict=True)]
    low["next_stage"] = "3d_cascade_fullres"
    every["3d_lowres"] = low
    every["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    names = ("2d", "3d_lowres", "3d_cascade_fullres")
    return {
        name: random_folder(root, plans, dataset, name, seed) for seed, name in enumerate(names)
    }


@pytest.fixture(scope="session")
def residual_folder(nnunet_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual encoder as nnU-Net's ResEnc planners plan it, three folds, an ignore label."""
    root = tmp_path_factory.mktemp("residual")
    plans, dataset = read(nnunet_folder / "plans.json"), read(nnunet_folder / "dataset.json")
    dataset["labels"]["ignore"] = 3
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = (
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    )
    kwargs = architecture["arch_kwargs"]
    kwargs["n_blocks_per_stage"] = [1] * len(kwargs.pop("n_conv_per_stage"))
    kwargs["n_conv_per_stage_decoder"] = [1] * len(kwargs["n_conv_per_stage_decoder"])
    folders = [random_folder(root / str(n), plans, dataset, "3d_fullres", n) for n in range(3)]
    for fold in (1, 2):
        shutil.copytree(folders[fold] / "fold_0", folders[0] / f"fold_{fold}")
    return folders[0]


def random_folder(root: Path, plans: dict, dataset: dict, name: str, seed: int) -> Path:
    """A results folder of one fold with weights drawn at random, in nnU-Net's layout."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    torch.manual_seed(seed)
    manager = PlansManager(json.loads(json.dumps(plans)))
    configuration = manager.get_configuration(name)
    n_channels = determine_num_input_channels(manager, configuration, dataset)
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    network = nnUNetTrainer.build_network_architecture(
        manager, configuration, n_channels, heads, enable_deep_supervision=False
    )
    balance(network, configuration.patch_size, n_channels)
    folder = root / DATASET / f"nnUNetTrainer__nnUNetPlans__{name}"
    (folder / "fold_0").mkdir(parents=True)
    write(folder / "plans.json", plans)
    write(folder / "dataset.json", dataset)
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": {"configuration": name},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": tuple(range(len(configuration.patch_size))),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def oblique() -> np.ndarray:
    """Axes turned about all three world axes, 1.0 x 1.2 x 3.6 mm, J and K of LPS kind."""
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", [25, -12, 17], degrees=True).as_matrix()
    affine[:3, :3] = turned @ np.diag([1.0, -1.2, -3.6])
    affine[:3, 3] = -40.0, 22.5, -61.0
    return affine


SHAPES = {"ras": (13, 38, 45), "lps": (12, 47, 39), "oblique": (43, 36, 15), "pir": (40, 41, 17)}
GRIDS = {
    "ras": np.diag([4.0, 1.25, 1.0, 1.0]),
    "lps": np.diag([-4.0, -1.0, 1.1, 1.0]),
    "oblique": oblique(),
    "pir": np.array([[0, 0, 3.9, -30], [-1.0, 0, 0, 20], [0, -1.1, 0, 5], [0, 0, 0, 1.0]]),
}


def copy_model(folder: Path, into: Path) -> Path:
    """A copy that a test may spoil, under the same name."""
    return Path(shutil.copytree(folder, into / folder.name))


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))


@contextlib.contextmanager
def nnunet_environment(root: Path) -> Iterator[None]:
    """nnU-Net's own planner, trainer and command line read their folders from the environment."""
    with mock.patch.dict(os.environ, {name: str(root / name) for name in NAMES}):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # nnU-Net's trainer, which Radloom never calls
        yield


@contextlib.contextmanager
def threads_for_processes() -> Iterator[None]:
    """A spawned process imports torch and nnU-Net anew, ten seconds each."""
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
    from nnunetv2.preprocessing.preprocessors import default_preprocessor

    threads = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))
    with (
        mock.patch.object(fingerprint_extractor, "multiprocessing", threads),
        mock.patch.object(default_preprocessor, "multiprocessing", threads),
    ):
        yield


def plan(root: Path) -> dict:
    """nnU-Net's fingerprint, plans and preprocessed cases of a small data set."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    write_dataset(root / "nnUNet_raw" / DATASET)
    DatasetFingerprintExtractor(NUMBER, 1).run(overwrite_existing=True)
    ExperimentPlanner(NUMBER).plan_experiment()
    path = root / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    for configuration in plans["configurations"].values():
        if "architecture" in configuration:  # an eighth of the features: the same code, quicker
            kwargs = configuration["architecture"]["arch_kwargs"]
            kwargs["features_per_stage"] = [max(4, n // 8) for n in kwargs["features_per_stage"]]
    path.write_text(json.dumps(plans))
    split = {"train": ["case0", "case1"], "val": ["case2"]}
    (path.parent / "splits_final.json").write_text(json.dumps([split] * 2))
    preprocess_dataset(NUMBER, configurations=["3d_fullres"], num_processes=[1])
    return plans


def write_dataset(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    affine = np.diag([4.0, 1.25, 1.0, 1.0])
    for case in range(3):
        labels = ellipsoids((14 + case, 40, 44 + case))
        image = render(labels, generator)
        save(image, affine, folder / "imagesTr" / f"case{case}_0000.nii.gz")
        save(labels.astype(np.uint8), affine, folder / "labelsTr" / f"case{case}.nii.gz")
    content = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "shell": 1, "core": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def ellipsoids(shape: tuple[int, ...]) -> np.ndarray:
    """Labels (I, J, K): 2 within 1, off centre, so that no flip maps them onto themselves."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sqrt((axes[0] - 0.15) ** 2 + (axes[1] + 0.1) ** 2 + (axes[2] - 0.2) ** 2)
    return (radius < 0.75).astype(np.int64) + (radius < 0.4)


def render(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A noisy picture (I, J, K) of the labels, float32."""
    return (100.0 * labels + 50 + generator.normal(0, 20, labels.shape)).astype(np.float32)


def save(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    nib.save(nib.Nifti1Image(array, affine), path)


def train(plans: dict, root: Path, fold: int) -> Path:
    """nnU-Net's own training loop cut short, then balanced, and nnU-Net's own checkpoint of it.

    So every label comes up all over the volume, and a voxel out of place shows.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(fold)
    dataset = json.loads((root / "nnUNet_raw" / DATASET / "dataset.json").read_text())
    content = {**json.loads(json.dumps(plans)), "continue_training": False}
    with mock.patch.dict(os.environ, {"nnUNet_n_proc_DA": "0"}):
        trainer = nnUNetTrainer(content, "3d_fullres", fold, dataset, torch.device("cpu"))
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.initial_lr = 1, 2, 1e-4
        trainer.num_val_iterations_per_epoch = 1
        trainer.run_training()
    trainer.set_deep_supervision_enabled(False)
    balance(trainer.network, trainer.configuration_manager.patch_size)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    return Path(trainer.output_folder).parent


def balance(network: torch.nn.Module, patch_size: list[int], n_channels: int = 1) -> None:
    """Shift the last layer so that no class wins everywhere."""
    last = network.decoder.seg_layers[-1]
    with torch.no_grad():
        scores = network.eval()(torch.randn(1, n_channels, *patch_size))
        last.bias -= scores.transpose(0, 1).flatten(1).mean(dim=1)
