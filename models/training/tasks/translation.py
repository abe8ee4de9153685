"""MR in, HU out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from radloom.models.training.pictures import Picture
from radloom.models.training.task import Sample, weighted_mean
from radloom.models.translation.network import MISSING
from radloom.models.translation.outputs import HU_RANGE
from radloom.models.translation.tissues import BOUNDS_HU
from radloom.transforms.synthesis.draws import Range, chance, choose, log_uniform

__all__ = ["OUTSIDE_HU", "TISSUE_CLASSES", "Translation", "even_error", "tissue_classes"]

TISSUE_CLASSES: Mapping[str, tuple[float, float]] = {
    "air": (-2000.0, BOUNDS_HU[0]),
    "soft": BOUNDS_HU,
    "bone": (BOUNDS_HU[1], 5000.0),
}
"""Class -> HU from, to."""

OUTSIDE_HU = -1500.0
"""Below this a CT did not see: scanners fill the corners of their images with -2000 or -3024, and
so does the registration of pairs."""


_LOG_SCALE = (-3.0, 10.0)
"""Logarithm of the smallest and the largest scale that count, HU."""


def tissue_classes(hu: torch.Tensor) -> torch.Tensor:
    """Index into `TISSUE_CLASSES` of each voxel, int64."""
    return (hu >= BOUNDS_HU[0]).long() + (hu >= BOUNDS_HU[1]).long()


def even_error(
    pred: torch.Tensor, hu: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean of the mean absolute errors in air, soft tissue and bone, HU.

    Args:
        pred: (B, 1, I, J, K) HU.
        hu: the true ones, of which the classes are.
        weight: 0 where the truth is not known.
    """
    error, classes = (pred - hu).abs(), tissue_classes(hu)
    known = torch.ones_like(error) if weight is None else weight
    parts = [weighted_mean(error, known * (classes == n)) for n in range(len(TISSUE_CLASSES))]
    return torch.stack(parts).mean()


@dataclass(frozen=True)
class Translation:
    """The network gives HU, the scores of air, soft tissue and bone, and the error's scale.

    Rare classes weigh more, by `evenness`: under the plain mean the answer stays at soft tissue;
    where each class counts as much as the others, bone grows over its edges (half as much again of
    it in a trial of 250 steps).

    The scale b is fitted to the errors as they are, ``|error| / b + log b``, and does not act back
    on the HU: under the likelihood of both, what is hard is given up (Seitzer et al. 2022,
    arXiv:2203.09168).
    """

    class_weight: float = 1.0
    """Of the classes' part of the loss."""
    evenness: float = 0.5
    """A voxel weighs as the share of its class to the power of minus this; 0: all voxels alike, 1:
    all classes."""
    anomaly_weight: float = 8.0
    """What a voxel of an anomaly weighs in HU and classes, where the source marks them.

    Calcifications and air in the brain are too small to count by themselves. 1,350 steps at 8 were
    not enough to show them (docs/benchmarks.md).
    """
    scale_weight: float = 0.1
    """Of the scale's part."""
    hu_unit: float = 100.0
    """The HU part of the loss is 1 at this mean error."""
    pairs: bool = False
    """A sample is one head."""
    wanted: tuple[str, ...] = ("image", "ct_hu", "anomaly")
    """MR as acquired, the HU without noise, and where anomalies are."""
    scale_error: Range = (0.75, 1.33)
    """The MR is off by a factor from this range, as normalising a scan leaves it."""
    hu_range: tuple[float, float] = HU_RANGE
    """HU outside are set to the ends."""
    missing_probability: float = 0.0
    """Of each contrast being left out, where an image has several; one always stays."""

    def prepare(self, sample: Sample, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Input: the MR. ``weight``: 0 where the CT saw nothing; ``emphasis``: anomalies."""
        images = [
            channel * log_uniform(generator, self.scale_error)
            for channel in sample["image"].float()
        ]
        kept = choose(generator, range(len(images)))
        for n, image in enumerate(images):
            lost = chance(generator, self.missing_probability) and n != kept
            images[n] = torch.full_like(image, MISSING) if lost else image
        hu = sample["ct_hu"].float()
        marked = sample.get("anomaly", torch.zeros_like(hu)) > 0
        return {
            "image": torch.stack(images),
            "hu": hu.clamp(*self.hu_range),
            "weight": (hu > OUTSIDE_HU).float(),
            "emphasis": torch.where(marked, self.anomaly_weight, 1.0),
        }

    def loss(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """Mean absolute error, the classes' cross-entropy and Dice, the scale."""
        from monai.losses import DiceLoss

        hu, weight = batch["hu"], batch["weight"]
        classes, scores = tissue_classes(hu), pred[:, 1:4]
        shares = torch.stack([(weight * (classes == n)).mean() for n in range(3)])
        known = weight * batch["emphasis"] * shares.clamp_min(1e-3).pow(-self.evenness)[classes]
        entropy = functional.cross_entropy(scores, classes[:, 0], reduction="none")[:, None]
        dice = DiceLoss(to_onehot_y=True, softmax=True, batch=True)(scores * weight, classes)
        return {
            "hu": weighted_mean((pred[:, :1] - hu).abs(), known) / self.hu_unit,
            "classes": self.class_weight * (dice + weighted_mean(entropy, known)),
            "scale": self.scale_weight * self._scale_loss(pred, batch),
        }

    def _scale_loss(self, pred: torch.Tensor, batch: Sample) -> torch.Tensor:
        """0 at a scale of `hu_unit` without errors."""
        log_scale = pred[:, 4:5].clamp(*_LOG_SCALE)
        error = (pred[:, :1] - batch["hu"]).abs().detach()
        cost = error * torch.exp(-log_scale) + log_scale - math.log(self.hu_unit)
        return weighted_mean(cost, batch["weight"])

    def metrics(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """Mean absolute error in HU, over all, by class and in the head, the Dice of bone.

        And of the scale: ``temperature``, what it must be multiplied by so that its mean is the
        mean absolute error in the head, and ``within_90``, the share of the head's voxels within
        what are then the bounds of 90 %.
        """
        hu, weight = batch["hu"], batch["weight"]
        error = (pred[:, :1] - hu).abs()
        classes = tissue_classes(hu)
        values = {"mae": weighted_mean(error, weight)}
        for n, name in enumerate(TISSUE_CLASSES):
            values[f"mae_{name}"] = weighted_mean(error, weight * (classes == n))
        head = weight * (classes > 0)
        values["mae_head"] = weighted_mean(error, head)
        found, true = (tissue_classes(pred[:, :1]) == 2) * weight, (classes == 2) * weight
        values["dice_bone"] = 2 * (found * true).sum() / (found.sum() + true.sum()).clamp_min(1)
        scale = torch.exp(pred[:, 4:5].clamp(*_LOG_SCALE))
        values["temperature"] = values["mae_head"] / weighted_mean(scale, head).clamp_min(1e-6)
        bound = math.log(10) * values["temperature"] * scale
        values["within_90"] = weighted_mean((error <= bound).float(), head)
        return values

    def pictures(self, pred: torch.Tensor, batch: Sample) -> list[Picture]:
        """MR; HU and truth at brain and bone windows; classes; error, expected error."""
        found, true = pred[0, 0], batch["hu"][0, 0]
        return [
            Picture("MR", batch["image"][0, 0], 0.0, 1.1),
            Picture("HU -20..100", found, -20, 100),
            Picture("true", true, -20, 100),
            Picture("HU -500..1500", found, -500, 1500),
            Picture("true", true, -500, 1500),
            Picture("classes", pred[0, 1:4].argmax(0), kind="labels"),
            Picture("error +-500 HU", found - true, -500, 500),
            Picture("expected error 0..300 HU", pred[0, 4].exp(), 0, 300),
        ]
