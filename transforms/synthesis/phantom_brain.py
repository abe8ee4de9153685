"""The brain of the phantom: folded cortex, white matter, ventricles, nuclei, cerebellum, brainstem.

The cortex is the rim, two to four millimetres thick, of what is left of a smooth hull once sulci
are cut into it. Sulci are sheets: the zero level sets of a random field of one wavelength,
carried inwards from the surface so that they stand nearly upright on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from radloom.transforms.synthesis.phantom_head import Hulls, petrous_ridge
from radloom.transforms.synthesis.phantom_shape import HeadShape
from radloom.transforms.synthesis.solids import (
    Canvas,
    Points,
    ellipsoid,
    mirrored,
    smooth_max,
    smooth_min,
    tube,
    wave_sheets,
)
from radloom.transforms.synthesis.tissues import Code

__all__ = ["paint_brain"]


def paint_brain(canvas: Canvas, shape: HeadShape, hulls: Hulls) -> None:
    """Paint the brain into the intracranial space."""
    _paint_dural_folds(canvas, hulls)
    _paint_cerebrum(canvas, shape, hulls)
    _paint_midline(canvas)
    _paint_brainstem(canvas)
    _paint_cerebellum(canvas, shape, hulls)
    _paint_ventricles(canvas, shape)
    _paint_nuclei(canvas)
    _paint_sinuses(canvas, hulls)
    _paint_arteries(canvas)


def _tentorium(p: Points) -> torch.Tensor:
    """Height above the tentorium, mm."""
    x, y, z = p
    fall = torch.where(y > -50, 0.02, 0.006) * (y + 50) ** 2
    height = 8 - 0.48 * torch.sqrt(x * x + 64) - fall
    return (z - height) * 0.88


def _callosal_disc(p: Points) -> torch.Tensor:
    """The midline plate whose rim is the corpus callosum, a distance in the sagittal plane."""
    return ellipsoid((torch.zeros_like(p[0]), p[1], p[2]), (0, -5, 3), (1e3, 38, 23))


def _paint_dural_folds(canvas: Canvas, hulls: Hulls) -> None:
    window = canvas.window(((-8, 8), (-105, 75), (-25, 75)))
    p = canvas.within(window)
    free_edge = ellipsoid((torch.zeros_like(p[0]), p[1], p[2]), (0, 0, 2), (1e3, 52, 34))
    falx = torch.stack([p[0].abs() - 0.45, 3.0 - free_edge, 2 - _tentorium(p)]).amax(0)
    canvas.paint(Code.DURA, torch.maximum(falx, hulls.inner[window]), window)
    window = canvas.window(((-60, 60), (-100, -20), (-30, 12)))
    p = canvas.within(window)
    notch = tube(mirrored(p), [(0, -48, 8), (14, -36, 0), (20, -12, -20)], [9, 12, 14])
    fold = torch.stack([_tentorium(p).abs() - 0.45, -notch, petrous_ridge(p)]).amax(0)
    canvas.paint(Code.DURA, torch.maximum(fold, hulls.inner[window]), window)


def _cerebral_hull(p: Points, inner: torch.Tensor, shape: HeadShape) -> torch.Tensor:
    """The two hemispheres before folding."""
    q = mirrored(p)
    x, y, z = q
    in_front = (petrous_ridge(p) / 6 + 0.5).clamp(0, 1)
    above = 1.8 - _tentorium(p) - 45 * in_front
    cistern = smooth_max(torch.maximum(z + 13, y - 14), x - 15 + 0.25 * (y + 8).clamp_min(0), 8)
    hull = smooth_max(inner + 2.2 * shape.atrophy, above, 4)
    hull = smooth_max(hull, -cistern, 4)
    fissure = torch.minimum(0.8 - x, _callosal_disc(p) - 0.3)
    return torch.maximum(hull, fissure)


def _sulci(p: Points, bend: Sequence[torch.Tensor], shape: HeadShape) -> torch.Tensor:
    """Distance in mm to the nearest sulcal sheet; `bend` (mm, along x, y, z) makes them wind."""
    side = torch.where(p[0] < 0, -1.0, 1.0)
    centre = (side * 20, torch.full_like(side, -14.0), torch.full_like(side, 6.0))
    offset = [a - c for a, c in zip(p, centre, strict=True)]
    rho = torch.sqrt((offset[0] / 36) ** 2 + (offset[1] / 74) ** 2 + (offset[2] / 52) ** 2 + 1e-4)
    lift = 0.6 / rho.clamp_min(0.3) + 0.4
    x, y, z = (c + o * lift + b for c, o, b in zip(centre, offset, bend, strict=True))
    x = x + side * 300  # so that the hemispheres fold apart from each other
    return wave_sheets((x, y, z), shape.fold_mm * 2, shape.stream("sulci"), n_waves=32)


def _sylvian(p: Points, bend: torch.Tensor) -> torch.Tensor:
    """Distance to the sheets of the lateral fissure and the insula, moved by `bend` mm."""
    x, y, z = mirrored(p)
    x, z = x + bend, z - bend
    level = -9 - 0.30 * (y - 5)
    reach = torch.stack([36 - x, y - 30, -44 - y]).amax(0).clamp_min(0)
    opercula = torch.sqrt((z - level) ** 2 + reach**2)
    along = torch.stack([y - 24, -24 - y, (z - level - 8).abs() - 12]).amax(0).clamp_min(0)
    insula = torch.sqrt((x - 38.5 + 0.004 * (y - 2) ** 2) ** 2 + along**2)
    return torch.minimum(opercula, insula)


def _deep_core(p: Points) -> torch.Tensor:
    """Sulci end before this solid: the nuclei, the ventricles and the tracts round them."""
    q = mirrored(p)
    core = ellipsoid(q, (16, 0, 5), (17, 32, 20))
    horn = tube(q, [(12, -25, 18), (25, -44, 10), (24, -62, 6)], [8, 8, 3])
    temporal = tube(q, [(27, -40, -2), (30, -20, -15), (27, -4, -20)], [5, 5, 5])
    return torch.stack([core, horn, temporal]).amin(0)


def _paint_cerebrum(canvas: Canvas, shape: HeadShape, hulls: Hulls) -> None:
    window = canvas.window(((-70, 70), (-100, 70), (-52, 74)))
    if canvas.is_empty(window):
        return
    p = canvas.within(window)
    depth = -_cerebral_hull(p, hulls.inner[window], shape)
    reach = (14 + 4 * canvas.smooth(22, shape.stream("depth"), window)).clamp_min(9)
    reach = torch.minimum(reach, depth + _deep_core(p) - 4)
    bend = [3.2 * canvas.smooth(13, shape.stream(f"bend {axis}"), window) for axis in "xyz"]
    sheet = torch.sqrt(_sulci(p, bend, shape) ** 2 + (depth - reach).clamp_min(0) ** 2)
    width = 0.1 + shape.atrophy * (0.25 + 0.8 * torch.exp(-depth.clamp_min(0) / 4))
    rind = smooth_min(depth, sheet - width, 3.0)
    rind = smooth_min(rind, _sylvian(p, 0.5 * bend[0]) - 0.7 * shape.atrophy, 2.0)
    thickness = shape.cortex_mm + 0.3 * canvas.smooth(18, shape.stream("cortex"), window)
    canvas.paint(Code.CORTEX, -rind, window)
    canvas.paint(Code.WHITE, thickness - rind, window)


def _paint_midline(canvas: Canvas) -> None:
    """Corpus callosum, the plate under it, and the cistern behind the thalami."""
    box = ((-15, 15), (-48, 38), (-16, 30))
    canvas.draw(
        Code.WHITE,
        box,
        lambda p: smooth_max(torch.maximum(_callosal_disc(p), -6 - p[2]), p[0].abs() - 15, 12),
    )
    canvas.draw(
        Code.CSF,
        box,
        lambda p: smooth_max(
            ellipsoid(p, (0, -40, -2), (13, 9, 10)), 3.5 - (-_callosal_disc(p)), 3
        ),
    )


def _stem(p: Points) -> torch.Tensor:
    q = mirrored(p)
    midbrain = smooth_min(
        tube(p, [(0, -25, -4), (0, -26, -20)], [10, 11]),
        tube(q, [(11, -14, -6), (7, -18, -20)], [6, 6]),
        4,
    )
    pons = ellipsoid(p, (0, -21, -31), (17, 13, 13.5))
    medulla = tube(p, [(0, -27, -42), (0, -33, -56), (0, -36, -68)], [9, 7.5, 6.5])
    return smooth_min(smooth_min(midbrain, pons, 4), medulla, 6)


def _paint_brainstem(canvas: Canvas) -> None:
    cord = [(0, -36, -66), (0, -34.5, -84), (0, -33.5, -150)]
    canvas.draw(Code.CORD, ((-8, 8), (-45, -25), (-150, -60)), lambda p: tube(p, cord, [6.2, 5, 5]))
    canvas.draw(Code.BRAINSTEM, ((-20, 20), (-48, -5), (-72, 8)), _stem)


def _cerebellar_hull(p: Points, inner: torch.Tensor) -> torch.Tensor:
    q = mirrored(p)
    body = smooth_max(inner + 2.2, ellipsoid(p, (0, -60, -30), (51, 36, 35)), 4)
    body = smooth_max(body, _tentorium(p) + 1.6, 3)
    body = smooth_max(body, 1.2 - _stem(p), 2)
    body = smooth_max(body, -tube(p, [(0, -100, -30), (0, -84, -58), (0, -58, -68)], [6, 5, 8]), 6)
    return smooth_max(body, petrous_ridge(q) + 7, 6)


def _paint_cerebellum(canvas: Canvas, shape: HeadShape, hulls: Hulls) -> None:
    window = canvas.window(((-58, 58), (-98, -18), (-74, 8)))
    if canvas.is_empty(window):
        return
    p = canvas.within(window)
    x, y, z = mirrored(p)
    depth = -_cerebellar_hull(p, hulls.inner[window])
    wobble = canvas.smooth(12, shape.stream("folia"), window)
    lift, back = z + 32, -(y + 38) - 0.011 * x**2 + 6
    turns = torch.atan2(lift, back) * 13 + 0.9 * wobble
    radius = torch.sqrt(lift**2 + back**2).clamp_min(8)
    large = (torch.sin(turns).abs() / 13 * radius).clamp_max(6)
    small = (torch.sin(turns * 3 + 1).abs() / 39 * radius).clamp_max(3)
    core = ellipsoid((x, y, z), (17, -50, -31), (15, 9, 4.5))
    reach = 18 + 5 * canvas.smooth(11, shape.stream("folia depth"), window)
    reach = torch.minimum(reach, depth + core - 0.5)
    sheet = torch.sqrt(large**2 + (depth - reach).clamp_min(0) ** 2)
    fine = torch.sqrt(small**2 + (depth - 4.5).clamp_min(0) ** 2) + 0.1
    rind = torch.stack([depth, sheet - 0.25 * shape.atrophy, fine]).amin(0)
    canvas.paint(Code.CEREBELLAR_CORTEX, -rind, window)
    canvas.paint(Code.CEREBELLAR_WHITE, 1.9 - rind, window)
    peduncle = tube((x, y, z), [(12, -26, -31), (17, -44, -31)], [6.5, 7])
    peduncle = torch.maximum(peduncle, 0.5 - _stem(p))
    canvas.paint(Code.CEREBELLAR_WHITE, peduncle, window)


def _lateral_ventricle(p: Points) -> torch.Tensor:
    x, y, z = p
    tall = (x, y, 10 + (z - 10) * 0.62)
    frontal = tube(tall, [(12.5, 28, 8), (8, 17, 10), (5, 2, 12)], [2.6, 4.4, 3.4])
    body = tube(p, [(5, 2, 15), (8, -16, 17), (16, -33, 14)], [4.2, 4.0, 5])
    atrium = tube(p, [(16, -33, 14), (24, -43, 8), (22, -62, 5)], [5, 6, 1.8])
    under_callosum = torch.maximum(_callosal_disc(p) + 6, 10.5 - z + 0.1 * y)
    beside_septum = smooth_max(under_callosum, torch.maximum(x - 4.5, -26 - y), 4)
    return smooth_min(torch.stack([frontal, body, atrium]).amin(0), beside_septum, 3)


def _paint_ventricles(canvas: Canvas, shape: HeadShape) -> None:
    swell = shape.ventricles - 1
    canvas.draw_pair(
        Code.VENTRICLE,
        ((0, 36), (-70, 36), (-10, 30)),
        lambda p: smooth_max(_lateral_ventricle(p) - swell, 0.2 - p[0], 0.6),
    )
    horn = [(25, -40, 5), (31, -32, -6), (31, -18, -15), (27, -6, -19)]
    canvas.draw_pair(
        Code.TEMPORAL_HORN,
        ((15, 42), (-50, 5), (-28, 10)),
        lambda p: tube(p, horn, [3.6, 2.6, 2.2, 1.6]) - swell,
    )


def _caudate(p: Points) -> torch.Tensor:
    head = ellipsoid(p, (14.5, 13, 6), (6.2, 10, 10), turn=(-12, "xy"))
    knots = [(15, 8, 13), (17, -4, 18), (21, -20, 18), (28, -32, 10), (33, -26, -6)]
    return smooth_min(head, tube(p, knots, [4, 3.4, 2.4, 1.6, 1.0]), 3)


def _paint_nuclei(canvas: Canvas) -> None:
    for code, solid in (
        (Code.CAUDATE, _caudate),
        (Code.ACCUMBENS, lambda p: ellipsoid(p, (10, 10, -6), (5, 5, 4))),
        (Code.PUTAMEN, lambda p: ellipsoid(p, (27, 1, 1), (5.8, 16.5, 11), turn=(14, "xy"))),
        (Code.PALLIDUM, lambda p: ellipsoid(p, (21, -3, -1), (4.6, 9, 7), turn=(20, "xy"))),
        (Code.VENTRAL_DC, lambda p: ellipsoid(p, (8.5, -14, -9), (8.5, 11, 7))),
        (Code.THALAMUS, lambda p: ellipsoid(p, (11, -17, 6), (9.2, 16.5, 10), turn=(24, "xy"))),
        (
            Code.HIPPOCAMPUS,
            lambda p: tube(p, [(24, -8, -20), (27, -20, -16), (24, -36, -4)], [6.6, 5.6, 4.4]),
        ),
        (Code.AMYGDALA, lambda p: ellipsoid(p, (22, -1, -18), (7.5, 7.5, 7.5))),
        (Code.WHITE, lambda p: tube(p, [(3, -33, 13), (1.6, -8, 11), (1.6, 3, 5)], [2, 1.8, 1.5])),
        (Code.CHIASM, lambda p: tube(p, [(0, 2, -17), (5, 9, -18)], [2, 2])),
    ):
        canvas.draw_pair(code, ((0, 36), (-45, 32), (-32, 32)), solid)
    canvas.draw(
        Code.THIRD_VENTRICLE,
        ((-5, 5), (-32, 12), (-20, 14)),
        lambda p: torch.maximum(
            ellipsoid(p, (0, -10, -1), (2.0, 14, 11)), -ellipsoid(p, (0, -12, 2), (9, 3.5, 3))
        ),
    )
    canvas.draw(
        Code.FOURTH_VENTRICLE,
        ((-12, 12), (-52, -28), (-50, -4)),
        lambda p: torch.minimum(
            ellipsoid(p, (0, -38, -33), (6.5, 5, 11)),
            tube(p, [(0, -28, -5), (0, -36, -24)], [0.9, 1.4]),
        ),
    )


def _paint_sinuses(canvas: Canvas, hulls: Hulls) -> None:
    window = canvas.window(((-10, 10), (-110, 75), (-20, 80)))
    x, y, z = canvas.within(window)
    inner = hulls.inner[window]
    below = torch.stack([inner + 0.2, -6 - inner, -12 - z + 0.4 * y]).amax(0)
    canvas.paint(Code.SINUS, torch.maximum(x.abs() - 4.2 - 0.6 * inner, below), window)
    transverse = [(0, -95, -11), (35, -84, -15), (54, -58, -21), (48, -42, -42)]
    jugular = [(48, -42, -42), (34, -24, -62), (38, -14, -150)]
    canvas.draw_pair(
        Code.SINUS,
        ((0, 62), (-105, -10), (-150, 0)),
        lambda p: torch.minimum(
            tube(p, transverse, [4, 3.6, 3.4, 3.4]), tube(p, jugular, [3.4, 4, 5])
        ),
    )


def _paint_arteries(canvas: Canvas) -> None:
    basilar = [(0, -22, -58), (0, -6.5, -34), (0, -9, -18)]
    canvas.draw(
        Code.ARTERY,
        ((-6, 6), (-30, -2), (-62, -12)),
        lambda p: tube(p, basilar, [1.3, 1.7, 1.5]),
    )
    carotid = [
        (30, -6, -150),
        (28, -12, -80),
        (24, -6, -46),
        (11, 0, -40),
        (9, 6, -28),
        (12, 5, -20),
    ]
    middle = [(12, 5, -20), (30, 4, -15), (40, 2, -10)]
    canvas.draw_pair(
        Code.ARTERY,
        ((0, 48), (-32, 16), (-150, 0)),
        lambda p: torch.minimum(
            tube(p, carotid, [3.2, 2.8, 2.6, 2.4, 2.2, 1.8]), tube(p, middle, [1.5, 1.4, 1.2])
        ),
    )
