"""The index of a folder: studies and series, from headers alone."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from radloom.errors import InputError, ReasonCode
from radloom.pipelines.ingest.archives import beginnings, file_that_holds
from radloom.pipelines.ingest.examine import LooksAgain, look_at_folder
from radloom.pipelines.ingest.files import Home, file_record, home_of
from radloom.pipelines.ingest.gathering import GatheredHeaders
from radloom.pipelines.ingest.headers import SliceHeader
from radloom.pipelines.ingest.index import FileIndex
from radloom.pipelines.ingest.names import digest_label, made_uid, redact, redact_paths
from radloom.pipelines.ingest.naming import choose_roles, name_series
from radloom.pipelines.ingest.options import (
    DEFAULT_OPTIONS,
    IngestOptions,
    finished,
    notes_of,
    repair_code,
)
from radloom.pipelines.ingest.roles import Acquisition, Role, role_of
from radloom.pipelines.ingest.rules import RoleRules, builtin_rules
from radloom.pipelines.ingest.scan import Found, Looked
from radloom.pipelines.ingest.units import units_of
from radloom.pipelines.ingest.verdicts import Part, extent_mm, file_order, parts_of_series
from radloom.pipelines.study import SeriesRecord, StudyRecord

__all__ = ["discover"]


@dataclass
class _Draft:
    """A study while its files are being gathered."""

    subject: str
    session: str
    study_uid: str
    numbers: dict[str, int] = field(default_factory=dict)
    """SeriesInstanceUID -> SeriesNumber."""
    dicom: list[SeriesRecord] = field(default_factory=list)
    others: list[SeriesRecord] = field(default_factory=list)
    """Of what is no DICOM, or cannot be used."""


@dataclass(frozen=True)
class _Settings:
    """What decides on a series besides its headers."""

    identifiers: set[str]
    rules: RoleRules
    options: IngestOptions


def discover(
    folder: Path,
    *,
    rules: RoleRules | None = None,
    options: IngestOptions = DEFAULT_OPTIONS,
    index: Path | None = None,
    workers: int = 1,
) -> tuple[StudyRecord, ...]:
    """Every study below `folder` with all its series, those that were refused included.

    Headers only; no pixel is decoded. DICOM is grouped by patient and StudyInstanceUID, other
    formats by the folder that holds them (BIDS labels where there are any). Labels of DICOM
    studies are digests of PatientID and StudyInstanceUID; no identifier reaches a label,
    description or detail. A file's slot in `SeriesRecord.files` is its real relative path.

    Args:
        folder: of studies.
        rules: what gives a volume its role; None: the rules that ship with Radloom.
        options: what may be resampled, and in which units PET is wanted.
        index: file that remembers headers, so that no file is read twice; made where absent, left
            alone where it cannot be written. It holds no names and numbers of patients, but UIDs.
        workers: processes that read headers, where there are thousands. A script that asks for
            more than one must guard its entry by ``if __name__ == "__main__"``.

    Raises:
        InputError: `folder` is not a folder.
    """
    folder, rules = Path(folder), rules or builtin_rules()
    if not folder.is_dir():
        raise InputError(f"<{folder.name}>: expected a folder of studies, got none; check the path")
    identifiers: set[str] = set()
    others: list[Found] = []
    settings = _Settings(identifiers, rules, options)
    with GatheredHeaders() as headers:
        for looked in _looked(folder, index, workers):
            if looked.found.kind != "dicom":
                others.append(looked.found)
            for header in looked.headers:
                identifiers.update(header.identifiers)
                if header.series_uid:
                    headers.add(header)
                else:
                    others.append(_without_series(header))
        drafts = _dicom_drafts(headers, settings)
    images = [item for item in others if item.kind in ("nifti", "itk")]
    file_drafts: dict[str, _Draft] = {}
    for path, record in _image_records(folder, images, rules, options):
        _draft_of(home_of(folder, path), file_drafts).others.append(record)
    _add_lost(folder, [item for item in others if item.kind == "bad"], drafts, file_drafts)
    return _records(folder, [*drafts, *file_drafts.values()], identifiers)


def _add_lost(
    folder: Path, lost: Sequence[Found], drafts: Sequence[_Draft], file_drafts: dict[str, _Draft]
) -> None:
    """Puts what cannot be used with the study whose files lie beside it."""
    places = _places(drafts, {_place_of(item.path) for item in lost})
    for item in lost:
        draft = places.get(_place_of(item.path))
        draft = draft or _draft_of(home_of(folder, item.path), file_drafts)
        draft.others.append(_lost_record(item))


def _without_series(header: SliceHeader) -> Found:
    code = header.problem or ReasonCode.UNREADABLE
    return Found(header.path, "bad", code, header.problem_detail)


def _image_records(
    folder: Path, images: Sequence[Found], rules: RoleRules, options: IngestOptions
) -> Iterator[tuple[str, SeriesRecord]]:
    """Path and record of each file that is no DICOM, also of those in archives."""
    packed = {i.path for i in images if file_that_holds(folder, i.path) != folder / i.path}
    with beginnings(folder, sorted(packed)) as unpacked_folder:
        for item in images:
            root = unpacked_folder if item.path in packed else folder
            yield item.path, file_record(root, item, rules, suv=options.suv)


def _looked(folder: Path, file: Path | None, workers: int) -> Iterator[Looked]:
    with FileIndex.at(file, LooksAgain(folder)) as index:
        yield from look_at_folder(folder, index=index, workers=workers)


def _each_once(headers: Iterable[SliceHeader]) -> list[SliceHeader]:
    """Every SOP instance of a series once; of copies, one that is whole, then the first path."""
    best: dict[tuple[str, int], SliceHeader] = {}
    for header in headers:
        key = (header.sop_uid or header.path, header.frame)
        known = best.get(key)
        if known is None or (known.problem is not None and header.problem is None):
            best[key] = header
    return list(best.values())


def _dicom_drafts(headers: Iterable[Sequence[SliceHeader]], settings: _Settings) -> list[_Draft]:
    """The studies of DICOM, from the headers of one series after the other."""
    drafts: dict[tuple[str, str], _Draft] = {}
    for series in headers:
        shares: dict[tuple[str, str], list[SliceHeader]] = defaultdict(list)
        for header in _each_once(series):
            shares[header.patient_id, header.study_uid].append(header)
        for (patient, study), share in shares.items():
            if (patient, study) not in drafts:
                subject = digest_label(patient or f"study {study}")
                drafts[patient, study] = _Draft(subject, digest_label(study), study)
            draft, uid = drafts[patient, study], share[0].series_uid
            draft.numbers[uid] = share[0].series_number
            draft.dicom += _series_records(uid, share, settings)
    return list(drafts.values())


def _draft_of(home: Home, drafts: dict[str, _Draft]) -> _Draft:
    if home.folder not in drafts:
        uid = made_uid("folder", home.folder, home.subject, home.session)
        drafts[home.folder] = _Draft(home.subject, home.session, uid)
    return drafts[home.folder]


def _places(drafts: Sequence[_Draft], wanted: set[str]) -> dict[str, _Draft]:
    """Folder, of those wanted -> the DICOM study with most of its files there."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for number, draft in enumerate(drafts if wanted else ()):
        for record in draft.dicom:
            for place in map(_place_of, record.files):
                if place in wanted:
                    counts[place][number] += 1
    return {place: drafts[counter.most_common(1)[0][0]] for place, counter in counts.items()}


def _place_of(path: str) -> str:
    """The folder that a file lies in."""
    return path.rpartition("/")[0]


def _lost_record(item: Found) -> SeriesRecord:
    """A row for a file or folder that no series can claim."""
    return SeriesRecord(
        series_uid=made_uid(item.path),
        modality="",
        description="",
        status="rejected",
        reason=(item.code or ReasonCode.UNREADABLE).value,
        detail=f"<{item.path or '.'}>: {item.detail}",
        files=(item.path,),
    )


def _records(
    folder: Path, drafts: Sequence[_Draft], identifiers: set[str]
) -> tuple[StudyRecord, ...]:
    records = []
    taken: Counter[tuple[str, str]] = Counter()
    for draft in drafts:
        taken[draft.subject, draft.session] += 1
    for draft in drafts:
        session = draft.session
        if taken[draft.subject, session] > 1:
            session += digest_label(draft.study_uid, 4)
        series = tuple(_series(draft, identifiers))
        records.append(StudyRecord(draft.subject, session, draft.study_uid, folder, series))
    return tuple(sorted(records, key=lambda record: record.key))


def _series(draft: _Draft, identifiers: set[str]) -> list[SeriesRecord]:
    others = [replace(r, detail=redact_paths(r.detail, identifiers)) for r in draft.others]
    series = sorted(
        [*draft.dicom, *others],
        key=lambda r: (
            draft.numbers.get(r.series_uid, 1 << 30),
            r.files,
            sorted(r.entities.items()),
        ),
    )
    return name_series(choose_roles(series, draft.numbers))


def _series_records(
    uid: str, headers: Sequence[SliceHeader], settings: _Settings
) -> list[SeriesRecord]:
    options = settings.options
    parts = [finished(part, options) for part in parts_of_series(headers)]
    is_split = sum(part.code is None for part in parts) > 1
    return [
        _annotated(_record(uid, part, settings, is_split=is_split), part, options) for part in parts
    ]


def _annotated(record: SeriesRecord, part: Part, options: IngestOptions) -> SeriesRecord:
    """The record with its units, and with what `options` did to it."""
    if part.code is not None:
        return record
    repaired = repair_code(part)
    return replace(
        record,
        units=units_of(part.slices, suv=options.suv),
        reader="straightening" if repaired else record.reader,
        reason=repaired.value if repaired else record.reason,
        headers={**record.headers, **notes_of(part, options)},
    )


def _record(uid: str, part: Part, settings: _Settings, *, is_split: bool) -> SeriesRecord:
    first, identifiers = part.slices[0], settings.identifiers
    description = redact(first.description, identifiers)
    record = SeriesRecord(
        series_uid=uid,
        modality=first.modality,
        description=description,
        status="rejected",
        detail=redact_paths(part.detail, identifiers),
        files=file_order(part.slices),
        headers={
            **first.facts,
            **_number_of_volumes(part),
            "SourceInstancesDigest": _instances(part),
        },
        entities=dict(part.entities),
    )
    if part.geometry is not None:
        record = replace(
            record,
            shape=part.geometry.shape,
            spacing=_rounded(part.geometry.spacing),
        )
    if part.code is not None:
        return replace(
            record,
            reason=part.code.value,
            detail=redact_paths(part.detail, identifiers),
            entities={},
        )
    if part.kind == "volume" and not first.mosaic:
        several_echoes = not {"echo", "part"}.isdisjoint(part.entities)
        role = _role(part, description, settings.rules, is_split=several_echoes)
        reader, reason = "highdicom", ""
    else:
        role = Role("", "a mosaic" if part.kind == "volume" else "4D")
        reader = "dcm2niix" if first.mosaic else "highdicom"
        reason = {"volume": "", **{k: k for k in ("time_series", "diffusion")}}[part.kind]
    if is_split:
        reason = reason or ReasonCode.SPLIT_SERIES.value
    if "SECONDARY" in first.image_type and "MPR" in first.image_type:
        record = replace(record, entities={**record.entities, "reformat": "1"})
    return replace(
        record,
        status="split" if is_split else "accepted",
        reason=reason,
        role=role.role,
        role_rule=role.rule,
        reader=reader,
    )


def _number_of_volumes(part: Part) -> dict[str, int]:
    return {"NumberOfVolumes": part.n_volumes} if part.kind != "volume" else {}


def _instances(part: Part) -> str:
    """One digest for the SOP instances that a volume comes from, in slice order."""
    uids = "\x00".join(header.sop_uid for header in part.slices)
    return hashlib.sha256(uids.encode()).hexdigest()


def _role(part: Part, description: str, rules: RoleRules, *, is_split: bool) -> Role:
    first = part.slices[0]
    if part.entities.get("part") not in (None, "mag"):
        return Role("", "not a magnitude image")
    assert part.geometry is not None
    tags = {
        **first.tags,
        "EchoTime": first.echo_time_ms or first.tags.get("EchoTime"),
        "DiffusionBValue": first.b_value,
    }
    acquisition = Acquisition(
        first.modality,
        tags,
        first.image_type,
        description,
        extent_mm(part.geometry),
        is_split=is_split,
    )
    return role_of(acquisition, rules)


def _rounded(spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    i, j, k = (round(value, 6) for value in spacing)
    return i, j, k
