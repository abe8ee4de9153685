"""HU as a mixture of tissues, with how far they may be off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch.nn import functional

from radloom.models.translation.tissues import TYPICAL_HU

__all__ = ["MISSING", "N_BACKBONE", "HounsfieldNetwork"]

MISSING = -1.0
"""What every voxel of a contrast holds that a study lacks; scans are at least 0."""

N_BACKBONE = 7
"""What a backbone gives for each voxel: three scores, three values, one scale."""

UNIT_HU = 50.0
"""The expected error in HU where the backbone's last number is 0."""


class HounsfieldNetwork(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Says for each voxel which tissue it is, what HU it has as each, and how far that may be off.

    ``HU = sum over c of p_c * (centre_c + spread_c * value_c)``, p being the softmax of the scores.
    A network that regresses HU alone learns soft tissue and stays there; here bone is a class
    first. The scale is that of a Laplace distribution round the HU (Kendall and Gal 2017,
    arXiv:1703.04977), which is its mean absolute error.

    With `fold` 2 the backbone works on half the grid: the eight voxels of a block of 2 x 2 x 2 are
    its channels (Shi et al. 2016, doi:10.1109/CVPR.2016.207), an eighth of the work at one width.
    What the backbone gives is then averaged twice over as many voxels along each axis, which takes
    out whatever repeats from block to block: no checkerboard can stay. The edges of tissues stay
    sharp, for they are made of scores, before the softmax.

    A network of several contrasts takes one a channel. Of a contrast that a study lacks every voxel
    is `MISSING`: the backbone gets 0 there, and a channel for each contrast that says whether it is
    there.

    Args:
        backbone: (B, C f, I/fold, J/fold, K/fold) -> (B, 7 f, I/fold, J/fold, K/fold), with f =
            fold**3 and C the number of contrasts, twice that where there are several: scores of
            air, soft tissue and bone, the value of each, and the scale's logarithm.
        centres_hu: HU of each tissue where its value is 0.
        spreads_hu: HU that a value of 1 adds.
        fold: edge of the blocks in voxels; 1: none.
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        centres_hu: Sequence[float] = TYPICAL_HU,
        spreads_hu: Sequence[float] = (200.0, 100.0, 400.0),
        fold: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fold = fold
        self.register_buffer("centres", _column(centres_hu), persistent=False)
        self.register_buffer("spreads", _column(spreads_hu), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 5, I, J, K) float32: HU, scores of air, soft tissue, bone, logarithm of the scale.

        Args:
            image: (B, C, I, J, K), a contrast a channel, each with its 99th percentile near 1.
        """
        seen = _told(image) if image.shape[1] > 1 else image
        answer = self.backbone(pixelunshuffle(seen, 3, self.fold)).float()
        even = _without_blocks(pixelshuffle(answer, 3, self.fold), self.fold)
        scores, values, scale = even.split([3, 3, 1], dim=1)
        hu = (scores.softmax(1) * (self.centres + self.spreads * values)).sum(1, keepdim=True)
        return torch.cat([hu, scores, scale.clamp(-6, 6) + _LOG_UNIT], dim=1)


_LOG_UNIT = float(torch.tensor(UNIT_HU).log())


def _without_blocks(voxels: torch.Tensor, fold: int) -> torch.Tensor:
    """(B, C, I, J, K), averaged twice over `fold` voxels along each axis; the ends count on.

    >>> _without_blocks(torch.tensor([0.0, 4.0] * 4).reshape(1, 1, 8, 1, 1), 2).flatten().tolist()
    [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0]
    """
    if fold == 1:
        return voxels
    n = voxels.shape[1]
    line = (fold - torch.arange(1 - fold, fold, device=voxels.device).abs()) / fold**2
    kernel = (line[:, None, None] * line[:, None] * line).expand(n, 1, -1, -1, -1)
    padded = functional.pad(voxels, (fold - 1,) * 6, mode="replicate")
    return functional.conv3d(padded, kernel.to(voxels.dtype), groups=n)


def _told(image: torch.Tensor) -> torch.Tensor:
    """Contrasts with 0 where one is missing, then for each whether it is there."""
    there = (image > MISSING / 2).to(image.dtype)
    return torch.cat([image * there, there], dim=1)


def _column(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(values)).reshape(1, -1, 1, 1, 1)
