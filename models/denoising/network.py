"""A denoiser that predicts the noise, in units of the noise."""

from __future__ import annotations

import torch
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch.nn import functional

__all__ = ["FLOOR", "HU_UNIT", "NoiseResidual"]

FLOOR = 0.004
"""The least noise level that the network is told, in its own units, in training and after it."""

HU_UNIT = 1000.0
"""CT is given to the network in thousands of HU."""


class NoiseResidual(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """``clean = image - sigma * backbone(image, 10 sigma, detail / sigma)``.

    With no noise (sigma 0) the image comes back as it was. `detail` is the image without its local
    mean; in units of sigma it keeps faint noise apart from rounding where the backbone runs in half
    precision.

    With `fold` 2 the backbone works on half the grid: the eight voxels of a block of 2 x 2 x 2 are
    its channels (Shi et al. 2016, doi:10.1109/CVPR.2016.207; for denoising Zhang et al., FFDNet,
    2018, doi:10.1109/TIP.2018.2839891), an eighth of the work at the same width.

    Args:
        backbone: (B, 3 f, I/fold, J/fold, K/fold) -> (B, f, I/fold, J/fold, K/fold), f = fold**3;
            with strides, I, J and K must be multiples.
        fold: edge of the blocks in voxels; 1: none.
    """

    def __init__(self, backbone: torch.nn.Module, fold: int = 1) -> None:
        super().__init__()
        self.backbone = backbone
        self.fold = fold

    def forward(self, image_and_sigma: torch.Tensor) -> torch.Tensor:
        """(B, 1, I, J, K) float32, the clean image.

        Args:
            image_and_sigma: (B, 2, I, J, K): the image, about 0 to 1 in the head, and the standard
                deviation of the noise in each voxel in the same units.
        """
        image, sigma = image_and_sigma.float().split(1, dim=1)
        mean = functional.avg_pool3d(image, 3, stride=1, padding=1, count_include_pad=False)
        detail = ((image - mean) / sigma.clamp_min(1e-4)).clamp(-10, 10)
        seen = pixelunshuffle(torch.cat([image, 10 * sigma, detail], dim=1), 3, self.fold)
        noise = pixelshuffle(self.backbone(seen).float(), 3, self.fold)
        return image - sigma * noise
