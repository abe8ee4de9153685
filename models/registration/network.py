"""The velocity of a diffeomorphism from a pair of images (VoxelMorph)."""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["RegistrationNetwork", "integrate", "warp"]


class RegistrationNetwork(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A stationary velocity from a pair, and the displacements that it integrates to.

    The method is VoxelMorph's (Dalca et al. 2019, doi:10.1016/j.media.2019.07.006). MONAI's network
    of that name is used for its backbone alone: its ``half_res`` scales the velocity by 2 where the
    spacing doubles, so that what it composes is not the field that it gives; here it is scaled by
    1/2, as voxels ask, and integrated in float32 whatever the precision of the backbone.

    Args:
        backbone: (B, 2, I, J, K) -> (B, 3, I, J, K), a ``monai.networks.nets.VoxelMorphUNet``.
        n_steps: of scaling and squaring.
    """

    def __init__(self, backbone: torch.nn.Module, n_steps: int = 7) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_steps = n_steps

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """(B, 3, I, J, K) `ddf` in voxels: where a voxel of fixed lies in moving, less where it is.

        Args:
            pair: (B, 2, I, J, K): fixed, moving.
        """
        return integrate(self.velocity(pair), self.n_steps)

    def both(self, pair: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`moving_from_fixed` and `fixed_from_moving` as `ddf`, from one pass."""
        velocity = self.velocity(pair)
        return integrate(velocity, self.n_steps), integrate(-velocity, self.n_steps)

    def velocity(self, pair: torch.Tensor) -> torch.Tensor:
        """(B, 3, I, J, K) in voxels a unit of time."""
        velocity: torch.Tensor = self.backbone(pair).float()
        return velocity


def integrate(velocity: torch.Tensor, n_steps: int = 7) -> torch.Tensor:
    """The displacement after one unit of time, by scaling and squaring at half resolution.

    Args:
        velocity: (B, 3, I, J, K) in voxels, I, J and K even.
        n_steps: of squaring.
    """
    with torch.autocast(velocity.device.type, enabled=False):
        half = functional.avg_pool3d(velocity, 2) / 2
        ddf = half / 2**n_steps
        for _ in range(n_steps):
            ddf = ddf + warp(ddf, ddf, padding_mode="border")
        return 2 * functional.interpolate(
            ddf, scale_factor=2, mode="trilinear", align_corners=False
        )


def warp(
    volume: torch.Tensor,
    ddf: torch.Tensor,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """`volume` (B, C, I, J, K) seen at each voxel plus `ddf` (B, 3, I, J, K), in voxels.

    Args:
        volume: float.
        ddf: as `RegistrationNetwork` gives it.
        mode: ``bilinear`` (linear along three axes) or ``nearest``.
        padding_mode: ``zeros`` or ``border``: what lies outside.
    """
    shape = ddf.shape[2:]
    index = torch.meshgrid(*[torch.arange(n, device=ddf.device) for n in shape], indexing="ij")
    last = ddf.new_tensor(shape).reshape(1, 3, 1, 1, 1) - 1
    place = 2 * (torch.stack(index)[None] + ddf) / last - 1
    return functional.grid_sample(
        volume,
        place.movedim(1, -1).flip(-1).to(volume.dtype),
        mode=mode,
        padding_mode=padding_mode,
        align_corners=True,
    )
