"""One pass over a folder: what each file is, from its name and first bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from radloom.errors import ReasonCode
from radloom.pipelines.ingest.headers import is_dicom
from radloom.transforms.itk_images import ITK_SUFFIXES

__all__ = ["Found", "image_stem", "scan_folder"]

FileKind: TypeAlias = Literal["dicom", "nifti", "itk", "bad"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom", ".dic")
"""Endings that promise DICOM; most scanners write none at all."""

OTHER_NAMES = ("dicomdir", "readme", "license", "licence", "changes", "thumbs")
"""Stems of files that lie beside images and are none."""

HEAD_BYTES = 512
"""Enough to know DICOM, with its preamble or without."""


@dataclass(frozen=True)
class Found:
    """A file that is an image, or claims to be one."""

    path: str
    """Relative to the folder searched, with forward slashes."""
    kind: FileKind
    code: ReasonCode | None = None
    """Why it can't be used, for kind ``bad``."""
    detail: str = ""


def scan_folder(folder: Path) -> Iterator[Found]:
    """Every image below `folder`, in the order of names; other files are passed over in silence.

    Links to folders are not followed, so that a link to a parent can't loop; links to files are.
    A folder that can't be opened is reported as one unusable item.
    """
    pending = [""]
    while pending:
        relative = pending.pop()
        try:
            with os.scandir(folder / relative) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            reason = type(error).__name__
            yield Found(
                relative, "bad", ReasonCode.UNREADABLE, f"the folder cannot be opened ({reason})"
            )
            continue
        inside: list[str] = []
        for entry in ordered:
            path = f"{relative}/{entry.name}" if relative else entry.name
            if entry.is_dir(follow_symlinks=False):
                inside.append(path)
            elif not entry.is_dir():
                found = _classify(folder, path, entry.is_symlink())
                if found is not None:
                    yield found
        pending.extend(reversed(inside))


def image_stem(name: str) -> str:
    """A file's name without the endings of image formats.

    >>> image_stem("study1_T1W.nii.gz"), image_stem("1.2.840.dcm")
    ('study1_T1W', '1.2.840')
    """
    for suffix in (*NIFTI_SUFFIXES[::-1], *ITK_SUFFIXES, *DICOM_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _classify(folder: Path, path: str, is_link: bool) -> Found | None:  # noqa: FBT001
    name = path.rpartition("/")[2].lower()
    if name.startswith(".") or name.rpartition(".")[0].startswith(OTHER_NAMES):
        return None
    claims = name.endswith((*NIFTI_SUFFIXES, *ITK_SUFFIXES, *DICOM_SUFFIXES))
    may_be_dicom = "." not in name or not name.rpartition(".")[2].isalpha()
    try:
        with (folder / path).open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        if is_link and isinstance(error, FileNotFoundError) and not claims:
            return None
        if claims or may_be_dicom:
            return Found(
                path,
                "bad",
                ReasonCode.UNREADABLE,
                f"the file cannot be opened ({type(error).__name__})",
            )
        return None
    if not head:
        if claims or may_be_dicom:
            return Found(path, "bad", ReasonCode.TRUNCATED, "the file is empty; copy it anew")
        return None
    if name.endswith(NIFTI_SUFFIXES):
        return Found(path, "nifti")
    if name.endswith(ITK_SUFFIXES):
        return Found(path, "itk")
    if is_dicom(head):
        return Found(path, "dicom")
    if claims:
        return Found(path, "bad", ReasonCode.UNREADABLE, "named as DICOM, but it is something else")
    return None
