"""Series from files without DICOM: NIfTI, NRRD, MHA, and the JSON sidecars beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radloom.errors import ReasonCode, SeriesRefused
from radloom.geometry import Affine, spacing_of
from radloom.pipelines.ingest.fields import missing_fields
from radloom.pipelines.ingest.headers import PARSE_ERRORS
from radloom.pipelines.ingest.names import alphanumeric, made_uid
from radloom.pipelines.ingest.roles import Acquisition, Role, role_of, role_of_words
from radloom.pipelines.ingest.rules import RoleRules
from radloom.pipelines.ingest.scan import ARCHIVE_SUFFIX, Found, image_stem
from radloom.pipelines.study import SeriesRecord

__all__ = ["Home", "file_record", "home_of"]

BIDS_DATATYPES = ("anat", "func", "dwi", "fmap", "perf", "pet", "ct", "meg", "eeg", "ieeg", "other")
"""Folders of BIDS below a session."""

SIDECAR_KEYS = (
    "Manufacturer",
    "ManufacturersModelName",
    "MagneticFieldStrength",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ScanningSequence",
    "SequenceVariant",
    "MRAcquisitionType",
    "BodyPartExamined",
    "Modality",
    "ImageType",
    "Units",
    "KVP",
    "ConvolutionKernel",
    "SliceTiming",
    "TracerName",
    "TracerRadionuclide",
    "FrameTimesStart",
    "FrameDuration",
    "AcquisitionMode",
    "ImageDecayCorrected",
    "ImageDecayCorrectionTime",
    "ReconMethodName",
    "AttenuationCorrection",
)
"""What is taken from a sidecar; nothing that names a person, a place or a date."""

NOT_CARRIED = ("Modality", "ImageType", "Units")
"""Keys of a sidecar that the record says in its own way."""

FILE_UNITS = {
    ("CT", "HU"): "HU",
    ("PT", "BQ/ML"): "Bq/mL",
    ("PT", "BQML"): "Bq/mL",
    ("PT", "SUV"): "SUV",
    ("PT", "G/ML"): "SUV",
    ("PT", "GML"): "SUV",
}
"""Modality and Units of a sidecar, in capitals -> units of the volume: BIDS' and dcm2niix's words.
Where a sidecar says nothing, nothing is known of a PET; a CT is looked at when it is read."""

NO_SUV = (
    "SUV: expected Units SUV in the sidecar, got others or none: dose and weight are in the DICOM "
    "files alone; convert those"
)

MIN_SLICES = 3
"""As for DICOM: fewer make no volume."""


@dataclass(frozen=True)
class Home:
    """The study that a file belongs to."""

    folder: str
    """Relative path of the study's folder."""
    subject: str
    session: str


def home_of(root: Path, path: str) -> Home:
    """The study of a file: BIDS labels where there are any, else its folder and that one's parent.

    >>> home = home_of(Path("/data/ms01"), "date1/t1.nii.gz")
    >>> home.subject, home.session
    ('ms01', 'date1')
    >>> home = home_of(Path("/data"), "sub-7/ses-2/anat/sub-7_ses-2_T1w.nii.gz")
    >>> home.folder, home.subject, home.session
    ('sub-7/ses-2', '7', '2')
    """
    *folders, name = path.split("/")
    while folders and folders[-1] in BIDS_DATATYPES and _bids(folders[:-1], name):
        folders.pop()
    folder = "/".join(folders)
    labels = _bids(folders, name)
    if "sub" in labels:
        return Home(folder, labels["sub"], labels.get("ses", "1"))
    outer = [root.resolve().name or "study", *_without_archives(folders)]
    if len(outer) == 1:
        return Home(folder, alphanumeric(outer[0]), "1")
    return Home(folder, alphanumeric(outer[-2]), alphanumeric(outer[-1]))


def _without_archives(folders: Sequence[str]) -> list[str]:
    """Names of folders; an archive stands for the folder that it was made of, and may hold it.

    >>> _without_archives(["ms01", "date1.zip", "date1"]), _without_archives(["ms01.zip", "date1"])
    (['ms01', 'date1'], ['ms01', 'date1'])
    """
    names: list[str] = []
    was_archive = False
    for folder in folders:
        is_archive = folder.lower().endswith(ARCHIVE_SUFFIX)
        name = folder[: -len(ARCHIVE_SUFFIX)] or folder if is_archive else folder
        if not (was_archive and name == names[-1]):
            names.append(name)
        was_archive = is_archive
    return names


def _bids(folders: Sequence[str], name: str) -> dict[str, str]:
    """The labels sub and ses, from folders or the name."""
    words = [*folders, *image_stem(name).split("_")]
    found = (re.fullmatch(r"(sub|ses)-([A-Za-z0-9]+)", word) for word in words)
    return {match[1]: match[2] for match in found if match}


def file_record(
    root: Path, found: Found, rules: RoleRules | None = None, *, suv: bool = False
) -> SeriesRecord:
    """The record of one NIfTI, NRRD or MHA file, from its header and sidecar.

    What neither says stands in its detail.

    Args:
        root: the folder searched.
        found: the file.
        rules: what gives it a role; None: the rules that ship with Radloom.
        suv: whether PET must be SUV.
    """
    name = found.path.rpartition("/")[2]
    stem = image_stem(name)
    uid = made_uid(found.path)
    sidecar = _sidecar(root / found.path, stem)
    modality = _modality(sidecar, stem)
    try:
        header = _header(root, found.path, found.kind)
    except SeriesRefused as refusal:
        return _refused(found, uid, modality, stem, refusal.code, refusal.detail)
    except PARSE_ERRORS as error:
        detail = f"damaged header ({type(error).__name__})"
        return _refused(found, uid, modality, stem, ReasonCode.UNREADABLE, detail)
    shape = header.shape
    if min(shape[:3]) < MIN_SLICES:
        detail = f"expected at least {MIN_SLICES} voxels along each axis, got shape {shape}"
        return _refused(found, uid, modality, stem, ReasonCode.TOO_FEW_SLICES, detail)
    units = FILE_UNITS.get((modality, str(sidecar.get("Units", "")).upper()), "")
    if suv and modality == "PT" and units != "SUV":
        return _refused(found, uid, modality, stem, ReasonCode.SUV_UNKNOWN, NO_SUV)
    spacing = tuple(round(float(s), 6) for s in spacing_of(header.affine))
    is_4d = len(shape) == 4
    acquisition = _acquisition(sidecar, stem, modality, shape, spacing)
    role = Role("", "4D") if is_4d else _role(acquisition, header.is_label, rules)
    reason = ReasonCode.TIME_SERIES.value if is_4d else ""
    return SeriesRecord(
        series_uid=uid,
        modality=modality,
        description=stem,
        status="accepted",
        reason=reason,
        detail="" if header.is_label else _unsaid(sidecar, header, modality, reason),
        role=role.role,
        role_rule=role.rule,
        shape=(shape[0], shape[1], shape[2]),
        spacing=(spacing[0], spacing[1], spacing[2]),
        files=(found.path, *header.beside),
        units=units,
        reader=found.kind,
        headers={**header.facts, **{k: v for k, v in sidecar.items() if k not in NOT_CARRIED}},
    )


@dataclass(frozen=True)
class _Header:
    """What the header of a file says, of whatever format."""

    shape: tuple[int, ...]
    affine: Affine
    is_label: bool
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For the sidecar."""
    unsaid: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    """Relative path of the file with the voxels, where the header is a file of its own."""


def _header(root: Path, path: str, kind: str) -> _Header:
    if kind == "itk":
        from radloom.transforms.itk_images import read_itk_header

        itk = read_itk_header(root / path)
        return _Header(itk.shape, itk.affine, itk.is_label)
    from radloom.transforms.nifti import read_nifti_header, voxel_file

    nifti = read_nifti_header(root / path)
    facts: dict[str, Any] = {"AffineSource": nifti.space}
    if nifti.time_step_s is not None:
        facts["RepetitionTime"] = nifti.time_step_s
    voxels = voxel_file(root / path)
    beside = () if voxels is None else (path[: path.rfind("/") + 1] + voxels.name,)
    return _Header(nifti.shape, nifti.affine, nifti.is_label, facts, nifti.unsaid, beside)


def _unsaid(sidecar: Mapping[str, Any], header: _Header, modality: str, reason: str) -> str:
    """What neither the file nor its sidecar says, for people; empty where nothing is missing."""
    parts = [f"the header leaves open its {' and '.join(header.unsaid)}"] if header.unsaid else []
    missing = missing_fields(modality, reason, {*sidecar, *header.facts})
    if not sidecar:
        parts.append("there is no sidecar")
    elif missing:
        parts.append(f"the sidecar lacks {', '.join(missing)}")
    return "; ".join(parts)


def _refused(
    found: Found, uid: str, modality: str, stem: str, code: ReasonCode, detail: str
) -> SeriesRecord:
    return SeriesRecord(
        series_uid=uid,
        modality=modality,
        description=stem,
        status="rejected",
        reason=code.value,
        detail=detail,
        files=(found.path,),
    )


def _sidecar(path: Path, stem: str) -> dict[str, Any]:
    file = path.with_name(f"{stem}.json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: content[key] for key in SIDECAR_KEYS if key in content}


def _modality(sidecar: Mapping[str, Any], stem: str) -> str:
    written = str(sidecar.get("Modality", "")).upper()
    if written in ("MR", "CT", "PT"):
        return written
    return {"ct": "CT", "pet": "PT"}.get(role_of_words(_own_words(stem)).role, "MR")


def _own_words(stem: str) -> str:
    return "_".join(w for w in stem.split("_") if not re.match(r"(sub|ses)-", w))


def _role(acquisition: Acquisition, is_label: bool, rules: RoleRules | None) -> Role:  # noqa: FBT001
    if is_label:
        return Role("", "labels")
    if acquisition.modality == "MR" and "EchoTime" not in acquisition.tags:
        return role_of_words(acquisition.words, rules)
    return role_of(acquisition, rules)


def _acquisition(
    sidecar: Mapping[str, Any],
    stem: str,
    modality: str,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
) -> Acquisition:
    """What the role rules look at: the sidecar in DICOM's words and milliseconds, and the name."""
    tags = dict(sidecar)
    for key in ("RepetitionTime", "EchoTime", "InversionTime"):
        if isinstance(tags.get(key), (int, float)):
            tags[key] = tags[key] * 1000.0
    for key in ("ScanningSequence", "SequenceVariant", "ImageType"):
        if isinstance(tags.get(key), str):
            tags[key] = re.split(r"[\\_\s]+", tags[key])
    image_type = tuple(str(v).upper() for v in tags.pop("ImageType", ()))
    extent = (shape[0] * spacing[0], shape[1] * spacing[1], shape[2] * spacing[2])
    return Acquisition(modality, tags, image_type, _own_words(stem), extent)
