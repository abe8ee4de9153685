"""imagesTr, labelsTr and dataset.json, as nnU-Net v2 wants them, from a run and label files.

A case bears the key of its study, under which the run's outputs stand: no name of a patient. Images
are hard links to the run's files where the file system allows it, copies elsewhere. A study that
cannot be used costs only itself; ``studies.tsv`` says why. The same command again does what is new.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radloom.errors import ConfigError, InputError
from radloom.geometry import as_stored
from radloom.pipelines.dataset.channels import CHANNEL_NAMES, Channels, find_channels
from radloom.pipelines.dataset.classes import Classes, make_classes
from radloom.pipelines.dataset.labels import find_labels, label_on_grid
from radloom.pipelines.export.tsv import to_tsv
from radloom.pipelines.receipts.files import move, remove, sha256_of, write_file
from radloom.pipelines.receipts.plain import from_json, to_json
from radloom.pipelines.receipts.receipt import STAGES_FOLDER
from radloom.transforms.nifti import write_array

__all__ = ["CaseResult", "Prepared", "prepare_dataset"]

ENDING = ".nii.gz"
READER = "NibabelIOWithReorient"
"""Turns every image to RAS, so that sagittal and axial scans look alike to the network."""


@dataclass(frozen=True)
class CaseResult:
    """What became of one study."""

    study: str
    status: str
    """``taken`` or ``left out``."""
    reason: str = ""
    """For people: why it was left out."""


@dataclass(frozen=True)
class Prepared:
    """A data set that nnU-Net can take."""

    folder: Path
    """``DEST/nnUNet_raw/DatasetNNN_Name``."""
    cases: tuple[CaseResult, ...]
    classes: Classes

    @property
    def n_taken(self) -> int:
        """Studies that became cases."""
        return sum(case.status == "taken" for case in self.cases)


@dataclass(frozen=True)
class _Checked:
    """A study whose images and label fit each other."""

    study: str
    channels: Channels
    label: Path
    digest: str
    """Over all that its files follow from, the classes apart."""
    values: tuple[int, ...]
    """Of the label."""


def prepare_dataset(
    out: Path,
    dest: Path,
    *,
    name: str,
    labels: str,
    roles: Sequence[str],
    names: Mapping[int, str] | None = None,
    resample: bool = False,
    on_study: Callable[[str], None] | None = None,
) -> Prepared:
    """The data set `name` below `dest`, of every study of `out` that has the roles and a label.

    Args:
        out: the OUT of ``radloom run`` or ``radloom convert``.
        dest: where nnU-Net's three folders are made.
        name: ``DatasetNNN_Name``.
        labels: pattern, folder or table; see `labels.find_labels`.
        roles: one a channel; the first one's grid is the case's.
        names: value -> structure; None: each value that occurs is a structure.
        resample: whether labels on other grids are brought to the image's.
        on_study: told the key of each study before it is looked at.

    Raises:
        ConfigError: an impossible name, role or pattern.
        InputError: no study can be used.
    """
    _require(name, roles)
    folder = dest / "nnUNet_raw" / name
    studies = sorted(path.parent.name for path in (out / STAGES_FOLDER).glob("*/study.json"))
    files = find_labels(labels, studies)
    checked, results = list[_Checked](), dict[str, CaseResult]()
    for study in studies:
        if on_study is not None:
            on_study(study)
        try:
            checked.append(_check(out, folder, study, files[study], roles, resample=resample))
        except (InputError, OSError) as error:
            results[study] = CaseResult(study, "left out", _reason(error))
    if not checked:
        reasons = "; ".join(dict.fromkeys(r.reason for r in results.values())) or "no study at all"
        raise InputError(f"no study of <{out.name}> can be used: {reasons}")
    classes = make_classes({v for case in checked for v in case.values}, names)
    for case in checked:
        results[case.study] = _write(case, folder, classes, resample=resample)
    cases = tuple(results[study] for study in studies)
    prepared = Prepared(folder, cases, classes)
    if not prepared.n_taken:
        raise InputError(f"no study of <{out.name}> can be used: {cases[0].reason}")
    _finish(prepared, roles)
    return prepared


def _require(name: str, roles: Sequence[str]) -> None:
    if not re.fullmatch(r"Dataset\d{3}_[A-Za-z0-9_-]+", name):
        raise ConfigError(f"expected a --name such as Dataset501_Mine, got {name!r}")
    unknown = [role for role in roles if role not in CHANNEL_NAMES]
    if unknown or not roles or len(set(roles)) < len(roles):
        raise ConfigError(
            f"expected --roles, each once, of {', '.join(CHANNEL_NAMES)}, got "
            f"{', '.join(roles) or 'none'}"
        )


def _check(
    out: Path,
    folder: Path,
    study: str,
    labels: Sequence[Path],
    roles: Sequence[str],
    *,
    resample: bool,
) -> _Checked:
    """The study's files, looked into unless they are those of the last time."""
    channels = find_channels(out, study, roles)
    if len(labels) != 1:
        what = ", ".join(f"<{path.name}>" for path in labels) or "none"
        raise InputError(f"expected one label file for the study, got {what}")
    told = repr((channels.hashes, sha256_of(labels[0]), resample))
    digest = hashlib.sha256(told.encode()).hexdigest()
    known = _record(folder, study)
    if known.get("inputs") == digest:
        return _Checked(study, channels, labels[0], digest, tuple(known["values"]))
    values = label_on_grid(labels[0], channels.affine, channels.shape, resample=resample)
    return _Checked(study, channels, labels[0], digest, tuple(np.unique(values).tolist()))


def _write(case: _Checked, folder: Path, classes: Classes, *, resample: bool) -> CaseResult:
    mapping = sorted((value, classes.of_value.get(value)) for value in case.values)
    made = hashlib.sha256(repr((case.digest, mapping)).encode()).hexdigest()
    images = _image_files(folder, case.study, len(case.channels.files))
    label = _label_file(folder, case.study)
    known = _record(folder, case.study)
    if known.get("made") == made and all(path.is_file() for path in (*images, label)):
        return CaseResult(case.study, "taken")
    channels = case.channels
    try:
        values = label_on_grid(case.label, channels.affine, channels.shape, resample=resample)
        array = classes.apply(values)
        beside = folder / "cases"
        beside.mkdir(parents=True, exist_ok=True)
        unfinished = beside / f"partial-{label.name}"
        write_array(array[None], as_stored(channels.affine), unfinished, is_label=True)
        move(unfinished, label)
        for source, image in zip(channels.files, images, strict=True):
            _link(source, image, beside)
    except (InputError, OSError) as error:
        return CaseResult(case.study, "left out", _reason(error))
    record = {"inputs": case.digest, "made": made, "values": list(case.values)}
    write_file(_record_path(folder, case.study), to_json(record))
    return CaseResult(case.study, "taken")


def _link(source: Path, image: Path, beside: Path) -> None:
    """`image` is the file `source`, or a copy of it on another file system."""
    if not source.name.endswith(ENDING):
        raise InputError(f"expected images in {ENDING}, got <{source.name}>")
    fresh = beside / f"{image.name}.partial"
    remove(fresh)
    try:
        fresh.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, fresh)
    move(fresh, image)


def _finish(prepared: Prepared, roles: Sequence[str]) -> None:
    """Remove cases of studies that are no longer taken, then write the tables and dataset.json."""
    folder, classes = prepared.folder, prepared.classes
    taken = [case.study for case in prepared.cases if case.status == "taken"]
    _remove_stale(folder, taken, len(roles))
    table = tuple(
        {"study": c.study, "status": c.status, "reason": c.reason} for c in prepared.cases
    )
    write_file(folder / "studies.tsv", to_tsv(table))
    rows = tuple(
        {"value": value, "class": index, "name": classes.names[index]}
        for value, index in sorted(classes.of_value.items())
    )
    write_file(folder / "classes.tsv", to_tsv(rows))
    content = {
        "channel_names": {str(n): CHANNEL_NAMES[role] for n, role in enumerate(roles)},
        "labels": classes.labels(),
        "numTraining": len(taken),
        "file_ending": ENDING,
        "overwrite_image_reader_writer": READER,
    }
    write_file(folder / "dataset.json", (json.dumps(content, indent=2) + "\n").encode())


def _remove_stale(folder: Path, taken: Sequence[str], n_channels: int) -> None:
    """Of the files that this module wrote, those of no case."""
    ours = {path.stem for path in (folder / "cases").glob("*.json")}
    wanted = {f for study in taken for f in _image_files(folder, study, n_channels)}
    wanted |= {_label_file(folder, study) for study in taken}
    for path in (folder / "imagesTr").glob(f"*_*{ENDING}"):
        if path not in wanted and path.name.rpartition("_")[0] in ours:
            remove(path)
    for path in (folder / "labelsTr").glob(f"*{ENDING}"):
        if path not in wanted and path.name[: -len(ENDING)] in ours:
            remove(path)
    for study in ours - set(taken):
        remove(_record_path(folder, study))


def _image_files(folder: Path, study: str, n: int) -> tuple[Path, ...]:
    return tuple(folder / "imagesTr" / f"{study}_{index:04d}{ENDING}" for index in range(n))


def _label_file(folder: Path, study: str) -> Path:
    return folder / "labelsTr" / f"{study}{ENDING}"


def _record_path(folder: Path, study: str) -> Path:
    return folder / "cases" / f"{study}.json"


def _record(folder: Path, study: str) -> Mapping[str, Any]:
    try:
        content: Mapping[str, Any] = from_json(_record_path(folder, study).read_bytes())
        return content if {"inputs", "made", "values"} <= set(content) else {}
    except (OSError, ValueError, TypeError):
        return {}


def _reason(error: Exception) -> str:
    """One line without a folder's path."""
    if isinstance(error, OSError):
        return f"a file could not be read or written: {error.strerror}"
    return " ".join(str(error).split())
