"""How one file of a run came to be, told by receipts alone: no voxels, nothing that is imported.

The story goes backwards: the stage that wrote the file, the stages whose outputs it took (found by
path and hash, so that it stays true when OUT is moved), down to the series of the source. It holds
no text from headers but UIDs; those of a de-identified study are left out too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radloom.errors import ConfigError
from radloom.pipelines.receipts.files import sha256_of
from radloom.pipelines.receipts.plain import from_json, plain
from radloom.pipelines.receipts.receipt import (
    STAGES_FOLDER,
    Check,
    OutputRecord,
    Receipt,
    read_receipts,
)
from radloom.pipelines.receipts.records import read_record
from radloom.pipelines.study import SeriesRecord

__all__ = ["Step", "Story", "find_out", "story_of"]

DERIVED = ("studies.tsv", "ingest.tsv", "manifest.json", "report.html", "dataset_description.json")
"""What all receipts together say, at the root of OUT."""


@dataclass(frozen=True)
class Step:
    """One stage on the way to the file."""

    receipt: Receipt
    taken: Mapping[str, str]
    """Input -> ``earlier output``, ``source`` (its size and time of change, not its bytes), or
    ``no longer known``: no receipt of now gives it with this hash."""

    @property
    def weights(self) -> Mapping[str, str]:
        """Model -> sha256 over its weights and configuration, where the stage used one."""
        said = (output.sidecar for output in self.receipt.outputs)
        return {str(s["Model"]): str(s["ModelSHA256"]) for s in said if "ModelSHA256" in s}

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        receipt: dict[str, Any] = plain(self.receipt)
        for output in receipt["outputs"]:
            del output["stats"]
        for given, check in zip(receipt["checks"], self.receipt.checks, strict=True):
            given["flagged"] = check.flagged
        return {**receipt, "taken": dict(self.taken), "weights": dict(self.weights)}


@dataclass(frozen=True)
class Story:
    """What is known of one file."""

    path: str
    """Relative to OUT, with ``/``."""
    study: str
    output: OutputRecord
    """What the file is, or lies beside."""
    sha256: str
    """As the receipt has it."""
    changed: bool
    """Whether the file's bytes are others by now."""
    steps: tuple[Step, ...]
    """The stages that led to it, first to last; the last wrote it."""
    series: tuple[SeriesRecord, ...] = ()
    """What it was made from."""
    deidentified: bool = False

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": self.path,
            "study": self.study,
            "kind": self.output.kind,
            "role": self.output.role,
            "name": self.output.name,
            "space": self.output.space,
            "sha256": self.sha256,
            "changed": self.changed,
            "deidentified": self.deidentified,
            "series": [_series(one, self.deidentified) for one in self.series],
            "stages": [step.plain() for step in self.steps],
        }

    def text(self) -> str:
        """For people."""
        return "\n".join(_lines(self))


def story_of(file: Path) -> Story:
    """The story of a file below the OUT of a run, wherever that lies by now.

    Raises:
        ConfigError: the file lies below no results, or no receipt knows it.
    """
    out, path = find_out(file)
    if path in DERIVED:
        raise ConfigError(
            f"expected an output of a stage, got <{path}>: it is made from all receipts, and "
            "`radloom report OUT` makes it anew"
        )
    receipts = _receipts_of(out, path)
    found = [(r, o) for r in receipts for o in r.outputs if path in o.files]
    if not found:
        raise ConfigError(
            f"expected a file that a receipt knows, got <{path}>: no stage wrote it, or its "
            "study was done anew without it; `radloom verify OUT` lists all such files"
        )
    receipt, output = found[-1]
    steps = tuple(_steps(receipt, receipts))
    return Story(
        path=path,
        study=receipt.study,
        output=output,
        sha256=output.files[path],
        changed=sha256_of(file) != output.files[path],
        steps=steps,
        series=_sources(out, output, steps),
        deidentified=_is_deidentified(out, receipt.study),
    )


def find_out(file: Path) -> tuple[Path, str]:
    """The OUT that `file` lies in, and its path there, with ``/``.

    Raises:
        ConfigError: none of the folders above it holds receipts, or it is no file.
    """
    if not file.is_file():
        raise ConfigError(f"expected a file, got <{file.name}>, which is none")
    for path in (file.absolute(), file.resolve()):
        for folder in path.parents:
            if (folder / STAGES_FOLDER).is_dir():
                return folder, path.relative_to(folder).as_posix()
    raise ConfigError(
        f"expected a file below the OUT of a run, got <{file.name}>: no folder above it has "
        f"receipts (a folder named {STAGES_FOLDER})"
    )


def _receipts_of(out: Path, path: str) -> tuple[Receipt, ...]:
    """The receipts of the study that a path belongs to: its first two parts make the key."""
    key = "_".join(path.split("/")[:2])
    if (out / STAGES_FOLDER / key).is_dir():
        return tuple(read_receipts(out, key))
    return ()


def _steps(last: Receipt, receipts: Sequence[Receipt]) -> Iterator[Step]:
    """The stages that `last` goes back to, first to last, itself included."""
    needed, steps = [last], dict[str, Step]()
    while needed:
        receipt = needed.pop()
        if receipt.stage in steps:
            continue
        before = [r for r in receipts if r.position < receipt.position]
        givers = {
            (path, sha): r for r in before for o in r.outputs for path, sha in o.files.items()
        }
        taken = {}
        for item in receipt.inputs.items():
            if item in givers:
                needed.append(givers[item])
                taken[item[0]] = "earlier output"
            else:
                taken[item[0]] = "no longer known" if "/" in item[0] else "source"
        steps[receipt.stage] = Step(receipt, taken)
    yield from sorted(steps.values(), key=lambda step: step.receipt.position)


def _sources(out: Path, output: OutputRecord, steps: Sequence[Step]) -> tuple[SeriesRecord, ...]:
    """The series that the file goes back to: its own where it names one, else all it may have."""
    record = read_record(out, steps[-1].receipt.study)
    if record is None:
        return ()
    taken = {path for step in steps for path in step.taken}
    uids = {
        given.series_uid
        for step in steps
        for given in step.receipt.outputs
        if given.series_uid and taken & set(given.files)
    }
    uids |= {output.series_uid} - {""}
    return tuple(one for one in record.series if one.series_uid in uids)


def _is_deidentified(out: Path, key: str) -> bool:
    try:
        said = from_json((out / STAGES_FOLDER / key / "study.json").read_bytes())
        return bool(said.get("deidentified", False))
    except (OSError, ValueError):
        return False


def _series(one: SeriesRecord, deidentified: bool) -> dict[str, Any]:  # noqa: FBT001 - inner
    names = ("modality", "role", "role_rule", "status", "reason", "shape", "spacing")
    uid = {} if deidentified else {"series_uid": one.series_uid}
    return {**uid, **{name: plain(getattr(one, name)) for name in names}}


def _lines(story: Story) -> Iterator[str]:
    output = story.output
    what = [output.kind, output.role and f"role {output.role}", output.name]
    what += [output.space and f"on the grid of {output.space}"]
    yield story.path
    yield _fact("is", ", ".join(part for part in what if part))
    if story.path != output.path:
        yield _fact("beside", output.path)
    yield _fact("study", story.study)
    state = "CHANGED since it was written" if story.changed else "unchanged"
    yield _fact("sha256", f"{story.sha256} ({state})")
    for one in story.series:
        yield _fact("from", _series_text(one, story.deidentified))
    said: dict[str, str] = {}
    for number, step in enumerate(story.steps, 1):
        yield ""
        yield from _step_lines(number, step)
        for name, value in _circumstances(step.receipt).items():
            if said.get(name) != value:  # most stages of a study share them
                yield _fact(name, value)
                said[name] = value


def _series_text(one: SeriesRecord, deidentified: bool) -> str:  # noqa: FBT001 - inner
    size = " x ".join(str(n) for n in one.shape)
    spacing = " x ".join(f"{step:.3g}" for step in one.spacing)
    grid = f"{size} voxels of {spacing} mm" if any(one.shape) else ""
    name = "a series" if deidentified else f"series {one.series_uid}"
    role = f"role {one.role} ({one.role_rule})" if one.role else ""
    return ", ".join(part for part in (name, one.modality, role, grid) if part)


def _step_lines(number: int, step: Step) -> Iterator[str]:
    receipt = step.receipt
    yield f"{number} {receipt.stage}, {receipt.status}"
    for name, value in receipt.parameters.items():
        yield _fact("parameter", f"{name} = {value}")
    for model, sha256 in step.weights.items():
        yield _fact("weights", f"{model}, sha256 {sha256}")
    yield _fact("fingerprint", receipt.fingerprint)
    yield from _input_lines(step)
    for path, sha256 in _files(receipt.outputs):
        yield _fact("gave", f"{path}  {sha256}")
    for check in receipt.checks:
        yield _fact("check", _check_text(check))
    yield _fact("took", _cost_text(receipt))


def _circumstances(receipt: Receipt) -> dict[str, str]:
    return {
        "on": ", ".join([receipt.device, *_machine(receipt.platform)]),
        "with": ", ".join(f"{n} {v}" for n, v in sorted(receipt.versions.items())),
    }


def _input_lines(step: Step) -> Iterator[str]:
    sources = [name for name, state in step.taken.items() if state == "source"]
    n_files = sum(not name.startswith("series ") for name in sources)
    if sources:
        yield _fact("took in", f"{n_files} source files, known by size and time of change")
    for path, state in step.taken.items():
        if state != "source":
            note = "" if state == "earlier output" else f" ({state})"
            yield _fact("took in", f"{path}  {step.receipt.inputs[path]}{note}")


def _files(outputs: Iterable[OutputRecord]) -> Iterator[tuple[str, str]]:
    return (item for output in outputs for item in output.files.items())


def _check_text(check: Check) -> str:
    bounds = [f"at least {check.low:.4g}"] if check.low is not None else []
    bounds += [f"at most {check.high:.4g}"] if check.high is not None else []
    expected = f", expected {' and '.join(bounds)}" if bounds else ""
    flag = " FLAGGED" if check.flagged else ""
    return f"{check.name} = {check.value:.4g} {check.unit}".rstrip() + expected + flag


def _cost_text(receipt: Receipt) -> str:
    parts = [f"{receipt.seconds:.1f} s"]
    for n_bytes, what in (
        (receipt.peak_memory_bytes, "memory"),
        (receipt.peak_device_bytes, "on the GPU"),
    ):
        if n_bytes:
            parts.append(f"{n_bytes / 2**30:.1f} GiB {what}")
    return ", ".join(parts)


def _machine(platform: Mapping[str, Any]) -> list[str]:
    named = [str(platform[key]) for key in ("gpu", "processor", "system") if platform.get(key)]
    cores = [f"{platform['cores']} cores"] if "cores" in platform else []
    memory = platform.get("memory_bytes")
    return [*named, *cores, *([f"{memory / 2**30:.0f} GiB"] if memory else [])]


def _fact(name: str, value: str) -> str:
    return f"  {name:<12} {value}".rstrip()
