"""The velocity of a diffeomorphism from a pair of images and what is seen in them (VoxelMorph)."""

from __future__ import annotations

import torch
from monai.networks.utils import pixelunshuffle
from torch.nn import functional

from radloom.models.registration.forces import forces, forces_of_shares

__all__ = ["RegistrationNetwork", "class_shares", "enlarged", "integrate", "warp"]


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

    With `n_classes` the input has two channels more: which structure a segmentation network sees
    in each voxel of fixed and of moving. Whatever the contrasts, these are alike; 0 everywhere
    where none has looked, and the images alone count.

    With `n_passes` 2 and more the network looks again, with what it found so far: at the moving
    head as it is warped by then, and at the velocity, to which it adds. Each pass has the same
    weights (as Zhao et al. 2019, doi:10.1109/ICCV.2019.01070, cascade several networks); what it is
    shown there is not differentiated.

    Args:
        backbone: (B, C, I/fold, J/fold, K/fold) -> (B, 3, I/fold, J/fold, K/fold); C is
            ``2 fold**3 + 3 n_forces``, with `n_classes` ``2 (n_classes - 1) + 3 n_forces`` more,
            with several passes 3 more.
        n_steps: of scaling and squaring.
        fold: edge of the blocks in voxels; 1: none.
        n_forces: at how many scales the backbone is told, beside the images, where voxels seem to
            go (`forces.forces`).
        n_classes: of the structures seen, with background; 0: they are no input.
        n_passes: how often it looks.
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        n_steps: int = 5,
        fold: int = 1,
        n_forces: int = 0,
        n_classes: int = 0,
        n_passes: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_steps = n_steps
        self.fold = fold
        self.n_forces = n_forces
        self.n_classes = n_classes
        self.n_passes = n_passes

    @property
    def n_channels(self) -> int:
        """Of the input: both images, and both maps of structures."""
        return 4 if self.n_classes else 2

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """(B, 3, I, J, K) `ddf` in voxels: where a voxel of fixed lies in moving, less where it is.

        Args:
            pair: (B, n_channels, I, J, K): fixed, moving, with `n_classes` also the number of the
                class that each voxel of fixed and of moving is seen to be of.
        """
        return self._ddf(self.velocity(pair))

    def both(self, pair: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`moving_from_fixed` and `fixed_from_moving` as `ddf`, from one pass."""
        velocity = self.velocity(pair)
        return self._ddf(velocity), self._ddf(-velocity)

    def velocity(self, pair: torch.Tensor) -> torch.Tensor:
        """(B, 3, I/fold, J/fold, K/fold), in blocks of `fold` voxels a unit of time."""
        fixed, moving = pair[:, :1], pair[:, 1:2]
        shares = [
            class_shares(pair[:, n : n + 1], self.n_classes, self.fold)[:, 1:]
            for n in range(2, self.n_channels)
        ]
        velocity = self._step(fixed, moving, shares)
        for _ in range(1, self.n_passes):
            with torch.no_grad():
                blocks = integrate(velocity, self.n_steps)
                seen = warp(moving, enlarged(blocks, self.fold))
                there = [*shares[:1], *(warp(share, blocks) for share in shares[1:])]
            velocity = velocity + self._step(fixed, seen, there, velocity.detach())
        return velocity

    def _step(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        shares: list[torch.Tensor],
        velocity: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What one look adds to the velocity."""
        pair = torch.cat([fixed, moving], dim=1)
        told = [pixelunshuffle(pair, 3, self.fold) if self.fold > 1 else pair, *shares]
        if self.n_forces:
            told.append(forces(pair, self.fold, self.n_forces))
            if shares:
                told.append(forces_of_shares(shares[0], shares[1], self.n_forces))
        if self.n_passes > 1:
            still = torch.zeros_like(told[0][:, :1]).expand(-1, 3, -1, -1, -1)
            told.append(still if velocity is None else velocity)
        step: torch.Tensor = self.backbone(torch.cat([part.to(pair.dtype) for part in told], dim=1))
        return step.float()

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


def class_shares(classes: torch.Tensor, n_classes: int, block: int) -> torch.Tensor:
    """(B, n_classes, i, j, k) from 0 to 1, of each class in blocks of `block` voxels.

    Args:
        classes: (B, 1, I, J, K) numbers; background is 0.
        n_classes: with background.
        block: voxels along an edge.
    """
    own = ((classes == n).to(torch.float32) for n in range(n_classes))
    return torch.cat([functional.avg_pool3d(one, block) for one in own], dim=1)


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
