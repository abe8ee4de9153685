"""Signed distances of simple solids, smooth random fields, and a canvas that paints with them.

A signed distance is a tensor in mm, negative inside. Points are three tensors (x, y, z) that
broadcast together, RAS+ mm. Distances of ellipsoids are first-order estimates: exact on the
surface, good within some millimetres of it, which is all that painting needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

__all__ = [
    "Box",
    "Canvas",
    "Points",
    "ball",
    "ellipsoid",
    "mirrored",
    "smooth_field",
    "smooth_max",
    "smooth_min",
    "tube",
    "wave_sheets",
]

Points = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""x, y, z in RAS+ mm."""

Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""Lowest and highest x, y, z in mm."""


def mirrored(p: Points) -> Points:
    """The points with their left half folded onto the right one."""
    return p[0].abs(), p[1], p[2]


def ball(p: Points, centre: Sequence[float], radius: float) -> torch.Tensor:
    """Signed distance of a ball."""
    x, y, z = (a - c for a, c in zip(p, centre, strict=True))
    return torch.sqrt(x * x + y * y + z * z) - radius


def ellipsoid(
    p: Points, centre: Sequence[float], radii: Sequence[float], *, turn: tuple[float, str] = (0, "")
) -> torch.Tensor:
    r"""First-order signed distance :math:`k_0 (k_0 - 1) / k_1` of an ellipsoid.

    :math:`k_0 = |x / r|` and :math:`k_1 = |x / r^2|`. `turn` gives degrees and the plane ("xy",
    "yz" or "xz") in which the ellipsoid is turned from its first towards its second axis.
    """
    q = [a - c for a, c in zip(p, centre, strict=True)]
    degrees, plane = turn
    if plane:
        i, j = ("xyz".index(c) for c in plane)
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        q[i], q[j] = c * q[i] + s * q[j], c * q[j] - s * q[i]
    scaled = [a / r for a, r in zip(q, radii, strict=True)]
    k0 = torch.sqrt(sum(a * a for a in scaled) + 1e-12)
    k1 = torch.sqrt(
        sum((a / r) ** 2 for a, r in zip(scaled, radii, strict=True)) + 1e-12 / min(radii) ** 2
    )
    return k0 * (k0 - 1) / k1


def tube(p: Points, knots: Sequence[Sequence[float]], radii: Sequence[float]) -> torch.Tensor:
    """Signed distance of a tube through `knots` (x, y, z) whose radius runs through `radii`."""
    result: torch.Tensor | None = None
    for a, b, ra, rb in zip(knots[:-1], knots[1:], radii[:-1], radii[1:], strict=True):
        axis = [v - u for u, v in zip(a, b, strict=True)]
        q = [c - u for c, u in zip(p, a, strict=True)]
        along = (q[0] * axis[0] + q[1] * axis[1] + q[2] * axis[2]) / sum(v * v for v in axis)
        along = along.clamp(0, 1)
        away = sum((c - along * v) ** 2 for c, v in zip(q, axis, strict=True))
        part = torch.sqrt(away) - (ra + (rb - ra) * along)
        result = part if result is None else torch.minimum(result, part)
    if result is None:
        raise ValueError("expected two or more knots")
    return result


def smooth_min(a: torch.Tensor, b: torch.Tensor, width: float) -> torch.Tensor:
    """The union of two solids with a fillet of about `width` mm."""
    blend = (width - (a - b).abs()).clamp_min(0) / width
    return torch.minimum(a, b) - blend * blend * (width / 4)


def smooth_max(a: torch.Tensor, b: torch.Tensor, width: float) -> torch.Tensor:
    """The intersection of two solids with a rounded edge of about `width` mm."""
    return -smooth_min(-a, -b, width)


def _spline_weights(position: torch.Tensor, n_knots: int) -> torch.Tensor:
    """(N, n_knots) cubic B-spline weights at positions given in knot distances."""
    t = (position[:, None] - torch.arange(n_knots, device=position.device)).abs()
    near = 2 / 3 - t * t + t**3 / 2
    far = (2 - t).clamp_min(0) ** 3 / 6
    return torch.where(t < 1, near, far)


def smooth_field(
    axes: Points, knot_mm: float, generator: torch.Generator, reach_mm: float = 150.0
) -> torch.Tensor:
    """A smooth random field of mean 0 and variance about 1 on the grid of three (N,) axes in mm.

    A cubic B-spline through normal draws on a lattice of `knot_mm`. The lattice is fixed in the
    world, so one generator state gives one field whatever the grid.
    """
    n_knots = math.ceil(2 * reach_mm / knot_mm) + 4
    knots = torch.randn((n_knots,) * 3, generator=generator).to(axes[0].device)
    weights = [_spline_weights((a + reach_mm) / knot_mm + 1.5, n_knots) for a in axes]
    # x first: canvases are thin in x, so what is left is small
    partial = torch.einsum("xyz,ix->iyz", knots, weights[0])
    partial = torch.einsum("iyz,kz->iyk", partial, weights[2])
    # 0.479: the mean sum of squared weights an axis, so that the variance is 1
    return torch.einsum("iyk,jy->ijk", partial, weights[1]) / 0.479**1.5


def wave_sheets(
    p: Points, wavelength_mm: float, generator: torch.Generator, *, n_waves: int = 28
) -> torch.Tensor:
    """Distance in mm to the sheets of a labyrinth whose walls stand half a wavelength apart.

    The sheets are the zero level set of a sum of plane waves in all directions, of nearly one
    wavelength; the distance is the field over its gradient, right near the sheets.
    """
    k = torch.randn((n_waves, 3), generator=generator)
    spread = 1 + 0.16 * (2 * torch.rand((n_waves, 1), generator=generator) - 1)
    k = k / k.norm(dim=1, keepdim=True) * (2 * math.pi / wavelength_mm) * spread
    phase = torch.rand(n_waves, generator=generator) * 2 * math.pi
    value = torch.zeros_like(p[0])
    slope = [torch.zeros_like(p[0]) for _ in range(3)]
    for wave, shift in zip(k.tolist(), phase.tolist(), strict=True):
        angle = p[0] * wave[0] + p[1] * wave[1] + p[2] * wave[2] + shift
        value += torch.cos(angle)
        sine = torch.sin(angle)
        for part, factor in zip(slope, wave, strict=True):
            part.add_(sine, alpha=factor)
    # the floor keeps saddles, where the gradient vanishes, from becoming far away
    floor = 0.3 * math.pi / wavelength_mm * math.sqrt(n_waves)
    steep = torch.sqrt(slope[0] ** 2 + slope[1] ** 2 + slope[2] ** 2 + floor**2)
    return value.abs() / steep


@dataclass
class Canvas:
    """What lies in each voxel: a top and an under structure and the share of the top one.

    Painting a solid covers the voxels inside and mixes into those that its surface cuts, so edges
    are smooth without supersampling. Two structures a voxel are kept; at a junction of three the
    smallest share is given up.
    """

    spacing: float
    """Voxel edge in mm."""
    axes: Points
    """World positions of the voxel centres along each axis, (I,), (J,), (K,)."""
    points: Points
    """Where in the undeformed head each voxel lies, (I, J, K) each."""
    top: torch.Tensor = field(init=False)
    under: torch.Tensor = field(init=False)
    share: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.top = torch.zeros_like(self.points[0], dtype=torch.uint8)
        self.under = torch.zeros_like(self.points[0], dtype=torch.uint8)
        self.share = torch.ones_like(self.points[0])

    def window(self, box: Box, margin_mm: float = 12.0) -> tuple[slice, slice, slice]:
        """The voxels of a box with a margin for the deformation."""
        slices = []
        for (low, high), axis in zip(box, self.axes, strict=True):
            n = len(axis)
            start = np.floor((low - margin_mm - float(axis[0])) / self.spacing)
            stop = np.ceil((high + margin_mm - float(axis[0])) / self.spacing) + 1
            slices.append(slice(int(np.clip(start, 0, n)), int(np.clip(stop, 0, n))))
        return slices[0], slices[1], slices[2]

    def within(self, window: tuple[slice, slice, slice]) -> Points:
        """The undeformed points of a window."""
        x, y, z = self.points
        return x[window], y[window], z[window]

    @staticmethod
    def is_empty(window: tuple[slice, slice, slice]) -> bool:
        """Whether no voxel of the canvas lies in the window."""
        return any(part.start >= part.stop for part in window)

    def smooth(
        self,
        knot_mm: float,
        generator: torch.Generator,
        window: tuple[slice, slice, slice] | None = None,
    ) -> torch.Tensor:
        """`smooth_field` on the voxels of a window."""
        x, y, z = self.axes
        if window is not None:
            x, y, z = x[window[0]], y[window[1]], z[window[2]]
        return smooth_field((x, y, z), knot_mm, generator)

    def draw(
        self, code: int, box: Box, solid: Callable[[Points], torch.Tensor], *, margin_mm: float = 12
    ) -> None:
        """Paint `code` into the part of `box` that `solid` (points -> signed distance) fills."""
        window = self.window(box, margin_mm)
        if self.is_empty(window):
            return
        self.paint(code, solid(self.within(window)), window)

    def draw_pair(
        self, code: int, box: Box, solid: Callable[[Points], torch.Tensor], *, margin_mm: float = 12
    ) -> None:
        """As `draw` for a solid given at positive x and its mirror image."""
        self.draw(code, box, solid, margin_mm=margin_mm)

        def on_the_left(p: Points) -> torch.Tensor:
            return solid((-p[0], p[1], p[2]))

        (low, high), y, z = box
        self.draw(code, ((-high, -low), y, z), on_the_left, margin_mm=margin_mm)

    def paint(
        self, code: int, distance: torch.Tensor, window: tuple[slice, slice, slice] | None = None
    ) -> None:
        """Cover what lies inside `distance` (mm, on `window`) with `code`."""
        if distance.numel() == 0 or float(distance.min()) >= 0.5 * self.spacing:
            return
        window = window or (slice(None), slice(None), slice(None))
        alpha = (0.5 - distance / self.spacing).clamp_(0, 1)
        top, under, share = self.top[window], self.under[window], self.share[window]
        main = torch.where(share >= 0.5, top, under)
        held = torch.where(top == code, share, (1 - share) * (under == code))
        cover = alpha > held
        under.copy_(torch.where(cover, main.masked_fill_(alpha >= 1, code), under))
        share.copy_(torch.where(cover, alpha, share))
        top.masked_fill_(cover, code)
