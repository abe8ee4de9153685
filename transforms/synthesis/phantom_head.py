"""The head round the brain: scalp, skull, face, sinuses, eyes and neck of the phantom.

Positions are mm in the undeformed head: x to the right, y to anterior, z to superior, with the
anterior commissure near the origin. They were chosen by hand to give an adult's proportions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from radloom.transforms.synthesis.phantom_shape import HeadShape
from radloom.transforms.synthesis.solids import (
    Canvas,
    Points,
    ball,
    ellipsoid,
    mirrored,
    smooth_max,
    smooth_min,
    tube,
    wave_sheets,
)
from radloom.transforms.synthesis.tissues import Code

__all__ = ["Hulls", "paint_head", "petrous_ridge", "skull_hulls"]


@dataclass(frozen=True)
class Hulls:
    """Signed distances in mm, (I, J, K), of the nested surfaces of the head."""

    inner: torch.Tensor
    """The inner table: what lies inside is intracranial."""
    outer: torch.Tensor
    """The outer table of the vault and the base."""
    skin: torch.Tensor
    """Air begins outside."""


def petrous_ridge(p: Points) -> torch.Tensor:
    """Distance in front of the ridge that parts the middle from the posterior fossa."""
    x, y, _ = mirrored(p)
    return (y + 1 + 0.58 * x) / 1.156


def _intracranial(p: Points) -> torch.Tensor:
    ridge = petrous_ridge(p)
    vault = ellipsoid(p, (0, -15, 8), (66.5, 82.5, 61.5))
    vault = smooth_max(vault, -19 - p[2], 16)
    middle_fossa = ellipsoid(mirrored(p), (40, -3, -25), (25, 42, 23))
    middle_fossa = smooth_max(middle_fossa, 2.5 - ridge, 5)
    posterior_fossa = ellipsoid(p, (0, -54, -31), (54, 43, 36))
    posterior_fossa = smooth_max(posterior_fossa, ridge + 2.5, 5)
    stem = tube(p, [(0, -20, -22), (0, -27, -46), (0, -36, -70)], [17, 16, 13])
    hull = smooth_min(vault, middle_fossa, 6)
    return smooth_min(smooth_min(hull, posterior_fossa, 6), stem, 8)


def _face(p: Points, shape: HeadShape) -> torch.Tensor:
    q = mirrored(p)
    nose = shape.nose
    face = ellipsoid(p, (0, 36, -56), (60, 46, 56))
    face = smooth_min(face, ellipsoid(p, (0, 44, -98), (50, 39, 28)), 16)
    face = smooth_min(face, ellipsoid(q, (36, 52, -64), (25, 27, 28)), 14)
    face = smooth_min(face, tube(q, [(4, 76, -14), (36, 67, -18)], [9, 9]), 12)
    face = smooth_max(face, -ball(q, (31, 92, -36), 16), 10)
    face = smooth_min(face, ball(p, (0, 70, -114), 15), 12)
    bridge = [(0, 76, -30), (0, 84 + 3 * nose, -46), (0, 89 + 8 * nose, -59)]
    face = smooth_min(face, tube(p, bridge, [6, 7, 8.5]), 12)
    face = smooth_min(face, ellipsoid(q, (8, 82, -63), (7, 9, 6.5)), 10)
    face = smooth_min(face, ellipsoid(p, (0, 78, -82), (22, 9, 7)), 8)
    return smooth_min(face, ellipsoid(p, (0, 77, -92), (20, 9, 7)), 4)


def _neck(p: Points) -> torch.Tensor:
    x, y, z = p
    centre = -16 - 0.05 * (z + 100)
    radius = torch.sqrt((x / 1.03) ** 2 + (y - centre) ** 2) - 55
    return smooth_max(radius, z + 48, 30)


def _ear(p: Points) -> torch.Tensor:
    q = mirrored(p)
    shell = ellipsoid(q, (80, -26, -32), (5, 17, 29), turn=(-22, "xy"))
    bowl = ellipsoid(q, (86, -19, -34), (5, 8, 13), turn=(-22, "xy"))
    return smooth_max(shell, -bowl, 4)


def skull_hulls(canvas: Canvas, shape: HeadShape) -> Hulls:
    """The nested surfaces of one head."""
    p = canvas.points
    x, y, z = mirrored(p)
    inner = _intracranial(p)
    thickness = 6.4 + 0.7 * canvas.smooth(42, shape.stream("skull"))
    squama = torch.exp(-(((y - 5) / 38) ** 2) - ((z + 12) / 26) ** 2) * ((x - 35) / 20).clamp(0, 1)
    thickness = (thickness - 2.4 * squama).clamp_min(3.4) * shape.skull_thickness
    outer = inner - thickness
    skin = outer - 5.4 * shape.fat - 7 * squama
    skin = smooth_min(skin, _face(p, shape), 14)
    skin = smooth_min(skin, _neck(p), 22)
    skin = smooth_min(skin, _ear(p), 4)
    return Hulls(inner, outer, skin)


def paint_head(canvas: Canvas, shape: HeadShape, hulls: Hulls) -> None:
    """Everything but the brain, from the outside in; the intracranial space ends as CSF."""
    _paint_soft_tissue(canvas, shape, hulls)
    _paint_spine(canvas)
    _paint_skull(canvas, shape, hulls)
    _paint_face_bones(canvas)
    _paint_mouth_and_throat(canvas)
    _paint_sinuses(canvas, shape)
    _paint_temporal_bone(canvas, shape)
    _paint_eyes(canvas)
    canvas.paint(Code.SKIN, (hulls.skin + 1).abs() - 1)
    canvas.paint(Code.AIR, -hulls.skin)
    _paint_openings(canvas)
    canvas.paint(Code.DURA, hulls.inner)
    canvas.paint(Code.CSF, hulls.inner + 0.7)
    _paint_canal(canvas)


def _paint_soft_tissue(canvas: Canvas, shape: HeadShape, hulls: Hulls) -> None:
    _, y, z = canvas.points
    low = ((-z - 20) / 50).clamp(0, 1)
    back = ((-y - 30) / 40).clamp(0, 1)
    lean = ((86 - y) / 10).clamp(0, 1)  # nose, lips and chin hold little fat
    fat_mm = (2.2 + 2.4 * low + 4 * low * back) * shape.fat * lean
    canvas.paint(Code.SKIN, hulls.skin)
    canvas.paint(Code.FAT, torch.maximum(hulls.skin + 2.0, 8 * (0.8 - fat_mm)))
    inside = hulls.skin + 2.0 + fat_mm
    canvas.paint(Code.MUSCLE, inside)
    window = canvas.window(((-90, 90), (-110, 110), (-140, -25)), 5)
    x, y, z = canvas.within(window)
    sheets = wave_sheets((x, y, z * 0.4), 30, shape.stream("septa")) - 0.55
    canvas.paint(Code.FAT, torch.maximum(sheets, inside[window] + 2), window)
    lobules = (1.5 - canvas.smooth(13, shape.stream("lobules"), window)) * 6
    canvas.paint(Code.FAT, torch.maximum(lobules, inside[window] + 3), window)


def _paint_mouth_and_throat(canvas: Canvas) -> None:
    pharynx = [(0, 16, -52), (0, 6, -66), (0, 0, -88), (0, 4, -112), (0, 6, -150)]
    box = ((-16, 16), (-15, 35), (-150, -40))
    canvas.draw(Code.MUCOSA, box, lambda p: tube(p, pharynx, [10, 9.5, 8.5, 10, 10]))
    canvas.draw(Code.CAVITY, box, lambda p: tube(p, pharynx, [7, 6.5, 5, 6.5, 8]))
    mouth = ((-35, 35), (5, 90), (-115, -75))
    canvas.draw(Code.CAVITY, mouth, lambda p: ellipsoid(p, (0, 36, -87), (19, 32, 7)))
    canvas.draw(Code.MUSCLE, mouth, lambda p: ellipsoid(p, (0, 36, -95.5), (22, 33, 14.5)))


def _vertebrae(p: Points) -> torch.Tensor:
    heights = (-97.0, -114.0, -131.0, -148.0)
    q = mirrored(p)
    parts = [
        tube(p, [(0, -10, -72), (0, -12, -92)], [5.5, 8]),
        ellipsoid(q, (24, -18, -77), (13, 9, 6), turn=(15, "xz")),
        tube(q, [(30, -22, -77), (20, -44, -78), (0, -52, -78)], [4, 3.5, 4]),
    ]
    for h in heights:
        parts.append(ellipsoid(p, (0, -12, h), (12.5, 9.5, 8.2)))
        parts.append(ellipsoid(q, (19, -28, h), (7.5, 7.5, 6.5)))
        parts.append(tube(q, [(16, -36, h - 2), (3, -48, h - 4)], [3.4, 3.6]))
        parts.append(tube(q, [(1, -48, h - 4), (3, -60, h - 9)], [4, 4.5]))
    return torch.stack(parts).amin(0)


def _paint_spine(canvas: Canvas) -> None:
    box = ((-40, 40), (-80, 15), (-150, -65))
    canvas.draw(Code.DISC, box, lambda p: tube(p, [(0, -12, -84), (0, -12, -155)], [9.5, 9.5]))
    canvas.draw(Code.BONE, box, _vertebrae)
    canvas.draw(Code.MARROW, box, lambda p: _vertebrae(p) + 1.5)


def _paint_canal(canvas: Canvas) -> None:
    box = ((-14, 14), (-55, -18), (-150, -60))
    canal = [(0, -36, -66), (0, -34, -84), (0, -33, -150)]
    canvas.draw(Code.DURA, box, lambda p: tube(p, canal, [13, 10.5, 9.5]))
    canvas.draw(Code.CSF, box, lambda p: tube(p, canal, [12.4, 9.7, 8.7]))


def _paint_skull(canvas: Canvas, shape: HeadShape, hulls: Hulls) -> None:
    canvas.paint(Code.BONE, hulls.outer)
    window = canvas.window(((-40, 40), (-30, 95), (-80, 5)))
    p = canvas.within(window)
    front = ellipsoid(p, (0, 66, -13), (30, 9, 14))
    sphenoid = smooth_min(
        ellipsoid(p, (0, 13, -38), (20, 18, 14)),
        tube(p, [(0, -2, -38), (0, -16, -66)], [8, 5]),
        6,
    )
    solid = smooth_min(front, sphenoid, 4)
    canvas.paint(Code.BONE, solid, window)
    canvas.paint(Code.MARROW, solid + 3.0, window)
    table = 1.8 + 0.3 * canvas.smooth(6, shape.stream("diploe"))
    canvas.paint(Code.MARROW, torch.maximum(hulls.outer + table, table - hulls.inner))


def _jaw(p: Points) -> torch.Tensor:
    knots = [
        (52, 4, -52),
        (50, 6, -74),
        (46, 12, -100),
        (28, 52, -111),
        (9, 68, -114),
        (0, 69, -114),
    ]
    return tube(mirrored(p), knots, [6, 6, 7.5, 7, 7.5, 8])


def _teeth(p: Points) -> torch.Tensor:
    x, y, z = p
    row = torch.sqrt(x * x + ((y - 46).clamp_min(0) * 0.95) ** 2) - 22
    crown = smooth_max(row.abs() - 3.2, (z + 88).abs() - 8.5, 3)
    gaps = 0.9 * torch.cos(torch.atan2(x, (y - 40).clamp_min(1)) * 9).abs()
    return torch.stack([crown + gaps - 0.3, 22 - y, 1.0 - (z + 88).abs()]).amax(0)


def _maxilla(p: Points) -> torch.Tensor:
    q = mirrored(p)
    body = ellipsoid(q, (22, 47, -62), (24, 23, 20))
    palate = smooth_max(ellipsoid(p, (0, 45, -77), (30, 27, 5)), 14 - p[1], 4)
    zygoma = tube(q, [(44, 52, -50), (58, 38, -46), (64, 0, -42)], [6, 4, 2.6])
    rim = tube(q, [(44, 56, -50), (50, 56, -34), (40, 65, -20)], [5, 4, 5])
    return torch.stack([smooth_min(body, palate, 4), zygoma, rim]).amin(0)


def _paint_face_bones(canvas: Canvas) -> None:
    lower = ((-62, 62), (-5, 85), (-125, -45))
    canvas.draw(Code.BONE, lower, _jaw)
    canvas.draw(Code.MARROW, lower, lambda p: _jaw(p) + 2.6)
    upper = ((-68, 68), (-5, 85), (-85, -12))
    canvas.draw(Code.BONE, upper, _maxilla)
    canvas.draw(Code.MARROW, upper, lambda p: _maxilla(p) + 2.2)
    canvas.draw(Code.TOOTH, ((-30, 30), (15, 80), (-100, -75)), _teeth)


def _nasal(p: Points) -> torch.Tensor:
    cavity = ellipsoid(p, (0, 42, -60), (16, 33, 15))
    roof = ellipsoid(p, (0, 36, -42), (12, 26, 14))
    return smooth_min(cavity, roof, 5)


def _paint_sinuses(canvas: Canvas, shape: HeadShape) -> None:
    window = canvas.window(((-50, 50), (0, 100), (-82, 5)))
    if canvas.is_empty(window):
        return
    p = canvas.within(window)
    q = mirrored(p)
    nasal = _nasal(p)
    canvas.paint(Code.BONE, nasal - 1.0, window)
    canvas.paint(Code.MUCOSA, nasal, window)
    turbinates = [
        tube(q, [(8, 24, z), (9.5, 62, z)], [r, r - 1]) for z, r in ((-68, 5), (-58, 4.2), (-49, 3))
    ]
    mucosa = torch.stack([*turbinates, q[0] - 1.5]).amin(0)
    canvas.paint(Code.CAVITY, torch.maximum(nasal + 1.8, 1.3 - mucosa), window)
    ethmoid = ellipsoid(p, (0, 38, -35), (12.5, 25, 11))
    canvas.paint(Code.BONE, ethmoid, window)
    cells = 0.9 - wave_sheets(p, 17, shape.stream("ethmoid"))
    canvas.paint(Code.CAVITY, torch.maximum(ethmoid + 0.8, cells), window)
    maxillary = ellipsoid(q, (27, 46, -61), (13, 18, 16))
    sphenoid = torch.maximum(ellipsoid(p, (0, 17, -38), (13, 13, 9.5)), 0.9 - (p[0] - 2).abs())
    frontal = torch.maximum(ellipsoid(q, (11, 69, -12), (11, 4.2, 9)), 0.8 - (p[0] + 1).abs())
    for sinus in (maxillary, sphenoid, frontal):
        canvas.paint(Code.BONE, sinus - 1.0, window)
        canvas.paint(Code.MUCOSA, sinus, window)
        canvas.paint(Code.CAVITY, sinus + 1.0, window)


def _paint_temporal_bone(canvas: Canvas, shape: HeadShape) -> None:
    window = canvas.window(((-85, 85), (-60, 5), (-75, -15)))
    if canvas.is_empty(window):
        return
    p = canvas.within(window)
    q = mirrored(p)
    petrous = tube(q, [(15, -11, -40), (60, -33, -36)], [6, 11])
    mastoid = ellipsoid(q, (58, -38, -52), (11, 14, 18))
    canvas.paint(Code.BONE, smooth_min(petrous, mastoid, 6), window)
    cells = 0.8 - wave_sheets(p, 9, shape.stream("mastoid"))
    air = torch.maximum(smooth_min(mastoid, ball(q, (50, -30, -42), 9), 4) + 2.2, cells)
    canvas.paint(Code.CAVITY, air, window)
    canvas.paint(Code.CAVITY, tube(q, [(44, -20, -40), (50, -20, -39)], [4, 2.6]), window)


def _paint_openings(canvas: Canvas) -> None:
    canvas.draw_pair(
        Code.CAVITY,
        ((45, 95), (-30, -10), (-45, -30)),
        lambda p: tube(p, [(50, -20, -39), (66, -20, -37), (88, -19, -35)], [2.4, 2.6, 3.2]),
    )
    canvas.draw_pair(
        Code.CAVITY,
        ((0, 18), (60, 105), (-80, -50)),
        lambda p: tube(p, [(6, 68, -60), (7, 82, -62), (8, 89, -74)], [5, 4, 3.5]),
    )


def _orbit(p: Points) -> torch.Tensor:
    cone = tube(p, [(13, 22, -34), (28, 46, -35.5), (32, 62, -35.5)], [5, 14.5, 17.5])
    return smooth_max(cone, p[1] - 70, 6)


def _eye_muscles(p: Points) -> torch.Tensor:
    parts = []
    for angle in range(0, 360, 90):
        dx, dz = 12.0 * math.cos(math.radians(angle)), 12.0 * math.sin(math.radians(angle))
        knots = [(13, 22, -34), (24 + dx, 43, -35 + dz), (31 + dx, 58, -35.5 + dz)]
        parts.append(tube(p, knots, [1.4, 2.4, 0.9]))
    return torch.stack(parts).amin(0)


def _paint_eyes(canvas: Canvas) -> None:
    globe, cornea = (31.0, 59.0, -35.5), (31.0, 66.0, -35.5)
    nerve = [(4, 8, -18), (13, 22, -34), (28, 48, -35)]
    for code, solid in (
        (Code.BONE, lambda p: _orbit(p) - 1.6),
        (Code.FAT, _orbit),
        (Code.MUSCLE, _eye_muscles),
        (Code.NERVE, lambda p: tube(p, nerve, [2, 2, 2.2])),
        (Code.SCLERA, lambda p: torch.minimum(ball(p, globe, 12.2), ball(p, cornea, 6.4))),
        (Code.VITREOUS, lambda p: torch.minimum(ball(p, globe, 11.1), ball(p, cornea, 5.5))),
        (Code.LENS, lambda p: ellipsoid(p, (31, 66.2, -35.5), (4.8, 2.1, 4.8))),
    ):
        canvas.draw_pair(code, ((8, 54), (5, 85), (-60, -14)), solid)
