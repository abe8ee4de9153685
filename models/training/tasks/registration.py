"""Two images of a head in, the displacement between them out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from radloom.models.registration.network import warp
from radloom.models.segmentation.classes import CLASSES, class_of_label
from radloom.models.training.pictures import Picture
from radloom.models.training.task import Sample, weighted_mean
from radloom.models.training.tasks.segmentation import dice_per_class
from radloom.transforms.synthesis.draws import Range, log_uniform

__all__ = ["Registration"]


@dataclass(frozen=True)
class Registration:
    """Contrast-agnostic: what is compared is where the structures lie, never the intensities.

    SynthMorph's loss (Hoffmann et al. 2022, doi:10.1109/TMI.2021.3116879): soft Dice of the warped
    structures, and a smooth field; beside, the true displacement where the generator knows it. Of
    scans without labels the mutual information of the images takes the place of the Dice.
    """

    smooth_weight: float = 0.5
    """Of the squared gradient of the field, in voxels a voxel."""
    displacement_weight: float = 0.1
    """Of the mean distance to the true displacement in the head, in voxels."""
    scale_error: Range = (0.75, 1.33)
    """Each image is off by a factor from this range, as normalising a scan leaves it."""
    pairs: bool = True
    """A sample is a pair."""
    wanted: tuple[str, ...] = ("image", "label")
    """Of both heads."""

    def prepare(self, sample: Sample, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Input: fixed and moving image; displacements become voxels."""
        images = [
            sample[f"{side}_image"].float() * log_uniform(generator, self.scale_error)
            for side in ("fixed", "moving")
        ]
        batch = {"image": torch.cat(images)}
        if "fixed_label" in sample:
            batch["fixed"] = class_of_label(sample["fixed_label"])
            batch["moving"] = class_of_label(sample["moving_label"])
        if "displacement_mm" in sample:
            spacing = sample["spacing_mm"].reshape(3, 1, 1, 1)
            batch["ddf"] = sample["displacement_mm"].float() / spacing
        return batch

    def loss(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """How far the structures, or images, lie apart; how rough the field is; how far it errs."""
        from monai.losses import GlobalMutualInformationLoss

        parts = {"smooth": self.smooth_weight * _roughness(pred)}
        if "fixed" in batch:
            parts["match"] = _soft_dice_loss(pred, batch)
        else:
            fixed, moving = batch["image"].split(1, dim=1)
            parts["match"] = GlobalMutualInformationLoss()(warp(moving, pred), fixed)
        known = "ddf" in batch
        parts["way"] = (
            self.displacement_weight * _distance(pred, batch) if known else pred.new_zeros(())
        )
        return parts

    def metrics(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """Dice of the brain before and after, voxels' error, share of folded voxels."""
        values = {"folded": (_determinant(pred) <= 0).float().mean()}
        if "fixed" in batch:
            brain = torch.tensor([0 < item.label < 500 for item in CLASSES], device=pred.device)
            for name, ddf in (("dice_before", torch.zeros_like(pred)), ("dice", pred)):
                dice, there = dice_per_class(
                    _nearest(batch["moving"], ddf), batch["fixed"], len(CLASSES)
                )
                values[name] = weighted_mean(dice, (there & brain).float())
        if "ddf" in batch:
            values["error_vox"] = _distance(pred, batch)
        return values

    def pictures(self, pred: torch.Tensor, batch: Sample) -> list[Picture]:
        """Fixed, moving, warped moving; structures; the field's size."""
        fixed, moving = batch["image"][:1].split(1, dim=1)
        row = [
            Picture("fixed", fixed[0, 0], 0.0, 1.1),
            Picture("moving", moving[0, 0], 0.0, 1.1),
            Picture("warped moving", warp(moving, pred[:1])[0, 0], 0.0, 1.1),
        ]
        if "fixed" in batch:
            row += [
                Picture("fixed", batch["fixed"][0, 0], kind="labels"),
                Picture("moving", batch["moving"][0, 0], kind="labels"),
                Picture("warped", _nearest(batch["moving"][:1], pred[:1])[0, 0], kind="labels"),
            ]
        return [*row, Picture("0..10 voxels", pred[0].norm(dim=0), 0.0, 10.0)]


def _roughness(ddf: torch.Tensor) -> torch.Tensor:
    """Mean squared gradient; MONAI's DiffusionLoss indexes in a way that torch is giving up."""
    return torch.stack([torch.diff(ddf, dim=axis).square().mean() for axis in (2, 3, 4)]).mean()


def _soft_dice_loss(ddf: torch.Tensor, batch: Sample) -> torch.Tensor:
    """One less the mean soft Dice over the classes that one of both has, background left out."""
    fixed, moving = (_one_hot(batch[name], ddf.dtype) for name in ("fixed", "moving"))
    warped = warp(moving, ddf)
    axes = (0, 2, 3, 4)
    sizes = fixed.sum(axes) + warped.sum(axes)
    dice = 2 * (fixed * warped).sum(axes) / sizes.clamp_min(1)
    return 1 - weighted_mean(dice, (sizes > 0).to(dice.dtype))


def _one_hot(classes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, n - 1, I, J, K), background left out."""
    index = torch.arange(1, len(CLASSES), device=classes.device, dtype=classes.dtype)
    return (classes == index.reshape(1, -1, 1, 1, 1)).to(dtype)


def _distance(ddf: torch.Tensor, batch: Sample) -> torch.Tensor:
    """Mean distance in voxels between the field and the true one, within the head."""
    distance = (ddf - batch["ddf"]).square().sum(1, keepdim=True).add(1e-6).sqrt()
    head = batch["fixed"] > 0 if "fixed" in batch else torch.ones_like(distance)
    return weighted_mean(distance, head.to(distance.dtype))


def _nearest(classes: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
    return warp(classes.float(), ddf, mode="nearest").round().to(torch.uint8)


def _determinant(ddf: torch.Tensor) -> torch.Tensor:
    """(B, I - 1, J - 1, K - 1) of the Jacobian of ``x + ddf(x)``, by forward differences."""
    base = ddf[:, :, :-1, :-1, :-1]
    ahead = [ddf[:, :, 1:, :-1, :-1], ddf[:, :, :-1, 1:, :-1], ddf[:, :, :-1, :-1, 1:]]
    columns = torch.stack([part - base for part in ahead], dim=-1).movedim(1, -2)
    return torch.linalg.det(columns + torch.eye(3, device=ddf.device, dtype=ddf.dtype))
