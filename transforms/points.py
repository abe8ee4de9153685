"""Lists of points in files: CSV, TSV, and the markups of 3D Slicer (.fcsv, .mrk.json).

A table has columns in mm: ``x``, ``y``, ``z``, which are RAS+ unless a line
``# CoordinateSystem = LPS`` stands above them, as in Slicer's .fcsv; or ``r``, ``a``, ``s``; or
``l``, ``p``, ``s``. Whatever else a file holds is kept: further columns, names, the coordinate
system. Source: the formats of markups in Slicer's documentation,
https://slicer.readthedocs.io/en/latest/developer_guide/modules/markups.html.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.errors import InputError
from radloom.geometry import apply_affine, flip_lps_ras
from radloom.transforms.spatial import Points

__all__ = ["POINT_SUFFIXES", "PointFile", "point_suffix", "read_points"]

POINT_SUFFIXES = (".csv", ".tsv", ".fcsv", ".mrk.json")
"""Endings of the files that are read here."""
FCSV_COLUMNS = ("id", "x", "y", "z")
"""Of a .fcsv that names none."""
AXES = {"xyz": None, "ras": False, "lps": True}
"""Names of three columns -> whether they are LPS, where the names say so."""
SYSTEMS = {"ras": False, "0": False, "lps": True, "1": True}
"""What Slicer calls a coordinate system -> whether it is LPS."""
MARKUPS = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve")
"""Markups that their control points say in full; a plane or a box holds a frame besides."""
DECIMALS = 6
"""Written places of a millimetre."""


@dataclass(frozen=True)
class PointFile:
    """The points of a file, and the file with other points in their place."""

    points: Points
    """(N, 3) RAS+ mm."""
    rewritten: Callable[[Points], str]
    """The text of the file with (N, 3) points, RAS+ mm, instead of its own."""


def point_suffix(path: Path) -> str:
    """The ending of a file of points.

    Raises:
        InputError: another ending.
    """
    for suffix in POINT_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"expected points in {', '.join(POINT_SUFFIXES)}, got <{path.name}>")


def read_points(path: Path) -> PointFile:
    """The points of a file.

    Raises:
        InputError: another kind of file, no columns x, y, z, or a number that is none.
    """
    suffix = point_suffix(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"<{path.name}>: expected a text file of points: {error}") from error
    if suffix == ".mrk.json":
        return _markups(text, path.name)
    return _table(text, "\t" if suffix == ".tsv" else ",", path.name)


def _table(text: str, delimiter: str, where: str) -> PointFile:
    lines = text.splitlines()
    notes = [line for line in lines if line.startswith("#")]
    rows = [
        row
        for row in csv.reader((line for line in lines if line not in notes), delimiter=delimiter)
        if any(cell.strip() for cell in row)
    ]
    header, head = _header(notes, rows, is_fcsv=where.lower().endswith(".fcsv"))
    names = [name.strip().lower() for name in header]
    axes = next((axes for axes in AXES if set(axes) <= set(names)), None)
    if axes is None:
        raise InputError(f"<{where}>: expected columns x, y and z, got {', '.join(header)[:80]!r}")
    columns = [names.index(axis) for axis in axes]
    body = rows[len(head) :]
    values = [_numbers(row, columns, f"<{where}> point {n}") for n, row in enumerate(body, 1)]
    known = AXES[axes]
    noted = _noted(notes, "coordinatesystem") or "RAS"
    is_lps = _is_lps(noted, where) if known is None else known

    def rewritten(points: Points) -> str:
        out = io.StringIO()
        out.writelines(f"{line}\n" for line in notes)
        writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
        writer.writerows(head)
        for row, point in zip(body, _turned(points, lps=is_lps), strict=True):
            new = list(row)
            for column, number in zip(columns, point, strict=True):
                new[column] = _written(number)
            writer.writerow(new)
        return out.getvalue()

    return PointFile(_turned(np.reshape(values, (-1, 3)), lps=is_lps), rewritten)


def _header(
    notes: list[str], rows: list[list[str]], *, is_fcsv: bool
) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the rows that are not points."""
    if is_fcsv:
        named = _noted(notes, "columns")
        return (named.split(",") if named else list(FCSV_COLUMNS)), []
    return (rows[0], rows[:1]) if rows else ([], [])


def _noted(notes: list[str], key: str) -> str:
    """What a line ``# key = value`` says; the key without blanks, in lower case."""
    for line in notes:
        name, _, value = line.lstrip("# ").partition("=")
        if name.strip().lower() == key:
            return value.strip()
    return ""


def _is_lps(name: str, where: str) -> bool:
    if name.lower() not in SYSTEMS:
        raise InputError(f"<{where}>: expected the coordinate system RAS or LPS, got {name!r}")
    return SYSTEMS[name.lower()]


def _numbers(row: list[str], columns: list[int], where: str) -> list[float]:
    try:
        values = [float(row[column]) for column in columns]
    except (ValueError, IndexError) as error:
        raise InputError(f"{where}: expected three numbers, got {row[:8]}") from error
    if not np.isfinite(values).all():
        raise InputError(f"{where}: expected finite numbers, got {values}")
    return values


def _turned(points: npt.ArrayLike, *, lps: bool) -> Points:
    """Points from LPS to RAS or back, where they are LPS."""
    points = np.asarray(points, dtype=np.float64)
    return apply_affine(flip_lps_ras(np.eye(4)), points) if lps else points


def _written(number: float) -> str:
    return repr(round(float(number), DECIMALS) + 0.0)


def _markups(text: str, where: str) -> PointFile:
    try:
        content = json.loads(text)
        markups = content["markups"]
        places = [(m, p) for m in markups for p in m["controlPoints"] if _is_placed(p)]
        values = [_numbers(p["position"], [0, 1, 2], f"<{where}>") for _, p in places]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"<{where}>: expected markups of 3D Slicer with controlPoints") from error
    units = {str(m.get("coordinateUnits", "mm")) for m in markups} - {"mm"}
    if units:
        raise InputError(f"<{where}>: expected lengths in mm, got {min(units)}")
    other = sorted({str(m.get("type")) for m in markups} - set(MARKUPS))
    if other:
        raise InputError(f"<{where}>: expected markups of {', '.join(MARKUPS)}, got {other[0]}")
    lps = [_is_lps(str(m.get("coordinateSystem", "LPS")), where) for m, _ in places]
    world = [_turned(v, lps=is_lps) for v, is_lps in zip(values, lps, strict=True)]

    def rewritten(points: Points) -> str:
        new: Any = json.loads(text)
        fresh = [p for m in new["markups"] for p in m["controlPoints"] if _is_placed(p)]
        for place, point, is_lps in zip(fresh, points, lps, strict=True):
            place["position"] = [float(_written(x)) for x in _turned(point, lps=is_lps)]
        for markup in new["markups"]:
            markup.pop("measurements", None)  # lengths and angles of the points before
        return json.dumps(new, indent=4) + "\n"

    return PointFile(np.reshape(world, (-1, 3)), rewritten)


def _is_placed(point: dict[str, Any]) -> bool:
    """Whether a control point has a position; Slicer keeps those that wait for one."""
    return bool(point.get("positionStatus", "defined") != "undefined")
