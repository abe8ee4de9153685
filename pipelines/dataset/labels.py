"""Where a study's label file lies, and its values on the grid of the study's image."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from radloom.errors import ConfigError, InputError
from radloom.geometry import Affine, same_grid

__all__ = ["ENDINGS", "find_labels", "label_on_grid"]

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")
"""Of label files."""

_TOLERANCE_VOX = 1e-2
"""How far a turned grid may lie off the image's and still be the same."""


def find_labels(where: str, studies: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Study -> the files that may be its labels; one is right, none or several are not.

    Args:
        where: a pattern with ``{study}``, or ``{subject}`` and ``{session}``, and ``*`` for the
            rest; or a folder, in which a study's file has a name that begins with the study's key;
            or a table (.tsv) of the columns ``study`` and ``label``, paths relative to it.
        studies: keys, ``sub-X_ses-Y``.

    Raises:
        ConfigError: none of these.
    """
    path = Path(where)
    if "{" in where:
        return {study: _matching(where, study) for study in studies}
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(ENDINGS))
        return {study: tuple(f for f in files if _is_named(f, study)) for study in studies}
    if path.suffix == ".tsv" and path.is_file():
        return _listed(path, studies)
    raise ConfigError(
        f"expected --labels to be a pattern with {{study}}, a folder, or a table (.tsv) of study "
        f"and label, got <{where}>"
    )


def label_on_grid(
    path: Path, affine: Affine, shape: tuple[int, int, int], *, resample: bool
) -> npt.NDArray[np.int32]:
    """(I, J, K) values of a label file on the grid given.

    A file whose voxels are those of the grid in another order is turned, which changes no value.

    Args:
        path: .nii, .nii.gz, .nrrd or .mha.
        affine: of the grid, (4, 4) voxel -> RAS+ mm.
        shape: (I, J, K) of the grid.
        resample: whether a label on another grid is brought to it, by its nearest voxel.

    Raises:
        InputError: fractions, several volumes, or another grid.
    """
    from radloom.pipelines.ingest import read_image
    from radloom.shapes import affine_of, array_of, make_label, spatial_shape
    from radloom.transforms import spatial

    image = read_image(path)
    if image.shape[0] != 1:
        raise InputError(f"the label has {image.shape[0]} volumes: expected one")
    label = make_label(array_of(image)[0], affine_of(image))
    own = affine_of(label), spatial_shape(label)
    if not same_grid(*own, affine, shape):
        if not (resample or _is_turned(*own, affine, shape)):
            raise InputError(
                f"the label lies on another grid than the image: {own[1]} voxels, the image has "
                f"{shape}; if it was drawn on another series of this patient in the same position, "
                "--resample takes the nearest voxel"
            )
        label = spatial.resample(label, None, affine, shape)
    values: npt.NDArray[np.int32] = array_of(label)[0].astype(np.int32)
    return values


def _matching(pattern: str, study: str) -> tuple[Path, ...]:
    subject, _, session = study.partition("_")
    named = {
        "study": study,
        "subject": subject.removeprefix("sub-"),
        "session": session.removeprefix("ses-"),
    }
    try:
        path = Path(pattern.format(**named))
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"expected {{study}}, {{subject}} and {{session}} alone in --labels, got <{pattern}>"
        ) from error
    anchor = Path(path.anchor)
    relative = path.relative_to(anchor) if path.anchor else path
    return tuple(sorted(file for file in anchor.glob(str(relative)) if file.is_file()))


def _is_named(file: Path, study: str) -> bool:
    """Whether the file's name begins with the key, and the key ends there."""
    rest = file.name[len(study) :]
    return file.name.startswith(study) and not rest[:1].isalnum()


def _listed(path: Path, studies: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows: list[Mapping[str, str]] = list(csv.DictReader(stream, delimiter="\t"))
    if rows and not {"study", "label"} <= set(rows[0]):
        raise ConfigError(f"<{path.name}>: expected the columns study and label, tab-separated")
    given: dict[str, list[Path]] = {study: [] for study in studies}
    for row in rows:
        file = path.parent / row["label"]
        if row["study"] in given and file.is_file():
            given[row["study"]].append(file)
    return {study: tuple(files) for study, files in given.items()}


def _is_turned(
    affine: Affine, shape: Sequence[int], goal: Affine, goal_shape: Sequence[int]
) -> bool:
    """Whether two grids have the same voxel centres, their axes swapped or flipped.

    >>> flipped = np.array([[-1.0, 0, 0, 4], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    >>> _is_turned(flipped, (5, 2, 3), np.eye(4), (5, 3, 2))
    True
    """
    index = np.linalg.inv(goal) @ affine
    turn = np.rint(index[:3, :3])
    counts = (np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all()
    if not counts or tuple(np.abs(turn) @ np.asarray(shape)) != tuple(goal_shape):
        return False
    ends = np.array([[0, 0, 0], [n - 1 for n in shape]], dtype=float)
    mapped = ends @ index[:3, :3].T + index[:3, 3]
    exact = np.sort(mapped, axis=0), np.array([[0, 0, 0], [n - 1 for n in goal_shape]])
    largest = max(*shape, 1)
    off = np.abs(index[:3, :3] - turn).max() * largest
    return bool(off < _TOLERANCE_VOX and np.abs(exact[0] - exact[1]).max() < _TOLERANCE_VOX)
