"""The brain of the phantom: folded cortex, white matter, ventricles, nuclei, cerebellum, brainstem.

The cortex is the rim, two to four millimetres thick, of what is left of a smooth hull once sulci
are cut into it. Sulci are sheets: the zero level sets of a random field of one wavelength,
carried inwards from the surface so that they stand nearly upright on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from radloom.transforms.synthesis.phantom_head import Hulls
from radloom.transforms.synthesis.solids import (
    Canvas,
    Points,
    ball,
    ellipsoid,
    smooth_field,
    smooth_max,
    smooth_min,
    tube,
    waves,
)
from radloom.transforms.synthesis.tissues import Code

if TYPE_CHECKING:
    from radloom.transforms.synthesis.phantom import HeadShape

__all__ = ["paint_brain"]

_CEREBRUM = ((-70.0, 70.0), (-100.0, 70.0), (-52.0, 74.0))
_CEREBELLUM = ((-58.0, 58.0), (-98.0, -18.0), (-74.0, 4.0))
_DEEP = ((-42.0, 42.0), (-72.0, 40.0), (-36.0, 36.0))


def paint_brain(canvas: Canvas, shape: HeadShape, hulls: Hulls, generator: torch.Generator) -> None:
    """Paint the brain into the intracranial space."""
    _paint_dural_folds(canvas, hulls)
    _paint_cerebrum(canvas, shape, hulls, generator)
    _paint_brainstem(canvas)
    _paint_cerebellum(canvas, shape, hulls, generator)
    _paint_ventricles(canvas, shape)
    _paint_nuclei(canvas)
    _paint_vessels(canvas, hulls)


def _mirrored(p: Points) -> Points:
    return p[0].abs(), p[1], p[2]


def _tentorium(p: Points) -> torch.Tensor:
    """Height above the tentorium, mm."""
    x, y, z = p
    height = 9 - 0.42 * torch.sqrt(x * x + 100) - 0.008 * (y + 45) ** 2
    return (z - height) * 0.9


def _callosal_disc(p: Points) -> torch.Tensor:
    """The midline plate bounded by the corpus callosum, a distance in the sagittal plane."""
    return ellipsoid((p[0] * 0, p[1], p[2]), (0, -5, 3), (1e3, 38, 23))


def _paint_dural_folds(canvas: Canvas, hulls: Hulls) -> None:
    window = canvas.window(((-8, 8), (-105, 75), (-25, 75)))
    p = canvas.within(window)
    free_edge = ellipsoid((p[0] * 0, p[1], p[2]), (0, 0, 2), (1e3, 52, 34))
    falx = torch.stack([p[0].abs() - 0.5, 3.0 - free_edge, 2 - _tentorium(p)]).amax(0)
    canvas.paint(Code.DURA, torch.maximum(falx, hulls.inner[window]), window)
    window = canvas.window(((-60, 60), (-100, -20), (-30, 12)))
    p = canvas.within(window)
    notch = tube(_mirrored(p), [(0, -50, 8), (14, -38, 0), (22, -15, -20)], [8, 12, 14])
    fold = torch.stack([_tentorium(p).abs() - 0.5, -notch, p[1] + 22]).amax(0)
    canvas.paint(Code.DURA, torch.maximum(fold, hulls.inner[window]), window)


def _cerebral_hull(p: Points, inner: torch.Tensor, shape: HeadShape) -> torch.Tensor:
    gap = 2.4 * shape.atrophy
    q = _mirrored(p)
    x, y, z = q
    floor = -17 + 0 * z
    upper = torch.maximum(inner + gap, floor - z)
    front = ((y + 18) / 14).clamp(0, 1)
    above = 2.0 - _tentorium(p)
    upper = torch.maximum(upper, above - 30 * front)
    temporal = ellipsoid(q, (40, -8, -23), (21.5, 41, 22.5))
    temporal = torch.maximum(temporal, inner + gap)
    temporal = smooth_max(temporal, above - 40 * front, 4)
    hull = smooth_min(upper, temporal, 5)
    fissure = torch.maximum(1.1 - x, -(_callosal_disc(p) - 0.3) * 1.0)
    fissure = torch.minimum(1.1 - x, _callosal_disc(p) - 0.3)
    return torch.maximum(hull, fissure)


def _folds(p: Points, shape: HeadShape, generator: torch.Generator) -> torch.Tensor:
    """Distance in mm to the nearest sulcal sheet."""
    x, y, z = p
    side = torch.where(x < 0, -1.0, 1.0)
    centre = (side * 22, torch.full_like(y, -12.0), torch.full_like(z, 8.0))
    radii = (34.0, 74.0, 50.0)
    offset = [a - c for a, c in zip(p, centre, strict=True)]
    rho = torch.sqrt(sum((o / r) ** 2 for o, r in zip(offset, radii, strict=True)) + 1e-4)
    lift = 0.85 / rho.clamp_min(0.25) + 0.15
    surface = [c + o * lift for c, o in zip(centre, offset, strict=True)]
    surface[0] = surface[0] + side * 300  # the hemispheres fold apart from each other
    field = waves((surface[0], surface[1], surface[2]), shape.fold_mm * 2, generator, n_waves=36)
    step = float(shape_spacing(p))
    slope = torch.gradient(field, spacing=step)
    steep = torch.sqrt(sum(g * g for g in slope) + 0.02**2)
    return field.abs() / steep


def shape_spacing(p: Points) -> float:
    """Voxel edge of a block of points in mm."""
    return float((p[0][1:] - p[0][:-1]).mean())


def _sylvian(p: Points) -> torch.Tensor:
    """Distance to the sheets of the lateral fissure and the insula."""
    x, y, z = _mirrored(p)
    level = -9 - 0.30 * (y - 5)
    reach = torch.stack([36 - x, y - 32, -42 - y]).amax(0).clamp_min(0)
    opercula = torch.sqrt((z - level) ** 2 + reach**2)
    along = torch.stack([y - 26, -26 - y, (z - level - 9).abs() - 12]).amax(0).clamp_min(0)
    bowed = x - 37.5 + 0.004 * (y - 2) ** 2
    insula = torch.sqrt(bowed**2 + along**2)
    return torch.minimum(opercula, insula)


def _deep_core(p: Points) -> torch.Tensor:
    """Sulci end before this solid: the nuclei, the ventricles and the tracts round them."""
    q = _mirrored(p)
    core = ellipsoid(q, (16, 0, 5), (18, 36, 22))
    horn = tube(q, [(12, -25, 18), (25, -44, 12), (26, -66, 8)], [10, 10, 5])
    temporal = tube(q, [(27, -40, -2), (30, -20, -15), (27, -4, -20)], [6, 5, 5])
    return torch.stack([core, horn, temporal]).amin(0)


def _paint_cerebrum(
    canvas: Canvas, shape: HeadShape, hulls: Hulls, generator: torch.Generator
) -> None:
    window = canvas.window(_CEREBRUM)
    p = canvas.within(window)
    depth = -_cerebral_hull(p, hulls.inner[window], shape)
    core = _deep_core(p)
    reach = 15 + 4.5 * smooth_field(canvas.axes, 26, generator)[window]
    reach = torch.minimum(reach, depth + core - 4.5)
    sheet = _folds(p, shape, generator)
    sheet = torch.sqrt(sheet**2 + (depth - reach).clamp_min(0) ** 2)
    width = 0.35 + shape.atrophy * (0.25 + 1.3 * torch.exp(-depth.clamp_min(0) / 5))
    sylvian = _sylvian(p) - 1.0 * shape.atrophy
    rind = smooth_min(depth, sheet - width, 3.0)
    rind = torch.minimum(rind, sylvian)
    thickness = shape.cortex_mm + 0.35 * smooth_field(canvas.axes, 18, generator)[window]
    canvas.paint(Code.CORTEX, -rind, window)
    canvas.paint(Code.WHITE, thickness - rind, window)
    disc = torch.maximum(_callosal_disc(p), p[0].abs() - 14)
    canvas.paint(Code.WHITE, torch.maximum(disc, -8 - p[2]), window)


def _stem(p: Points) -> torch.Tensor:
    midbrain = tube(p, [(0, -22, -6), (0, -24, -20)], [12, 12])
    pons = ellipsoid(p, (0, -21, -31), (17, 13.5, 14))
    medulla = tube(p, [(0, -28, -42), (0, -33, -56), (0, -36, -68)], [9, 7.5, 6.5])
    return smooth_min(smooth_min(midbrain, pons, 6), medulla, 7)


def _paint_brainstem(canvas: Canvas) -> None:
    cord = [(0, -36, -66), (0, -34.5, -84), (0, -33.5, -150)]
    canvas.draw(Code.CORD, ((-8, 8), (-45, -25), (-150, -60)), lambda p: tube(p, cord, [6.2, 5, 5]))
    canvas.draw(Code.BRAINSTEM, ((-20, 20), (-48, -5), (-72, 5)), _stem)


def _paint_cerebellum(
    canvas: Canvas, shape: HeadShape, hulls: Hulls, generator: torch.Generator
) -> None:
    window = canvas.window(_CEREBELLUM)
    p = canvas.within(window)
    x, y, z = p
    q = _mirrored(p)
    body = ellipsoid(q, (24, -58, -33), (28, 31, 25))
    vermis = ellipsoid(p, (0, -58, -28), (10, 27, 27))
    hull = smooth_min(body, vermis, 5)
    hull = torch.stack([hull, _tentorium(p) + 2.0, hulls.inner[window] + 2.2]).amax(0)
    hull = torch.maximum(hull, 0.8 - _stem(p))
    depth = -hull
    wobble = smooth_field(canvas.axes, 13, generator)[window]
    angle = torch.atan2(z + 33 + 0.10 * q[0], -(y + 40))
    radius = torch.sqrt((z + 33) ** 2 + (y + 40) ** 2).clamp_min(6)
    turns = angle * 9.5 + 0.8 * wobble
    fissure = (torch.sin(turns).abs() / 9.5 * radius).clamp_max(6)
    reach = 7 + 7 * smooth_field(canvas.axes, 9, generator)[window].abs()
    core = ellipsoid(q, (17, -50, -31), (22, 15, 9))
    reach = torch.minimum(reach, depth + core - 1)
    sheet = torch.sqrt(fissure**2 + (depth - reach).clamp_min(0) ** 2)
    rind = torch.minimum(depth, sheet - 0.35 * shape.atrophy)
    canvas.paint(Code.CEREBELLAR_CORTEX, -rind, window)
    canvas.paint(Code.CEREBELLAR_WHITE, 1.9 - rind, window)
    peduncle = tube(q, [(12, -26, -31), (17, -44, -31)], [6.5, 7])
    canvas.paint(Code.CEREBELLAR_WHITE, torch.maximum(peduncle, 1.5 - _stem(p)), window)


def _lateral_ventricle(p: Points, shape: HeadShape) -> torch.Tensor:
    grow = shape.ventricles
    frontal = tube(p, [(11, 28, 4), (7, 16, 9), (6.5, 0, 14)], [3.2, 4.6, 4.2])
    body = tube(p, [(6.5, 0, 14), (9, -18, 17), (17, -34, 14)], [4.0, 4.0, 4.8])
    atrium = tube(p, [(17, -34, 14), (24, -42, 8), (23, -60, 6)], [5, 6, 2.2])
    wall = 0.7 - p[0]
    return smooth_max(torch.stack([frontal, body, atrium]).amin(0) + 1.2 - 1.2 * grow, wall, 1.0)


def _paint_ventricles(canvas: Canvas, shape: HeadShape) -> None:
    canvas.draw_pair(
        Code.VENTRICLE, ((0, 36), (-70, 36), (-10, 30)), lambda p: _lateral_ventricle(p, shape)
    )
    horn = [(25, -40, 5), (31, -32, -6), (31, -18, -15), (27, -6, -19)]
    canvas.draw_pair(
        Code.TEMPORAL_HORN,
        ((15, 42), (-50, 5), (-28, 10)),
        lambda p: tube(p, horn, [3.6, 2.6, 2.2, 1.8]) + 1 - shape.ventricles,
    )


def _paint_nuclei(canvas: Canvas) -> None:
    head = ((0, 36), (-45, 32), (-32, 32))

    def caudate(p: Points) -> torch.Tensor:
        knots = [
            (12, 17, 2),
            (14.5, 12, 9),
            (16, 0, 16),
            (20, -16, 18),
            (27, -30, 10),
            (32, -26, -6),
        ]
        return tube(p, knots, [4.5, 5.2, 3.6, 2.4, 1.6, 1.0])

    solids = [
        (Code.CAUDATE, caudate),
        (Code.ACCUMBENS, lambda p: ellipsoid(p, (10, 10, -6), (5, 5, 4))),
        (Code.PUTAMEN, lambda p: ellipsoid(p, (26, 1, 1), (5.4, 16, 10.5), turn=(14, "xy"))),
        (Code.PALLIDUM, lambda p: ellipsoid(p, (20, -3, -1), (4.2, 8.5, 6.5), turn=(18, "xy"))),
        (Code.VENTRAL_DC, lambda p: ellipsoid(p, (8, -14, -9), (8.5, 10, 7))),
        (Code.THALAMUS, lambda p: ellipsoid(p, (11, -17, 5), (8, 15, 8.5), turn=(-20, "xy"))),
        (
            Code.HIPPOCAMPUS,
            lambda p: tube(p, [(23, -6, -21), (27, -20, -17), (23, -36, -5)], [5.6, 4.6, 3.6]),
        ),
        (Code.AMYGDALA, lambda p: ellipsoid(p, (22, -1, -18), (7, 7, 7))),
    ]
    for code, solid in solids:
        canvas.draw_pair(code, head, solid)
    canvas.draw(
        Code.THIRD_VENTRICLE,
        ((-5, 5), (-32, 12), (-20, 12)),
        lambda p: torch.maximum(
            ellipsoid(p, (0, -10, -2), (2.2, 14, 11)), 4 - ball(p, (0, -12, 3), 0)
        ),
    )
    canvas.draw(
        Code.FOURTH_VENTRICLE,
        ((-12, 12), (-52, -28), (-50, -6)),
        lambda p: torch.minimum(
            ellipsoid(p, (0, -38, -33), (6.5, 5, 11)),
            tube(p, [(0, -30, -6), (0, -36, -24)], [0.9, 1.4]),
        ),
    )
    canvas.draw_pair(
        Code.CHIASM,
        ((-8, 12), (0, 14), (-26, -10)),
        lambda p: tube(p, [(0, 2, -17), (5, 9, -18)], [2, 2]),
    )


def _paint_vessels(canvas: Canvas, hulls: Hulls) -> None:
    window = canvas.window(((-10, 10), (-110, 75), (-20, 80)))
    x, y, z = canvas.within(window)
    inner = hulls.inner[window]
    sagittal = torch.stack(
        [x.abs() - 3.6 - 0.55 * inner, inner - 1, -inner - 6.5, 25 - z - y * 0.9]
    ).amax(0)
    sagittal = torch.stack(
        [x.abs() * 1.0 - 4.2 - 0.6 * inner, inner - 0.5, -6.5 - inner, -12 - z + 0.4 * y]
    ).amax(0)
    canvas.paint(Code.SINUS, sagittal, window)
    canvas.draw_pair(
        Code.SINUS,
        ((0, 62), (-105, -35), (-50, 0)),
        lambda p: tube(
            p, [(0, -95, -10), (35, -82, -16), (54, -56, -22), (47, -42, -44)], [4, 3.6, 3.4, 3.4]
        ),
    )
    canvas.draw(
        Code.ARTERY,
        ((-6, 6), (-30, -2), (-60, -12)),
        lambda p: tube(p, [(0, -22, -58), (0, -7, -34), (0, -9, -18)], [1.3, 1.7, 1.5]),
    )
    canvas.draw_pair(
        Code.ARTERY,
        ((0, 48), (-32, 16), (-150, 0)),
        lambda p: torch.minimum(
            tube(
                p,
                [
                    (30, -6, -150),
                    (28, -12, -80),
                    (24, -6, -46),
                    (11, 0, -40),
                    (9, 6, -28),
                    (12, 5, -20),
                ],
                [3.2, 2.8, 2.6, 2.4, 2.2, 1.8],
            ),
            tube(p, [(12, 5, -20), (30, 4, -15), (40, 2, -10)], [1.5, 1.4, 1.2]),
        ),
    )
    canvas.draw_pair(
        Code.SINUS,
        ((24, 50), (-45, -10), (-150, -45)),
        lambda p: tube(p, [(47, -42, -44), (34, -24, -62), (38, -14, -150)], [3.4, 4, 5]),
    )
