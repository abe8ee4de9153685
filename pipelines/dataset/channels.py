"""The volumes of a study that become the channels of a case: files of a run, on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from radloom.errors import InputError
from radloom.geometry import Affine, same_grid
from radloom.pipelines.receipts.files import inside
from radloom.pipelines.receipts.receipt import OutputRecord, read_receipts
from radloom.transforms.nifti import read_nifti_header

__all__ = ["CHANNEL_NAMES", "Channels", "find_channels"]

CHANNEL_NAMES = {
    "t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR", "pd": "PD", "ct": "CT", "pet": "PET",
}  # fmt: skip
"""Role -> what nnU-Net calls the channel: ``CT`` alone is normalised by the data set's numbers; and
`SegmentStage` finds the role of a channel by this name again."""


@dataclass(frozen=True)
class Channels:
    """The images of one study, the first of which gives the grid."""

    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    """sha256 of each file, as the receipts say."""
    affine: Affine
    shape: tuple[int, int, int]


def find_channels(out: Path, study: str, roles: Sequence[str]) -> Channels:
    """What a run left of `study`: the newest volume of the first role, the others on its grid.

    A role counts as on its grid where it was registered to it, or was acquired on it.

    Args:
        out: the OUT of ``radloom run`` or ``radloom convert``.
        study: its key, ``sub-X_ses-Y``.
        roles: one a channel, in order.

    Raises:
        InputError: a role is absent or on another grid; the message is for people.
    """
    volumes = [
        output
        for receipt in read_receipts(out, study)
        if receipt.status == "done"
        for output in receipt.outputs
        if output.kind == "volume" and output.role in roles
    ]
    first = _own(volumes, roles[0])
    affine, shape = _grid(out, first)
    chosen = [first]
    for role in roles[1:]:
        moved = [v for v in volumes if (v.role, v.space, v.name) == (role, roles[0], "registered")]
        found = moved[-1] if moved else _own(volumes, role)
        if not same_grid(affine, shape, *_grid(out, found)):
            raise InputError(
                f"{role} does not lie on the grid of {roles[0]}: register it first (radloom run)"
            )
        chosen.append(found)
    return Channels(
        tuple(inside(out, output.path) for output in chosen),
        tuple(output.files[output.path] for output in chosen),
        affine,
        shape,
    )


def _own(volumes: Sequence[OutputRecord], role: str) -> OutputRecord:
    own = [volume for volume in volumes if volume.role == role and not volume.space]
    if not own:
        have = ", ".join(sorted({volume.role for volume in volumes})) or "none of the roles asked"
        raise InputError(f"no {role}; the study has {have}")
    return own[-1]


def _grid(out: Path, output: OutputRecord) -> tuple[Affine, tuple[int, int, int]]:
    path = inside(out, output.path)
    if not path.is_file():
        raise InputError(f"the {output.role} is named by a receipt, but its file is absent")
    header = read_nifti_header(path)
    if len(header.shape) != 3:
        raise InputError(f"the {output.role} is not one volume: shape {header.shape}")
    i, j, k = header.shape
    return header.affine, (i, j, k)
