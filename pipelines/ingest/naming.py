"""Choosing one series a role, and names that are unique within a study."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from radloom.errors import ReasonCode
from radloom.pipelines.ingest.names import alphanumeric
from radloom.pipelines.ingest.roles import entities_of_role
from radloom.pipelines.study import SeriesRecord

__all__ = ["acq_label", "choose_roles", "name_series"]

ACQ_LETTERS = 24
"""Longest label made from a description; file systems end at 255 bytes a name."""


def choose_roles(series: Sequence[SeriesRecord], numbers: Mapping[str, int]) -> list[SeriesRecord]:
    """The series, each role given to one volume; the others say which one was taken.

    The best is an acquisition before a reformat, 3D before 2D, many voxels before few, then the
    lowest series number, then the lowest UID, so that the choice never depends on the file order.

    Args:
        series: of one study, each with the role that its tags or words gave it.
        numbers: SeriesNumber (0020,0011) by UID.
    """
    ranked: dict[str, list[SeriesRecord]] = defaultdict(list)
    for record in sorted(series, key=lambda s: _rank(s, numbers)):
        if record.role and record.status != "rejected":
            ranked[record.role].append(record)
    return [_with_choice(record, ranked, numbers) for record in series]


def name_series(series: Sequence[SeriesRecord]) -> list[SeriesRecord]:
    """The accepted series with BIDS entities that no two of the study share.

    The volume that holds a role comes first, so that it has the plain name.
    """
    used: Counter[tuple[tuple[str, str], ...]] = Counter()
    named: dict[int, SeriesRecord] = {}
    for index, record in sorted(enumerate(series), key=lambda item: not item[1].role):
        if record.status == "rejected":
            named[index] = replace(record, entities={}, role="")
            continue
        entities = _entities(record)
        # Lower case: some file systems hold T1 and t1 for one name.
        key = tuple(sorted((name, value.lower()) for name, value in entities.items()))
        used[key] += 1
        if used[key] > 1:
            entities["run"] = str(used[key])
        named[index] = replace(record, entities=entities)
    return [named[i] for i in range(len(series))]


def _rank(
    record: SeriesRecord, numbers: Mapping[str, int]
) -> tuple[bool, bool, int, int, str, str]:
    i, j, k = record.shape
    return (
        "reformat" in record.entities,
        record.headers.get("MRAcquisitionType") not in ("3D", None),
        -(i * j * k),
        numbers.get(record.series_uid, 0),
        record.series_uid,
        str(sorted(record.entities.items())),
    )


_RANK_WORDS = (
    "an acquisition before a reformat",
    "3D before 2D",
    "more voxels",
    "the lower series number",
    "the lower series UID",
    "the first part of the series",
)
"""What each place of `_rank` asks for."""


def _with_choice(
    record: SeriesRecord,
    ranked: Mapping[str, Sequence[SeriesRecord]],
    numbers: Mapping[str, int],
) -> SeriesRecord:
    wanted = record.role
    entities = {k: v for k, v in record.entities.items() if k != "reformat"}
    if record.status != "rejected" and wanted:
        entities = {**entities_of_role(wanted), **entities}
        best, *others = ranked[wanted]
        if best is record and others:
            why = _why(best, others[0], numbers)
            record = replace(
                record, role_rule=f"{record.role_rule}; chosen of {len(others) + 1}: {why}"
            )
        elif best is not record:
            why = f"{best.description or 'another series'}, {_why(best, record, numbers)}"
            rule = f"{record.role_rule}; another is the {wanted}: {why}"
            place = next(i for i, other in enumerate(ranked[wanted]) if other is record)
            record = replace(
                record, role="", role_rule=rule, runner_up_for=wanted, runner_up_place=place
            )
    if record.status == "accepted" and not record.role and not record.reason:
        record = replace(record, reason=ReasonCode.NOT_A_HEAD_VOLUME.value)
    return replace(record, entities=entities)


def _why(best: SeriesRecord, other: SeriesRecord, numbers: Mapping[str, int]) -> str:
    """The first thing in which the better of two series differs from the other."""
    pairs = zip(_rank(best, numbers), _rank(other, numbers), _RANK_WORDS, strict=True)
    return next((word for one, two, word in pairs if one != two), _RANK_WORDS[-1])


def _entities(record: SeriesRecord) -> dict[str, str]:
    """The entities of a record before they are made unique."""
    entities = dict(record.entities)
    if "suffix" in entities:
        return entities
    suffix = {"diffusion": "dwi", "time_series": "timeseries"}.get(
        record.reason, record.modality or "image"
    )
    entities["suffix"] = suffix
    entities["datatype"] = "dwi" if suffix == "dwi" else "other"
    label = acq_label(record.description)
    if label and "acq" not in entities:
        entities["acq"] = label
    return entities


def acq_label(description: str) -> str:
    """The entity acq of a series that nothing but its description names; may be empty."""
    words = "".join(c for c in description if c.isascii() and c.isalnum())
    return alphanumeric(words[:ACQ_LETTERS]) if words else ""
