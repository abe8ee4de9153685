"""The head round the brain: scalp, skull, face, sinuses, eyes and neck of the phantom.

Positions are mm in the undeformed head: x to the right, y to anterior, z to superior, with the
anterior commissure near the origin. They were chosen by hand to give an adult's proportions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

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

__all__ = ["Hulls", "paint_head", "skull_hulls"]


@dataclass(frozen=True)
class Hulls:
    """Signed distances in mm, (I, J, K), of the nested surfaces of the head."""

    inner: torch.Tensor
    """The inner table: what lies inside is intracranial."""
    outer: torch.Tensor
    """The outer table of the vault and the base."""
    skin: torch.Tensor
    """Air begins outside."""


def _mirrored(p: Points) -> Points:
    return p[0].abs(), p[1], p[2]


def _intracranial(p: Points) -> torch.Tensor:
    vault = ellipsoid(p, (0, -15, 8), (66.5, 82.5, 61.5))
    vault = smooth_max(vault, -20 - p[2], 16)
    middle_fossa = ellipsoid(_mirrored(p), (40, -5, -25), (24.5, 42, 24))
    posterior_fossa = ellipsoid(p, (0, -56, -32), (55, 41, 40))
    stem = tube(p, [(0, -24, -20), (0, -30, -50), (0, -37, -72)], [19, 17, 13])
    hull = smooth_min(vault, middle_fossa, 8)
    return smooth_min(smooth_min(hull, posterior_fossa, 8), stem, 8)


def _face(p: Points, shape: HeadShape) -> torch.Tensor:
    q = _mirrored(p)
    nose = shape.nose
    face = ellipsoid(p, (0, 36, -56), (60, 46, 56))
    face = smooth_min(face, ellipsoid(p, (0, 44, -98), (50, 38, 27)), 14)
    face = smooth_min(face, ellipsoid(q, (38, 52, -64), (24, 26, 28)), 12)
    face = smooth_min(face, tube(q, [(6, 76, -15), (36, 68, -19)], [8, 8]), 10)
    face = smooth_max(face, -ball(q, (31, 91, -36), 15), 8)
    face = smooth_min(face, ball(p, (0, 69, -114), 15), 10)
    bridge = [(0, 78, -28), (0, 86 + 3 * nose, -44), (0, 92 + 9 * nose, -58)]
    face = smooth_min(face, tube(p, bridge, [6, 6, 7.5]), 7)
    face = smooth_min(face, ellipsoid(q, (9, 90, -62), (6.5, 11, 6)), 5)
    face = smooth_min(face, ellipsoid(p, (0, 84, -82), (21, 8, 5.5)), 5)
    return smooth_min(face, ellipsoid(p, (0, 83, -92), (19, 8, 5.5)), 4)


def _neck(p: Points) -> torch.Tensor:
    x, y, z = p
    centre = -16 - 0.05 * (z + 100)
    radius = torch.sqrt((x / 1.03) ** 2 + (y - centre) ** 2) - 55
    return smooth_max(radius, z + 48, 30)


def _ear(p: Points) -> torch.Tensor:
    q = _mirrored(p)
    shell = ellipsoid(q, (80, -26, -32), (5, 17, 29), turn=(-22, "xy"))
    bowl = ellipsoid(q, (85, -19, -34), (5, 8, 13), turn=(-22, "xy"))
    return smooth_max(shell, -bowl, 4)


def skull_hulls(canvas: Canvas, shape: HeadShape, generator: torch.Generator) -> Hulls:
    """The nested surfaces of one head."""
    p = canvas.points
    x, y, z = _mirrored(p)
    inner = _intracranial(p)
    thickness = 6.3 + 0.9 * smooth_field(canvas.axes, 34, generator)
    squama = torch.exp(-(((y - 5) / 38) ** 2) - ((z + 12) / 26) ** 2) * ((x - 35) / 20).clamp(0, 1)
    thickness = (thickness - 2.6 * squama).clamp_min(3.2) * shape.skull_thickness
    outer = inner - thickness
    temporalis = 7 * squama
    skin = outer - 5.8 * shape.fat - temporalis
    skin = smooth_min(skin, _face(p, shape), 14)
    skin = smooth_min(skin, _neck(p), 22)
    skin = smooth_min(skin, _ear(p), 4)
    return Hulls(inner, outer, skin)


def paint_head(canvas: Canvas, shape: HeadShape, hulls: Hulls, generator: torch.Generator) -> None:
    """Everything but the brain, from the outside in; the intracranial space ends as CSF."""
    _paint_soft_tissue(canvas, shape, hulls, generator)
    _paint_airway(canvas)
    _paint_spine(canvas)
    _paint_skull(canvas, hulls, generator)
    _paint_face_bones(canvas)
    _paint_sinuses(canvas, generator)
    _paint_temporal_bone(canvas, generator)
    _paint_eyes(canvas)
    canvas.paint(Code.DURA, hulls.inner)
    canvas.paint(Code.CSF, hulls.inner + 0.8)
    _paint_canal(canvas)


def _paint_soft_tissue(
    canvas: Canvas, shape: HeadShape, hulls: Hulls, generator: torch.Generator
) -> None:
    x, y, z = canvas.points
    low = ((-z - 20) / 50).clamp(0, 1)
    back = ((-y - 30) / 40).clamp(0, 1)
    fat_mm = (2.4 + 2.6 * low + 4 * low * back) * shape.fat
    canvas.paint(Code.SKIN, hulls.skin)
    canvas.paint(Code.FAT, hulls.skin + 2.0)
    inside = hulls.skin + 2.0 + fat_mm
    canvas.paint(Code.MUSCLE, inside)
    window = canvas.window(((-90, 90), (-110, 110), (-140, -25)), 5)
    p = canvas.within(window)
    stretched = (p[0], p[1], p[2] * 0.45)
    sheets = waves(stretched, 26, generator).abs() * 5 - 0.7
    canvas.paint(Code.FAT, torch.maximum(sheets, inside[window] + 2), window)
    lobules = (1.25 - smooth_field(canvas.axes, 14, generator)[window]) * 6
    canvas.paint(Code.FAT, torch.maximum(lobules, inside[window] + 3), window)


def _paint_airway(canvas: Canvas) -> None:
    pharynx = [(0, 16, -52), (0, 6, -66), (0, 0, -88), (0, 4, -112), (0, 6, -150)]
    box = ((-16, 16), (-15, 35), (-150, -40))
    canvas.draw(Code.MUCOSA, box, lambda p: tube(p, pharynx, [10, 9.5, 8, 9.5, 10]))
    canvas.draw(Code.CAVITY, box, lambda p: tube(p, pharynx, [7, 6.5, 5, 6.5, 8]))
    mouth = ((-35, 35), (5, 90), (-115, -75))
    canvas.draw(Code.CAVITY, mouth, lambda p: ellipsoid(p, (0, 40, -86), (20, 34, 7.5)))
    canvas.draw(Code.MUSCLE, mouth, lambda p: ellipsoid(p, (0, 38, -95), (23, 33, 15)))


def _paint_spine(canvas: Canvas) -> None:
    box = ((-40, 40), (-80, 15), (-150, -70))
    heights = [-97, -114, -131, -148]
    canvas.draw(Code.DISC, box, lambda p: tube(p, [(0, -12, -84), (0, -12, -155)], [9.5, 9.5]))
    for code, shrink in ((Code.BONE, 0.0), (Code.MARROW, 1.6)):

        def body(p: Points, shrink: float = shrink) -> torch.Tensor:
            parts = [ellipsoid(p, (0, -12, h), (13, 10, 8.4)) for h in heights]
            parts.append(tube(p, [(0, -10, -72), (0, -12, -92)], [5.5, 8]))
            q = _mirrored(p)
            parts.append(ellipsoid(q, (24, -18, -77), (13, 9, 6), turn=(15, "xz")))
            for h in heights:
                parts.append(ellipsoid(q, (19, -28, h), (8, 8, 6.5)))
                parts.append(tube(q, [(16, -36, h - 2), (3, -48, h - 4)], [3.4, 3.6]))
                parts.append(tube(q, [(1, -48, h - 4), (3, -62, h - 8)], [4, 4.5]))
            return torch.stack(parts).amin(0) + shrink

        canvas.draw(code, box, body)


def _paint_canal(canvas: Canvas) -> None:
    box = ((-14, 14), (-55, -18), (-150, -60))
    canal = [(0, -36, -66), (0, -34, -84), (0, -33, -150)]
    canvas.draw(Code.DURA, box, lambda p: tube(p, canal, [13, 10.5, 9.5]))
    canvas.draw(Code.CSF, box, lambda p: tube(p, canal, [12.4, 9.7, 8.7]))


def _paint_skull(canvas: Canvas, hulls: Hulls, generator: torch.Generator) -> None:
    canvas.paint(Code.BONE, hulls.outer)
    window = canvas.window(((-40, 40), (-30, 95), (-80, 5)))
    p = canvas.within(window)
    front = ellipsoid(p, (0, 68, -12), (30, 9, 15))
    sphenoid = smooth_min(
        ellipsoid(p, (0, 13, -38), (20, 18, 14)),
        tube(p, [(0, -2, -38), (0, -16, -66)], [8, 5]),
        6,
    )
    solid = smooth_min(front, sphenoid, 4)
    canvas.paint(Code.BONE, solid, window)
    canvas.paint(Code.MARROW, solid + 3.0, window)
    grain = 0.5 * smooth_field(canvas.axes, 5, generator)
    table = 1.7 + grain
    diploe = torch.maximum(hulls.outer + table, table - hulls.inner)
    canvas.paint(Code.MARROW, diploe)


def _jaw(p: Points) -> torch.Tensor:
    q = _mirrored(p)
    knots = [
        (52, 4, -52),
        (50, 6, -74),
        (46, 12, -100),
        (28, 56, -112),
        (8, 72, -114),
        (0, 73, -114),
    ]
    return tube(q, knots, [6, 6, 7.5, 7, 7.5, 8])


def _teeth(p: Points) -> torch.Tensor:
    x, y, z = p
    row = torch.sqrt(x * x + ((y - 50).clamp_min(0) * 0.95) ** 2) - 22
    bite = (z + 87).abs() - 8.5
    crown = smooth_max(row.abs() - 3.4, bite, 3)
    gaps = 0.7 * torch.cos(torch.atan2(x, (y - 44).clamp_min(1)) * 9).abs()
    between = 1.2 - (z + 87).abs()
    return torch.maximum(torch.maximum(crown + gaps - 0.2, 24 - y), between)


def _paint_face_bones(canvas: Canvas) -> None:
    lower = ((-62, 62), (-5, 85), (-125, -45))
    canvas.draw(Code.BONE, lower, _jaw)
    canvas.draw(Code.MARROW, lower, lambda p: _jaw(p) + 2.6)

    def maxilla(p: Points) -> torch.Tensor:
        q = _mirrored(p)
        body = ellipsoid(q, (22, 50, -62), (24, 24, 20))
        palate = smooth_max(ellipsoid(p, (0, 48, -77), (30, 28, 5)), 14 - p[1], 4)
        zygoma = tube(q, [(44, 54, -50), (58, 40, -46), (64, 0, -42)], [6, 4, 2.6])
        rim = tube(q, [(44, 58, -50), (50, 58, -34), (40, 68, -20)], [5, 4, 5])
        return torch.stack([smooth_min(body, palate, 4), zygoma, rim]).amin(0)

    upper = ((-68, 68), (-5, 85), (-85, -12))
    canvas.draw(Code.BONE, upper, maxilla)
    canvas.draw(Code.MARROW, upper, lambda p: maxilla(p) + 2.2)
    canvas.draw(Code.TOOTH, ((-30, 30), (15, 80), (-100, -75)), _teeth)


def _nasal(p: Points) -> torch.Tensor:
    cavity = ellipsoid(p, (0, 50, -60), (17, 38, 16))
    vestibule = tube(_mirrored(p), [(6, 76, -62), (7, 90, -65)], [7, 5])
    roof = ellipsoid(p, (0, 40, -40), (13, 26, 13))
    return smooth_min(smooth_min(cavity, roof, 5), vestibule, 4)


def _paint_sinuses(canvas: Canvas, generator: torch.Generator) -> None:
    box = ((-50, 50), (0, 100), (-82, 5))
    window = canvas.window(box)
    p = canvas.within(window)
    q = _mirrored(p)
    nasal = _nasal(p)
    canvas.paint(Code.BONE, nasal - 1.2, window)
    canvas.paint(Code.MUCOSA, nasal, window)
    shells = [
        tube(q, [(8, 30, z), (10, 70, z)], [r, r - 1]) for z, r in ((-69, 5), (-59, 4.2), (-50, 3))
    ]
    mucosa = torch.stack([*shells, q[0] - 1.4]).amin(0)
    canvas.paint(Code.CAVITY, torch.maximum(nasal + 1.8, 1.3 - mucosa), window)
    cells = 1.4 - waves(p, 15, generator).abs() * 4.0
    ethmoid = ellipsoid(p, (0, 38, -36), (12.5, 25, 11))
    canvas.paint(Code.BONE, ethmoid, window)
    canvas.paint(Code.CAVITY, torch.maximum(ethmoid + 0.8, cells), window)
    maxillary = ellipsoid(q, (28, 48, -61), (13, 18, 16))
    sphenoid = torch.maximum(ellipsoid(p, (0, 17, -38), (13, 13, 9.5)), 0.9 - (p[0] - 2).abs())
    frontal = torch.maximum(ellipsoid(q, (11, 71, -11), (11, 4.6, 10)), 0.8 - (p[0] + 1).abs())
    for sinus in (maxillary, sphenoid, frontal):
        canvas.paint(Code.BONE, sinus - 1.0, window)
        canvas.paint(Code.MUCOSA, sinus, window)
        canvas.paint(Code.CAVITY, sinus + 1.0, window)


def _paint_temporal_bone(canvas: Canvas, generator: torch.Generator) -> None:
    window = canvas.window(((-85, 85), (-60, 5), (-75, -20)))
    p = canvas.within(window)
    q = _mirrored(p)
    petrous = tube(q, [(14, -12, -44), (58, -28, -40)], [6, 11])
    mastoid = ellipsoid(q, (56, -36, -52), (11, 14, 18))
    bone = smooth_min(petrous, mastoid, 6)
    canvas.paint(Code.BONE, bone, window)
    cells = 1.0 - waves(p, 8, generator).abs() * 2.4
    canvas.paint(Code.CAVITY, torch.maximum(mastoid + 2.2, cells), window)
    canal = tube(q, [(36, -18, -40), (50, -20, -39), (86, -20, -35)], [4.5, 3, 3.6])
    canvas.paint(Code.CAVITY, canal, window)


def _paint_eyes(canvas: Canvas) -> None:
    box = ((8, 54), (5, 85), (-60, -14))
    apex, globe = (13.0, 22.0, -34.0), (31.0, 60.0, -35.5)

    def orbit(p: Points) -> torch.Tensor:
        cone = tube(p, [apex, (28, 48, -35.5), (32, 66, -35.5)], [5, 16, 18])
        return smooth_max(cone, p[1] - 72, 6)

    def muscles(p: Points) -> torch.Tensor:
        parts = []
        for angle in range(0, 360, 90):
            dx, dz = 12.2 * math.cos(math.radians(angle)), 12.2 * math.sin(math.radians(angle))
            middle = (24 + dx, 44, -35 + dz)
            parts.append(tube(p, [apex, middle, (31 + dx, 60, -35.5 + dz)], [1.4, 2.3, 0.9]))
        return torch.stack(parts).amin(0)

    solids = [
        (Code.BONE, lambda p: orbit(p) - 1.6),
        (Code.FAT, orbit),
        (Code.MUSCLE, muscles),
        (Code.NERVE, lambda p: tube(p, [(4, 8, -18), apex, (28, 49, -35)], [2, 2, 2.2])),
        (Code.SCLERA, lambda p: ball(p, globe, 12.2)),
        (Code.SCLERA, lambda p: ellipsoid(p, (31, 67.5, -35.5), (6, 6.2, 6))),
        (Code.VITREOUS, lambda p: ball(p, globe, 11.1)),
        (Code.VITREOUS, lambda p: ellipsoid(p, (31, 67.3, -35.5), (5.2, 5.4, 5.2))),
        (Code.LENS, lambda p: ellipsoid(p, (31, 67.4, -35.5), (4.8, 2.1, 4.8))),
    ]
    for code, solid in solids:
        canvas.draw_pair(code, box, solid)
