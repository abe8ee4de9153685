"""MR to CT from scans of different people: CycleGAN on 3D patches.

Zhu et al., Unpaired image-to-image translation using cycle-consistent adversarial networks, 2017,
doi:10.1109/ICCV.2017.244; the image pool is of Shrivastava et al. 2017, doi:10.1109/CVPR.2017.241.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.networks.utils import pixelshuffle, pixelunshuffle

from radloom.errors import ConfigError
from radloom.models.training.batches import crop
from radloom.models.training.draws import generator_at
from radloom.models.training.pictures import Picture
from radloom.models.training.sources import Source, open_source
from radloom.models.training.task import Sample
from radloom.models.training.tasks.adversarial import game, require_one_process
from radloom.models.training.tasks.translation import OUTSIDE_HU, even_error
from radloom.models.translation.outputs import HU_RANGE
from radloom.transforms.synthesis.draws import Range, log_uniform

__all__ = [
    "CycleNetworks",
    "ImagePool",
    "MRNetwork",
    "Unpaired",
    "UnpairedTranslation",
    "open_unpaired",
]

_KILO = 1000.0
"""HU are given to networks in thousands."""


class MRNetwork(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """CT in thousands of HU -> MR, for the way back; never shipped.

    Args:
        backbone: (B, f, I/fold, J/fold, K/fold) -> the same shape, f = fold**3.
        fold: edge of the blocks in voxels that become channels.
    """

    def __init__(self, backbone: torch.nn.Module, fold: int = 1) -> None:
        super().__init__()
        self.backbone = backbone
        self.fold = fold

    def forward(self, ct: torch.Tensor) -> torch.Tensor:
        """(B, 1, I, J, K), at least 0."""
        answer = self.backbone(pixelunshuffle(ct, 3, self.fold)).float()
        return torch.nn.functional.softplus(pixelshuffle(answer, 3, self.fold), beta=10)


class ImagePool(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """The last fakes, of which the discriminator sees some instead of the newest.

    Whole thousandths as int16, in the state of the network: a resumed run has the same pool, and
    averages of weights leave it alone.

    Args:
        size: how many it holds; 0: none.
        shape: (I, J, K) of each.
    """

    images: torch.Tensor
    n_seen: torch.Tensor

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros((size, 1, *shape), dtype=torch.int16))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))

    def exchange(self, fakes: torch.Tensor) -> torch.Tensor:
        """(B, 1, I, J, K): each fake as it is, or, half the time, an old one whose place it takes.

        Until the pool is full fakes are kept and given back.
        """
        return torch.stack([self._one(fake.detach()) for fake in fakes])

    def _one(self, fake: torch.Tensor) -> torch.Tensor:
        seen = int(self.n_seen)
        self.n_seen += 1
        kept = (1000 * fake).round().clamp(-32768, 32767).to(torch.int16)
        if seen < len(self.images):
            self.images[seen] = kept
            return fake
        if not len(self.images):
            return fake
        draw = generator_at("pool", seen)
        if float(torch.rand((), generator=draw)) < 0.5:
            return fake
        place = int(torch.randint(len(self.images), (), generator=draw))
        old = self.images[place].to(fake.dtype) / 1000
        self.images[place] = kept
        return old


class CycleNetworks(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Two generators and two discriminators.

    Args:
        ct_from_mr: a `HounsfieldNetwork` of one contrast; what a bundle ships.
        mr_from_ct: a `MRNetwork`.
        judge: MONAI's `PatchDiscriminator` of one channel; one over thousands of HU and a copy of
            it over MR are trained.
        patch_shape: (I, J, K) of the patches.
        pool_size: fakes kept of each kind.
    """

    def __init__(
        self,
        ct_from_mr: torch.nn.Module,
        mr_from_ct: torch.nn.Module,
        judge: torch.nn.Module,
        patch_shape: Sequence[int],
        pool_size: int = 50,
    ) -> None:
        super().__init__()
        self.ct_from_mr, self.mr_from_ct = ct_from_mr, mr_from_ct
        self.ct_judge, self.mr_judge = judge, copy.deepcopy(judge)
        self.ct_pool = ImagePool(pool_size, patch_shape)
        self.mr_pool = ImagePool(pool_size, patch_shape)

    @property
    def shipped(self) -> torch.nn.Module:
        """What the bundle holds."""
        return self.ct_from_mr

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 6, I, J, K): fakes, what comes back of the originals, and what stays as it is.

        Args:
            image: (B, 2, I, J, K): MR; CT in thousands of HU, of another head.

        Returns:
            CT from MR, MR from CT; MR from that CT, CT from that MR; MR and CT as the generator of
            their own kind gives them. CT in thousands of HU.
        """
        mr, ct = image.float().split(1, dim=1)
        fake_ct, fake_mr = self._ct(mr), self.mr_from_ct(ct)
        back_mr, back_ct = self.mr_from_ct(fake_ct), self._ct(fake_mr)
        same_mr, same_ct = self.mr_from_ct(_as_ct(mr)), self._ct(_as_mr(ct))
        return torch.cat([fake_ct, fake_mr, back_mr, back_ct, same_mr, same_ct], dim=1)

    def _ct(self, mr: torch.Tensor) -> torch.Tensor:
        return self.ct_from_mr(mr)[:, :1] / _KILO


def _as_ct(mr: torch.Tensor) -> torch.Tensor:
    """MR in the range of CT, which the other generator leaves as it is: 0 to air, 1 to water."""
    return mr - 1


def _as_mr(ct: torch.Tensor) -> torch.Tensor:
    """CT in the range of MR."""
    return ct + 1


@dataclass(frozen=True)
class Unpaired:
    """MR of one head and CT of another, each cut on its own."""

    mr: Source
    ct: Source
    patch_shape: tuple[int, int, int]
    paired: bool = False
    """Both of one head, cut together, for the validation of what is learnt without."""

    def to(self, device: torch.device) -> Unpaired:
        """The same, whose samples lie on `device`."""
        return replace(self, mr=self.mr.to(device), ct=self.ct.to(device))

    def sample(
        self,
        wanted: Collection[str],  # noqa: ARG002 (always the same two)
        generator: torch.Generator,
        *,
        pair: bool,
    ) -> dict[str, torch.Tensor]:
        """``image`` and ``ct_hu``; ``paired`` (one voxel) where they are of one head."""
        if self.paired:
            both = self.mr.sample(("image", "ct_hu"), generator, pair=pair)
            chosen = {name: both[name] for name in ("image", "ct_hu")}
            cut = crop(chosen, self.patch_shape, generator)
            return {**cut, "paired": torch.ones((1, 1, 1, 1), device=cut["image"].device)}
        image = self.mr.sample(("image",), generator, pair=pair)["image"]
        ct = self.ct.sample(("ct_hu",), generator, pair=pair)["ct_hu"]
        return {
            "image": crop({"image": image}, self.patch_shape, generator)["image"],
            # 0 is what a crop puts beyond a scan: air, counted from there
            "ct_hu": crop({"ct": ct + _KILO}, self.patch_shape, generator)["ct"] - _KILO,
        }


def open_unpaired(
    dataset_dir: str | None,
    patch_shape: Sequence[int],
    recipe: Mapping[str, Any] | None = None,
    *,
    cache_dir: str | None = None,
    scan_spacing_mm: float = 1.0,
    paired: bool = False,
) -> Unpaired | None:
    """MR and CT of a folder, as `radloom.models.training.sources.open_source` reads it.

    In a list ``scans.tsv`` a row may have an ``image`` or a ``ct_hu`` alone. None for no folder.

    Args:
        dataset_dir: scans, or heads for the generator.
        patch_shape: (I, J, K) of the patches.
        recipe: of the generator.
        cache_dir: where prepared heads are kept.
        scan_spacing_mm: scans are brought to this isotropic spacing.
        paired: as in `Unpaired`.
    """
    source = open_source(dataset_dir, recipe, cache_dir=cache_dir, scan_spacing_mm=scan_spacing_mm)
    if source is None:
        return None
    i, j, k = (int(n) for n in patch_shape)
    return Unpaired(source, source, (i, j, k), paired)


@dataclass(frozen=True)
class UnpairedTranslation:
    """Both ways must come back, and look like what they should be.

    What comes back of a CT is compared with the tissue classes even, as in `Translation`. Weights
    of the parts as in the paper.
    """

    networks: CycleNetworks | None = None
    """Those in training."""
    cycle_weight: float = 10.0
    """Of what comes back, MR and CT in thousands of HU."""
    identity_weight: float = 5.0
    """Of what should stay as it is."""
    pairs: bool = False
    """A sample is not a pair of one head."""
    wanted: tuple[str, ...] = ("image", "ct_hu")
    scale_error: Range = (0.75, 1.33)
    """As in `Translation`."""

    def prepare(self, sample: Sample, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Input: MR and CT in thousands of HU; what a CT did not see is air."""
        mr = sample["image"].float() * log_uniform(generator, self.scale_error)
        hu = sample["ct_hu"].float()
        hu = hu.masked_fill(hu < OUTSIDE_HU, -_KILO).clamp(*HU_RANGE)
        known = {"paired": sample["paired"]} if "paired" in sample else {}
        return {"image": torch.cat([mr, hu / _KILO]), "hu": hu, **known}

    def loss(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """Both games, cycles and identities.

        Raises:
            ConfigError: no networks, or several processes.
        """
        require_one_process()
        if self.networks is None:
            raise ConfigError("UnpairedTranslation: expected networks, got none")
        own = self.networks
        mr, ct = batch["image"].split(1, dim=1)
        fake_ct, fake_mr, back_mr, back_ct, same_mr, same_ct = pred.split(1, dim=1)
        ct_generator, ct_judge = game(own.ct_judge, ct, fake_ct, own.ct_pool.exchange(fake_ct))
        mr_generator, mr_judge = game(own.mr_judge, mr, fake_mr, own.mr_pool.exchange(fake_mr))
        cycle_ct = even_error(_KILO * back_ct, batch["hu"]) / _KILO
        identity = (same_mr - mr).abs().mean() + (same_ct - ct).abs().mean()
        return {
            "generators": ct_generator + mr_generator,
            "judges": ct_judge + mr_judge,
            "cycle_mr": self.cycle_weight * (back_mr - mr).abs().mean(),
            "cycle_ct": self.cycle_weight * cycle_ct,
            "identity": self.identity_weight * identity,
        }

    def metrics(self, pred: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        """How far what comes back is off; of a pair also the error of the CT itself, HU."""
        mr, ct = batch["image"].split(1, dim=1)
        values = {
            "cycle_mr": (pred[:, 2:3] - mr).abs().mean(),
            "cycle_ct": _KILO * (pred[:, 3:4] - ct).abs().mean(),
        }
        if "paired" in batch:
            values["mae"] = _KILO * (pred[:, :1] - ct).abs().mean()
        return values

    def pictures(self, pred: torch.Tensor, batch: Sample) -> list[Picture]:
        """MR, its CT at two windows, what comes back; CT, its MR, what comes back."""
        mr, ct = batch["image"][0]
        found = _KILO * pred[0, 0]
        return [
            Picture("MR", mr, 0.0, 1.1),
            Picture("its CT -20..100", found, -20, 100),
            Picture("its CT -500..1500", found, -500, 1500),
            Picture("MR again", pred[0, 2], 0.0, 1.1),
            Picture("CT", _KILO * ct, -500, 1500),
            Picture("its MR", pred[0, 1], 0.0, 1.1),
            Picture("CT again", _KILO * pred[0, 3], -500, 1500),
        ]
