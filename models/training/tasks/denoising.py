"""Take the noise out, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from radloom.models.denoising.network import FLOOR, HU_UNIT
from radloom.models.training.pictures import Picture
from radloom.models.training.task import Sample, weighted_mean
from radloom.transforms.synthesis.artefacts.noise import magnitude_with_noise
from radloom.transforms.synthesis.draws import Range, chance, log_uniform, uniform
from radloom.transforms.synthesis.fields import blur

__all__ = ["Denoising"]


@dataclass(frozen=True)
class Denoising:
    """Noisy image and noise map -> clean image.

    The error counts in units of the noise, so that faint and strong noise weigh the same, and more
    where an anomaly lies, for those are few voxels and what the radiologist looks for.
    """

    anomaly_weight: float = 4.0
    """Of a voxel in an anomaly; one of the head weighs 1."""
    air_weight: float = 0.1
    """Of a voxel outside the head."""
    level_error: Range = (0.8, 1.25)
    """The noise map is off by a factor from this range, as an estimated one is."""
    gain: Range = (0.6, 1.6)
    """MR is made this much brighter, noise and all: the percentile that scales a scan depends
    on how much bright fat is in view. HU are what they are."""
    floor: float = FLOOR
    """The least noise level that the network is told and that errors are measured in."""
    smoothed: float = 0.0
    """Of windows that are rendered anew: the clean image smoothed, white Rician noise of the same
    level over it; for voxels smaller than what a scanner resolves. Never of CT."""
    smoothing: Range = (0.3, 1.6)
    """Standard deviation of that Gaussian in voxels, along each axis its own."""
    modality: str = "mr"
    """``mr`` or ``ct``."""
    pairs: bool = False
    """A sample is one head."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """Image, clean image, noise map, and where head and anomalies are."""
        own = (
            ("ct", "ct_clean", "ct_sigma") if self.modality == "ct" else ("image", "clean", "sigma")
        )
        return (*own, "structures", "anomaly")

    def prepare(self, sample: Sample, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Input: noisy image and noise map; HU are divided by 1000, MR has another gain."""
        names = self.wanted
        scale = 1 / HU_UNIT if self.modality == "ct" else log_uniform(generator, self.gain)
        noisy, clean = (scale * sample[name].float() for name in names[:2])
        sigma = scale * sample[names[2]].float() if names[2] in sample else _rms(noisy - clean)
        if self.modality != "ct" and chance(generator, self.smoothed):
            noisy, clean = self._rendered_anew(clean, sigma, generator)
        told = (sigma * log_uniform(generator, self.level_error)).clamp_min(self.floor)
        weight = torch.ones_like(noisy)
        if "structures" in sample:
            weight = torch.where(
                sample["structures"].reshape(noisy.shape) > 0, 1.0, self.air_weight
            )
        if "anomaly" in sample:
            inside = sample["anomaly"].reshape(noisy.shape) > 0
            weight = torch.where(inside, self.anomaly_weight, weight)
        return {
            "image": torch.cat([noisy, told.expand_as(noisy)]),
            "clean": clean,
            "sigma": sigma.expand_as(noisy).clamp_min(self.floor),
            "weight": weight,
        }

    def _rendered_anew(
        self, clean: torch.Tensor, sigma: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        i, j, k = (uniform(generator, self.smoothing) for _ in range(3))
        smooth = blur(clean, (i, j, k))
        first, second = (torch.randn(clean.shape, generator=generator).to(clean) for _ in range(2))
        return magnitude_with_noise(smooth, sigma, first, second), smooth

    def loss(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """Squared error in units of the noise, straight beyond one unit."""
        error = (pred - batch["clean"]) / batch["sigma"]
        return {
            "noise": weighted_mean(
                functional.smooth_l1_loss(error, 0 * error, reduction="none"), batch["weight"]
            )
        }

    def metrics(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """PSNR (of 1) in the head before and after, and the noise left as a share."""
        head = (batch["weight"] >= 1).float()
        after = weighted_mean((pred - batch["clean"]) ** 2, head)
        before = weighted_mean((batch["image"][:, :1] - batch["clean"]) ** 2, head)
        return {
            "psnr": -10 * (after + 1e-8).log10(),
            "psnr_noisy": -10 * (before + 1e-8).log10(),
            "noise_left": ((after + 1e-8) / (before + 1e-8)).sqrt(),
        }

    def pictures(self, pred: torch.Tensor, batch: Sample) -> list[Picture]:
        """Noisy, denoised, clean; what was removed; what is wrong, in the same window."""
        noisy, clean, result = batch["image"][0, 0], batch["clean"][0, 0], pred[0, 0]
        low, high = (-0.1, 0.2) if self.modality == "ct" else (0.0, 1.1)
        far = 3 * float(batch["sigma"][0].max())
        return [
            Picture("noisy", noisy, low, high),
            Picture("denoised", result, low, high),
            Picture("clean", clean, low, high),
            Picture("removed", noisy - result, -far, far),
            Picture("error", result - clean, -far, far),
        ]


def _rms(difference: torch.Tensor) -> torch.Tensor:
    return difference.square().mean().sqrt().reshape(1, 1, 1, 1)
