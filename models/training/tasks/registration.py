"""Two images of a head in, the displacement between them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from radloom.models.registration.network import warp
from radloom.models.segmentation.classes import CLASSES, class_of_label
from radloom.models.training.pictures import Picture
from radloom.models.training.task import Sample, weighted_mean
from radloom.models.training.tasks.overlap import soft_dice_loss
from radloom.models.training.tasks.poses import (
    AffineError,
    alignment,
    cut,
    displacement_seen,
    moved,
    window_of,
)
from radloom.models.training.tasks.segmentation import dice_per_class
from radloom.transforms.synthesis.draws import Range, chance, log_uniform

__all__ = ["Registration"]


@dataclass(frozen=True)
class Registration:
    """Contrast-agnostic: what is compared is where the structures lie, never the intensities.

    SynthMorph's loss (Hoffmann et al. 2022, doi:10.1109/TMI.2021.3116879): soft Dice of the warped
    structures, and a smooth field; beside, the true displacement where the generator knows it. Of
    scans without labels the mutual information of the images takes the place of the Dice.

    With a `window` the network sees pairs as an affine registration leaves them, another error of
    it and another direction each time that a sample serves.
    """

    smooth_weight: float = 0.5
    """Of the squared gradient of the field, in voxels a voxel."""
    displacement_weight: float = 0.1
    """Of the mean distance to the true displacement in the head, in voxels."""
    scale_error: Range = (0.75, 1.33)
    """Each image is off by a factor from this range, as normalising a scan leaves it."""
    window: Sequence[int] | None = None
    """(I, J, K) from the crown down that the network sees; labels needed. None: whole samples, as
    they are."""
    window_shift: int = 3
    """How many voxels the window is off, at most."""
    affine_error: AffineError = field(default_factory=AffineError)
    """Of the moving head in the window, once structures lie on each other."""
    structures: bool = False
    """The network is also told what a segmentation network sees in both heads (`SeenHeads`)."""
    unseen_probability: float = 0.1
    """Of telling it nothing in spite of that, as where no such network is at hand."""
    stride: int = 1
    """Every so many voxels along each axis the loss looks."""
    pairs: bool = True
    """A sample is a pair."""
    wanted: tuple[str, ...] = ("image", "label")
    """Of both heads."""

    def prepare(self, sample: Sample, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Input: fixed and moving image, and what is seen there; displacements become voxels."""
        batch = _in_voxels(sample)
        if self.window is not None and "fixed" in batch:
            batch = self._seen_through_window(_turned_round(batch, generator), generator)
        images = [
            batch.pop(f"{side}_image").float() * log_uniform(generator, self.scale_error)
            for side in ("fixed", "moving")
        ]
        batch.pop("inverse", None)
        seen = [batch.pop(f"{side}_seen", None) for side in ("fixed", "moving")]
        if self.structures:
            untold = chance(generator, self.unseen_probability)
            images += [
                torch.zeros_like(image) if classes is None or untold else classes.float()
                for image, classes in zip(images, seen, strict=True)
            ]
        return {"image": torch.cat(images), **batch}

    def _seen_through_window(
        self, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Fixed cut, moving aligned but for an error, the displacement between the two."""
        assert self.window is not None
        shape, reach = tuple(self.window), self.window_shift
        start = [
            first + int(torch.randint(-reach, reach + 1, (), generator=generator))
            for first in window_of(batch["fixed"], shape)
        ]
        middle = [first + size / 2 for first, size in zip(start, shape, strict=True)]
        there = alignment(batch["fixed"], batch["moving"], len(CLASSES))
        there = there @ self.affine_error.draw(generator, middle)
        into = torch.eye(4, dtype=torch.float64)
        into[:3, 3] = torch.tensor(start)
        result = {n: cut(batch[n], start, shape) for n in batch if n.startswith("fixed")}
        for name in (name for name in batch if name.startswith("moving")):
            result[name] = moved(batch[name], there @ into, shape)
        if "ddf" in batch:
            result["ddf"] = displacement_seen(cut(batch["ddf"], start, shape), there, start)
        return result

    def loss(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """How far the structures, or images, lie apart; how rough the field is; how far it errs."""
        from monai.losses import GlobalMutualInformationLoss

        parts = {"smooth": self.smooth_weight * _roughness(pred, self.stride)}
        if "fixed" in batch:
            parts["match"] = soft_dice_loss(
                batch["fixed"], batch["moving"], pred, len(CLASSES), self.stride
            )
        else:
            fixed, moving = batch["image"][:, :2].split(1, dim=1)
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
        fixed, moving = batch["image"][:1, :2].split(1, dim=1)
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


def _in_voxels(sample: Sample) -> dict[str, torch.Tensor]:
    """Images, classes, displacements in voxels there and back, as far as they are known."""
    names = [f"{side}_{name}" for side in ("fixed", "moving") for name in ("image", "seen")]
    batch = {name: sample[name] for name in names if name in sample}
    if "fixed_label" in sample:
        batch |= {side: class_of_label(sample[f"{side}_label"]) for side in ("fixed", "moving")}
    if "displacement_mm" in sample:
        spacing = sample["spacing_mm"].reshape(3, 1, 1, 1)
        batch["ddf"] = sample["displacement_mm"].float() / spacing
        if "inverse_mm" in sample:
            batch["inverse"] = sample["inverse_mm"].float() / spacing
    return batch


def _turned_round(
    batch: dict[str, torch.Tensor], generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Every other time moving for fixed; what of the two has a way back is taken along."""
    turn = chance(generator, 0.5) and ("ddf" not in batch or "inverse" in batch)
    if not turn:
        return batch
    other = {"fixed": "moving", "moving": "fixed", "ddf": "inverse", "inverse": "ddf"}
    for name in ("image", "seen"):
        one, two = f"fixed_{name}", f"moving_{name}"
        other |= {one: two, two: one}
    return {name: batch[other[name]] for name in batch}


def _roughness(ddf: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """Mean squared gradient; MONAI's DiffusionLoss indexes in a way that torch is giving up."""
    seen = ddf[:, :, ::stride, ::stride, ::stride] / stride
    return torch.stack([torch.diff(seen, dim=axis).square().mean() for axis in (2, 3, 4)]).mean()


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
