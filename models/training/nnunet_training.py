"""nnU-Net plans, preprocesses and trains what a JSON file says.

    python -m radloom.models.training.nnunet_training JOB

JOB holds the fields of `NnunetJob`. nnU-Net finds its folders by ``nnUNet_raw``,
``nnUNet_preprocessed`` and ``nnUNet_results``, so this is a process of its own, to which whoever
starts it gives them. Trainers, planner, loss and augmentation are nnU-Net's own, and so the result
is a folder that ``nnUNetv2_predict`` takes anywhere.

Source: Isensee et al., nnU-Net, Nature Methods 2021, doi:10.1038/s41592-020-01008-z; nnunetv2,
``experiment_planning/plan_and_preprocess_api.py`` and ``run/run_training.py``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from radloom.errors import ConfigError, InputError, RadloomError
from radloom.models.bundles import is_bundle, weights_path
from radloom.models.checkpoints import load_checkpoint
from radloom.models.segmentation.nnunet import find_nnunet
from radloom.models.training.nnunet_folder import write_nnunet_folder

__all__ = ["NnunetJob", "main", "results_folder", "run_job", "splits_of", "trainer_of"]

_log = logging.getLogger(__name__)

_HEADS = ".seg_layers."
"""In the names of the weights that give the classes, one layer a resolution."""


@dataclass(frozen=True)
class NnunetJob:
    """A training, in plain values."""

    raw: str
    """``.../nnUNet_raw/DatasetNNN_Name``."""
    preprocessed: str
    """``.../nnUNet_preprocessed``."""
    results: str
    """``.../nnUNet_results``."""
    configuration: str = "3d_fullres"
    """2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres."""
    folds: tuple[str, ...] = ("all",)
    """0 to 4 of a cross-validation by subject, or all: every case, and none to validate on."""
    epochs: int = 1000
    """nnU-Net's own default."""
    steps: int = 250
    """Batches in an epoch."""
    planner: str = "ExperimentPlanner"
    """nnU-Net's; ``nnUNetPlannerResEncM`` is another."""
    pretrained: str = ""
    """A results folder, or a bundle with plans.json, to start from; its plans are taken too."""
    trust: bool = False
    """Whether its checkpoint may hold more than tensors."""
    device: str = "cpu"
    n_processes: int = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.steps < 1 or self.n_processes < 1:
            raise ConfigError("expected epochs, steps and processes of 1 or more")
        known = ("all", "0", "1", "2", "3", "4")
        if not self.folds or any(fold not in known for fold in self.folds):
            raise ConfigError(f"expected folds of {', '.join(known)}, got {', '.join(self.folds)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: one argument, the job's file; beside it `.result` says where to look."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    content = json.loads(Path(given[0]).read_text(encoding="utf-8"))
    try:
        folder = run_job(NnunetJob(**{**content, "folds": tuple(content["folds"])}))
    except RadloomError as error:
        _log.error("radloom: %s", error)
        raise SystemExit(2) from None
    Path(given[0]).with_suffix(".result").write_text(str(folder), encoding="utf-8")


def run_job(job: NnunetJob) -> Path:
    """The results folder of a training that is done; what an earlier one has done stays.

    Raises:
        ConfigError: a fold or configuration that the data set does not have, or pretrained weights
            that do not fit.
    """
    job = _with_results_folder(job)
    raw, preprocessed = Path(job.raw), Path(job.preprocessed) / Path(job.raw).name
    dataset = _read(raw / "dataset.json")
    cases = sorted(path.name[: -len(".nii.gz")] for path in (raw / "labelsTr").glob("*.nii.gz"))
    plans = _plan(job, raw, preprocessed, dataset)
    if job.configuration not in plans["configurations"]:
        raise ConfigError(
            f"expected a configuration of {', '.join(plans['configurations'])}, got "
            f"{job.configuration!r}: nnU-Net's planner makes no other for these images"
        )
    _write_splits(preprocessed / "splits_final.json", cases, job.folds)
    _preprocess(job, raw.name, plans)
    for fold in job.folds:
        _train(job, plans, dataset, fold)
    return results_folder(job, plans, dataset)


def trainer_of(names: Sequence[str]) -> str:
    """nnU-Net's trainer for these structures: mirrored images swap what is named by its side.

    >>> trainer_of(["background", "tumour"]), trainer_of(["background", "left thalamus"])
    ('nnUNetTrainer', 'nnUNetTrainerNoMirroring')
    """
    sides = {"left", "right", "lh", "rh"}
    sided = any(sides & set(name.lower().replace("_", " ").split()) for name in names)
    return "nnUNetTrainerNoMirroring" if sided else "nnUNetTrainer"


def splits_of(cases: Sequence[str], n_folds: int = 5) -> list[dict[str, list[str]]]:
    """Folds of a cross-validation in which no subject is both trained and validated on.

    nnU-Net's own split goes by cases, and so would put two dates of one patient on both sides.

    Args:
        cases: names that begin with ``sub-<subject>``.
        n_folds: at most so many; as many as subjects where there are fewer.

    >>> splits_of(["sub-a_ses-1", "sub-a_ses-2", "sub-b_ses-1"])[0]["val"]
    ['sub-a_ses-1', 'sub-a_ses-2']
    """
    subjects = sorted({_subject(case) for case in cases})
    n = min(n_folds, len(subjects))
    if n < 2:
        return []
    fold_of = {subject: index % n for index, subject in enumerate(subjects)}
    return [
        {
            "train": [case for case in cases if fold_of[_subject(case)] != fold],
            "val": [case for case in cases if fold_of[_subject(case)] == fold],
        }
        for fold in range(n)
    ]


def results_folder(job: NnunetJob, plans: Mapping[str, Any], dataset: Mapping[str, Any]) -> Path:
    """Where nnU-Net puts what it trained."""
    name = f"{trainer_of(list(dataset['labels']))}__{plans['plans_name']}__{job.configuration}"
    return Path(job.results) / Path(job.raw).name / name


def _with_results_folder(job: NnunetJob) -> NnunetJob:
    """The job, a bundle that it starts from put into nnU-Net's own form first."""
    given = Path(job.pretrained)
    if not job.pretrained or not is_bundle(given):
        return job
    made = write_nnunet_folder(
        weights_path(given), Path(job.results).parent / "pretrained", given / "configs"
    )
    return replace(job, pretrained=str(made))


def _subject(case: str) -> str:
    return case.partition("_")[0]


def _plan(
    job: NnunetJob, raw: Path, preprocessed: Path, dataset: Mapping[str, Any]
) -> dict[str, Any]:
    """Fingerprint and plans of nnU-Net's planner; or the plans of the pretrained model."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    number = int(raw.name[len("Dataset") :][:3])
    api.extract_fingerprints(
        [number], num_processes=job.n_processes, clean=True, show_progress_bar=False
    )
    preprocessed.mkdir(parents=True, exist_ok=True)
    if not job.pretrained:
        name = api.plan_experiments([number], job.planner)
        return _read(preprocessed / f"{name}.json")
    plans = _moved_plans(Path(job.pretrained), raw.name, dataset)
    for path, content in (
        (preprocessed / f"{plans['plans_name']}.json", plans),
        (preprocessed / "dataset.json", dataset),
    ):
        path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return plans


def _moved_plans(folder: Path, name: str, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The plans of a results folder for another data set, as nnU-Net moves them.

    Patch, spacing, normalisation and network stay, so that the weights mean the same.
    """
    model = find_nnunet(folder)
    channels = len(dataset["channel_names"])
    if len(model.channel_names) != channels:
        raise ConfigError(
            f"<{folder.name}>: expected a model of {channels} channel(s), as the data set has, got "
            f"{', '.join(model.channel_names)}"
        )
    plans: dict[str, Any] = json.loads(json.dumps(model.plans))
    old, new = plans["plans_name"], f"{plans['plans_name']}Pretrained"
    plans |= {"dataset_name": name, "plans_name": new}
    plans["image_reader_writer"] = dataset["overwrite_image_reader_writer"]
    for configuration in plans["configurations"].values():
        if "data_identifier" in configuration:
            rest = configuration["data_identifier"].removeprefix(old)
            configuration["data_identifier"] = f"{new}{rest}"
    return plans


def _write_splits(path: Path, cases: Sequence[str], folds: Sequence[str]) -> None:
    splits = splits_of(cases)
    absent = [fold for fold in folds if fold != "all" and int(fold) >= len(splits)]
    if absent:
        raise ConfigError(
            f"expected folds below {len(splits)} or all, got {', '.join(absent)}: the data set has "
            f"{len({_subject(case) for case in cases})} subject(s), and each validates in one fold"
        )
    path.write_text(json.dumps(splits, indent=1), encoding="utf-8")


def _preprocess(job: NnunetJob, name: str, plans: Mapping[str, Any]) -> None:
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    wanted = [job.configuration]
    previous = plans["configurations"][job.configuration].get("previous_stage")
    wanted += [previous] if previous else []
    api.preprocess(
        [int(name[len("Dataset") :][:3])], plans["plans_name"], wanted, [job.n_processes],
        show_progress_bar=False,
    )  # fmt: skip


def _train(job: NnunetJob, plans: Mapping[str, Any], dataset: Mapping[str, Any], fold: str) -> None:
    """One fold, from the start, from pretrained weights, or on from its latest checkpoint."""
    from nnunetv2.run.run_training import maybe_load_checkpoint

    out = results_folder(job, plans, dataset) / f"fold_{fold}"
    if (out / "checkpoint_final.pth").is_file():
        _log.info("fold %s is trained already", fold)
        return
    going_on = (out / "checkpoint_latest.pth").is_file()
    trainer = _trainer(job, plans, dataset, fold, going_on=going_on)
    trainer.initialize()
    if job.pretrained and not going_on:
        _take_weights(trainer.network, job, dataset)
    maybe_load_checkpoint(trainer, going_on, validation_only=False)
    trainer.run_training()
    if fold != "all":
        trainer.perform_actual_validation()


def _trainer(
    job: NnunetJob,
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    fold: str,
    *,
    going_on: bool,
) -> Any:
    """nnU-Net's trainer, its length set before it makes its schedule."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    kind = recursive_find_trainer_class_by_name(trainer_of(list(dataset["labels"])))
    content = {**json.loads(json.dumps(plans)), "continue_training": going_on}
    number = fold if fold == "all" else int(fold)
    trainer = kind(content, job.configuration, number, dict(dataset), torch.device(job.device))
    trainer.num_epochs, trainer.num_iterations_per_epoch = job.epochs, job.steps
    trainer.num_val_iterations_per_epoch = max(1, job.steps // 5)
    trainer.save_every = min(trainer.save_every, 10)
    return trainer


def _take_weights(network: Any, job: NnunetJob, dataset: Mapping[str, Any]) -> None:
    """The weights of the pretrained model; those of its classes only where they are the same.

    nnU-Net's own function unpickles whatever the file holds, and so is not called.
    """
    model = find_nnunet(Path(job.pretrained))
    checkpoint = load_checkpoint(model.checkpoints()[0], trust=job.trust)
    weights: Mapping[str, torch.Tensor] = checkpoint["network_weights"]
    own = getattr(network, "_orig_mod", network).state_dict()
    same = model.dataset["labels"] == dataset["labels"]
    wanted = [key for key in own if same or _HEADS not in key]
    wrong = [key for key in wanted if key not in weights or weights[key].shape != own[key].shape]
    if wrong:
        raise ConfigError(
            f"<{model.path.name}>: expected weights of the network that its plans describe; "
            f"{wrong[0]} is absent or of another shape"
        )
    own.update({key: weights[key] for key in wanted})
    getattr(network, "_orig_mod", network).load_state_dict(own)
    _log.info("%d of %d tensors come from <%s>", len(wanted), len(own), model.path.name)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"expected <{path.name}>, as radloom dataset writes it")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    main()
