"""Receipts: what a stage did to a study. The only truth about a run; tables and reports follow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from radloom.pipelines.receipts.files import require_inside, write_file
from radloom.pipelines.receipts.plain import from_json, plain, to_json
from radloom.pipelines.study import Kind, Output

__all__ = [
    "STAGES_FOLDER",
    "Check",
    "OutputRecord",
    "Receipt",
    "Status",
    "read_receipt",
    "read_receipts",
    "record_of",
    "write_receipt",
]

STAGES_FOLDER = "stages"
"""Below OUT: ``stages/<study key>/<stage>/stage.json``."""

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class Check:
    """A named number with the range it is expected in. Out of range: the study is flagged."""

    name: str
    """Lower-case words with underscores, with the role: ``t2_folded_voxels``."""
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    meaning: str = ""
    """One sentence for the report: what it tells, and what to look at when it is out of range."""

    @property
    def flagged(self) -> bool:
        """Whether the value is outside its range, or not a number."""
        value = self.value
        if value != value:
            return True
        return (self.low is not None and value < self.low) or (
            self.high is not None and value > self.high
        )


@dataclass(frozen=True)
class OutputRecord:
    """One output as the receipt tells of it: everything but the data."""

    kind: Kind
    role: str
    name: str
    space: str = ""
    entities: Mapping[str, str] = field(default_factory=dict)
    label_names: Mapping[int, str] = field(default_factory=dict)
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    series_uid: str = ""
    """SeriesInstanceUID (0020,000E) of a volume's or label's source, where known."""
    path: str = ""
    """The file that holds the data, relative to OUT; the others of `files` lie beside it."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path relative to OUT -> sha256."""
    stats: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Path -> size in bytes, time of last change in ns: as they are, no hash is computed again."""


@dataclass(frozen=True)
class Receipt:
    """What a stage did to a study."""

    study: str
    """The study's key."""
    stage: str
    status: Status
    reason: str = ""
    """For people: why it was skipped or failed."""
    trace: tuple[str, ...] = ()
    """Where in the code it failed, innermost last; no values, so that it can be sent around."""
    position: int = 0
    """How many stages the study had gone through before."""
    fingerprint: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[OutputRecord, ...] = ()
    checks: tuple[Check, ...] = ()
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    """Of the process (resident set) while the stage ran."""
    peak_device_bytes: int = 0
    """Allocated on the GPU; 0 on a CPU."""
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that the stage wrote, relative to OUT."""
        return tuple(path for output in self.outputs for path in output.files)

    @property
    def flags(self) -> tuple[str, ...]:
        """The names of the checks that are out of range."""
        return tuple(check.name for check in self.checks if check.flagged)


def write_receipt(path: Path, receipt: Receipt) -> None:
    """The receipt as JSON at `path`, whole or not at all."""
    content = plain(receipt)
    for given, check in zip(content["checks"], receipt.checks, strict=True):
        given["flagged"] = check.flagged
    write_file(path, to_json(content))


def read_receipt(path: Path) -> Receipt | None:
    """The receipt at `path`; None where there is none, or none that can be read and trusted."""
    try:
        return _receipt(from_json(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_receipts(out: Path, study: str = "*") -> Iterator[Receipt]:
    """Every readable receipt below `out`: by study, and within one in the order of its stages.

    `study` is the key of one study; left out, all are read.
    """
    stages = out / STAGES_FOLDER
    for folder in sorted(stages.glob("*/")) if study == "*" else (stages / study,):
        found = (read_receipt(path) for path in folder.glob("*/stage.json"))
        yield from sorted((r for r in found if r), key=lambda r: (r.position, r.stage))


def _receipt(content: Mapping[str, Any]) -> Receipt:
    outputs = tuple(_output_record(item) for item in content["outputs"])
    checks = tuple(_check(item) for item in content["checks"])
    rest = {**content, "outputs": outputs, "checks": checks, "trace": tuple(content["trace"])}
    return Receipt(**rest)


def _output_record(content: Mapping[str, Any]) -> OutputRecord:
    names = {int(value): str(name) for value, name in content["label_names"].items()}
    stats = {path: (int(size), int(time)) for path, (size, time) in content["stats"].items()}
    main = content["path"]
    files = dict(sorted(content["files"].items(), key=lambda item: (item[0] != main, item[0])))
    for path in (main, *files):
        require_inside(path)
    return OutputRecord(**{**content, "label_names": names, "stats": stats, "files": files})


def _check(content: Mapping[str, Any]) -> Check:
    number = {k: v if v is None else float(v) for k, v in content.items() if k in _NUMBERS}
    return Check(
        name=content["name"],
        value=math.nan if number["value"] is None else number["value"],
        low=number["low"],
        high=number["high"],
        unit=content["unit"],
        meaning=content["meaning"],
    )


_NUMBERS = ("value", "low", "high")


def record_of(
    output: Output, *, series_uid: str, stats: Mapping[str, tuple[int, int]]
) -> OutputRecord:
    """What a receipt says of an output that has been written."""
    return OutputRecord(
        kind=output.kind,
        role=output.role,
        name=output.name,
        space=output.space,
        entities=dict(output.entities),
        label_names=dict(output.label_names),
        sidecar=dict(output.sidecar),
        series_uid=series_uid,
        path=next(iter(output.files)),
        files=dict(output.files),
        stats=dict(stats),
    )
