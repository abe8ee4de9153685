"""The ways to train a pseudo-CT run from their configs, on rendered heads, and learn.

Networks, heads and grids are small, and the steps a few dozen.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from radloom.models.bundles import find_bundle
from radloom.models.registration.foreground import head_mask
from radloom.models.training.tasks.translation import tissue_classes
from radloom.transforms.nifti import write_nifti
from radloom.transforms.spatial import Transform
from radloom.transforms.synthesis.anatomy import anatomy_of_phantom, pack_anatomy
from radloom.transforms.synthesis.phantom import HeadPhantom, make_head, render_ct, render_mr

CONFIGS = find_bundle("head_mr_to_ct_translation") / "configs"
SMALL = {
    "backbone#n_stages": 2,
    "backbone#features_per_stage": [16, 32],
    "backbone#strides": [1, 2],
    "backbone#n_conv_per_stage": 2,
}
SMALL_BACK = {"backbone#init_filters": 8, "backbone#blocks_down": [1, 1], "backbone#blocks_up": [1]}
QUICK = {
    "settings#batch_size": 1,
    "settings#mix": 1,
    "settings#reuse": 1,
    "settings#prefetch": 0,
    "settings#validation_cases": 1,
    "settings#warmup_steps": 2,
    "settings#ema_decay": 0.9,
    "max_minutes": 60,
    **{f"network_def#{key}": value for key, value in SMALL.items()},
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning:monai.bundle"),
]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def people() -> list[HeadPhantom]:
    """Three heads of 4 mm; the last is held out."""
    return [make_head(generator(seed), spacing_mm=4.0) for seed in range(3)]


@pytest.fixture(scope="module")
def packed(people, tmp_path_factory) -> tuple[Path, Path]:
    """Two heads to learn from and one to look at, for the generator."""
    folders = tuple(tmp_path_factory.mktemp(name) for name in ("learn", "look"))
    for n, head in enumerate(people):
        content = pack_anatomy(anatomy_of_phantom(f"phantom_{n}", head))
        (folders[n // 2] / f"{n}.npz").write_bytes(content)
    return folders


def run(config: str, out: Path, **given) -> list[dict[str, float]]:
    """The metrics of each validation."""
    from monai.bundle import run as run_bundle

    files = [str(CONFIGS / "train.yaml"), str(CONFIGS / config)]
    run_bundle(config_file=files, output_dir=str(out), **{**QUICK, **given})
    return [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]


def losses(out: Path, column: str = "loss") -> np.ndarray:
    with (out / "curve.tsv").open() as stream:
        return np.array([float(row[column]) for row in csv.DictReader(stream, delimiter="\t")])


def write_pair(folder: Path, n: int, head: HeadPhantom, move: Transform | None) -> str:
    folder.mkdir(exist_ok=True)
    write_nifti(render_mr(head, "t1", generator=generator(n)), folder / f"{n}_mr.nii.gz")
    ct = render_ct(head, moving_from_fixed=move, generator=generator(n))
    write_nifti(ct, folder / f"{n}_ct.nii.gz")
    return f"{n}_mr.nii.gz\t{n}_ct.nii.gz"


def test_pairs_that_lie_apart_are_learnt_from(people, tmp_path) -> None:
    move = np.eye(4)
    move[:3, :3] = [[0.9976, -0.0698, 0], [0.0698, 0.9976, 0], [0, 0, 1]]
    move[:3, 3] = 6, -4, 5
    for part, chosen, moved in (("learn", (0, 1), Transform(move)), ("look", (2,), None)):
        rows = [write_pair(tmp_path / part, n, people[n], moved) for n in chosen]
        table = "\n".join(["image\tct_hu", *rows]) + "\n"
        (tmp_path / part / "scans.tsv").write_text(table)
    metrics = run(
        "train_paired.yaml",
        tmp_path / "run",
        dataset_dir=str(tmp_path / "learn"),
        validation_dir=str(tmp_path / "look"),
        max_steps=80,
        **{
            "source#scan_spacing_mm": 4.0,
            "validation#scan_spacing_mm": 4.0,
            "settings#crop_shape": [48, 56, 56],
            "settings#validate_every": 40,
            "optimizer#lr": 4e-3,
            "optimizer#other_lr": 2e-3,
        },
    )
    found = losses(tmp_path / "run")
    assert found[-10:].mean() < 0.5 * found[:10].mean()
    mr = render_mr(people[2], "t1", generator=generator(2))
    hu = render_ct(people[2], noise=0.0, generator=generator(2)).as_tensor()
    water = torch.from_numpy(np.where(head_mask(mr), 0.0, -1000.0))[None]
    error, classes = (water - hu).abs(), tissue_classes(hu)
    of_classes = [float(error[classes == n].mean()) for n in range(3)]
    last = metrics[-1]
    assert last["mae_bone"] < 0.6 * of_classes[2]
    assert last["mae_head"] < float(error[classes > 0].mean())
    even = np.mean([last[f"mae_{name}"] for name in ("air", "soft", "bone")])
    assert even < 0.9 * np.mean(of_classes)
    assert last["dice_bone"] > 0.4
    assert 0.8 < last["within_90"] < 0.98


GRID = {
    "recipe#grid": {"shape": [24, 32, 32], "spacing_mm": [7.0, 7.0], "offset": 0.0},
    "recipe#mr": {"physics_probability": 1.0, "protocols": ["t1_mprage"]},
    "recipe#mr_acquisition": {"nearly_clean": 1.0},
    "recipe#anomalies": {"probability": 0.0},
    "settings#crop_shape": [24, 32, 32],
    "settings#reuse": 4,
}


def test_unpaired_scans_are_learnt_from(packed, tmp_path) -> None:
    learn, look = packed
    metrics = run(
        "train_unpaired.yaml",
        tmp_path / "run",
        dataset_dir=str(learn),
        validation_dir=str(look),
        max_steps=40,
        patch_shape=[24, 32, 32],
        **GRID,
        **{f"networks#mr_from_ct#{key}": value for key, value in SMALL_BACK.items()},
        **{"networks#judge#num_layers_d": 1, "networks#judge#channels": 8},
        **{"networks#pool_size": 4, "settings#validate_every": 5, "optimizer#lr": 4e-3},
    )
    for column in ("cycle_mr", "cycle_ct", "identity"):
        found = losses(tmp_path / "run", column)
        assert found[-5:].mean() < 0.75 * found[:5].mean(), column
    # the CT of a head that was never seen, of which no pair was ever shown
    assert metrics[-1]["mae"] < 0.75 * metrics[0]["mae"]
    assert (tmp_path / "run" / "model.pt").is_file()


def test_weights_are_tuned_against_a_discriminator(packed, tmp_path) -> None:
    learn, _ = packed
    metrics = run(
        "train_adversarial.yaml",
        tmp_path / "run",
        dataset_dir=str(learn),
        max_steps=6,
        **GRID,
        **{"networks#discriminator#num_layers_d": 1, "networks#discriminator#channels": 8},
        **{"optimizer#lr": 2e-3},
    )
    assert np.isfinite(list(metrics[-1].values())).all()
    found = losses(tmp_path / "run", "discriminator")
    assert found[-1] < found[0]


def test_three_contrasts_train_with_some_left_out(packed, tmp_path) -> None:
    learn, _ = packed
    metrics = run(
        "train_contrasts.yaml", tmp_path / "run", dataset_dir=str(learn), max_steps=4, **GRID
    )
    assert np.isfinite(list(metrics[-1].values())).all()
    weights = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert next(iter(weights.values())).shape[1] == 48
