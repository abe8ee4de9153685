"""Discriminators beside a network: fine-tuning against PatchGAN, off unless it is asked for.

One optimiser moves both sides at once: the loss of the one never reaches the weights of the other
(`scored_by`), so that a step is a step of both games, and a run stops and resumes as any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import distributed
from torch.func import functional_call

from radloom.errors import ConfigError
from radloom.models.training.task import Sample
from radloom.models.training.tasks.translation import Translation

__all__ = ["Adversarial", "AdversarialTranslation", "game", "require_one_process", "scored_by"]


class Adversarial(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A network that is judged by another while it trains; alone it does what it did.

    Args:
        generator: what is trained, and what a bundle ships.
        discriminator: MONAI's `PatchDiscriminator` over HU / 1000 and the MR, two channels.
    """

    def __init__(self, generator: torch.nn.Module, discriminator: torch.nn.Module) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator

    @property
    def shipped(self) -> torch.nn.Module:
        """What the bundle holds."""
        return self.generator

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """What the generator says."""
        return self.generator(image)


def scored_by(
    discriminator: torch.nn.Module, image: torch.Tensor, *, frozen: bool = False
) -> torch.Tensor:
    """The discriminator's verdict on each patch; `frozen`: its weights get no gradient."""
    if not frozen:
        return discriminator(image)[-1]
    weights = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    return functional_call(discriminator, weights, (image,))[-1]


def game(
    discriminator: torch.nn.Module,
    real: torch.Tensor,
    fake: torch.Tensor,
    remembered: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the generator pays, and what the discriminator pays (least squares).

    Args:
        discriminator: MONAI's `PatchDiscriminator`.
        real: (B, C, I, J, K).
        fake: of the generator.
        remembered: fakes for the discriminator in place of `fake`.
    """
    from monai.losses import PatchAdversarialLoss

    cost = PatchAdversarialLoss(criterion="least_squares", reduction="mean")
    judged = (fake if remembered is None else remembered).detach()
    generator = cost(
        scored_by(discriminator, fake, frozen=True), target_is_real=True, for_discriminator=False
    )
    found_real = cost(scored_by(discriminator, real), target_is_real=True, for_discriminator=True)
    found_fake = cost(
        scored_by(discriminator, judged), target_is_real=False, for_discriminator=True
    )
    return generator, (found_real + found_fake) / 2


def require_one_process() -> None:
    """Nothing, where one process trains.

    Raises:
        ConfigError: several do; the gradients of discriminators are not shared between them.
    """
    if distributed.is_available() and distributed.is_initialized():
        n = distributed.get_world_size()
        if n > 1:
            raise ConfigError(
                f"expected one process for a training with discriminators, got {n}: start it "
                "without torchrun"
            )


@dataclass(frozen=True)
class AdversarialTranslation(Translation):
    """`Translation`, and a discriminator that tells true CT from the network's.

    A discriminator tends to take away what is rare: compare calcifications and resections with and
    without it before weights of it are used.
    """

    networks: Adversarial | None = None
    """The generator in training and its discriminator."""
    adversarial_weight: float = 0.05
    """Of what the generator pays."""

    def loss(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """The parts of `Translation`, and both sides of the game.

        Raises:
            ConfigError: no networks, or several processes.
        """
        require_one_process()
        if self.networks is None:
            raise ConfigError("AdversarialTranslation: expected networks, got none")
        weight = batch["weight"]
        mr = batch["image"][:, :1] * weight
        real, fake = (
            torch.cat([hu * weight / 1000, mr], dim=1) for hu in (batch["hu"], pred[:, :1])
        )
        generator, discriminator = game(self.networks.discriminator, real, fake)
        return {
            **super().loss(pred, batch),
            "adversarial": self.adversarial_weight * generator,
            "discriminator": discriminator,
        }
