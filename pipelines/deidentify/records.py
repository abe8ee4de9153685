"""Records of discovery under pseudonyms, so that a run writes nothing that names a patient.

The pixels are read from the originals; everything that a run writes comes from the record and from
what the stages compute. Only the record's file names, which are never written, stay as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from radloom.errors import ReasonCode, SeriesRefused
from radloom.pipelines.deidentify.dicom import IDENTIFYING, patient_of
from radloom.pipelines.deidentify.folder import session_label
from radloom.pipelines.deidentify.keys import Pseudonyms
from radloom.pipelines.deidentify.profile import load_profile
from radloom.pipelines.deidentify.sidecars import clean_sidecar
from radloom.pipelines.deidentify.words import clean_words, holds_identifier, identifier_words
from radloom.pipelines.ingest.archives import unpacked
from radloom.pipelines.ingest.headers import PARSE_ERRORS, quiet_dicom
from radloom.pipelines.ingest.names import hide_paths
from radloom.pipelines.ingest.naming import acq_label, name_series
from radloom.pipelines.study import SeriesRecord, StudyRecord

__all__ = ["deidentify_records"]


@dataclass(frozen=True)
class _Facts:
    """What the headers of a study say of its patient."""

    patient: str
    date: str
    identifiers: frozenset[str]
    burned_in: frozenset[str]
    """Files whose pixels show text."""
    uids: frozenset[str] = frozenset()
    """Of the study, its series, instances and frames of reference."""


def deidentify_records(
    records: Iterable[StudyRecord], names: Pseudonyms
) -> tuple[StudyRecord, ...]:
    """The records under keyed labels, UIDs and moved dates, by key.

    Series with burned-in annotation become rejected. Headers are read again for what records never
    hold: PatientID, dates, and names to look for in descriptions.
    """
    found = [(record, _facts(record)) for record in records]
    keys = Counter(_key(record, facts, names) for record, facts in found)
    renamed = []
    for record, facts in found:
        subject, session = _key(record, facts, names)
        if keys[subject, session] > 1:
            session += names.digest("study", record.study_uid, 4)
        renamed.append(
            StudyRecord(
                subject=subject,
                session=session,
                study_uid=names.uid(record.study_uid),
                root=record.root,
                series=tuple(_series(record.series, facts, names)),
                salt=names.digest("salt", record.study_uid, 32),
                pseudonyms=names.of_study(
                    facts.patient, record.study_uid, {record.study_uid, *facts.uids}
                ),
            )
        )
    return tuple(sorted(renamed, key=lambda record: record.key))


def _key(record: StudyRecord, facts: _Facts, names: Pseudonyms) -> tuple[str, str]:
    subject = names.subject(facts.patient)
    if facts.date:
        return subject, names.date(facts.patient, facts.date) or names.digest(
            "study", record.study_uid
        )
    return subject, session_label(record.session, facts.patient, names)


def _series(series: Sequence[SeriesRecord], facts: _Facts, names: Pseudonyms) -> list[SeriesRecord]:
    said = {one.description: _words(one.description, facts) for one in series if one.description}
    return name_series([_one(one, facts, names, said) for one in series])


def _one(
    series: SeriesRecord, facts: _Facts, names: Pseudonyms, said: Mapping[str, str]
) -> SeriesRecord:
    entities = {key: value for key, value in series.entities.items() if key != "run"}
    if entities.get("acq") and entities["acq"] == acq_label(series.description):
        del entities["acq"]
        if "suffix" in entities and series.status != "rejected" and not series.role:
            entities = {k: v for k, v in entities.items() if k not in ("suffix", "datatype")}
    cleaned = replace(
        series,
        series_uid=names.uid(series.series_uid),
        modality="" if holds_identifier(series.modality, facts.identifiers) else series.modality,
        description=said.get(series.description, ""),
        detail=_sentence(hide_paths(series.detail), said, facts),
        role_rule=_sentence(series.role_rule, said, facts),
        entities=entities,
        headers=_headers(series, facts, names),
    )
    if facts.burned_in.isdisjoint(series.files):
        return cleaned
    return replace(
        cleaned,
        status="rejected",
        reason=ReasonCode.BURNED_IN_ANNOTATION.value,
        detail="BurnedInAnnotation (0028,0301): expected NO or nothing, got YES: the pixels show "
        "text that may name the patient",
        role="",
    )


def _headers(series: SeriesRecord, facts: _Facts, names: Pseudonyms) -> dict[str, object]:
    cleaned = clean_sidecar(
        series.headers,
        load_profile(),
        identifiers=facts.identifiers,
        move_date=lambda date: names.date(facts.patient, date),
        map_uid=names.uid,
    )
    if "SourceInstancesDigest" in cleaned:
        known = str(cleaned["SourceInstancesDigest"])
        cleaned["SourceInstancesDigest"] = names.digest("instances", known, 64)
    return cleaned


def _words(text: str, facts: _Facts) -> str:
    return clean_words(text, load_profile().vocabulary, facts.identifiers)


def _sentence(text: str, said: Mapping[str, str], facts: _Facts) -> str:
    """A sentence of ours with the descriptions that it quotes cleaned, and no identifier in it."""
    for original in sorted(said, key=len, reverse=True):
        text = text.replace(original, said[original] or "another series")
    return text if not holds_identifier(text, facts.identifiers) else _bare(text, facts)


def _bare(text: str, facts: _Facts) -> str:
    return re.sub(
        r"[^\W]+", lambda m: "..." if holds_identifier(m[0], facts.identifiers) else m[0], text
    )


def _facts(record: StudyRecord) -> _Facts:
    headers = list(_with_paths(record))
    if not headers:
        return _Facts(record.subject, "", identifier_words((record.subject,)), frozenset())
    first = headers[0][1]
    values = {value for _, header in headers for value in header.identifying}
    return _Facts(
        patient=first.patient,
        date=first.date,
        identifiers=identifier_words(values),
        burned_in=frozenset(path for path, header in headers if header.burned_in),
        uids=frozenset(uid for _, header in headers for uid in header.uids),
    )


def _with_paths(record: StudyRecord) -> Iterator[tuple[str, _Header]]:
    for series in record.series:
        if series.reader not in ("nifti", "itk"):
            with suppress(SeriesRefused), unpacked(record, series) as there:
                for path in series.files:
                    yield from ((path, header) for header in _read(there.root / path))


@dataclass(frozen=True)
class _Header:
    patient: str
    date: str
    burned_in: bool
    identifying: frozenset[str]
    uids: frozenset[str]


UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def _read(file: Path) -> list[_Header]:
    """What one file says of its patient; nothing where it cannot be read."""
    import pydicom

    wanted = (*IDENTIFYING, *UIDS, "StudyDate", "BurnedInAnnotation",
              "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName")  # fmt: skip
    try:
        with quiet_dicom():
            dataset = pydicom.dcmread(
                file, force=True, stop_before_pixels=True, specific_tags=list(wanted)
            )
            texts = {str(dataset.get(k, "") or "") for k in (*IDENTIFYING, *wanted[-3:])}
            return [
                _Header(
                    patient=patient_of(dataset),
                    date=str(dataset.get("StudyDate", "") or ""),
                    burned_in=str(dataset.get("BurnedInAnnotation", "")).upper() == "YES",
                    identifying=frozenset(texts - {""}),
                    uids=frozenset({str(dataset.get(k, "") or "") for k in UIDS} - {""}),
                )
            ]
    except PARSE_ERRORS:
        return []
