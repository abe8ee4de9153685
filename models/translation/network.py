"""HU as a mixture of tissues."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["HounsfieldNetwork"]


class HounsfieldNetwork(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Says for each voxel which tissue it is and what HU it would have as each of them.

    ``HU = sum over c of p_c * (centre_c + spread_c * value_c)``, p being the softmax of the scores.
    A network that regresses HU alone learns soft tissue and stays there; here bone is a class
    first.

    Args:
        backbone: (B, C, I, J, K) -> (B, 6, I, J, K): scores of air, soft tissue and bone, then the
            value of each.
        centres_hu: HU of each tissue where its value is 0.
        spreads_hu: HU that a value of 1 adds.
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        centres_hu: Sequence[float] = (-1000.0, 40.0, 700.0),
        spreads_hu: Sequence[float] = (200.0, 100.0, 400.0),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("centres", _column(centres_hu), persistent=False)
        self.register_buffer("spreads", _column(spreads_hu), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 4, I, J, K) float32: HU, then the scores of air, soft tissue and bone."""
        scores, values = self.backbone(image).float().chunk(2, dim=1)
        hu = (scores.softmax(1) * (self.centres + self.spreads * values)).sum(1, keepdim=True)
        return torch.cat([hu, scores], dim=1)


def _column(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(values)).reshape(1, -1, 1, 1, 1)
