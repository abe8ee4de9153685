"""Segment a study: labels on a volume's own grid, and the volume of each structure in mL.

Inputs: one volume for each channel of the model: of one role on its own grid, or of several roles
registered to the first one's grid.
Outputs: a label, and a table ``volumes`` with ``label, structure, volume_ml, n_voxels``.

The model is a folder that the user names (nnU-Net v2 results, MONAI bundle), else Radloom's own
bundle. Channels find their roles by name (T1, FLAIR, CT, ...) unless `SegmentStage.roles` says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from radloom.errors import GridMismatch, InputError, MissingWeights
from radloom.geometry import spacing_of, voxel_volume_ml
from radloom.models.bundles import find_bundle
from radloom.models.segmentation import (
    ModelFolder,
    NnunetOptions,
    Prediction,
    SegmentationModel,
    TakeProbabilities,
    find_model,
)
from radloom.models.segmentation.classes import mask_of
from radloom.models.segmentation.expected import expected_ml
from radloom.models.segmentation.nnunet import FAST_STEP
from radloom.pipelines.stage import Check, Context, StageResult
from radloom.pipelines.study import Output, Study, Table
from radloom.shapes import (
    LabelVolume,
    Volume,
    affine_of,
    array_of,
    like,
    make_label,
    require_same_grid,
    spatial_shape,
)

__all__ = [
    "SegmentStage",
    "checks_of",
    "class_names",
    "find_mask",
    "model_name",
    "predict",
    "segment",
    "volumes_table",
]

DEFAULT_BUNDLE = "brain_mr_segmentation"

VERSION = 4
"""Goes up when the same model would give other labels."""

CHANNEL_ROLES: Mapping[str, str] = {
    "t1": "t1", "t1w": "t1", "t1n": "t1", "mprage": "t1",
    "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce", "t1contrast": "t1ce",
    "t2": "t2", "t2w": "t2", "flair": "flair", "t2flair": "flair", "t2f": "flair",
    "pd": "pd", "pdw": "pd", "ct": "ct", "pet": "pet",
}  # fmt: skip
"""A channel's name in lower case, letters and digits only -> the role that holds it."""

ANY_MR = ("t1", "t1ce", "t2", "flair", "pd")
"""What a channel that is named ``MR`` takes: of those that the study has, the fixed one."""


def segment(
    volumes: Volume | Sequence[Volume],
    model: Path | None = None,
    *,
    bundle: str = DEFAULT_BUNDLE,
    options: NnunetOptions | None = None,
    device: torch.device | None = None,
    n_threads: int = 1,
    trust: bool = False,
    fast: bool = False,
) -> tuple[LabelVolume, dict[int, str]]:
    """Labels (1, I, J, K) on the grid of `volumes`, and value -> structure; see `predict`."""
    found, names = predict(
        volumes,
        model,
        bundle=bundle,
        options=options,
        device=device,
        n_threads=n_threads,
        trust=trust,
        fast=fast,
    )
    return found.label, names


def predict(
    volumes: Volume | Sequence[Volume],
    model: Path | None = None,
    *,
    bundle: str = DEFAULT_BUNDLE,
    options: NnunetOptions | None = None,
    device: torch.device | None = None,
    n_threads: int = 1,
    trust: bool = False,
    fast: bool = False,
    memory: int | None = None,
    probabilities: TakeProbabilities | None = None,
) -> tuple[Prediction, dict[int, str]]:
    """Labels (1, I, J, K) on the grid of `volumes` with their doubt, and value -> structure.

    Args:
        volumes: one volume, or one a channel of the model in its order, all on one grid.
        model: an nnU-Net v2 results folder or a MONAI bundle; None: Radloom's own `bundle`.
        bundle: the name of one of Radloom's bundles.
        options: folds, checkpoint, mirroring, step size of an nnU-Net model.
        device: where the network runs; None: the CPU. On a GPU whose memory runs out the CPU does
            the work.
        n_threads: of the CPU; the labels do not depend on it.
        trust: whether the user trusts code in an outside bundle or checkpoint.
        fast: for an nnU-Net model on the CPU: no mirroring, an eighth of the time, and windows that
            overlap by a quarter, not a half.
        memory: bytes that may be taken; None: what it estimates. The labels do not depend on it.
        probabilities: takes those of all classes, box by box; nnU-Net models only.

    Raises:
        MissingWeights: no model was named, and Radloom's own has no weights.
        NotTrusted: the model can run code, and `trust` is False.
        ConfigError: the folder holds no model, or one that does not work here.
        InputError: the number of volumes is not that of the model's channels.
        GridMismatch: the volumes do not share a grid.
        OutOfMemory: `memory`, or what the machine has, does not do.
    """
    device = device or torch.device("cpu")
    channels = [volumes] if isinstance(volumes, torch.Tensor) else list(volumes)
    options = _options(options or NnunetOptions(), device, fast=fast)
    folder, found = _find(model, bundle, options)
    key = (folder, options, found.sha256())
    asked = partial(
        _predict, channels, n_threads=n_threads, memory=memory, probabilities=probabilities
    )
    try:
        prediction = asked(_loaded(*key, str(device), trust))
    except torch.OutOfMemoryError:
        _loaded.cache_clear()
        torch.cuda.empty_cache()
        prediction = asked(_loaded(*key, "cpu", trust))
    return prediction, dict(found.label_names)


def class_names(model: Path | None = None) -> tuple[str, ...]:
    """What each channel of a model's probabilities stands for; None: Radloom's own model.

    Raises:
        MissingWeights: no model was named, and this release does not hold Radloom's own.
        ConfigError: the folder holds no model.
        InputError: the model gives labels only.
    """
    return _find(model, DEFAULT_BUNDLE, NnunetOptions())[1].class_names


def _predict(volumes: Sequence[Volume], model: SegmentationModel, **kwargs: Any) -> Prediction:
    return model.predict(volumes, **kwargs)


def find_mask(study: Study, name: str) -> LabelVolume | None:
    """Where the newest labels of Radloom's own model show a part of the head; None: it has none.

    Args:
        study: after its segment stage.
        name: of `radloom.models.segmentation.classes.MASKS`: intracranial, skull, skin, eye, head.
    """
    own = study.find(kind="label", stage="segment", name=model_name(DEFAULT_BUNDLE))
    if not own:
        return None
    label = own[-1].volume
    mask = mask_of(array_of(label), name).astype(np.uint8)
    return make_label(mask, affine_of(label), series_uid=str(label.meta.get("series_uid", "")))


def model_name(name: str) -> str:
    """A model's name as `Output.name` takes it: lower-case letters and digits.

    >>> model_name("Dataset004_Hippocampus")
    'dataset004hippocampus'
    """
    return re.sub(r"[^a-z0-9]", "", name.lower()) or "model"


def volumes_table(
    label: LabelVolume, names: Mapping[int, str], doubt: Mapping[int, float] | None = None
) -> Table:
    """A row for each structure named or present: label, structure, volume_ml, n_voxels.

    The volume is the number of voxels times that of one voxel, in mL, to four digits. With `doubt`,
    a column ``entropy``: 0 certain, 1 not at all; empty where the model never gave the label.
    """
    doubt = doubt or {}
    values, counts = np.unique(array_of(label), return_counts=True)
    counted = {int(v): int(n) for v, n in zip(values, counts, strict=True) if v}
    voxel_ml = voxel_volume_ml(affine_of(label))
    return tuple(
        {
            "label": value,
            "structure": names.get(value, f"unnamed_{value}"),
            "volume_ml": round(counted.get(value, 0) * voxel_ml, 4),
            "n_voxels": counted.get(value, 0),
            **({"entropy": round(doubt[value], 4) if value in doubt else ""} if doubt else {}),
        }
        for value in sorted({*names, *counted})
    )


@dataclass(frozen=True)
class SegmentStage:
    """Labels and volumes of one study."""

    model: Path | None = None
    """An nnU-Net v2 results folder or a MONAI bundle; None: Radloom's own `bundle`."""
    bundle: str = DEFAULT_BUNDLE
    """The name of one of Radloom's bundles."""
    roles: tuple[str, ...] = ()
    """Model of several channels: the role of each, in order. Of one: roles to choose from, the
    first that the study has. Empty: by the channels' names, else the fixed volume."""
    folds: tuple[int, ...] = ()
    """Folds of an nnU-Net model; empty: all that are there."""
    mirroring: bool = True
    """Whether an nnU-Net model averages over mirrored windows, where it allows that."""
    fast: bool = False
    """On the CPU: no mirroring, an eighth of the time, and windows that overlap by a quarter."""
    missing: Literal["refuse", "zero"] = "refuse"
    """Where a model of several channels lacks one: skip the study, or fill it with zeros and flag
    the study. At least one channel must be there."""

    @property
    def name(self) -> str:
        """The stage's name."""
        return "segment"

    def fingerprint(self) -> str:
        """Hex digest over version, parameters and the model's files, wherever they lie."""
        try:
            model = self._find()[1].sha256()
        except MissingWeights:
            model = "no weights"
        parts = (VERSION, model, self.bundle, self.roles, self.folds, self.mirroring, self.fast)
        policy = "" if self.missing == "refuse" else self.missing
        return hashlib.sha256((repr(parts) + policy).encode()).hexdigest()

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        """Path -> hash of each channel's files."""
        try:
            channels = self._channels(study, self._find()[1])
        except (MissingWeights, _Absent):
            return {}
        return {path: sha for output in channels for path, sha in output.files.items()}

    def estimate_memory(self, study: Study) -> int:
        """Bytes at the peak: the scores of all classes in a slab of the model's grid."""
        return self._memory(study, "estimate_memory", lambda output: output.unread_bytes)

    def least_memory(self, study: Study) -> int:
        """Bytes that will do where memory is short: the channels read, the scores in strips."""
        return self._memory(study, "least_memory", _bytes_of)

    def _memory(self, study: Study, which: str, read: Callable[[Output], int]) -> int:
        try:
            model = self._find()[1]
            channels = self._channels(study, model)
            held = sum(map(read, channels))
            first = channels[0].volume
            bytes_of = getattr(model, which)
            return held + int(bytes_of(spatial_shape(first), spacing_of(affine_of(first)).tolist()))
        except (MissingWeights, _Absent):
            return 0

    def run(self, study: Study, context: Context) -> StageResult:
        """The label, the table of volumes and their checks; skipped where the model cannot work.

        Raises:
            NotTrusted: the model can run code, and `context.trust` is False.
            ConfigError: `model` holds no model, or one that does not work here.
        """
        try:
            _, model = self._find()
            digest = model.sha256()
            channels = self._channels(study, model)
        except (MissingWeights, _Absent) as error:
            return StageResult(status="skipped", reason=str(error))
        volumes, absent = self._volumes(channels, model)
        found, names = predict(
            volumes,
            self.model,
            bundle=self.bundle,
            options=self._options(),
            device=context.device,
            n_threads=context.n_threads,
            trust=context.trust,
            fast=self.fast,
            memory=None if context.memory is None else context.memory - _bytes_of(*channels),
        )
        label = found.label
        role, table = channels[0].role, volumes_table(label, names, found.doubt)
        sidecar = {
            "Model": model.name,
            "ModelSHA256": digest,
            "Channels": [output.role for output in channels],
            "Fast": self.fast,
            **({"ChannelsOfZeros": list(absent)} if absent else {}),
        }
        outputs = (
            Output(
                kind="label",
                role=role,
                name=model_name(model.name),
                source=label,
                sidecar=sidecar,
                label_names=names,
            ),
            Output(kind="table", role=role, name="volumes", source=table),
        )
        checks = checks_of(role, found, table, names, own=self.model is None)
        return StageResult(outputs, checks + ((_absent_check(role, absent),) if absent else ()))

    def _options(self) -> NnunetOptions:
        return NnunetOptions(folds=self.folds, mirroring=self.mirroring)

    def _find(self) -> tuple[Path, ModelFolder]:
        return _find(self.model, self.bundle, self._options())

    def _channels(self, study: Study, model: ModelFolder) -> tuple[Output, ...]:
        return _channels(study, model, self.roles, zeros=self.missing == "zero")

    def _volumes(
        self, channels: Sequence[Output], model: ModelFolder
    ) -> tuple[list[Volume], tuple[str, ...]]:
        """A volume for each channel of the model, zeros for an absent one; the roles of those."""
        names = model.channel_names
        if len(channels) == len(names):
            return [output.volume for output in channels], ()
        wanted = tuple(self.roles) or _roles_of(names, model.name)
        have = {output.role: output.volume for output in channels}
        first = channels[0].volume
        zeros = like(first, np.zeros(first.shape, np.float32))
        absent = tuple(role for role in wanted if role not in have)
        return [have.get(role, zeros) for role in wanted], absent


def _bytes_of(*channels: Output) -> int:
    """Of the volumes, in memory."""
    return sum(4 * output.n_voxels for output in channels)


class _Absent(Exception):
    """The study has not what the model needs; the message is for people."""


def _channels(
    study: Study, model: ModelFolder, roles: Sequence[str], *, zeros: bool = False
) -> tuple[Output, ...]:
    """One volume a channel of the model, all on one grid; with `zeros` those that there are.

    Raises:
        _Absent: the study lacks a role, or its volume was not registered.
        InputError: `roles` does not fit the model.
    """
    names = model.channel_names
    if len(names) == 1:
        return (study.latest(_one_role(study, names[0], roles)),)
    wanted = tuple(roles) or _roles_of(names, model.name)
    if len(wanted) != len(names):
        raise InputError(
            f"the model {model.name} has the channels {', '.join(names)}: expected `roles` with "
            f"{len(names)} entries in that order, got {len(wanted)}"
        )
    absent = [role for role in wanted if role not in study.roles]
    if absent and not (zeros and len(absent) < len(wanted)):
        raise _Absent(f"the model {model.name} needs {', '.join(wanted)}; absent: {absent[0]}")
    wanted = tuple(role for role in wanted if role not in absent)
    fixed = _fixed(study, wanted)
    return tuple(_on_grid_of(study, role, fixed, model.name) for role in wanted)


def _one_role(study: Study, channel: str, roles: Sequence[str]) -> str:
    named = CHANNEL_ROLES.get(model_name(channel))
    wanted = tuple(roles) or ((named,) if named else ())
    have = study.roles
    if not have:
        raise _Absent("the study has no volume with a role")
    if not wanted and model_name(channel) in ("mr", "mri"):
        have = tuple(role for role in have if role in ANY_MR)
        wanted = ANY_MR if not have else ()
    if not wanted:
        return _fixed(study, have)
    found = next((role for role in wanted if role in have), None)
    if found is None:
        raise _Absent(
            f"the model takes {' or '.join(wanted)}; the study has {', '.join(study.roles)}; set "
            "`roles` to use another"
        )
    return found


def _roles_of(names: Sequence[str], model: str) -> tuple[str, ...]:
    unknown = [name for name in names if model_name(name) not in CHANNEL_ROLES]
    if unknown:
        raise InputError(
            f"the model {model} has the channels {', '.join(names)}: no role goes by the name of "
            f"{unknown[0]!r}; give `roles`, one a channel"
        )
    return tuple(CHANNEL_ROLES[model_name(name)] for name in names)


def _fixed(study: Study, roles: Sequence[str]) -> str:
    """The role that the others were registered to; the first where nothing was registered."""
    spaces = [output.space for output in study.find(kind="volume", name="registered")]
    return next((space for space in spaces if space in roles), roles[0])


def _on_grid_of(study: Study, role: str, fixed: str, model: str) -> Output:
    own = study.latest(role)
    if role == fixed:
        return own
    moved = study.find(kind="volume", role=role, name="registered")
    found = [output for output in moved if output.space == fixed]
    if found:
        return found[-1]
    try:
        require_same_grid(own.volume, study.latest(fixed).volume)
    except GridMismatch:
        raise _Absent(
            f"the model {model} needs {role} registered to {fixed}, which it is not"
        ) from None
    return own


def checks_of(
    role: str, found: Prediction, table: Table, names: Mapping[int, str], *, own: bool
) -> tuple[Check, ...]:
    """What a result says of itself; of Radloom's `own` model doubt and volumes have a range."""
    return (
        *_checks(role, found.label, table, names),
        *_doubt_checks(role, found.doubt, names, own=own),
        *(_size_checks(role, table) if own else ()),
    )


def _checks(
    role: str, label: LabelVolume, table: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> tuple[Check, ...]:
    share = float((array_of(label) > 0).mean())
    found = sum(1 for row in table if row["n_voxels"])
    return (
        Check(
            f"{role}_labelled_share",
            round(share, 6),
            low=1e-6,
            high=0.9,
            meaning="Share of the voxels with a label. None, or nearly all: the model does not fit "
            "this image.",
        ),
        Check(
            f"{role}_structures_found",
            float(found),
            low=1.0,
            meaning=f"Structures with at least one voxel, of {len(names)} that the model knows.",
        ),
    )


def _doubt_checks(
    role: str, doubt: Mapping[int, float], names: Mapping[int, str], *, own: bool
) -> tuple[Check, ...]:
    """The structure that the model was least sure of; a range for Radloom's own model only."""
    if not doubt:
        return ()
    worst = max(sorted(doubt), key=lambda value: doubt[value])
    return (
        Check(
            f"{role}_doubt",
            round(doubt[worst], 4),
            high=0.5 if own else None,
            meaning="Mean entropy of the probabilities within the structure that the model is "
            f"least sure of ({names.get(worst, worst)}): 0 certain, 1 all classes alike.",
        ),
    )


def _size_checks(role: str, table: Sequence[Mapping[str, Any]]) -> tuple[Check, ...]:
    """The volume of each structure of which a range is known."""
    found = ((row, expected_ml(str(row["structure"]))) for row in table)
    return tuple(
        Check(
            f"{role}_{re.sub('[^a-z0-9]+', '_', str(row['structure']).lower())}_ml",
            float(row["volume_ml"]),
            low=limits[0],
            high=limits[1],
            unit="mL",
            meaning="Volume of the structure; the limits are wide, and for adults.",
        )
        for row, limits in found
        if limits is not None
    )


def _absent_check(role: str, absent: Sequence[str]) -> Check:
    return Check(
        f"{role}_channels_of_zeros",
        float(len(absent)),
        high=0.0,
        meaning=f"The study has no {' and no '.join(absent)}; the model was given zeros instead, "
        "which it was not trained for.",
    )


def _options(options: NnunetOptions, device: torch.device, *, fast: bool) -> NnunetOptions:
    if not (fast and device.type == "cpu"):
        return options
    return replace(options, mirroring=False, step_size=max(options.step_size, FAST_STEP))


def _find(model: Path | None, bundle: str, options: NnunetOptions) -> tuple[Path, ModelFolder]:
    folder = model if model is not None else find_bundle(bundle)
    return folder, find_model(folder, options)


@lru_cache(maxsize=1)
def _loaded(
    folder: Path,
    options: NnunetOptions,
    digest: str,  # noqa: ARG001 (keys the cache: other files, another model)
    device: str,
    trust: bool,  # noqa: FBT001 (lru_cache keys on positions)
) -> SegmentationModel:
    """The model, loaded once in a worker's life."""
    return find_model(folder, options).load(device=torch.device(device), trust=trust)
