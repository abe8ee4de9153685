"""nnU-Net's plans for the network that is trained on generated heads.

    python -m radloom.models.training.nnunet_plans HEADS FOLDER [--cases 8]

Writes ``plans.json`` and ``dataset.json`` into FOLDER, as nnU-Net's own planner makes them of the
generator's fingerprint: patch, stages, strides, features, batch. Only what the planner takes as its
own settings is ours (`SETTINGS`), and that the network sees (x, y, z), as `Training` shows it.

Source: Isensee et al., nnU-Net, Nature Methods 2021, doi:10.1038/s41592-020-01008-z; nnunetv2,
``experiment_planning/``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radloom.models.segmentation.classes import CLASSES
from radloom.models.training.anatomies import load_anatomies
from radloom.transforms.synthesis.anatomy import Anatomy
from radloom.transforms.synthesis.sample import (
    GridRecipe,
    SampleRecipe,
    draw_sample,
    render_sample,
)

__all__ = ["CONFIGURATION", "dataset_of_generator", "fingerprint", "main", "plan"]

NAME = "Dataset500_RadloomBrainMR"
CONFIGURATION = "3d_fullres"
SETTINGS: Mapping[str, Any] = {
    "UNet_base_num_features": 24,
    "UNet_max_features_3d": 128,
    "UNet_blocks_per_stage_encoder": (1, *[2] * 13),
    "UNet_blocks_per_stage_decoder": (1,) * 13,
}
"""Of nnU-Net's planner: features and convolutions of a network that a CPU can train in hours, and
that labels a head on two cores in a minute."""
SPACING_MM = (2.0, 2.0, 2.0)
"""Of the network, whatever the images have: the planner's ``overwrite_target_spacing``."""
MEMORY_GB = 0.9
"""What the planner may spend on a batch of two: 64 to 80 voxels along each axis of a patch."""
_CASES = 1000
"""Of a source that never ends: nnU-Net caps the batch by a share of the data set."""


def dataset_of_generator() -> dict[str, Any]:
    """dataset.json: one MR channel, the classes of the bundle."""
    return {
        "channel_names": {"0": "MR"},
        "labels": {item.name: index for index, item in enumerate(CLASSES)},
        "numTraining": _CASES,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
    }


def fingerprint(anatomies: Sequence[Anatomy], *, cases: int, seed: int = 0) -> dict[str, Any]:
    """What nnU-Net's extractor finds in images, of whole heads drawn from the generator.

    Shapes are (z, y, x) at 1 mm, the spacing of the heads.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes, values = [], []
    for index in range(cases):
        anatomy = anatomies[index % len(anatomies)]
        recipe = replace(SampleRecipe(), grid=GridRecipe(anatomy.grid.shape, offset=0.0))
        drawn = draw_sample(anatomy, recipe, generator)
        sample = render_sample(anatomy, drawn, ("image", "label"))
        inside = sample["image"][sample["label"] > 0].double().numpy()
        shapes.append([int(n) for n in reversed(anatomy.grid.shape)])
        values.append(np.random.default_rng(index).choice(inside, 10_000))
    every = np.concatenate(values)
    low, middle, high = np.percentile(every, (0.5, 50.0, 99.5))
    properties = {
        "mean": float(every.mean()),
        "median": float(middle),
        "std": float(every.std()),
        "min": float(every.min()),
        "max": float(every.max()),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }
    return {
        "spacings": [[1.0, 1.0, 1.0]] * cases,
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": {"0": properties},
        "median_relative_size_after_cropping": 1.0,
    }


def plan(found: Mapping[str, Any], raw: Path, preprocessed: Path) -> dict[str, Any]:
    """The plans of nnU-Net's planner for a fingerprint, with the one configuration that is trained.

    Nothing of the environment is read: nnU-Net's planner is told the two folders.
    """
    for folder in (raw / NAME, preprocessed / NAME):
        folder.mkdir(parents=True, exist_ok=True)
    case = {"images": ["none.nii.gz"], "label": "none.nii.gz"}
    content = {**dataset_of_generator(), "dataset": {"none": case}}
    _write(raw / NAME / "dataset.json", content)
    _write(preprocessed / NAME / "dataset_fingerprint.json", found)
    with _folders_of_nnunet(raw, preprocessed):
        plans: dict[str, Any] = json.loads(json.dumps(_planner().plan_experiment()))
    configuration = plans["configurations"][CONFIGURATION]
    for key in ("next_stage", "previous_stage"):
        configuration.pop(key, None)
    return {**plans, "configurations": {CONFIGURATION: configuration}}


@contextmanager
def _folders_of_nnunet(raw: Path, preprocessed: Path) -> Iterator[None]:
    """The planner's module with these folders, which it otherwise takes from the environment."""
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner

    wanted = {"nnUNet_raw": str(raw), "nnUNet_preprocessed": str(preprocessed)}
    before = {name: getattr(default_experiment_planner, name) for name in wanted}
    vars(default_experiment_planner).update(wanted)
    try:
        yield
    finally:
        vars(default_experiment_planner).update(before)


def _planner() -> Any:
    """nnU-Net's planner with `SETTINGS`, which turns its readers' (z, y, x) to (x, y, z)."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )

    class Planner(ExperimentPlanner):  # type: ignore[misc]  # nnU-Net is not typed
        def determine_transpose(self) -> tuple[list[int], list[int]]:
            return [2, 1, 0], [2, 1, 0]

    planner = Planner(
        NAME, gpu_memory_target_in_gb=MEMORY_GB, overwrite_target_spacing=list(SPACING_MM)
    )
    for name, value in SETTINGS.items():
        setattr(planner, name, value)
    return planner


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m radloom.models.training.nnunet_plans")
    parser.add_argument("heads", type=Path, help="folder of label maps or packed heads")
    parser.add_argument("folder", type=Path, help="where plans.json and dataset.json go")
    parser.add_argument("--cases", type=int, default=8, help="heads drawn for the fingerprint")
    given = parser.parse_args(arguments)
    found = fingerprint(load_anatomies(given.heads), cases=given.cases)
    with tempfile.TemporaryDirectory() as folder:
        raw, preprocessed = Path(folder) / "raw", Path(folder) / "preprocessed"
        plans = plan(found, raw, preprocessed)
    given.folder.mkdir(parents=True, exist_ok=True)
    _write(given.folder / "plans.json", plans)
    _write(given.folder / "dataset.json", dataset_of_generator())


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
