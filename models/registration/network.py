"""The velocity of a diffeomorphism from a pair of images (VoxelMorph)."""

from __future__ import annotations

import torch
from monai.networks.utils import pixelunshuffle
from torch.nn import functional

from radloom.models.registration.forces import forces

__all__ = ["RegistrationNetwork", "enlarged", "integrate", "warp"]


class RegistrationNetwork(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A stationary velocity from a pair, and the displacements that it integrates to.

    The method is VoxelMorph's (Dalca et al. 2019, doi:10.1016/j.media.2019.07.006), which
    integrates at half the resolution of the images. Of MONAI's network of that name the backbone
    alone is used: its ``half_res`` scales the velocity by 2 where the spacing doubles, so that what
    it composes is not the field that it gives; here velocities are in voxels of their own grid, in
    float32 whatever the precision of the backbone.

    With `fold` 2 the backbone itself works on half the grid: the eight voxels of a block of
    2 x 2 x 2 are its channels (Shi et al. 2016, doi:10.1109/CVPR.2016.207), an eighth of the work
    at one width, and nothing is computed that integration would average away.

    Args:
        backbone: (B, 2 fold**3 + 3 n_forces, I/fold, J/fold, K/fold) -> (B, 3, I/fold, J/fold,
            K/fold).
        n_steps: of scaling and squaring.
        fold: edge of the blocks in voxels; 1: none.
        n_forces: at how many scales the backbone is told, beside the images, where voxels seem to
            go (`forces.forces`).
    """

    def __init__(
        self, backbone: torch.nn.Module, n_steps: int = 5, fold: int = 1, n_forces: int = 0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_steps = n_steps
        self.fold = fold
        self.n_forces = n_forces

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """(B, 3, I, J, K) `ddf` in voxels: where a voxel of fixed lies in moving, less where it is.

        Args:
            pair: (B, 2, I, J, K): fixed, moving.
        """
        return self._ddf(self.velocity(pair))

    def both(self, pair: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`moving_from_fixed` and `fixed_from_moving` as `ddf`, from one pass."""
        velocity = self.velocity(pair)
        return self._ddf(velocity), self._ddf(-velocity)

    def velocity(self, pair: torch.Tensor) -> torch.Tensor:
        """(B, 3, I/fold, J/fold, K/fold), in blocks of `fold` voxels a unit of time."""
        seen = pixelunshuffle(pair, 3, self.fold) if self.fold > 1 else pair
        if self.n_forces:
            seen = torch.cat([seen, forces(pair, self.fold, self.n_forces).to(seen.dtype)], dim=1)
        velocity: torch.Tensor = self.backbone(seen).float()
        return velocity

    def _ddf(self, velocity: torch.Tensor) -> torch.Tensor:
        return enlarged(integrate(velocity, self.n_steps), self.fold)


def integrate(velocity: torch.Tensor, n_steps: int = 5) -> torch.Tensor:
    """The displacement after one unit of time, by scaling and squaring.

    Args:
        velocity: (B, 3, I, J, K) in voxels.
        n_steps: of squaring.
    """
    with torch.autocast(velocity.device.type, enabled=False):
        ddf = velocity / 2**n_steps
        for _ in range(n_steps):
            ddf = ddf + warp(ddf, ddf, padding_mode="border")
        return ddf


def enlarged(ddf: torch.Tensor, factor: int) -> torch.Tensor:
    """A displacement (B, 3, I, J, K) in voxels, on voxels `factor` times smaller, linear."""
    if factor == 1:
        return ddf
    return factor * functional.interpolate(
        ddf, scale_factor=factor, mode="trilinear", align_corners=False
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
