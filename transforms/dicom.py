"""Where the slices of a DICOM series lie: pure functions on header values, checked, never guessed.

A series becomes a volume only if its slices are parallel, alike in size, evenly spaced and stacked
along their normal. Order comes from positions alone: InstanceNumber (0020,0013) says in which
order images were made or sent, not where they lie.

Positions are ImagePositionPatient (0020,0032), the centre of the first pixel in LPS+ mm;
orientations are ImageOrientationPatient (0020,0037), the cosines of the row direction (along which
the column index grows), then of the column direction; pixel spacings are PixelSpacing (0028,0030),
the distance between rows, then between columns. Sources: DICOM PS3.3 C.7.6.2 and C.7.6.2.1.1.

The grid that results has I along the columns, J along the rows and K along the normal, the cross
product of the two, so that every volume from DICOM is right-handed.

A stack that leans (gantry tilt) or whose distances are uneven makes no such grid. It is refused,
unless `Repairs` allow to resample it (`radloom.transforms.straightening`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from radloom.errors import ReasonCode, SeriesRefused
from radloom.geometry import Affine, flip_lps_ras
from radloom.transforms.slice_spacing import even_spacing, named
from radloom.transforms.straightening import Straightening, plan_straightening

__all__ = [
    "MIN_SLICES",
    "NO_REPAIRS",
    "Repairs",
    "SlicePlane",
    "StackGeometry",
    "group_by_orientation",
    "group_by_position",
    "mosaic_plane",
    "require_alike",
    "slice_normal",
    "stack_geometry",
]

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of one direction cosine between slices that count as parallel.

Scanners write cosines with 6 to 16 digits; 1e-3 (0.06 degrees) moves a pixel 125 mm from the centre
by an eighth of a millimetre. highdicom and dcm2niix work with the same order of magnitude.
"""

PIXEL_SPACING_TOLERANCE = 1e-4
"""Largest relative difference of pixel spacings within a series: 0.03 mm across 256 mm."""

TILT_TOLERANCE_MM = 0.1
"""How far the last slice may lie beside the normal through the first.

A stack made at a gantry tilt of one degree drifts by 2.6 mm over 150 mm; rounded headers drift by
some hundredths.
"""

POSITION_TOLERANCE_MM = 0.01
"""Slices closer than this along the normal lie at one position. The thinnest clinical slices are
0.1 mm apart."""

MAX_TILT_DEGREES = 45.0
"""Largest lean that is taken for a gantry's: CT gantries tilt by 30 degrees at most, and a stack
that leans by more is more likely to hold the positions of something else."""

LONGEST_MM = 3000.0
"""Longest stack that is resampled: no table carries a patient further."""

LARGEST_GROWTH = 4.0
"""Largest area of a straight grid over that of a slice: a head at 30 degrees takes 1.4 times."""

MIN_SLICES = 3
"""Two slices make one distance, and nothing to compare it with."""


@dataclass(frozen=True)
class Repairs:
    """What may be done to slices that make no straight, even grid; each only where a user asks."""

    tilt: bool = False
    """Shear a stack back that leans."""
    spacing: bool = False
    """Interpolate slices of uneven distances; missing ones stay missing, and the series refused."""


NO_REPAIRS = Repairs()
"""A stack is taken as it is, or refused."""


@dataclass(frozen=True)
class SlicePlane:
    """Where one slice lies and how large it is."""

    position_lps: tuple[float, float, float]
    """Centre of the first pixel, LPS+ mm."""
    orientation_lps: tuple[float, float, float, float, float, float]
    """Cosines of the row direction, then of the column direction."""
    pixel_spacing: tuple[float, float]
    """Millimetres between rows, then between columns."""
    rows: int
    columns: int


@dataclass(frozen=True)
class StackGeometry:
    """The grid that a series' slices make."""

    order: tuple[int, ...]
    """Indices into the slices given, from K = 0 up."""
    affine: Affine
    """(4, 4) voxel (I, J, K) = (column, row, slice) -> RAS+ mm."""
    shape: tuple[int, int, int]
    """(I, J, K)."""
    spacing: tuple[float, float, float]
    """Millimetres along I, J, K."""
    straightening: Straightening | None = None
    """How the slices come onto the grid, where they do not make it as they are."""


def slice_normal(orientation_lps: Sequence[float]) -> npt.NDArray[np.float64]:
    """(3,) unit normal in LPS+: row direction x column direction.

    >>> slice_normal((1, 0, 0, 0, 1, 0)).tolist()
    [0.0, 0.0, 1.0]
    """
    row, column = _axes(orientation_lps)
    return np.cross(row, column)


def group_by_orientation(planes: Sequence[SlicePlane]) -> list[list[int]]:
    """Indices of the slices that share a direction, groups in order of first appearance."""
    groups: list[list[int]] = []
    for index, plane in enumerate(planes):
        cosines = np.asarray(plane.orientation_lps)
        for group in groups:
            known = np.asarray(planes[group[0]].orientation_lps)
            if np.abs(known - cosines).max() <= ORIENTATION_TOLERANCE:
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def group_by_position(planes: Sequence[SlicePlane]) -> list[list[int]]:
    """Indices of parallel slices that lie at one position, in order along the normal.

    >>> plane = lambda z: SlicePlane((0, 0, z), (1, 0, 0, 0, 1, 0), (1, 1), 4, 4)
    >>> group_by_position([plane(2.0), plane(0.0), plane(2.0)])
    [[1], [0, 2]]
    """
    if not planes:
        return []
    depth = _depths(planes)
    groups: list[list[int]] = []
    for index in np.argsort(depth, kind="stable").tolist():
        if groups and depth[index] - depth[groups[-1][0]] <= POSITION_TOLERANCE_MM:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def stack_geometry(
    planes: Sequence[SlicePlane], *, min_slices: int = MIN_SLICES, repairs: Repairs = NO_REPAIRS
) -> StackGeometry:
    """The grid of a stack of slices, in whatever order they are given.

    Raises:
        SeriesRefused: mixed orientation or size, two slices at one place, too few slices, tilt,
            missing slices or uneven distances, in this order, unless `repairs` allow for the fault;
            the detail names positions in mm along the normal.
    """
    require_alike(planes)
    groups = group_by_position(planes)
    twice = [float(_depths(planes)[g[0]]) for g in groups if len(g) > 1]
    if twice:
        raise SeriesRefused(
            ReasonCode.DUPLICATE_SLICE,
            f"expected one slice a position, got several at {len(twice)} of {len(groups)} "
            f"positions, at {named(twice)} mm along the normal; export one volume a series",
        )
    if len(groups) < min_slices:
        raise SeriesRefused(
            ReasonCode.TOO_FEW_SLICES,
            f"expected at least {min_slices} slices, got {len(groups)}",
        )
    order = tuple(g[0] for g in groups)
    ordered = [planes[i] for i in order]
    beside = _beside(ordered)
    leans = _leans(ordered, beside, repairs)
    spacing = even_spacing(_depths(ordered), may_be_uneven=repairs.spacing)
    if not leans and spacing is not None:
        return _grid(order, ordered, spacing)
    return _straight_grid(order, ordered, beside if leans else np.zeros_like(beside), spacing)


def mosaic_plane(plane: SlicePlane, n_tiles: int, slice_step: float) -> StackGeometry:
    """The grid of a Siemens mosaic: `n_tiles` slices laid out in a square of tiles in one image.

    ImagePositionPatient of a mosaic is that of an image of the mosaic's size round the same centre,
    so that the first slice's own corner lies half the difference further in (as dcm2niix and
    nibabel's nicom compute it). Whether slices run along the normal or against it is written in
    the CSA header alone; this grid takes the normal, and its reader checks both.

    >>> plane = SlicePlane((0, 0, 0), (1, 0, 0, 0, 1, 0), (2, 2), 128, 128)
    >>> mosaic_plane(plane, 4, 3.0).shape
    (64, 64, 4)
    """
    side = int(np.ceil(np.sqrt(n_tiles)))
    rows, columns = plane.rows // side, plane.columns // side
    row, column = _axes(plane.orientation_lps)
    between_rows, between_columns = plane.pixel_spacing
    corner = np.asarray(plane.position_lps) + (
        row * between_columns * (plane.columns - columns) / 2
        + column * between_rows * (plane.rows - rows) / 2
    )
    first = SlicePlane(
        (float(corner[0]), float(corner[1]), float(corner[2])),
        plane.orientation_lps,
        plane.pixel_spacing,
        rows,
        columns,
    )
    return _grid((0,), [first] * n_tiles, slice_step)


def _axes(
    orientation_lps: Sequence[float],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Row and column direction, made exactly perpendicular and of unit length."""
    row, column = np.asarray(orientation_lps, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    bent = abs(float(row @ column))
    if not max(abs(lengths[0] - 1), abs(lengths[1] - 1), bent) <= ORIENTATION_TOLERANCE:
        raise SeriesRefused(
            ReasonCode.MISSING_GEOMETRY,
            "ImageOrientationPatient (0020,0037): expected two perpendicular unit vectors, got "
            f"lengths {lengths[0]:.4g} and {lengths[1]:.4g}, dot product {bent:.4g}",
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def _depths(planes: Sequence[SlicePlane]) -> npt.NDArray[np.float64]:
    """(N,) positions along the first slice's normal in mm."""
    normal = slice_normal(planes[0].orientation_lps)
    return np.asarray([plane.position_lps for plane in planes], dtype=np.float64) @ normal


def require_alike(planes: Sequence[SlicePlane]) -> None:
    """Nothing, if the slices share direction, size and pixel spacing.

    Raises:
        SeriesRefused: they do not.
    """
    n_directions = len(group_by_orientation(planes))
    if n_directions > 1:
        raise SeriesRefused(
            ReasonCode.MIXED_ORIENTATION,
            f"ImageOrientationPatient (0020,0037): expected parallel slices, got {n_directions} "
            "directions in one series",
        )
    sizes = {(plane.rows, plane.columns) for plane in planes}
    if len(sizes) > 1:
        raise SeriesRefused(
            ReasonCode.MIXED_SIZE,
            f"Rows, Columns (0028,0010), (0028,0011): expected one size, got {sorted(sizes)}",
        )
    steps = np.asarray([plane.pixel_spacing for plane in planes])
    if not (steps > 0).all():
        raise SeriesRefused(
            ReasonCode.MISSING_GEOMETRY,
            f"PixelSpacing (0028,0030): expected positive millimetres, got {steps.min():g}",
        )
    if (np.ptp(steps, axis=0) > PIXEL_SPACING_TOLERANCE * steps[0]).any():
        low, high = steps.min(axis=0).tolist(), steps.max(axis=0).tolist()
        raise SeriesRefused(
            ReasonCode.MIXED_SIZE,
            f"PixelSpacing (0028,0030): expected one spacing, got {low} to {high} mm",
        )


def _beside(ordered: Sequence[SlicePlane]) -> npt.NDArray[np.float64]:
    """(N, 2) mm along I and J that first pixels lie beside the normal through the first slice's."""
    positions = np.asarray([plane.position_lps for plane in ordered], dtype=np.float64)
    axes = np.stack(_axes(ordered[0].orientation_lps), axis=1)
    return np.asarray((positions - positions[0]) @ axes, dtype=np.float64)


def _leans(
    ordered: Sequence[SlicePlane], beside: npt.NDArray[np.float64], repairs: Repairs
) -> bool:
    """Whether the stack leans, and may.

    Raises:
        SeriesRefused: it leans, and no repair is allowed or none is safe.
    """
    away = np.linalg.norm(beside, axis=1)
    if away.max() <= TILT_TOLERANCE_MM:
        return False
    depth = _depths(ordered)
    depth -= depth[0]
    angle = float(np.degrees(np.arctan2(away[-1], depth[-1])))
    off_line = np.linalg.norm(beside - np.outer(depth / depth[-1], beside[-1]), axis=1).max()
    if off_line > TILT_TOLERANCE_MM:
        raise SeriesRefused(
            ReasonCode.GANTRY_TILT,
            f"expected slices stacked along one line, got some that lie {off_line:.1f} mm beside "
            "it; no shear explains that: look at the positions",
        )
    if repairs.tilt and angle <= MAX_TILT_DEGREES:
        return True
    repair = (
        "the workflow may shear it back (gantry_tilt: correct)"
        if angle <= MAX_TILT_DEGREES
        else f"no gantry leans by more than {MAX_TILT_DEGREES:g} degrees: look at the positions"
    )
    raise SeriesRefused(
        ReasonCode.GANTRY_TILT,
        f"expected slices stacked along their normal, got a stack that leans by {angle:.1f} "
        f"degrees ({away.max():.1f} mm beside the normal); {repair}",
    )


def _straight_grid(
    order: tuple[int, ...],
    ordered: Sequence[SlicePlane],
    beside: npt.NDArray[np.float64],
    spacing: float | None,
) -> StackGeometry:
    """The grid onto which a stack is resampled; no shift along an axis where it does not lean."""
    first = ordered[0]
    between_rows, between_columns = first.pixel_spacing
    leaning = np.abs(beside).max(axis=0) > TILT_TOLERANCE_MM
    depth = _depths(ordered)
    reach = np.abs(beside).max(axis=0) / (between_columns, between_rows)
    grown = np.prod(1 + reach / (first.columns, first.rows))
    if not (depth[-1] - depth[0] <= LONGEST_MM and grown <= LARGEST_GROWTH):
        raise SeriesRefused(
            ReasonCode.MISSING_GEOMETRY,
            f"expected a stack of at most {LONGEST_MM:g} mm, and a straight grid of at most "
            f"{LARGEST_GROWTH:g} times its area, got {depth[-1] - depth[0]:g} mm and {grown:.3g} "
            "times: look at the positions",
        )
    plan = plan_straightening(
        depth,
        np.where(leaning, beside, 0.0),
        (between_columns, between_rows),
        (first.columns, first.rows),
        even_step=spacing,
    )
    row, column = _axes(first.orientation_lps)
    corner = np.asarray(first.position_lps) + (
        row * between_columns * plan.start_vox[0] + column * between_rows * plan.start_vox[1]
    )
    i, j, k = plan.shape
    moved = replace(
        first,
        position_lps=(float(corner[0]), float(corner[1]), float(corner[2])),
        rows=j,
        columns=i,
    )
    grid = _grid(order, [moved] * k, plan.step_mm)
    return replace(grid, straightening=plan)


def _grid(
    order: tuple[int, ...], ordered: Sequence[SlicePlane], slice_step: float
) -> StackGeometry:
    first = ordered[0]
    row, column = _axes(first.orientation_lps)
    between_rows, between_columns = first.pixel_spacing
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = row * between_columns
    affine_lps[:3, 1] = column * between_rows
    affine_lps[:3, 2] = np.cross(row, column) * slice_step
    affine_lps[:3, 3] = first.position_lps
    return StackGeometry(
        order=order,
        affine=flip_lps_ras(affine_lps),
        shape=(first.columns, first.rows, len(ordered)),
        spacing=(float(between_columns), float(between_rows), float(slice_step)),
    )
