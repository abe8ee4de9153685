from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from radloom.errors import InputError, MissingWeights, OutOfMemory, StageFailed
from radloom.pipelines.export import write_tables
from radloom.pipelines.receipts.receipt import read_receipt
from radloom.pipelines.stage import (
    Check,
    Context,
    Stage,
    StageResult,
    forget_stages,
    make_generator,
    read_receipts,
    read_records,
    record_failure,
    resume_stage,
    run_stage,
    take_stage,
    write_record,
)
from radloom.pipelines.study import Deferred, Output, SeriesRecord, Study, StudyRecord
from radloom.shapes import affine_of, like, make_label, make_volume
from radloom.transforms.spatial import Transform

AFFINE = np.array([[-1.1, 0, 0, 9.3], [0, 0.9, 0.1, -4.7], [0, -0.1, 2.2, 3.3], [0, 0, 0, 1]])
PNG = b"\x89PNG\r\n\x1a\n"
CPU = Context(torch.device("cpu"), torch.Generator())
RUNS: list[str] = []
"""Which stages computed, in order; cleared by `runs`."""


@dataclass(frozen=True)
class FakeIngest:
    name: str = "ingest"
    version: str = "1"

    def fingerprint(self) -> str:
        return f"{self.name}-{self.version}"

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        return {series.series_uid: "source" for series in study.record.series}

    def estimate_memory(self, study: Study) -> int:
        return 0

    def run(self, study: Study, context: Context) -> StageResult:
        RUNS.append(self.name)
        outputs = []
        for series in study.record.series:
            values = torch.rand((6, 7, 8), generator=context.generator)
            volume = make_volume(
                values, AFFINE, modality="MR", units="arbitrary", series_uid=series.series_uid
            )
            outputs.append(Output("volume", series.role, "ingested", volume))
        rows = tuple(
            {"series_uid": s.series_uid, "status": s.status, "reason": s.reason, "shape": (6, 7, 8)}
            for s in study.record.series
        )
        return StageResult((*outputs, Output("table", "", "series", rows)))


@dataclass(frozen=True)
class FakeDenoise:
    name: str = "denoise"
    strength: float = 0.1
    output_name: str = "denoised"

    def fingerprint(self) -> str:
        return f"{self.strength}{self.output_name}"

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        return {o.role: next(iter(o.files.values())) for o in study.find(name="ingested")}

    def estimate_memory(self, study: Study) -> int:
        return 0

    def run(self, study: Study, context: Context) -> StageResult:
        RUNS.append(self.name)
        outputs = []
        for ingested in study.find(name="ingested"):
            noise = torch.rand(ingested.volume.shape, generator=context.generator)
            values = ingested.volume.as_tensor() + self.strength * noise
            volume = like(ingested.volume, values)
            sidecar = {"Strength": self.strength, "Steps": (1, 2)}
            outputs.append(
                Output("volume", ingested.role, self.output_name, volume, sidecar=sidecar)
            )
        return StageResult(tuple(outputs), (Check("t1_noise", self.strength, 0.0, 0.5),))


@dataclass(frozen=True)
class FakeSegment:
    name: str = "segment"

    def fingerprint(self) -> str:
        return "segment"

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        return {"t1": next(iter(study.latest("t1").files.values()))}

    def estimate_memory(self, study: Study) -> int:
        return 0

    def run(self, study: Study, context: Context) -> StageResult:
        RUNS.append(self.name)
        volume = study.latest("t1").volume
        values = (volume.as_tensor()[0].numpy() * 3).astype(np.uint16)
        label = make_label(values, affine_of(volume))
        counts = np.bincount(values.ravel(), minlength=4)
        rows = tuple({"index": int(i), "volume_ml": float(n) * 0.1} for i, n in enumerate(counts))
        shift = np.eye(4)
        shift[:3, 3] = 1.25, -3.5, 1 / 3
        return StageResult(
            (
                Output("label", "t1", "head", label, label_names={1: "one", 2: "two"}),
                Output("table", "t1", "volumes", rows),
                Output("transform", "t2", "moving_from_fixed", Transform(shift), space="t1"),
                Output("volume", "t2", "registered", like(volume, volume.as_tensor()), space="t1"),
                Output("report", "", "segment", PNG + bytes(rows[0]["index"])),
            )
        )


@dataclass(frozen=True)
class FakeReport(FakeSegment):
    name: str = "report"

    def run(self, study: Study, context: Context) -> StageResult:
        RUNS.append(self.name)
        return StageResult()


CHAIN = (FakeIngest(), FakeDenoise(), FakeSegment())
RECORD = StudyRecord(
    subject="a1",
    session="20200102",
    study_uid="1.2.3",
    root=Path("/data/DOE^JANE"),
    series=(
        SeriesRecord("1.2.3.1", "MR", "t1", "accepted", role="t1", files=("DOE/1.dcm",)),
        SeriesRecord("1.2.3.2", "MR", "t2", "accepted", role="t2", files=("DOE/2.dcm",)),
    ),
)


def run_chain(out: Path, stages: tuple[Stage, ...] = CHAIN) -> Study:
    write_record(out, RECORD)
    study = Study(RECORD)
    for stage in stages:
        study, _ = run_stage(stage, study, out, CPU)
    write_tables(out)
    return study


def snapshot(out: Path) -> dict[str, Any]:
    """Every file and folder below OUT; of receipts all but what time and machine leave in them."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.name == ".index.json":
            continue  # what tables remember of receipts, with their times
        if path.is_dir():
            found[name] = None
        elif path.name == "stage.json":
            receipt = json.loads(path.read_bytes())
            for key in ("seconds", "peak_memory_bytes"):
                del receipt[key]
            for output in receipt["outputs"]:
                del output["stats"]
            found[name] = receipt
        elif path.name == "studies.tsv":
            found[name] = [line.rsplit("\t", 1)[0] for line in path.read_text().splitlines()]
        else:
            found[name] = path.read_bytes()
    return found


@pytest.fixture
def runs() -> list[str]:
    RUNS.clear()
    return RUNS


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("reference")
    run_chain(out)
    return snapshot(out)


class Killed(BaseException):
    """What `Clock` raises where a SIGKILL would strike; no `except Exception` stops it."""


class Clock:
    """Counts what Python is about to do to the disk below a folder, and strikes at one count.

    With `stays` it strikes from then on, whatever takes room.

    Audit hooks see every open for writing, rename, removal and new folder, whoever asks for it.
    """

    FREEING = ("os.remove", "os.rmdir")
    EVENTS = ("open", "os.rename", "os.mkdir", *FREEING)

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.count = 0
        self.strike_at = 0
        self.stays = False
        self.error: Callable[[], BaseException] = Killed
        sys.addaudithook(self._hear)

    def run(self, folder: Path, strike_at: int, action: Callable[[], object]) -> bool:
        """Whether `action` came to its end before the clock struck."""
        self.folder, self.count, self.strike_at = folder, 0, strike_at
        try:
            action()
        except Killed:
            return False
        finally:
            self.folder = None
        return True

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or event not in self.EVENTS:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE):
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes, Path)) else ""
        if os.path.isabs(path) and not path.startswith(str(self.folder)):  # noqa: PTH117
            return
        self.count += 1
        struck = self.count >= self.strike_at if self.stays else self.count == self.strike_at
        if self.strike_at and struck and not (self.stays and event in self.FREEING):
            raise self.error()


CLOCK = Clock()


def test_a_chain_leaves_files_receipts_and_tables(tmp_path, runs):
    study = run_chain(tmp_path)
    assert runs == ["ingest", "denoise", "segment"]
    assert [r.stage for r in read_receipts(tmp_path)] == runs
    assert (tmp_path / "sub-a1/ses-20200102/anat/sub-a1_ses-20200102_T1w.nii.gz").is_file()
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    assert len(manifest) == len(study.find())
    assert not list(tmp_path.rglob("*partial*"))
    assert not list(tmp_path.rglob("claims.json"))


def test_two_runs_make_the_same_bytes(tmp_path, reference):
    run_chain(tmp_path)
    assert snapshot(tmp_path) == reference


def test_the_same_command_again_runs_nothing_and_changes_nothing(tmp_path, runs, reference):
    run_chain(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stages/*/*/stage.json")}
    runs.clear()
    study = run_chain(tmp_path)
    assert runs == []
    assert snapshot(tmp_path) == reference
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert all(isinstance(output.source, Deferred) for output in study.find())


def test_what_is_handed_on_in_memory_is_what_the_files_hold(tmp_path):
    first, again = run_chain(tmp_path), run_chain(tmp_path)
    for made, read in zip(first.find(), again.find(), strict=True):
        assert made.files == read.files
        assert list(made.files) == list(read.files)
        assert dict(made.sidecar) == dict(read.sidecar)
        assert dict(made.label_names) == dict(read.label_names)
        if made.kind in ("volume", "label"):
            a, b = made.volume, read.volume
            assert a.dtype == b.dtype
            assert a.stride() == b.stride()
            assert torch.equal(a.as_tensor().int(), b.as_tensor().int())
            assert a.as_tensor().numpy().tobytes() == b.as_tensor().numpy().tobytes()
            assert affine_of(a).tobytes() == affine_of(b).tobytes()
            assert dict(a.meta, affine=0, space=0) == dict(b.meta, affine=0, space=0)
        elif made.kind == "transform":
            assert np.array_equal(made.transform.matrix, read.transform.matrix)
        else:
            assert made.data == read.data


@dataclass(frozen=True)
class KeepingIngest(FakeIngest):
    """As `FakeIngest`, each volume kept as soon as it is made; the second has no role."""

    keeps: bool = True

    def run(self, study: Study, context: Context) -> StageResult:
        *volumes, table = super().run(study, context).outputs
        series_uids = (series.series_uid for series in study.record.series)
        given = [
            replace(
                output,
                role="" if number else "t1",
                entities={"suffix": "T1w", "run": str(number + 1)},
                sidecar={"SeriesInstanceUID": uid},
            )
            for number, (output, uid) in enumerate(zip(volumes, series_uids, strict=True))
        ]
        kept = [context.keep(output) for output in given] if self.keeps else given
        return StageResult((*kept, table))


@pytest.mark.parametrize("is_last", [False, True])
def test_what_is_kept_early_leaves_the_same_bytes_and_no_memory(tmp_path, is_last):
    studies = {}
    for keeps in (True, False):
        out = tmp_path / str(keeps)
        write_record(out, RECORD)
        context = replace(CPU, is_last=is_last)
        studies[keeps], _ = run_stage(KeepingIngest(keeps=keeps), Study(RECORD), out, context)
    kept, held = (studies[keeps].find(kind="volume") for keeps in (True, False))
    assert [isinstance(o.source, Deferred) for o in kept] == [is_last, True]
    for one, other in zip(kept, held, strict=True):
        assert one.files == other.files
        assert torch.equal(one.volume.as_tensor(), other.volume.as_tensor())
        assert one.volume.meta["series_uid"] == other.volume.meta["series_uid"]
    snapshots = []
    for keeps in (True, False):
        found = snapshot(tmp_path / str(keeps))
        for receipt in (value for value in found.values() if isinstance(value, dict)):
            del receipt["parameters"]
        snapshots.append(found)
    assert snapshots[0] == snapshots[1]


def test_a_volume_without_a_role_is_read_anew_each_time(tmp_path):
    write_record(tmp_path, RECORD)
    study, _ = run_stage(KeepingIngest(), Study(RECORD), tmp_path, CPU)
    with_role, without = study.find(kind="volume")
    assert with_role.volume is with_role.volume
    assert without.volume is not without.volume


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ((FakeIngest(), FakeDenoise(strength=0.2), FakeSegment()), ["denoise", "segment"]),
        (
            (FakeIngest(version="2"), FakeDenoise(), FakeSegment()),
            ["ingest", "denoise", "segment"],
        ),
        ((FakeIngest(), FakeDenoise(), FakeReport()), ["report"]),
    ],
)
def test_a_changed_fingerprint_runs_that_stage_and_what_depends_on_it(
    tmp_path, runs, stages, expected
):
    run_chain(tmp_path)
    runs.clear()
    run_chain(tmp_path, stages)
    assert runs == expected


def test_a_stage_whose_new_result_is_the_old_one_costs_the_later_stages_nothing(tmp_path, runs):
    @dataclass(frozen=True)
    class Rounded(FakeDenoise):
        def fingerprint(self) -> str:
            return "another method with the same result"

        def run(self, study: Study, context: Context) -> StageResult:
            generator = make_generator(study.record.key, FakeDenoise().fingerprint())
            return super().run(study, Context(context.device, generator))

    run_chain(tmp_path)
    runs.clear()
    run_chain(tmp_path, (FakeIngest(), Rounded(), FakeSegment()))
    assert runs == ["denoise"]


def damage_by_cutting(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damage_in_place(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [Path.unlink, damage_by_cutting, damage_in_place])
@pytest.mark.parametrize("ending", ["_T1w.nii.gz", "_T1w.json", "_dseg.tsv", "_xfm.tfm"])
def test_a_missing_or_damaged_file_is_made_again(tmp_path, runs, reference, damage, ending):
    run_chain(tmp_path)
    for path in tmp_path.rglob(f"*{ending}"):
        damage(path)
    runs.clear()
    run_chain(tmp_path)
    assert runs
    assert snapshot(tmp_path) == reference


def test_a_copied_output_folder_still_matches(tmp_path, runs):
    run_chain(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    runs.clear()
    run_chain(tmp_path / "b")
    assert runs == []


def test_a_receipt_that_is_cut_counts_as_none(tmp_path, runs, reference):
    run_chain(tmp_path)
    for path in tmp_path.glob("stages/*/*/stage.json"):
        damage_by_cutting(path)
        path.write_bytes(path.read_bytes()[:100])
    runs.clear()
    run_chain(tmp_path)
    assert runs == ["ingest", "denoise", "segment"]
    assert snapshot(tmp_path) == reference


def strikes(folder: Path, action: Callable[[], object]) -> int:
    """How many times `action` touches the disk below `folder`."""
    CLOCK.run(folder, 0, action)
    return CLOCK.count


EVERY = pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])


@EVERY
def test_killed_at_any_write_of_a_first_run(tmp_path, reference, step):
    total = strikes(tmp_path / "whole", lambda: run_chain(tmp_path / "whole"))
    assert total > 60
    for n in range(1, total + 1, step):
        out = tmp_path / str(n)
        assert not CLOCK.run(out, n, lambda out=out: run_chain(out))
        run_chain(out)
        assert snapshot(out) == reference, f"killed before write {n} of {total}"
        shutil.rmtree(out)


@EVERY
def test_killed_at_any_write_of_a_run_with_other_parameters(tmp_path, step):
    changed = (FakeIngest(), FakeDenoise(output_name="smoothed"), FakeSegment())
    run_chain(tmp_path / "first")
    run_chain(tmp_path / "changed", changed)
    expected = snapshot(tmp_path / "changed")
    shutil.copytree(tmp_path / "first", tmp_path / "whole")
    total = strikes(tmp_path / "whole", lambda: run_chain(tmp_path / "whole", changed))
    assert snapshot(tmp_path / "whole") == expected
    for n in range(1, total + 1, step):
        out = tmp_path / str(n)
        shutil.copytree(tmp_path / "first", out)
        assert not CLOCK.run(out, n, lambda out=out: run_chain(out, changed))
        run_chain(out, changed)
        assert snapshot(out) == expected, f"killed before write {n} of {total}"
        shutil.rmtree(out)


@EVERY
def test_killed_and_then_another_command_leaves_nothing_of_the_first(tmp_path, step):
    changed = (FakeIngest(), FakeDenoise(output_name="smoothed"), FakeSegment())
    run_chain(tmp_path / "changed", changed)
    expected = snapshot(tmp_path / "changed")
    total = strikes(tmp_path / "whole", lambda: run_chain(tmp_path / "whole"))
    for n in range(1, total + 1, step):
        out = tmp_path / str(n)
        CLOCK.run(out, n, lambda out=out: run_chain(out))
        run_chain(out, changed)
        assert snapshot(out) == expected, f"killed before write {n} of {total}"
        shutil.rmtree(out)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_by_the_system_at_random_instants(tmp_path, reference):
    start = time.perf_counter()
    run_chain(tmp_path / "timed")
    duration = time.perf_counter() - start
    draw = random.Random(7)
    for n in range(12):
        out = tmp_path / str(n)
        child = fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                run_chain(out)
            finally:
                os._exit(0)
        time.sleep(draw.uniform(0, 1.2 * duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        run_chain(out)
        assert snapshot(out) == reference


def fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork beside threads
        return os.fork()


@EVERY
@pytest.mark.parametrize("stays", [False, True])
def test_a_full_disk_fails_the_study_and_the_same_command_mends_it(
    tmp_path, reference, stays, step
):
    def full() -> OSError:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/DOE^JANE")

    total = strikes(tmp_path / "whole", lambda: run_chain(tmp_path / "whole"))
    failed = 0
    CLOCK.error, CLOCK.stays = full, stays
    try:
        for n in range(1, total + 1, step):
            out = tmp_path / str(n)
            try:
                CLOCK.run(out, n, lambda out=out: run_chain(out))
            except StageFailed as error:
                failed += 1
                assert "No space left on device" in str(error)  # noqa: PT017
                assert "DOE" not in str(error)  # noqa: PT017
                if not stays:
                    assert [r.status for r in read_receipts(out)][-1] == "failed"
                assert not list(out.rglob("*.partial"))
            except OSError:
                pass  # the record and the tables are the runner's to guard
            run_chain(out)
            assert snapshot(out) == reference, f"disk full at write {n} of {total}"
            shutil.rmtree(out)
    finally:
        CLOCK.error, CLOCK.stays = Killed, False
    assert failed > 30 / step


NO = InputError("no")


@dataclass(frozen=True)
class Failing(FakeDenoise):
    error: BaseException = NO

    def fingerprint(self) -> str:
        return "failing"

    def run(self, study: Study, context: Context) -> StageResult:
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected", "kind"),
    [
        (InputError("expected 3 slices, got 1"), "expected 3 slices, got 1", StageFailed),
        (MemoryError(), "out of memory", OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory", OutOfMemory),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            "out of memory",
            OutOfMemory,
        ),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division", StageFailed),
        (ValueError("bad 'DOE^JANE' in /data/DOE JANE/x or DOE^JANE"), "ValueError", StageFailed),
        (FileNotFoundError(2, "No such file or directory", "/d/DOE"), "No such file", StageFailed),
    ],
)
def test_a_failure_is_a_receipt_and_an_error_without_identifiers(tmp_path, error, expected, kind):
    study, _ = run_stage(FakeIngest(), Study(RECORD), tmp_path, CPU)
    with pytest.raises(kind, match=expected) as caught:
        run_stage(Failing(error=error), study, tmp_path, CPU)
    assert caught.value.__cause__ is error
    receipt = list(read_receipts(tmp_path))[-1]
    assert (receipt.stage, receipt.status, receipt.outputs) == ("denoise", "failed", ())
    assert expected in receipt.reason
    assert receipt.trace[-1].endswith(" run")
    text = (tmp_path / "stages" / RECORD.key / "denoise" / "stage.json").read_text()
    assert "DOE" not in text.replace(json.dumps(str(error))[1:-1], "")
    assert "DOE" not in receipt.reason.replace("JANE/x", "")


def test_a_failure_removes_what_the_stage_gave_before_and_never_matches(tmp_path, runs):
    run_chain(tmp_path)
    with pytest.raises(StageFailed):
        run_chain(tmp_path, (FakeIngest(), Failing(), FakeSegment()))
    assert not list(tmp_path.rglob("*desc-denoised*"))
    runs.clear()
    with pytest.raises(StageFailed):
        run_chain(tmp_path, (FakeIngest(), Failing(), FakeSegment()))
    run_chain(tmp_path)
    assert runs == ["denoise"]


def test_missing_weights_skip_the_stage_until_they_arrive(tmp_path, runs):
    without = Failing(error=MissingWeights("translate: no weights"))
    study, _ = run_stage(FakeIngest(), Study(RECORD), tmp_path, CPU)
    _, receipt = run_stage(without, study, tmp_path, CPU)
    assert (receipt.status, receipt.reason) == ("skipped", "translate: no weights")
    _, receipt = run_stage(FakeDenoise(), study, tmp_path, CPU)
    assert receipt.status == "done"


def test_a_skipped_stage_is_asked_again_when_it_or_its_inputs_change(tmp_path, runs):
    @dataclass(frozen=True)
    class Skipping(FakeDenoise):
        def run(self, study: Study, context: Context) -> StageResult:
            RUNS.append("asked")
            return StageResult(status="skipped", reason="nothing to do")

    for stage in (Skipping(), Skipping(), Skipping(strength=0.2)):
        study, receipt = run_stage(stage, Study(RECORD), tmp_path, CPU)
        assert receipt.status == "skipped"
        assert study.outputs == {"denoise": ()}
    assert runs == ["asked", "asked"]


def test_driver_and_worker_judge_a_receipt_by_the_same_rule(tmp_path, runs):
    """Whatever lies on the disk: what the driver resumes, the worker does not run, and reversed."""
    run_chain(tmp_path)
    folder = tmp_path / "stages" / RECORD.key / "denoise"
    original = (folder / "stage.json").read_text()
    ingested, _ = run_stage(FakeIngest(), Study(RECORD), tmp_path, CPU)
    changes: tuple[tuple[str, str], ...] = (
        ("", ""),
        ('"status":"done"', '"status":"skipped"'),
        ('"status":"done"', '"status":"failed"'),
        ('"fingerprint":"0', '"fingerprint":"1'),
        ('"inputs":{', '"inputs":{"more":"1",'),
        ("sub-a1", "sub-b2"),
    )
    verdicts = []
    for old, new in changes:
        text = original.replace(": ", ":").replace(old, new) if old else original
        assert text != original or not old
        (folder / "stage.json").write_text(text)
        resumed = resume_stage(FakeDenoise(), ingested, tmp_path) is not None
        runs.clear()
        run_stage(FakeDenoise(), ingested, tmp_path, CPU)
        assert (runs == []) is resumed
        verdicts.append(resumed)
    assert verdicts == [True, True, False, False, False, False]


def test_results_are_taken_as_they_are_whatever_they_were_made_from(tmp_path, runs):
    run_chain(tmp_path)
    assert take_stage("absent", Study(RECORD), tmp_path) is None
    found = take_stage("denoise", Study(RECORD), tmp_path)
    assert found is not None
    study, receipt = found
    assert receipt.stage == "denoise"
    assert study.latest("t1").volume.shape == (1, 6, 7, 8)
    next(tmp_path.rglob("*desc-denoised*.nii.gz")).unlink()
    assert take_stage("denoise", Study(RECORD), tmp_path) is None


@dataclass(frozen=True)
class Giving(FakeDenoise):
    gives: Callable[[Study], tuple[Output, ...]] = lambda study: ()

    def run(self, study: Study, context: Context) -> StageResult:
        return StageResult(self.gives(study))


def other_grid(study: Study) -> tuple[Output, ...]:
    volume = study.latest("t1").volume
    moved = affine_of(volume).copy()
    moved[0, 3] += 0.5
    values = volume.as_tensor()
    shifted = make_volume(values, moved, modality="MR", units="arbitrary")
    return (Output("volume", "t2", "registered", shifted, space="t1"),)


def other_label_grid(study: Study) -> tuple[Output, ...]:
    label = make_label(np.zeros((3, 3, 3), np.uint8), np.eye(4))
    return (Output("label", "t1", "head", label),)


def same_name(study: Study) -> tuple[Output, ...]:
    ingested = study.find(name="ingested")[0]
    return (Output("volume", "t1", "ingested", ingested.volume),)


def double(study: Study) -> tuple[Output, ...]:
    ingested = study.find(name="ingested")[0]
    values = ingested.volume.as_tensor().double()
    changed = ingested.volume.clone()
    changed.data = values
    return (Output("volume", "t1", "x", changed),)


def unknown_space(study: Study) -> tuple[Output, ...]:
    volume = study.find(name="ingested")[0].volume
    return (Output("volume", "t1", "x", volume, space="pet"),)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (other_grid, "expected the grid of 't1'"),
        (other_label_grid, "expected the grid of 't1'"),
        (same_name, "twice"),
        (double, "expected float32"),
        (unknown_space, "expected a volume of role 'pet'"),
    ],
)
def test_outputs_that_break_a_contract_fail_the_stage(tmp_path, gives, message, deferred):
    for _ in range(1 + deferred):
        study, _ = run_stage(FakeIngest(), Study(RECORD), tmp_path, CPU)
    with pytest.raises(StageFailed, match=message):
        run_stage(Giving(gives=gives), study, tmp_path, CPU)
    assert (tmp_path / "sub-a1/ses-20200102/anat/sub-a1_ses-20200102_T1w.nii.gz").is_file()


def test_the_receipt_says_what_was_done_and_what_it_cost(tmp_path):
    @dataclass(frozen=True)
    class Greedy(FakeIngest):
        model: Path = Path("/home/someone/model")

        def run(self, study: Study, context: Context) -> StageResult:
            block = np.ones(40_000_000)
            time.sleep(0.15)
            assert block[-1] == 1
            return super().run(study, context)

    _, receipt = run_stage(Greedy(), Study(RECORD), tmp_path, CPU)
    assert receipt.seconds >= 0.15
    assert receipt.peak_memory_bytes > 320_000_000
    assert receipt.parameters["model"] == "model"
    assert {"radloom", "monai", "torch", "dcm2niix"} <= set(receipt.versions)
    path = tmp_path / "stages" / RECORD.key / "ingest" / "stage.json"
    assert read_receipt(path) == receipt
    text = path.read_text()
    assert text.endswith("}\n")
    assert os.uname().nodename not in text
    assert str(tmp_path) not in text


def test_a_check_that_is_no_number_survives_the_receipt(tmp_path):
    @dataclass(frozen=True)
    class Checked(FakeIngest):
        def run(self, study: Study, context: Context) -> StageResult:
            checks = (Check("a", float("nan"), 0, 1), Check("b", float("inf"), 0), Check("c", 2, 3))
            return StageResult(checks=checks)

    run_stage(Checked(), Study(RECORD), tmp_path, CPU)
    (receipt,) = read_receipts(tmp_path)
    assert [check.flagged for check in receipt.checks] == [True, False, True]
    assert receipt.flags == ("a", "c")


def test_the_generator_depends_on_study_and_fingerprint_alone():
    seeds = {make_generator(s, f).initial_seed() for s in ("a", "b") for f in ("x", "y")}
    assert len(seeds) == 4
    assert make_generator("a", "x").initial_seed() in seeds


def test_sources_and_spatial_reference_are_bids_uris(tmp_path):
    study = run_chain(tmp_path)
    (registered,) = study.find(name="registered")
    said = json.loads((tmp_path / next(p for p in registered.files if ".json" in p)).read_bytes())
    base = "bids::sub-a1/ses-20200102/anat/sub-a1_ses-20200102_desc-denoised_"
    assert said["Sources"] == [f"{base}T2w.nii.gz", f"{base}T1w.nii.gz"]
    assert said["SpatialReference"] == f"{base}T1w.nii.gz"
    image = nib.load(tmp_path / next(iter(registered.files)))
    assert np.abs(image.affine - AFFINE).max() < 1e-6


def test_records_leave_out_folders_and_file_names(tmp_path):
    path = write_record(tmp_path, RECORD)
    assert "DOE" not in path.read_text()
    assert json.loads(path.read_bytes())["series"][0]["n_files"] == 1
    (record,) = read_records(tmp_path)
    assert record.key == RECORD.key
    assert [(s.series_uid, s.role, s.status) for s in record.series] == [
        (s.series_uid, s.role, s.status) for s in RECORD.series
    ]


def test_a_process_that_died_gets_a_receipt(tmp_path, reference):
    study, _ = run_stage(FakeIngest(), Study(RECORD), tmp_path, CPU)
    run_stage(FakeDenoise(), study, tmp_path, CPU)
    record_failure(tmp_path, RECORD.key, "denoise", "the process was killed")
    receipts = list(read_receipts(tmp_path, RECORD.key))
    assert [(r.stage, r.status) for r in receipts] == [("ingest", "done"), ("denoise", "failed")]
    assert not list(tmp_path.rglob("*denoised*"))
    run_chain(tmp_path)
    assert snapshot(tmp_path) == reference


def test_stages_that_a_command_forgets_leave_nothing(tmp_path):
    run_chain(tmp_path)
    forget_stages(tmp_path, RECORD.key, ("segment", "unheard-of"))
    write_tables(tmp_path)
    run_chain(tmp_path / "short", CHAIN[:2])
    short = snapshot(tmp_path / "short")
    shutil.rmtree(tmp_path / "short")
    assert snapshot(tmp_path) == short


def test_a_receipt_that_names_files_elsewhere_deletes_nothing_there(tmp_path):
    out = tmp_path / "out"
    run_chain(out)
    precious = tmp_path / "precious"
    precious.write_text("stays")
    path = out / "stages" / RECORD.key / "ingest" / "stage.json"
    name = "sub-a1/ses-20200102/anat/sub-a1_ses-20200102_T1w.nii.gz"
    path.write_text(path.read_text().replace(name, "../precious"))
    run_chain(out)
    assert precious.read_text() == "stays"
