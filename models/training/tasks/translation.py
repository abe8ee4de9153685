"""MR in, HU out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from radloom.models.training.pictures import Picture
from radloom.models.training.task import Sample, weighted_mean
from radloom.transforms.synthesis.draws import Range, log_uniform

__all__ = ["TISSUE_CLASSES", "Translation", "tissue_classes"]

TISSUE_CLASSES: Mapping[str, tuple[float, float]] = {
    "air": (-2000.0, -400.0),
    "soft": (-400.0, 250.0),
    "bone": (250.0, 5000.0),
}
"""Class -> HU from, to."""


def tissue_classes(hu: torch.Tensor) -> torch.Tensor:
    """Index into `TISSUE_CLASSES` of each voxel, int64."""
    return (hu >= TISSUE_CLASSES["soft"][0]).long() + (hu >= TISSUE_CLASSES["bone"][0]).long()


@dataclass(frozen=True)
class Translation:
    """The network gives HU and, beside, the scores of air, soft tissue and bone.

    The error of the HU is averaged within each class first, so that the few voxels of bone count as
    much as all the soft tissue: under the plain mean the answer stays at soft tissue.
    """

    class_weight: float = 0.5
    """Of the classes' part of the loss."""
    hu_unit: float = 100.0
    """The HU part of the loss is 1 at this mean error."""
    pairs: bool = False
    """A sample is one head."""
    wanted: tuple[str, ...] = ("image", "ct_hu")
    """MR as acquired, and the HU without noise."""
    scale_error: Range = (0.75, 1.33)
    """The MR is off by a factor from this range, as normalising a scan leaves it."""
    hu_range: tuple[float, float] = (-1024.0, 3071.0)
    """HU outside are set to the ends."""

    def prepare(self, sample: Sample, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Input: the MR."""
        image = sample["image"].float() * log_uniform(generator, self.scale_error)
        return {"image": image, "hu": sample["ct_hu"].float().clamp(*self.hu_range)}

    def loss(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """Mean absolute error, classes even; and the classes' cross-entropy and Dice."""
        from monai.losses import DiceLoss

        classes = tissue_classes(batch["hu"])
        error = (pred[:, :1] - batch["hu"]).abs() / self.hu_unit
        parts = [weighted_mean(error, (classes == n).float()) for n in range(len(TISSUE_CLASSES))]
        shares = torch.stack([(classes == n).float().mean() for n in range(len(TISSUE_CLASSES))])
        even = (shares.clamp_min(1e-3)).rsqrt()
        dice = DiceLoss(to_onehot_y=True, softmax=True, batch=True)(pred[:, 1:], classes)
        entropy = functional.cross_entropy(pred[:, 1:], classes[:, 0], weight=even)
        return {
            "hu": torch.stack(parts).mean(),
            "classes": self.class_weight * (dice + entropy),
        }

    def metrics(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """Mean absolute error in HU, over all and by class, and the Dice of bone."""
        error = (pred[:, :1] - batch["hu"]).abs()
        classes = tissue_classes(batch["hu"])
        values = {"mae": error.mean()}
        for n, name in enumerate(TISSUE_CLASSES):
            values[f"mae_{name}"] = weighted_mean(error, (classes == n).float())
        found, true = tissue_classes(pred[:, :1]) == 2, classes == 2
        both = (found & true).sum()
        values["dice_bone"] = 2 * both / (found.sum() + true.sum()).clamp_min(1)
        return values

    def pictures(self, pred: torch.Tensor, batch: Sample) -> list[Picture]:
        """MR; HU and truth at brain and bone windows; classes; error."""
        found, true = pred[0, 0], batch["hu"][0, 0]
        return [
            Picture("MR", batch["image"][0, 0], 0.0, 1.1),
            Picture("HU -20..100", found, -20, 100),
            Picture("true", true, -20, 100),
            Picture("HU -500..1500", found, -500, 1500),
            Picture("true", true, -500, 1500),
            Picture("classes", pred[0, 1:].argmax(0), kind="labels"),
            Picture("error +-500 HU", found - true, -500, 500),
        ]
