"""File names in BIDS-derivatives layout, made from what an output is; never from a DICOM header.

A name is ``sub-<label>_ses-<label>[_<entity>-<label>...]_<suffix>`` in
``sub-<label>/ses-<label>/<datatype>/``; entities stand in the order of the BIDS schema.
Source: BIDS specification 1.10, https://bids-specification.readthedocs.io (entities, derivatives).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from radloom.errors import InputError
from radloom.pipelines.study import Output, StudyRecord

__all__ = ["ENTITIES", "ROLE_PARTS", "SPACE_LABELS", "file_stem", "to_label"]

ENTITIES = (
    "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir", "run",
    "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "split", "recording",
    "chunk", "seg", "scale", "res", "den", "label", "from", "to", "mode", "desc",
)  # fmt: skip
"""Every entity that a name may hold after ``sub`` and ``ses``, in the order of the schema."""

ROLE_PARTS: Mapping[str, Mapping[str, str]] = {
    "t1": {"datatype": "anat", "suffix": "T1w"},
    "t1ce": {"datatype": "anat", "suffix": "T1w", "ce": "gadolinium"},
    "t2": {"datatype": "anat", "suffix": "T2w"},
    "flair": {"datatype": "anat", "suffix": "FLAIR"},
    "pd": {"datatype": "anat", "suffix": "PDw"},
    "ct": {"datatype": "ct", "suffix": "ct"},
    "pet": {"datatype": "pet", "suffix": "pet"},
}
"""Role -> parts of the name of a volume of that role."""

SPACE_LABELS: Mapping[str, str] = {
    role: parts["suffix"] + ("ce" if "ce" in parts else "") for role, parts in ROLE_PARTS.items()
}
"""Role -> its grid's label in ``space-``, ``from-`` and ``to-``: the suffix, one for each role."""

UNNAMED = ("", "ingested", "moving_from_fixed")
"""Output names that put no ``desc-`` into a file's name."""

LONGEST_LABEL = 80
"""Characters: file systems take 255 for a whole name."""


def to_label(text: str) -> str:
    """`text` with letters and digits only, the start of each further word in upper case.

    >>> to_label("brain_mr-segmentation")
    'brainMrSegmentation'
    """
    words = re.findall(r"[A-Za-z0-9]+", text)
    joined = "".join(words[:1] + [word[0].upper() + word[1:] for word in words[1:]])
    return joined[:LONGEST_LABEL]


def file_stem(output: Output, record: StudyRecord) -> PurePosixPath:
    """Where `output` goes relative to OUT, without the file's extension.

    Raises:
        InputError: an entity is unknown to BIDS, or a label is empty or holds other characters.
    """
    subject, session = _exact(record.subject, "subject"), _exact(record.session, "session")
    parts = {**_parts(output), **output.entities}
    unknown = sorted(set(parts) - set(ENTITIES) - {"datatype", "suffix"})
    if unknown:
        raise InputError(f"expected entities of {ENTITIES}, datatype or suffix, got {unknown}")
    labels = {key: to_label(value) for key, value in parts.items() if value}
    if not labels.get("suffix"):
        raise InputError(f"expected a suffix for {output.kind} {output.name!r}, got none")
    middle = [f"{key}-{labels[key]}" for key in ENTITIES if labels.get(key)]
    name = "_".join((f"sub-{subject}", f"ses-{session}", *middle, labels["suffix"]))
    folder = PurePosixPath(f"sub-{subject}", f"ses-{session}", labels.get("datatype", ""))
    if output.kind == "dicom":  # a folder for each series
        folder /= "_".join([*(m for m in middle if not m.startswith("chunk-")), labels["suffix"]])
    return folder / name


def _parts(output: Output) -> dict[str, str]:
    known = ROLE_PARTS.get(output.role, {"datatype": "anat", "suffix": output.role})
    own = {"desc": "" if output.name in UNNAMED else output.name}
    if output.kind == "volume":
        space = {"space": _space(output.space)} if output.space else {}
        return {**known, **own, **space}
    return {"datatype": known["datatype"], **own, **_kind_parts(output, known["suffix"])}


def _kind_parts(output: Output, suffix: str) -> dict[str, str]:
    """The parts of what is no volume: its role moves from the suffix into an entity."""
    role = _space(output.role) if output.role else ""
    if output.kind == "label":
        other = output.space and output.space != output.role
        return {
            "suffix": "dseg",
            "space": _space(output.space or output.role),
            "mod": role if other else "",
        }
    if output.kind == "transform":
        return {"suffix": "xfm", "from": role, "to": _space(output.space), "mode": "image"}
    if output.kind == "table":
        return {"suffix": "table", "mod": role} | ({} if role else {"datatype": ""})
    if output.kind == "report":
        return {"datatype": "figures", "suffix": "report", "mod": role}
    return {"datatype": "dicom", "suffix": suffix or "dicom", "space": _space(output.space)}


def _space(role: str) -> str:
    return SPACE_LABELS.get(role, role)


def _exact(label: str, what: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]+", label):
        raise InputError(f"expected a {what} label of letters and digits, got {len(label)} others")
    return label
