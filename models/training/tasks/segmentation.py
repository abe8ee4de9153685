"""MR of any contrast in, classes out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from radloom.models.segmentation.classes import CLASSES, class_of_label
from radloom.models.training.pictures import Picture
from radloom.models.training.task import Sample
from radloom.transforms.synthesis.draws import uniform

__all__ = ["Segmentation", "dice_per_class"]


_SMOOTH = 1e-5
"""Of the soft Dice, as MONAI has it: a class that is nowhere costs nothing."""


@dataclass(frozen=True)
class Segmentation:
    """Dice and cross-entropy over `CLASSES`; the image is normalised as nnU-Net's z-score does.

    nnU-Net takes mean and deviation of a whole scan, with the air round the head; here they are a
    window's. `gain` and `shift` stand for what lies between the two.
    """

    stride: int = 1
    """Of the voxels that the network sees: heads drawn at 1 mm and a stride of 2 are what nnU-Net
    makes of a scan of 1 mm for a network of 2 mm, for its resampling does not smooth."""
    pairs: bool = False
    """A sample is one head."""
    wanted: tuple[str, ...] = ("image", "label", "sigma")
    """MR as acquired, labels of the table, and the noise: where there is neither noise nor signal,
    the generator took the skull or the face out."""
    gain: tuple[float, float] = (0.6, 1.4)
    """Of the deviation, drawn for each window."""
    shift: tuple[float, float] = (-0.5, 1.0)
    """Of the mean, in deviations."""

    def prepare(self, sample: Sample, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Input: the MR with deviation and mean drawn round 1 and 0.

        What was taken out of the picture is background.
        """
        i, j, k = (int(torch.randint(self.stride, (), generator=generator)) for _ in range(3))
        own = {
            name: sample[name][:, i :: self.stride, j :: self.stride, k :: self.stride]
            for name in self.wanted
            if name in sample
        }
        image, label = own["image"].float(), own["label"]
        if "sigma" in own:
            label = label * ((own["sigma"] > 0) | (image != 0))
        image = (image - image.mean()) / image.std().clamp_min(1e-6)
        image = image * uniform(generator, self.gain) + uniform(generator, self.shift)
        return {"image": image, "classes": class_of_label(label)}

    def loss(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """Soft Dice (background left out, over the whole batch) plus cross-entropy.

        The numbers of MONAI's ``DiceCELoss``; without one-hot labels it takes half of its time.
        """
        log_shares, classes = functional.log_softmax(pred, 1), batch["classes"].long()
        own = log_shares.gather(1, classes).reshape(-1)
        there, n_classes = classes.reshape(-1), pred.shape[1]
        common = own.new_zeros(n_classes).index_add(0, there, own.exp())
        total = log_shares.exp().sum((0, 2, 3, 4)) + torch.bincount(there, minlength=n_classes)
        dice = (2 * common + _SMOOTH) / (total + _SMOOTH)
        return {"dice_ce": 1 - dice[1:].mean() - own.mean()}

    def metrics(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """Mean Dice over the classes that are there: of the brain, and of the rest of the head."""
        dice, there = dice_per_class(pred.argmax(1), batch["classes"][:, 0], len(CLASSES))
        brain = torch.tensor([0 < item.label < 500 for item in CLASSES], device=dice.device)
        head = torch.tensor([item.label >= 500 for item in CLASSES], device=dice.device)
        return {
            "dice_brain": _mean(dice, there & brain),
            "dice_head": _mean(dice, there & head),
        }

    def pictures(self, pred: torch.Tensor, batch: Sample) -> list[Picture]:
        """Image, classes found, true classes, where they differ."""
        found, true = pred[0].argmax(0), batch["classes"][0, 0]
        return [
            Picture("MR", batch["image"][0, 0], -1.0, 3.0),
            Picture("found", found, kind="labels"),
            Picture("true", true, kind="labels"),
            Picture("wrong", (found != true).float()),
        ]


def dice_per_class(
    found: torch.Tensor, true: torch.Tensor, n_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(n_classes,) Dice between two maps of classes, and whether the class is in `true`."""
    pairs = found.reshape(-1).long() * n_classes + true.reshape(-1).long()
    table = torch.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes).float()
    n_found, n_true = table.sum(1), table.sum(0)
    return 2 * table.diagonal() / (n_found + n_true).clamp_min(1), n_true > 0


def _mean(values: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    return (values * which).sum() / which.sum().clamp_min(1)
