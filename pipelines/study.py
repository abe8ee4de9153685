"""What travels between stages: a study, its index of source series, and what each stage gave.

All of it is frozen: a stage gets a `Study` and returns outputs; `Study.with_outputs` makes the next
one. Records (headers only) are made by discovery and can be written as JSON; outputs hold voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from radloom.errors import InputError
from radloom.transforms.nifti import read_nifti_header
from radloom.voxels import Voxels

if TYPE_CHECKING:  # discovery carries records, and must not wait for torch and MONAI
    from radloom.pipelines.deidentify.keys import StudyPseudonyms
    from radloom.pipelines.receipts.receipt import Check
    from radloom.shapes import Volume
    from radloom.transforms.spatial import Transform

__all__ = [
    "Data",
    "Deferred",
    "Kind",
    "Output",
    "SeriesRecord",
    "SeriesStatus",
    "Study",
    "StudyRecord",
    "Table",
]

Kind: TypeAlias = Literal["volume", "transform", "label", "table", "dicom", "report"]
"""The kinds of the manifest."""

SeriesStatus: TypeAlias = Literal["accepted", "split", "rejected"]

Table: TypeAlias = tuple[Mapping[str, Any], ...]
"""Rows, each with the same columns in the same order."""

Data: TypeAlias = "Volume | Transform | Table | bytes"
"""volume, label: a (C, I, J, K) MetaTensor; transform: a Transform; table: rows; report: PNG."""


@dataclass(frozen=True)
class SeriesRecord:
    """One volume that a series holds, or one refusal, as known from headers alone."""

    series_uid: str
    """SeriesInstanceUID (0020,000E); for files without DICOM a UID made from the relative path."""
    modality: str
    """DICOM code (0008,0060): MR, CT, PT, ...; guessed from names for NIfTI, NRRD, MHA."""
    description: str
    """SeriesDescription (0008,103E), or the file's name."""
    status: SeriesStatus
    """accepted: one volume; split: one of several volumes of one series; rejected: none."""
    reason: str = ""
    """A `radloom.errors.ReasonCode` value, or empty."""
    detail: str = ""
    """One sentence for people: expected, got, where, repair. No identifiers."""
    role: str = ""
    """t1, t2, flair, pd, ct, pet, ...; empty where no stage takes the volume."""
    role_rule: str = ""
    """Which rule chose the role, for `radloom inspect`."""
    runner_up_for: str = ""
    """The role that it takes if the volumes chosen before it cannot be read."""
    runner_up_place: int = 0
    """Its place among the runners-up for that role, from 1."""
    shape: tuple[int, int, int] = (0, 0, 0)
    """(I, J, K); zeros where unknown."""
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Millimetres along I, J, K."""
    files: tuple[str, ...] = ()
    """Source files, relative to the study root, in slice order where one is known."""
    units: str = ""
    """Units of the volume, one of `radloom.shapes.UNITS`; empty where they are not known yet."""
    reader: str = ""
    """highdicom, straightening, dcm2niix, nifti or itk: what will build the volume."""
    entities: Mapping[str, str] = field(default_factory=dict)
    """BIDS parts of the output's name: suffix, datatype, and run, acq, ... where needed."""
    headers: Mapping[str, Any] = field(default_factory=dict)
    """Acquisition facts for the JSON sidecar (BIDS names: RepetitionTime in s, ...); no patient."""

    @property
    def n_files(self) -> int:
        """How many source files the record covers."""
        return len(self.files)


@dataclass(frozen=True)
class StudyRecord:
    """One study as discovered: labels for paths, and its series."""

    subject: str
    """BIDS subject label, letters and digits only, never a patient identifier."""
    session: str
    """BIDS session label, letters and digits only."""
    study_uid: str
    """StudyInstanceUID (0020,000D); for files without DICOM a UID made from the folder."""
    root: Path
    """The folder that `SeriesRecord.files` are relative to."""
    series: tuple[SeriesRecord, ...]
    salt: str = ""
    """For a study under pseudonyms: what goes into every digest of a path, and is never written;
    a run then writes nothing that it read from a header without cleaning it. Empty for others."""
    pseudonyms: StudyPseudonyms | None = field(default=None, repr=False)
    """For a study under pseudonyms: what its UIDs and dates become, for DICOM objects; never
    written."""

    @property
    def key(self) -> str:
        """``sub-<subject>_ses-<session>``: the study's name in tables, logs and file names."""
        return f"sub-{self.subject}_ses-{self.session}"


@dataclass(frozen=True)
class Deferred:
    """Data that lies in a file: its stage was not run again, or memory is short."""

    path: Path
    read: Callable[[Path], Data]
    series_uid: str = ""
    """Of a volume or label, where the file is not at its place yet."""
    stays: bool = True
    """Whether it stays in memory once it is read; otherwise each who asks has it read anew."""


@dataclass(frozen=True)
class Output:
    """One thing that a stage gives."""

    kind: Kind
    role: str
    """The role it belongs to; for a transform that of its moving volume."""
    name: str
    """What it is: ingested, denoised, registered, moving_from_fixed, <model> (label), volumes."""
    source: Data | Deferred | Voxels
    """The data; in a file still; or a volume as NumPy, which becomes one when somebody asks."""
    space: str = ""
    """The role whose grid it lies on; empty: its own. For a transform that of its fixed volume."""
    entities: Mapping[str, str] = field(default_factory=dict)
    """BIDS parts that replace those which follow from role, name and space."""
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    """What the JSON file beside it says beyond the common fields."""
    label_names: Mapping[int, str] = field(default_factory=dict)
    """For labels: value -> structure."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path relative to OUT -> sha256, once written."""

    @property
    def data(self) -> Data:
        """The data; read from its file first where it was deferred.

        A volume without a role is read each time: no stage asks again, and one picture of a long
        time series shall not keep it in memory.
        """
        if isinstance(self.source, Deferred):
            found = self.source.read(self.source.path)
            if not self.source.stays or (self.kind == "volume" and not self.role):
                return found
            object.__setattr__(self, "source", found)
        elif isinstance(self.source, Voxels):
            object.__setattr__(self, "source", self.source.volume())
        return cast("Data", self.source)

    @property
    def n_voxels(self) -> int:
        """Of a volume or label, all channels together; of one in a file by its header alone."""
        if isinstance(self.source, Deferred):
            return prod(read_nifti_header(self.source.path).shape)
        if isinstance(self.source, Voxels):
            return self.source.array.size
        return int(self.volume.numel())

    @property
    def unread_bytes(self) -> int:
        """Of memory that a volume will take which lies in a file still."""
        return 4 * self.n_voxels if isinstance(self.source, Deferred) else 0

    @property
    def held_bytes(self) -> int:
        """Of memory that its voxels or its displacements take now; 0 where they lie in a file."""
        source = self.source
        if self.kind == "transform" and not isinstance(source, Deferred):
            field = self.transform.displacement_mm
            return 0 if field is None else field.nbytes
        if self.kind not in ("volume", "label") or isinstance(source, Deferred):
            return 0
        if isinstance(source, Voxels):
            return source.array.nbytes
        return int(self.volume.nbytes)

    def let_go(self, out: Path, read: Callable[[Path], Data]) -> None:
        """Leaves voxels and displacements to their file below `out`, from where each asks anew.

        Nothing else changes: what a read gives is what was in memory.
        """
        if self.files and (self.held_bytes or isinstance(self.source, Deferred)):
            path = out / next(iter(self.files))
            object.__setattr__(self, "source", Deferred(path, read, stays=False))

    @property
    def volume(self) -> Volume:
        """The data of a volume or label."""
        if self.kind not in ("volume", "label"):
            raise InputError(f"expected a volume or label, got a {self.kind}")
        return cast("Volume", self.data)

    @property
    def transform(self) -> Transform:
        """The data of a transform."""
        if self.kind != "transform":
            raise InputError(f"expected a transform, got a {self.kind}")
        return cast("Transform", self.data)

    @property
    def table(self) -> Table:
        """The data of a table."""
        if self.kind != "table":
            raise InputError(f"expected a table, got a {self.kind}")
        return cast("Table", self.data)


@dataclass(frozen=True)
class Study:
    """A study on its way through the chain."""

    record: StudyRecord
    outputs: Mapping[str, tuple[Output, ...]] = field(default_factory=dict)
    """Stage name -> what it gave, in the order in which stages ran."""
    checks: Mapping[str, tuple[Check, ...]] = field(default_factory=dict)
    """Stage name -> what it checked."""

    def with_outputs(
        self, stage: str, outputs: tuple[Output, ...], checks: tuple[Check, ...] = ()
    ) -> Study:
        """The study after `stage`."""
        return replace(
            self,
            outputs=MappingProxyType({**self.outputs, stage: outputs}),
            checks=MappingProxyType({**self.checks, stage: checks}),
        )

    def find(
        self,
        *,
        kind: Kind | None = None,
        role: str | None = None,
        name: str | None = None,
        stage: str | None = None,
    ) -> tuple[Output, ...]:
        """Every output that matches all that is given, oldest first."""
        return tuple(
            output
            for given_by, outputs in self.outputs.items()
            for output in outputs
            if (kind is None or output.kind == kind)
            and (role is None or output.role == role)
            and (name is None or output.name == name)
            and (stage is None or given_by == stage)
        )

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that have a volume on its own grid, in the order of ingestion."""
        own = (o.role for o in self.find(kind="volume") if not o.space and o.role)
        return tuple(dict.fromkeys(own))

    def latest(self, role: str) -> Output:
        """The newest volume of `role` on its own grid: denoised where a stage did that.

        Raises:
            InputError: the study has none.
        """
        own = [o for o in self.find(kind="volume", role=role) if not o.space]
        if not own:
            raise InputError(f"study {self.record.key}: expected a volume of role {role!r}")
        return own[-1]
