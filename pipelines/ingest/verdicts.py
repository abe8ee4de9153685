"""What a DICOM series is: which objects can be volumes at all, and how many volumes they make.

Everything here is decided from headers. A part that passes is a volume or a 4D set whose grid is
known; a part that does not carries the code and the sentence why.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from radloom.errors import ReasonCode, SeriesRefused
from radloom.pipelines.ingest.headers import SliceHeader
from radloom.pipelines.ingest.units import units_of
from radloom.transforms.dicom import (
    MIN_SLICES,
    SlicePlane,
    StackGeometry,
    group_by_orientation,
    group_by_position,
    mosaic_plane,
    require_alike,
    slice_normal,
    stack_geometry,
)

__all__ = ["Part", "extent_mm", "file_order", "parts_of_series"]

PartKind: TypeAlias = Literal["volume", "time_series", "diffusion"]

MODALITIES = ("MR", "CT", "PT")
"""Modality (0008,0060) that some stage works on."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class, and the root of its multi-frame variants (DICOM PS3.4 section B.5)."""

VOLUME_SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR",
    "1.2.840.10008.5.1.4.1.1.128": "PET",
    "1.2.840.10008.5.1.4.1.1.130": "Enhanced PET",
    "1.2.840.10008.5.1.4.1.1.128.1": "Legacy Converted Enhanced PET",
}
"""SOP classes whose slices can be stacked."""

LOCALIZER_WORDS = re.compile(r"locali[sz]er|scout|survey|topogram|3.?plane|(^|[^a-z])loc([^a-z]|$)")
"""How planning images are named; looked for in lower-case descriptions."""

SPLIT_SLICES = 10
"""Directions of one series are volumes of their own from this many slices; below, they are the few
planes of a localizer, or a mistake."""

LOCALIZER_PLANES = 3
"""Directions of a three-plane localizer."""

PERPENDICULAR = 0.1
"""Cosine below which two slice normals count as perpendicular (84 to 96 degrees)."""


@dataclass(frozen=True)
class Part:
    """One volume of a series, or one refusal."""

    slices: tuple[SliceHeader, ...]
    kind: PartKind = "volume"
    code: ReasonCode | None = None
    """Why it was refused; None if it passed."""
    detail: str = ""
    geometry: StackGeometry | None = None
    n_volumes: int = 1
    entities: Mapping[str, str] = field(default_factory=dict)
    """BIDS parts that tell it from the other parts of its series: echo, part, acq."""


def parts_of_series(slices: Sequence[SliceHeader]) -> list[Part]:
    """The volumes of one series, and what of it was refused.

    Args:
        slices: every slice with one SeriesInstanceUID, each SOP instance once, in any order.
    """
    refused: dict[ReasonCode, list[SliceHeader]] = defaultdict(list)
    details: dict[ReasonCode, str] = {}
    usable: list[SliceHeader] = []
    for header in slices:
        verdict = _object_verdict(header)
        if verdict is None:
            usable.append(header)
            continue
        refused[verdict[0]].append(header)
        details.setdefault(*verdict)
    parts = [
        Part(tuple(headers), code=code, detail=details[code]) for code, headers in refused.items()
    ]
    if not usable:
        return parts
    damaged = [h for h in usable if h.problem]
    if damaged:
        return [*parts, _damaged(usable, damaged)]
    return [*parts, *_oriented_parts(usable)]


def _object_verdict(header: SliceHeader) -> tuple[ReasonCode, str] | None:
    """Code and detail if an object of this kind can't be a slice of a volume."""
    modality, image_type = header.modality, header.image_type
    if header.problem is not None and not header.series_uid:
        return header.problem, header.problem_detail
    if not header.has_pixels:
        return ReasonCode.NOT_AN_IMAGE, f"expected pixels, got none (modality {modality or '?'})"
    if header.sop_class.startswith(SECONDARY_CAPTURE) or "SCREEN SAVE" in image_type:
        return ReasonCode.SECONDARY_CAPTURE, "a secondary capture has no place in the patient"
    if header.samples > 1 or header.photometric == "PALETTE COLOR":
        return ReasonCode.COLOUR, f"expected grey values, got {header.photometric or 'colour'}"
    if modality not in MODALITIES or (
        header.sop_class and header.sop_class not in VOLUME_SOP_CLASSES
    ):
        return (
            ReasonCode.UNSUPPORTED_MODALITY,
            f"Modality (0008,0060): expected an image of {', '.join(MODALITIES)}, got "
            f"{modality or 'nothing'}",
        )
    if "LOCALIZER" in image_type:
        return ReasonCode.LOCALIZER, "ImageType (0008,0008) says localizer"
    return None


def _damaged(usable: Sequence[SliceHeader], damaged: Sequence[SliceHeader]) -> Part:
    first = damaged[0]
    return Part(
        tuple(usable),
        code=first.problem,
        detail=f"<{first.path}>: {first.problem_detail} ({len({h.path for h in damaged})} of "
        f"{len({h.path for h in usable})} files); copy them anew",
    )


def _oriented_parts(slices: Sequence[SliceHeader]) -> list[Part]:
    lost = [h for h in slices if h.plane is None]
    if lost:
        return [
            Part(
                tuple(slices),
                code=ReasonCode.MISSING_GEOMETRY,
                detail=f"<{lost[0].path}>: expected position, orientation and pixel spacing, got "
                f"none ({len(lost)} of {len(slices)} slices)",
            )
        ]
    frames = {h.frame_of_reference for h in slices}
    if len(frames) > 1:
        return [
            Part(
                tuple(slices),
                code=ReasonCode.MISSING_GEOMETRY,
                detail="FrameOfReferenceUID (0020,0052): expected one, got "
                f"{len(frames)}: positions cannot be compared",
            )
        ]
    groups = [[slices[i] for i in group] for group in group_by_orientation(_planes(slices))]
    if len(groups) > 1:
        refusal = _mixed(slices, groups)
        if refusal:
            return [refusal]
    return [part for group in groups for part in _guarded(group)]


def _mixed(slices: Sequence[SliceHeader], groups: Sequence[Sequence[SliceHeader]]) -> Part | None:
    """The refusal of a series of several directions, unless each is a volume of its own."""
    named = LOCALIZER_WORDS.search(slices[0].description.lower())
    small = any(len(group) < SPLIT_SLICES for group in groups)
    if not named and not small:
        return None
    normals = [slice_normal(_planes(group)[0].orientation_lps) for group in groups]
    across = len(groups) >= LOCALIZER_PLANES and all(
        abs(float(a @ b)) < PERPENDICULAR for i, a in enumerate(normals) for b in normals[:i]
    )
    if named or across:
        return Part(
            tuple(slices),
            code=ReasonCode.LOCALIZER,
            detail=f"{len(slices)} slices in {len(groups)} directions, made for planning",
        )
    return Part(
        tuple(slices),
        code=ReasonCode.MIXED_ORIENTATION,
        detail="ImageOrientationPatient (0020,0037): expected parallel slices, got "
        f"{len(groups)} directions of {sorted(len(g) for g in groups)} slices",
    )


def _guarded(slices: Sequence[SliceHeader]) -> list[Part]:
    try:
        return _mosaic_parts(slices) if any(h.mosaic for h in slices) else _parallel_parts(slices)
    except SeriesRefused as refusal:
        return [Part(tuple(slices), code=refusal.code, detail=refusal.detail)]


def _parallel_parts(slices: Sequence[SliceHeader]) -> list[Part]:
    """The volumes among parallel slices; several where echo, component or acquisition differ.

    Raises:
        SeriesRefused: the slices make no volume.
    """
    planes = _planes(slices)
    require_alike(planes)
    positions = group_by_position(planes)
    repeats = max(len(group) for group in positions)
    if repeats == 1 or len(positions) < MIN_SLICES:
        if len(positions) < MIN_SLICES:
            raise SeriesRefused(
                ReasonCode.TOO_FEW_SLICES,
                f"expected at least {MIN_SLICES} slice positions, got {len(positions)}",
            )
        return [_volume(slices)]
    for entity, key in _SPLIT_KEYS.items():
        groups = _by(slices, key)
        if len(groups) > 1:
            return _split(entity, groups)
    if _is_diffusion(slices):
        return [_four_d(slices, positions, "diffusion")]
    if slices[0].modality == "CT":
        groups = _by(slices, lambda h: h.acquisition_number)
        if _tells_apart(groups.values()):
            return _split("acq", groups)
    elif _is_time_series(slices, positions):
        return [_four_d(slices, positions, "time_series")]
    return [_volume(slices)]


_SPLIT_KEYS: Mapping[str, Callable[[SliceHeader], Hashable]] = {
    "part": lambda h: h.component,
    "echo": lambda h: -1.0 if h.echo_time_ms is None else round(h.echo_time_ms, 3),
}
"""BIDS entity -> what tells volumes at the same positions apart."""

PART_LABELS = {"M": "mag", "P": "phase", "R": "real", "I": "imag", "": "unknown"}
"""BIDS labels of the entity part."""


def _split(entity: str, groups: Mapping[Hashable, list[SliceHeader]]) -> list[Part]:
    parts: list[Part] = []
    for number, (value, group) in enumerate(groups.items(), start=1):
        label = PART_LABELS[str(value)] if entity == "part" else str(number)
        parts.extend(
            replace(part, entities={entity: label, **part.entities}) for part in _guarded(group)
        )
    return parts


def _volume(slices: Sequence[SliceHeader]) -> Part:
    geometry = stack_geometry(_planes(slices))
    units_of(slices)
    return Part(tuple(slices[i] for i in geometry.order), geometry=geometry)


def _four_d(
    slices: Sequence[SliceHeader], positions: Sequence[Sequence[int]], kind: PartKind
) -> Part:
    counts = [len(group) for group in positions]
    if len(set(counts)) > 1:
        raise SeriesRefused(
            ReasonCode.MISSING_SLICE,
            f"expected as many images at each of {len(positions)} positions, got {min(counts)} to "
            f"{max(counts)}: a volume of the series is incomplete",
        )
    geometry = stack_geometry(_planes([slices[group[0]] for group in positions]))
    units_of(slices)
    columns = [
        sorted((slices[i] for i in group), key=lambda h: (h.instance_number, h.frame))
        for group in positions
    ]
    for number, volume in enumerate(zip(*columns, strict=True)):
        weightings = {(h.b_value, h.gradient) for h in volume}
        if len(weightings) > 1:
            raise SeriesRefused(
                ReasonCode.DUPLICATE_SLICE,
                f"expected one diffusion weighting in volume {number + 1} of {counts[0]}, got "
                f"{len(weightings)}: nothing tells for certain which images belong together",
            )
    ordered = tuple(header for column in columns for header in column)
    return Part(ordered, kind=kind, geometry=geometry, n_volumes=counts[0])


def _mosaic_parts(slices: Sequence[SliceHeader]) -> list[Part]:
    """Siemens mosaics: each file is a whole volume, laid out in tiles."""
    numbers = {h.mosaic for h in slices}
    if len(numbers) > 1 or 0 in numbers:
        raise SeriesRefused(
            ReasonCode.MIXED_SIZE, f"expected mosaics of one size, got {sorted(numbers)} tiles"
        )
    number = numbers.pop()
    spacing = float(slices[0].facts.get("SpacingBetweenSlices") or 0.0)
    if number < 1 or spacing <= 0:
        raise SeriesRefused(
            ReasonCode.MISSING_GEOMETRY,
            "a mosaic: expected its number of slices (0019,100A) or a CSA header, and "
            "SpacingBetweenSlices (0018,0088), got neither or one of them",
        )
    require_alike(_planes(slices))
    geometry = mosaic_plane(_planes(slices)[0], number, spacing)
    kind: PartKind = "volume"
    if _is_diffusion(slices):
        kind = "diffusion"
    elif len(slices) > 1:
        kind = "time_series"
    ordered = tuple(sorted(slices, key=lambda h: (h.instance_number, h.path)))
    return [Part(ordered, kind=kind, geometry=geometry, n_volumes=len(slices))]


def _is_diffusion(slices: Sequence[SliceHeader]) -> bool:
    values = {h.b_value for h in slices if h.b_value is not None}
    return len(values) > 1 or "DIFFUSION" in slices[0].image_type


def _is_time_series(slices: Sequence[SliceHeader], positions: Sequence[Sequence[int]]) -> bool:
    """Whether something in the headers says which image belongs to which moment."""
    for column in zip(*(h.temporal for h in slices), strict=True):
        groups: dict[str, list[SliceHeader]] = defaultdict(list)
        for header, value in zip(slices, column, strict=True):
            groups[value].append(header)
        if _tells_apart(groups.values()):
            return True
    # GE writes no time into EPI: instance numbers then run through one volume after the other.
    n = len(positions)
    ordered = sorted(slices, key=lambda h: (h.instance_number, h.frame))
    blocks = [ordered[i : i + n] for i in range(0, len(ordered), n)]
    return len({h.instance_number for h in slices}) == len(slices) and _tells_apart(blocks)


def _tells_apart(groups: Iterable[Sequence[SliceHeader]]) -> bool:
    """Whether there are several groups, each with every position once."""
    groups = list(groups)
    sizes = [[len(g) for g in group_by_position(_planes(group))] for group in groups]
    return (
        len(groups) > 1 and all(set(s) == {1} for s in sizes) and len({len(s) for s in sizes}) == 1
    )


def _by(
    slices: Sequence[SliceHeader], key: Callable[[SliceHeader], Hashable]
) -> dict[Hashable, list[SliceHeader]]:
    """Slices by key, groups in the order of the key's values."""
    groups: dict[Hashable, list[SliceHeader]] = defaultdict(list)
    for header in slices:
        groups[key(header)].append(header)
    return dict(sorted(groups.items(), key=lambda item: _sortable(item[0])))


def _sortable(value: Hashable) -> tuple[float, str]:
    try:
        return float(str(value)), ""
    except ValueError:
        return float("inf"), str(value)


def _planes(slices: Sequence[SliceHeader]) -> list[SlicePlane]:
    return [h.plane for h in slices if h.plane is not None]


def file_order(slices: Sequence[SliceHeader]) -> tuple[str, ...]:
    """The files of the slices, each once, in slice order."""
    return tuple(dict.fromkeys(h.path for h in slices))


def extent_mm(geometry: StackGeometry) -> tuple[float, float, float]:
    """How far the grid reaches along I, J, K in mm."""
    i, j, k = np.asarray(geometry.shape) * np.asarray(geometry.spacing)
    return float(i), float(j), float(k)
