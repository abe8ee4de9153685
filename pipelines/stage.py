"""What a stage is, and how one runs on one study so that a crash at any instant costs nothing.

`run_stage` runs, writes, keeps receipts and resumes; a stage computes and touches no disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from radloom.errors import InputError, MissingWeights, OutOfMemory, StageFailed
from radloom.pipelines.export import READERS, Beside, Grid, write_output
from radloom.pipelines.receipts.failure import is_out_of_memory, reason_of, trace_of
from radloom.pipelines.receipts.files import inside
from radloom.pipelines.receipts.folder import StageFolder, stage_folders
from radloom.pipelines.receipts.measure import Cost, machine, measured, versions
from radloom.pipelines.receipts.plain import plain
from radloom.pipelines.receipts.receipt import (
    Check,
    OutputRecord,
    Receipt,
    read_receipts,
    record_of,
)
from radloom.pipelines.receipts.records import read_records, write_record
from radloom.pipelines.study import Deferred, Output, Study
from radloom.transforms.nifti import read_nifti_header
from radloom.voxels import Voxels

if TYPE_CHECKING:  # a run of ingestion alone never imports it
    import torch

__all__ = [
    "HOST",
    "Check",
    "Context",
    "Receipt",
    "Stage",
    "StageResult",
    "forget_stages",
    "is_plain",
    "least_memory",
    "make_generator",
    "read_receipts",
    "read_records",
    "record_failure",
    "resume_stage",
    "run_stage",
    "take_stage",
    "write_record",
]


def _as_it_is(output: Output) -> Output:
    """What `Context.keep` does where nobody writes: nothing."""
    return output


def _at_once(memory: int, least: int) -> AbstractContextManager[int]:  # noqa: ARG001 - as a worker's
    """What `Context.turn` does where nobody else computes: all that it asks for."""
    return nullcontext(memory)


@dataclass(frozen=True)
class Context:
    """What the runner hands to every stage."""

    device: torch.device
    generator: torch.Generator
    """A CPU generator seeded from the study's key and the stage's fingerprint."""
    n_threads: int = 1
    """How many threads native code may use; results must not depend on it."""
    trust: bool = False
    """Whether the user trusts outside bundles and pickled checkpoints (--trust)."""
    is_last: bool = False
    """Whether no stage follows, so that nothing needs to stay in memory."""
    memory: int | None = None
    """Where memory is short: bytes that the stage may take at its peak, what it reads of the study
    included, for that lies in files then. Never less than its `least_memory`; the results must be
    the same bytes. None: all that it estimated."""
    keep: Callable[[Output], Output] = _as_it_is
    """Writes an output at once, and hands it back as the stage must give it: a stage of many large
    volumes calls it for each, so that those that no stage takes do not pile up in memory."""
    turn: Callable[[int, int], AbstractContextManager[int]] = _at_once
    """Waits until a stage that needs so many bytes, and can do with so many, may compute, and says
    how many there are; the block ends when it has."""

    def settle(self, output: Output) -> Output:
        """The output as it is; where memory is short written at once and let go, as by `keep`."""
        return output if self.memory is None else self.keep(output)


@dataclass(frozen=True)
class StageResult:
    """What a stage gives back."""

    outputs: tuple[Output, ...] = ()
    checks: tuple[Check, ...] = ()
    status: Literal["done", "skipped"] = "done"
    reason: str = ""
    """Why it was skipped, for people."""


class Stage(Protocol):
    """One step of the chain. Implementations are frozen dataclasses of their parameters.

    A stage never changes its input, touches no disk (ingest, which reads sources, excepted), and
    takes device and randomness from its context.

    One that can do with less memory than its estimate, to the same bytes, also has a method
    `least_memory` (see there), and heeds `Context.memory`. Others fail where memory is short.
    """

    @property
    def name(self) -> str:
        """One word: ingest, denoise, register, translate, segment, report."""
        ...

    def fingerprint(self) -> str:
        """Hex digest over method, parameters, weights' hash and the stage's version."""
        ...

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        """Name -> hash of each input that the result depends on."""
        ...

    def estimate_memory(self, study: Study) -> int:
        """Bytes that `run` will need at its peak beyond what the study already holds."""
        ...

    def run(self, study: Study, context: Context) -> StageResult:
        """The outputs for one study.

        Raises:
            RadloomError: this study cannot be done; the message is for people.
        """
        ...


def least_memory(stage: Stage, study: Study) -> int | None:
    """Bytes with which a stage can do, and still give the same; None: it knows no less.

    That is its peak, what it reads of the study included, where each of its outputs goes through
    `Context.settle` and the volumes of the study lie in their files.
    """
    of_stage = getattr(stage, "least_memory", None)
    return None if of_stage is None else int(of_stage(study))


def is_plain(stage: Stage) -> bool:
    """Whether a stage computes with NumPy alone: it takes no device and nothing random.

    A run of such stages does not import torch: its context has `HOST` for a device, and no
    generator.
    """
    return bool(getattr(stage, "is_plain", False))


@dataclass(frozen=True)
class _Host:
    """What answers like the torch device of the CPU, where torch is not imported."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


HOST = cast("torch.device", _Host())
"""The device of a context for stages that are plain."""


def _generator(stage: Stage, study: Study, fingerprint: str) -> torch.Generator:
    if is_plain(stage):
        return cast("torch.Generator", None)
    return make_generator(study.record.key, fingerprint)


def make_generator(study: str, fingerprint: str) -> torch.Generator:
    """A CPU generator whose seed is the sha256 of a study's key and a stage's fingerprint.

    >>> make_generator("sub-a_ses-1", "f").initial_seed() == make_generator(
    ...     "sub-a_ses-1", "f").initial_seed()
    True
    """
    import torch

    digest = hashlib.sha256(f"{study}\n{fingerprint}".encode()).digest()
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(digest[:7], "big"))
    return generator


def run_stage(stage: Stage, study: Study, out: Path, context: Context) -> tuple[Study, Receipt]:
    """The study with what `stage` gives, its files below `out`, and the receipt.

    Where a receipt matches (`_resumed`) nothing is run, and the outputs are read only when a later
    stage asks for them. `context` gets its generator here, from `make_generator`.

    Where memory is short, the study's volumes are left to their files, and the stage is told how
    much there is (`Context.memory`); so it is where memory runs out all the same, once.

    Raises:
        StageFailed: the stage gave up; the receipt says so, and never matches.
        OutOfMemory: it gave up for lack of memory.
    """
    place = StageFolder(out, study.record.key, stage.name)
    receipt = Receipt(
        study=study.record.key,
        stage=stage.name,
        status="failed",
        position=len(study.outputs),
        parameters=_parameters(stage),
        device=str(context.device),
        versions=versions(),
        platform=machine(context.device),
    )
    cost = Cost()
    try:
        fingerprint, inputs = stage.fingerprint(), dict(stage.input_hashes(study))
        receipt = replace(receipt, fingerprint=fingerprint, inputs=inputs)
        known = _resumed(place, fingerprint, inputs)
        if known is not None:
            place.tidy()
            return _with_results(study, known, out), known
        place.begin()
        work = _Work(stage, study, place, context, fingerprint)
        needed, least = work.memory()
        with context.turn(needed, least) as given, measured(context.device, cost):
            result = work.stepping_down(needed, least, given)
        receipt = _with_cost(receipt, cost)
        outputs, receipt = _publish(result, work.kept, study, place, receipt)
    except Exception as error:
        raise _failed(error, place, _with_cost(receipt, cost)) from error
    return study.with_outputs(stage.name, outputs, receipt.checks), receipt


def resume_stage(stage: Stage, study: Study, out: Path) -> tuple[Study, Receipt] | None:
    """What `run_stage` would give where it has nothing to run; changes nothing. None: it has."""
    place = StageFolder(out, study.record.key, stage.name)
    if place.partial.exists():
        return None
    try:
        known = _resumed(place, stage.fingerprint(), dict(stage.input_hashes(study)))
    except Exception:  # noqa: BLE001  # run_stage meets it again and records it
        return None
    return None if known is None else (_with_results(study, known, out), known)


def take_stage(stage: str, study: Study, out: Path) -> tuple[Study, Receipt] | None:
    """The results of a stage as they are, whatever they were made from; None where it has none.

    For a stage that the user left out of a run: its parameters and inputs are not looked at.
    """
    place = StageFolder(out, study.record.key, stage)
    known = place.receipt()
    if known is None or known.status == "failed" or not place.has_files_of(known):
        return None
    return _with_results(study, known, out), known


def record_failure(out: Path, study: str, stage: str, reason: str) -> Receipt:
    """The receipt of a stage whose process died and could not write one itself.

    `study` is the study's key; `reason` is for people and holds no identifiers.
    """
    place = StageFolder(out, study, stage)
    before = [receipt for receipt in read_receipts(out, study) if receipt.stage != stage]
    receipt = Receipt(
        study=study,
        stage=stage,
        status="failed",
        reason=reason,
        position=len(before),
        versions=versions(),
        platform=machine(),
    )
    place.clear()
    place.finish(receipt)
    return receipt


def forget_stages(out: Path, study: str, stages: Collection[str]) -> None:
    """Nothing left of some stages of a study: their receipts and files go.

    For stages after one that failed, whose results were made from others than there are now, and
    for those that the user wants redone or gone. Other stages keep theirs.
    """
    for place in stage_folders(out, study):
        if place.stage in stages:
            place.clear()
            with suppress(OSError):
                place.folder.rmdir()


def _resumed(place: StageFolder, fingerprint: str, inputs: Mapping[str, str]) -> Receipt | None:
    """The receipt of a stage that has nothing to run; the one rule for that.

    Fingerprint and input hashes are those of now, and the files are there. A stage that was
    skipped, for want of weights for instance, is not asked again: its fingerprint holds the hash of
    its weights, so that it matches no more when they arrive.
    """
    known = place.receipt()
    if known is None or known.status == "failed":
        return None
    same = known.fingerprint == fingerprint and known.inputs == inputs
    return known if same and place.has_files_of(known) else None


def _with_results(study: Study, known: Receipt, out: Path) -> Study:
    """The study with the outputs that a receipt lists, read when somebody asks for them."""
    deferred = tuple(_deferred(output, out) for output in known.outputs)
    return study.with_outputs(known.stage, deferred, known.checks)


@dataclass
class _Work:
    """One stage on one study, and the steps down where memory is short."""

    stage: Stage
    study: Study
    place: StageFolder
    context: Context
    fingerprint: str
    kept: list[Output] = field(default_factory=list)
    """What the stage had written at once."""

    def memory(self) -> tuple[int, int]:
        """Bytes beyond what is held now: by the stage's estimate, and those with which it can do.

        Zero where it has no estimate, for `run` will say why.
        """
        try:
            needed = self.stage.estimate_memory(self.study)
            least = least_memory(self.stage, self.study)
        except Exception:  # noqa: BLE001  # run meets it again, and its reason is recorded
            return 0, 0
        return needed, needed if least is None else min(needed, least - self._held())

    def stepping_down(self, needed: int, least: int, given: int) -> StageResult:
        """What the stage gives with so many bytes beyond those held; with the least, if need be.

        `needed` and `least` are those of `memory`.
        """
        held = self._held()
        result = self._attempt(given + held if given < needed else None, can_fail=given > least)
        if result is None:
            self.kept.clear()
            self.place.begin()
            result = self._attempt(least + held)
        assert result is not None
        return result

    def _held(self) -> int:
        return sum(output.held_bytes for output in self.study.find())

    def _attempt(self, memory: int | None, *, can_fail: bool = False) -> StageResult | None:
        """What the stage gives; None if memory ran out and that is no failure yet."""
        if memory is not None:
            for output in self.study.find():
                output.let_go(self.place.out, READERS[output.kind])
        is_last = self.context.is_last or memory is not None
        context = replace(
            self.context,
            memory=memory,
            generator=_generator(self.stage, self.study, self.fingerprint),
            keep=partial(_kept, self.kept, study=self.study, place=self.place, is_last=is_last),
        )
        try:
            return self.stage.run(self.study, context)
        except MissingWeights as error:
            return StageResult(status="skipped", reason=reason_of(error))
        except Exception as error:
            if can_fail and is_out_of_memory(error):
                return None
            raise


def _publish(
    result: StageResult, kept: list[Output], study: Study, place: StageFolder, receipt: Receipt
) -> tuple[tuple[Output, ...], Receipt]:
    """The outputs as they are handed on, their files in the tree, and the receipt on the disk."""
    outputs = _written(place.stage, result.outputs, kept, study, place)
    records = tuple(_record(output, place) for output in outputs)
    place.publish(path for output in outputs for path in output.files)
    receipt = replace(
        receipt,
        status=result.status,
        reason=result.reason,
        outputs=records,
        checks=result.checks,
    )
    place.finish(receipt)
    return outputs, receipt


def _failed(error: Exception, place: StageFolder, begun: Receipt) -> StageFailed:
    """What to raise; the failure is on the disk, unless the disk is what failed."""
    reason = reason_of(error)
    receipt = replace(begun, status="failed", reason=reason, trace=trace_of(error))
    with suppress(OSError):
        place.clear()
        place.finish(receipt)
    kind = OutOfMemory if is_out_of_memory(error) else StageFailed
    return kind(f"{place.study}: {place.stage}: {reason}")


def _with_cost(receipt: Receipt, cost: Cost) -> Receipt:
    return replace(
        receipt,
        seconds=round(cost.seconds, 3),
        peak_memory_bytes=cost.peak_memory_bytes,
        peak_device_bytes=cost.peak_device_bytes,
    )


def _parameters(stage: Stage) -> Mapping[str, Any]:
    names = getattr(stage, "__dataclass_fields__", {})
    return {name: plain(getattr(stage, name)) for name in names}


def _kept(
    kept: list[Output], output: Output, *, study: Study, place: StageFolder, is_last: bool
) -> Output:
    """The output with its files in the partial folder, in memory only if a stage will take it.

    It is noted in `kept`, so that it is not written again.
    """
    beside = _beside(output, study, study)
    done = write_output(output, study.record, place.partial, beside=beside)
    if is_last or not output.role:
        path = inside(place.out, next(iter(done.files)))
        source = Deferred(path, READERS[done.kind], _series_uid(done), stays=False)
        done = replace(done, source=source)
    kept.append(done)
    return done


def _written(
    stage: str, outputs: tuple[Output, ...], kept: list[Output], study: Study, place: StageFolder
) -> tuple[Output, ...]:
    """The outputs with their files in the partial folder."""
    after = study.with_outputs(stage, outputs)
    taken = {path for output in study.find() for path in output.files}
    written = []
    for output in outputs:
        done = output
        if not any(output is known for known in kept):
            beside = _beside(output, study, after)
            done = write_output(output, study.record, place.partial, beside=beside)
        twice = sorted(taken & set(done.files))
        if twice:
            raise InputError(
                f"expected a name for each output, got <{twice[0]}> twice; tell them apart by "
                "name, space or entities"
            )
        taken |= set(done.files)
        written.append(done)
    return tuple(written)


def _beside(output: Output, before: Study, after: Study) -> Beside:
    """Sources and grid: the newest volumes, before this stage, of the role and of the space."""
    roles = dict.fromkeys(role for role in (output.role, output.space) if role)
    newest = {role: found for role in roles if (found := _newest(before, role))}
    sources = tuple(next(iter(found.files)) for found in newest.values() if found.files)
    space = newest.get(output.space)
    return Beside(
        sources=sources,
        space_file=next(iter(space.files), "") if space else "",
        grid=_grid_of(output, after),
    )


def _newest(study: Study, role: str) -> Output | None:
    own = [output for output in study.find(kind="volume", role=role) if not output.space]
    return own[-1] if own else None


def _grid_of(output: Output, study: Study) -> Grid | None:
    """The grid that a volume or label claims to lie on; None where it has its own."""
    on = output.space or (output.role if output.kind == "label" else "")
    if output.kind not in ("volume", "label") or not on:
        return None
    reference = _newest(study, on)
    if reference is None:
        raise InputError(f"{output.kind} {output.name!r}: expected a volume of role {on!r}")
    if isinstance(reference.source, Deferred):
        header = read_nifti_header(reference.source.path)
        i, j, k = header.shape[:3]
        return Grid(header.affine, (i, j, k))
    if isinstance(reference.source, Voxels):
        return Grid(reference.source.affine, reference.source.shape)
    from radloom.shapes import affine_of, spatial_shape

    return Grid(affine_of(reference.volume), spatial_shape(reference.volume))


def _record(output: Output, place: StageFolder) -> OutputRecord:
    stats = {}
    for path in output.files:
        found = inside(place.partial, path).stat()
        stats[path] = (found.st_size, found.st_mtime_ns)
    return record_of(output, series_uid=_series_uid(output), stats=stats)


def _series_uid(output: Output) -> str:
    if output.kind not in ("volume", "label"):
        return ""
    if isinstance(output.source, Voxels):
        return output.source.series_uid
    if isinstance(output.source, Deferred):  # its file is not at its place yet
        return output.source.series_uid
    return str(output.volume.meta.get("series_uid", ""))


def _deferred(record: OutputRecord, out: Path) -> Output:
    return Output(
        kind=record.kind,
        role=record.role,
        name=record.name,
        source=Deferred(inside(out, record.path), READERS[record.kind]),
        space=record.space,
        entities=record.entities,
        sidecar=record.sidecar,
        label_names=record.label_names,
        files=record.files,
    )
