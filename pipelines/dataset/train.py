"""nnU-Net's training on a data set folder, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from radloom.errors import ConfigError, StageFailed
from radloom.pipelines.receipts.files import write_file

__all__ = ["TrainingPlan", "find_dataset", "train_dataset"]

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True)
class TrainingPlan:
    """What is trained on a data set, and how long; see `NnunetJob`."""

    configuration: str = "3d_fullres"
    folds: tuple[str, ...] = ("all",)
    epochs: int = 1000
    steps: int = 250
    planner: str = "ExperimentPlanner"
    pretrained: Path | None = None
    """An nnU-Net results folder to go on from."""
    trust: bool = False
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    n_threads: int = 1


def train_dataset(
    dest: Path, plan: TrainingPlan, environment: Mapping[str, str], *, name: str | None = None
) -> Path:
    """The results folder that nnU-Net made, which ``radloom segment --model`` takes.

    What nnU-Net says goes to the standard output. The same call goes on where a stopped one was.

    Args:
        dest: as `prepare_dataset` made it.
        plan: what to train.
        environment: of the process; nnU-Net's three folders are added to it.
        name: ``DatasetNNN_Name``, where `dest` holds several.

    Raises:
        ConfigError: no such data set, or several.
        StageFailed: nnU-Net stopped with an error.
    """
    raw = find_dataset(dest, name)
    folders = {key: str((dest / key).resolve()) for key in FOLDERS}
    job = dest / f"{raw.name}-job.json"
    write_file(job, json.dumps(_job(plan, raw, folders), indent=1).encode())
    command = [sys.executable, "-m", "radloom.models.training.nnunet_training", str(job)]
    own = {**environment, **folders, **_limits(plan)}
    done = subprocess.run(command, env=own, check=False)  # noqa: S603 - our own module, no shell
    if done.returncode:
        raise StageFailed(
            f"nnU-Net's training stopped with exit status {done.returncode}; what it said stands "
            "above. The same command goes on from its last checkpoint"
        )
    return Path(job.with_suffix(".result").read_text(encoding="utf-8"))


def find_dataset(dest: Path, name: str | None = None) -> Path:
    """The one data set below ``DEST/nnUNet_raw``, or that of the name given.

    Raises:
        ConfigError: none of that name, or several and no name.
    """
    found = sorted(path.parent for path in (dest / FOLDERS[0]).glob("Dataset*/dataset.json"))
    chosen = [path for path in found if name in (None, path.name)]
    if len(chosen) != 1:
        have = ", ".join(path.name for path in found) or "none"
        raise ConfigError(
            f"expected one data set below <{dest.name}/nnUNet_raw>, got {have}: make it with "
            "`radloom dataset`, or choose with --name"
        )
    return chosen[0]


def _job(plan: TrainingPlan, raw: Path, folders: Mapping[str, str]) -> dict[str, Any]:
    given = {key: value for key, value in asdict(plan).items() if key != "n_threads"}
    pretrained = "" if plan.pretrained is None else str(plan.pretrained.resolve())
    return given | {
        "raw": str(raw.resolve()),
        "preprocessed": folders["nnUNet_preprocessed"],
        "results": folders["nnUNet_results"],
        "pretrained": pretrained,
        "device": plan.device.partition(":")[0],
        "n_processes": plan.n_threads,
    }


def _limits(plan: TrainingPlan) -> dict[str, str]:
    """How many processes nnU-Net starts, and which GPU it takes: it takes the first it sees."""
    limits = {
        "nnUNet_def_n_proc": str(plan.n_threads),
        "nnUNet_n_proc_DA": str(max(1, plan.n_threads - 1)),
    }
    kind, _, index = plan.device.partition(":")
    return limits | ({"CUDA_VISIBLE_DEVICES": index} if kind == "cuda" and index else {})
