"""HU as a mixture of tissues, with how far they may be off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.utils import pixelshuffle, pixelunshuffle

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
        scores, values, scale = pixelshuffle(answer, 3, self.fold).split([3, 3, 1], dim=1)
        hu = (scores.softmax(1) * (self.centres + self.spreads * values)).sum(1, keepdim=True)
        return torch.cat([hu, scores, scale.clamp(-6, 6) + _LOG_UNIT], dim=1)


_LOG_UNIT = float(torch.tensor(UNIT_HU).log())


def _told(image: torch.Tensor) -> torch.Tensor:
    """Contrasts with 0 where one is missing, then for each whether it is there."""
    there = (image > MISSING / 2).to(image.dtype)
    return torch.cat([image * there, there], dim=1)


def _column(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(values)).reshape(1, -1, 1, 1, 1)
