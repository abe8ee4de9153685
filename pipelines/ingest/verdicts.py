"""What a DICOM series is: which objects can be volumes at all, and how many volumes they make.

Everything here is decided from headers. A part that passes is a volume or a 4D set whose grid is
known; a part that does not carries the code and the sentence why.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from radloom.errors import ReasonCode, SeriesRefused
from radloom.pipelines.ingest.headers import SliceHeader
from radloom.pipelines.ingest.splitting import (
    SPLITS,
    InTime,
    Split,
    acquisition_volumes,
    is_diffusion,
    planes_of,
    volumes_in_time,
    volumes_of_diffusion,
)
from radloom.pipelines.ingest.units import units_of
from radloom.transforms.dicom import (
    MIN_SLICES,
    TILT_TOLERANCE_MM,
    StackGeometry,
    group_by_orientation,
    group_by_position,
    mosaic_plane,
    require_alike,
    slice_normal,
    stack_geometry,
)

__all__ = ["Part", "extent_mm", "file_order", "parts_of_series", "volumes_of"]

PartKind: TypeAlias = Literal["volume", "time_series", "diffusion"]

MODALITIES = ("MR", "CT", "PT")
"""Modality (0008,0060) that some stage works on."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class, and the root of its multi-frame variants (DICOM PS3.4 section B.5)."""

GREY = ("MONOCHROME1", "MONOCHROME2", "")
"""PhotometricInterpretation (0028,0004) of values that are no colours; some files lack it."""

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

SCREEN_TYPES = frozenset({"SCREEN SAVE", "DOSE_INFO", "DOSE REPORT", "PATIENT PROTOCOL"})
"""Words of ImageType (0008,0008) of pictures of a console, dose reports above all."""

PLANNING_TYPES = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVEY"})
"""Words of ImageType (0008,0008) of planning images."""

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
    """For people: why it was refused, or what tells its volumes apart."""
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
    try:
        return [*parts, *_oriented_parts(usable)]
    except SeriesRefused as refusal:  # directions that are none, met while they are told apart
        return [*parts, Part(tuple(usable), code=refusal.code, detail=refusal.detail)]


def _object_verdict(header: SliceHeader) -> tuple[ReasonCode, str] | None:
    """Code and detail if an object of this kind can't be a slice of a volume."""
    modality, image_type = header.modality, header.image_type
    if header.problem is not None and not header.series_uid:
        return header.problem, header.problem_detail
    if not header.has_pixels:
        return ReasonCode.NOT_AN_IMAGE, f"expected pixels, got none (modality {modality or '?'})"
    screens = SCREEN_TYPES.intersection(image_type)
    if header.sop_class.startswith(SECONDARY_CAPTURE) or screens:
        return ReasonCode.SECONDARY_CAPTURE, "a secondary capture has no place in the patient"
    if header.samples > 1 or header.photometric not in GREY:
        return ReasonCode.COLOUR, f"expected grey values, got {header.photometric or 'colour'}"
    if modality not in MODALITIES or (
        header.sop_class and header.sop_class not in VOLUME_SOP_CLASSES
    ):
        return (
            ReasonCode.UNSUPPORTED_MODALITY,
            f"Modality (0008,0060): expected an image of {', '.join(MODALITIES)}, got "
            f"{modality or 'nothing'}",
        )
    planning = PLANNING_TYPES.intersection(image_type)
    if planning:
        return ReasonCode.LOCALIZER, f"ImageType (0008,0008) says {min(planning).lower()}"
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
    groups = [[slices[i] for i in group] for group in group_by_orientation(planes_of(slices))]
    if len(groups) > 1:
        refusal = _mixed(slices, groups)
        if refusal:
            return [refusal]
        return _split(ORIENTATIONS, {_plane_name(group): group for group in groups})
    return _guarded(slices)


ORIENTATIONS = Split("acq", "ImageOrientationPatient (0020,0037)", lambda h: h.plane)


def _plane_name(group: Sequence[SliceHeader]) -> tuple[str, str]:
    """The anatomical plane that slices lie nearest to, and their exact direction."""
    cosines = planes_of(group)[0].orientation_lps
    axis = int(np.abs(slice_normal(cosines)).argmax())
    direction = ", ".join(f"{value:.4g}" for value in cosines)
    return ("sagittal", "coronal", "transverse")[axis], f"({direction})"


def _mixed(slices: Sequence[SliceHeader], groups: Sequence[Sequence[SliceHeader]]) -> Part | None:
    """The refusal of a series of several directions, unless each is a volume of its own."""
    named = LOCALIZER_WORDS.search(slices[0].description.lower())
    small = any(len(group) < SPLIT_SLICES for group in groups)
    if not named and not small:
        return None
    normals = [slice_normal(planes_of(group)[0].orientation_lps) for group in groups]
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
    planes = planes_of(slices)
    require_alike(planes)
    positions = group_by_position(planes)
    is_repeated = len(slices) > len(positions)
    for split in SPLITS:
        if split.always or is_repeated:
            groups = split.groups(slices)
            if len(groups) > 1:
                return _split(split, groups)
    if len(positions) < MIN_SLICES:
        raise SeriesRefused(
            ReasonCode.TOO_FEW_SLICES,
            f"expected at least {MIN_SLICES} slice positions, got {len(positions)}",
        )
    return _repeated(slices, positions) if is_repeated else [_volume(slices)]


def _repeated(slices: Sequence[SliceHeader], positions: Sequence[Sequence[int]]) -> list[Part]:
    """What several images at each position are: weightings, phases of a contrast agent, moments.

    Raises:
        SeriesRefused: nothing in the headers tells them apart, or a volume is incomplete.
    """
    if is_diffusion(slices):
        return [_four_d(slices, positions, "diffusion", volumes_of_diffusion(slices))]
    phases = acquisition_volumes(slices) if slices[0].modality == "CT" else None
    if phases is not None:
        return _split(phases, phases.groups(slices))
    moments = volumes_in_time(slices)
    if moments is not None or _is_meant_in_time(slices):
        return [_four_d(slices, positions, "time_series", moments)]
    return [_volume(slices)]


def _is_meant_in_time(slices: Sequence[SliceHeader]) -> bool:
    """Whether headers count moments, though the images of some are not all there."""
    return any(len({h.temporal[i] for h in slices if h.temporal}) > 1 for i in (0, 1))


def _split(split: Split, groups: Mapping[Hashable, list[SliceHeader]]) -> list[Part]:
    labels = split.labels(list(groups))
    parts: list[Part] = []
    for (value, group), label in zip(groups.items(), labels, strict=True):
        why = split.text(value, len(groups))
        parts.extend(
            replace(
                part,
                entities=_joined({split.entity: label}, part.entities),
                detail="; ".join(word for word in (why, part.detail) if word),
            )
            for part in _guarded(group)
        )
    return parts


def _joined(outer: Mapping[str, str], inner: Mapping[str, str]) -> dict[str, str]:
    """The entities of a split and of a split within it; labels of the same entity one by one."""
    joined = dict(outer)
    for entity, label in inner.items():
        joined[entity] = joined.get(entity, "") + label
    return joined


def _volume(slices: Sequence[SliceHeader]) -> Part:
    geometry = stack_geometry(planes_of(slices))
    units_of(slices)
    return Part(tuple(slices[i] for i in geometry.order), geometry=geometry)


def _four_d(
    slices: Sequence[SliceHeader],
    positions: Sequence[Sequence[int]],
    kind: PartKind,
    found: InTime | None,
) -> Part:
    counts = [len(group) for group in positions]
    if len(set(counts)) > 1:
        raise SeriesRefused(
            ReasonCode.MISSING_SLICE,
            f"expected as many images at each of {len(positions)} positions, got {min(counts)} to "
            f"{max(counts)}: a volume of the series is incomplete",
        )
    if found is None:
        raise SeriesRefused(
            ReasonCode.DUPLICATE_SLICE,
            f"expected a {_UNITS_OF_4D[kind]} with every one of {len(positions)} positions once, "
            f"got {counts[0]} images at each: nothing tells for certain which belong together",
        )
    geometry = stack_geometry(planes_of(found.volumes[0]))
    for images in zip(*found.volumes, strict=True):
        _require_one_place(images)
    units_of(slices)
    ordered = tuple(header for column in zip(*found.volumes, strict=True) for header in column)
    return Part(
        ordered,
        kind=kind,
        detail=f"{len(found.volumes)} volumes told apart by {found.told_by}",
        geometry=geometry,
        n_volumes=len(found.volumes),
    )


def _require_one_place(images: Sequence[SliceHeader]) -> None:
    """Nothing, if the images of one slice position lie at one place in their plane too.

    Raises:
        SeriesRefused: they do not, as where a sequence followed the head's motion.
    """
    positions = np.asarray([plane.position_lps for plane in planes_of(images)])
    apart = float(np.linalg.norm(positions - positions[0], axis=1).max())
    if apart > TILT_TOLERANCE_MM:
        raise SeriesRefused(
            ReasonCode.MISSING_GEOMETRY,
            "ImagePositionPatient (0020,0032): expected the volumes of a series at one place, got "
            f"some {apart:.2f} mm apart: one image cannot say where each lies",
        )


_UNITS_OF_4D = {"diffusion": "diffusion weighting", "time_series": "moment"}


def _mosaic_parts(slices: Sequence[SliceHeader]) -> list[Part]:
    """Siemens mosaics: each file is a whole volume, laid out in tiles.

    Raises:
        SeriesRefused: their grid is not certain.
    """
    for split in SPLITS:
        groups = split.groups(slices)
        if len(groups) > 1:
            return _split(split, groups)
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
    require_alike(planes_of(slices))
    _require_one_place(slices)
    geometry = mosaic_plane(planes_of(slices)[0], number, spacing)
    kind: PartKind = "volume"
    if is_diffusion(slices):
        kind = "diffusion"
    elif len(slices) > 1:
        kind = "time_series"
    ordered = tuple(sorted(slices, key=lambda h: (h.instance_number, h.path)))
    detail = f"{len(slices)} volumes, a mosaic each" if len(slices) > 1 else ""
    return [Part(ordered, kind=kind, detail=detail, geometry=geometry, n_volumes=len(slices))]


def volumes_of(part: Part) -> list[tuple[SliceHeader, ...]]:
    """The slices of each volume of a part, in order; a mosaic is its volume's one slice."""
    return [part.slices[i :: part.n_volumes] for i in range(part.n_volumes)]


def file_order(slices: Sequence[SliceHeader]) -> tuple[str, ...]:
    """The files of the slices, each once, in slice order."""
    return tuple(dict.fromkeys(h.path for h in slices))


def extent_mm(geometry: StackGeometry) -> tuple[float, float, float]:
    """How far the grid reaches along I, J, K in mm."""
    i, j, k = np.asarray(geometry.shape) * np.asarray(geometry.spacing)
    return float(i), float(j), float(k)
