"""Thousands of real files, damaged one way or another, through ingestion.

Each case takes the files of one series, damages one of them, and lets ingestion have the folder. A
case fails if anything but a verdict comes out: an exception, a dead process, more than two seconds
of processor time, more than a gibibyte of memory, a refusal without a code, a word on standard
error (it may quote a header), or a volume that is not what pydicom's plain reading of the damaged
files gives. Cases are numbered; a number and the seed make the same damage anywhere. Needs Linux.
Run::

    python tests/fuzz/fuzz_ingestion.py --data DATA [--cases 20000] [--first 0] [--seed 1]
    python tests/fuzz/fuzz_ingestion.py --data DATA --first 4711 --cases 1 --keep FOLDER
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from radloom.errors import ReasonCode, SeriesRefused
from radloom.pipelines.ingest.discovery import discover
from radloom.pipelines.ingest.headers import PARSE_ERRORS, quiet_dicom
from radloom.pipelines.ingest.pixels import read_series
from radloom.pipelines.ingest.quiet import native_messages
from radloom.pipelines.ingest.scan import scan_folder
from radloom.pipelines.study import SeriesRecord, StudyRecord

CPU_S = 2.0
MEMORY_BYTES = 1 << 30
MAX_SEED_BYTES = 600_000
SERIES_FILES = 4
"""A volume needs three slices; a fourth may be lost."""

NASTY = (
    b"", b"nan", b"inf", b"-inf", b"1e400", b"-0", b"0", b"-1", b"99999999999999999999", b"1e-300",
    b"\\\\\\\\", b"1\\2", b"\x00", b"\xff\xfe", b"../../x", b"1_0", b"0x10", b" ", b"1.2.3" * 30,
)  # fmt: skip
"""Values that a parser may stumble over."""


@dataclass(frozen=True)
class Seed:
    """Files of one series, or one file."""

    files: tuple[Path, ...]


class TooSlow(BaseException):
    """Not an Exception: nothing may take it for a damaged file."""


class Failure(Exception):
    """What a case did that it must not."""


# --- damage ---------------------------------------------------------------------------------------


def flip_bytes(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    reach = rng.choice((len(content), min(len(content), 4096), min(len(content), 1024)))
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        damaged[rng.randrange(reach)] = rng.randrange(256)
    return bytes(damaged)


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(rng.choice((len(content), min(len(content), 4096))))]


def remove_elements(content: bytes, rng: random.Random) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    for _ in range(rng.choice((1, 1, 2, 4))):
        home = _some_dataset(dataset, rng)
        if len(home):
            del home[rng.choice(sorted(home.keys()))]
    return _written(dataset, content)


def change_values(content: bytes, rng: random.Random) -> bytes:
    damaged = content
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = _some_place(damaged, rng)
        if place is None:
            return flip_bytes(damaged, rng)
        start, length, at, size = place
        value = rng.choice(NASTY)
        if rng.random() < 0.5:
            value = (value + b" " * length)[:length]  # the length stays true
            damaged = damaged[:start] + value + damaged[start + length :]
        else:
            value += b" " * (len(value) % 2)
            new = len(value).to_bytes(size, "little")
            damaged = damaged[:at] + new + value + damaged[start + length :]
    return damaged


def lie_about_lengths(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 3))):
        place = _some_place(bytes(damaged), rng)
        if place is None:
            return flip_bytes(content, rng)
        _, length, at, size = place
        lies = (0, 1, length + 1, length + 2, length * 2, 0xFFFF, 0x7FFFFFFE, 0xFFFFFFFE)
        lie = rng.choice((*lies, 0xFFFFFFFF, max(0, length - 2), rng.randrange(1 << 16)))
        damaged[at : at + size] = (lie % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(damaged)


def change_vrs(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 2, 5))):
        place = _some_place(bytes(damaged), rng)
        if place is not None:
            at = place[2] - (2 if place[3] == 2 else 4)
            damaged[at : at + 2] = rng.choice((b"UN", b"SQ", b"OB", b"US", b"DS", b"IS", b"XX"))
    return bytes(damaged)


def nest_sequences(content: bytes, rng: random.Random) -> bytes:
    deep = rng.choice((3, 30, 300, 3000))
    tag = rng.choice((b"\x08\x00\x40\x11", b"\x09\x00\x01\x10", b"\x00\x52\x30\x92"))
    if rng.random() < 0.5:  # undefined lengths
        begin = tag + b"SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
        end = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
        nested = begin * deep + end * rng.choice((deep, deep - 1, 0))
    else:
        nested = b""
        for _ in range(deep):
            item = b"\xfe\xff\x00\xe0" + len(nested).to_bytes(4, "little") + nested
            nested = tag + b"SQ\0\0" + len(item).to_bytes(4, "little") + item
    place = _some_place(content, rng)
    at = rng.randrange(132, min(len(content), 2000)) if place is None else place[0] + place[1]
    return content[:at] + nested + content[at:]


def move_pieces(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    piece = content[start : start + rng.choice((1, 8, 100, 3000))]
    at = rng.randrange(len(content))
    if rng.random() < 0.3:
        piece = bytes(rng.randrange(256) for _ in range(min(len(piece), 200)))
    return content[:at] + piece * rng.choice((1, 2)) + content[at:]


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bytes,
    truncate,
    remove_elements,
    change_values,
    lie_about_lengths,
    change_vrs,
    nest_sequences,
    move_pieces,
)


def _some_dataset(dataset: Dataset, rng: random.Random) -> Dataset:
    """The data set, its file meta information, or an item of a sequence."""
    if rng.random() < 0.1:
        return getattr(dataset, "file_meta", dataset)
    while rng.random() < 0.7:
        items = [
            item
            for element in dataset
            if element.VR == "SQ" and isinstance(element.value, DicomSequence)
            for item in element.value
        ]
        if not items:
            break
        dataset = rng.choice(items)
    return dataset


def _written(dataset: Dataset, content: bytes) -> bytes:
    stream = io.BytesIO()
    try:
        pydicom.dcmwrite(stream, dataset)
    except Exception:  # noqa: BLE001  # what pydicom will not write stays as it is
        return content
    return stream.getvalue()


def _some_place(content: bytes, rng: random.Random) -> tuple[int, int, int, int] | None:
    """Where an element's value begins, its length, where the length stands, in how many bytes."""
    try:
        with quiet_dicom():
            dataset = pydicom.dcmread(io.BytesIO(content), force=True)
            element = dataset.get_item(rng.choice(sorted(dataset.keys())))
    except (*PARSE_ERRORS, StopIteration):
        return None
    start, length = getattr(element, "value_tell", 0), getattr(element, "length", None)
    if not start or length is None or length == 0xFFFFFFFF:
        return None
    for size in (2, 4):
        at = start - size
        if at > 132 and int.from_bytes(content[at:start], "little") == length:
            return start, length, at, size
    return None


# --- cases ----------------------------------------------------------------------------------------


def find_seeds(data: Path | None) -> list[Seed]:
    """Series of up to `SERIES_FILES` neighbours, and single files; pydicom's own test files too."""
    own = Path(pydicom.__file__).parent / "data" / "test_files"
    seeds = [Seed((file,)) for file in sorted(own.glob("*.dcm"))]
    if data is not None:
        folders: dict[str, list[Path]] = {}
        for found in scan_folder(data):
            if found.kind == "dicom":
                folders.setdefault(found.path.rpartition("/")[0], []).append(data / found.path)
        for _, files in sorted(folders.items()):
            if "dicom/odd" in files[0].as_posix():
                seeds += [Seed((file,)) for file in files]
            else:
                seeds += [
                    Seed(tuple(files[start : start + SERIES_FILES]))
                    for start in range(0, min(len(files), 40), SERIES_FILES)
                ]
    return [
        seed for seed in seeds if all(128 < f.stat().st_size < MAX_SEED_BYTES for f in seed.files)
    ]


def make_case(seeds: Sequence[Seed], number: int, seed: int, folder: Path) -> str:
    """Writes the case's files into `folder`; says what was done to which."""
    rng = random.Random(f"{seed} {number}")
    chosen = rng.choice(seeds)
    damaged = rng.randrange(len(chosen.files))
    damage = rng.choice(DAMAGES)
    for k, file in enumerate(chosen.files):
        content = file.read_bytes()
        if k == damaged:
            with quiet_dicom(), suppress(*PARSE_ERRORS):
                content = damage(content, rng)
        (folder / f"{k}.dcm").write_bytes(content)
    return f"{damage.__name__} {chosen.files[damaged].name}"


def judge(folder: Path) -> list[str]:
    """The verdicts on a folder: reason codes, or ``accepted``.

    Raises:
        Failure: a verdict that is none, or a volume that is not right.
    """
    return [_verdict(study, series) for study in discover(folder) for series in study.series]


def _verdict(study: StudyRecord, series: SeriesRecord) -> str:
    if series.status == "rejected":
        return ReasonCode(series.reason).value
    try:
        volume = read_series(study, series)
    except SeriesRefused as refusal:
        return refusal.code.value
    shape = tuple(volume.shape[1:])
    if shape != series.shape:
        raise Failure(f"promised {series.shape}, got {shape}")
    if series.reader == "highdicom" and not series.reason:
        _require_same_voxels(study, series, np.asarray(volume[0]))
    return "accepted"


def _require_same_voxels(study: StudyRecord, series: SeriesRecord, volume: Any) -> None:
    """Each slice against pydicom's plain reading of its file."""
    if len(series.files) != series.shape[2]:
        return
    for k, name in enumerate(series.files):
        with quiet_dicom():
            try:
                content = io.BytesIO((study.root / name).read_bytes())  # gives no more than it has
                dataset = pydicom.dcmread(content, force=True)
            except PARSE_ERRORS:
                return  # it demands what follows the pixels to be in order
            syntax = dataset.file_meta.get("TransferSyntaxUID")
            if syntax is None or syntax.is_encapsulated or "ModalityLUTSequence" in dataset:
                return
            try:
                stored = dataset.pixel_array.astype(np.float64)
            except PARSE_ERRORS:
                return  # it demands an element that a grey value does not need
            slope = float(dataset.get("RescaleSlope", 1) or 1)
            intercept = float(dataset.get("RescaleIntercept", 0) or 0)
        expected = (stored * slope + intercept).T.astype(np.float32)
        if not np.array_equal(expected, volume[:, :, k]):
            apart = float(np.abs(expected - volume[:, :, k]).max())
            raise Failure(f"slice {k} differs from pydicom's reading by {apart:g}")


# --- running --------------------------------------------------------------------------------------


def run_cases(
    seeds: Sequence[Seed], numbers: range, seed: int, note: Callable[[dict[str, Any]], None]
) -> None:
    """Every case in this process, one note a case; memory is limited for good."""
    importlib.import_module("radloom.shapes")  # torch takes longer than a case may
    with suppress(ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="radloom-fuzz-") as name:
            note({"case": number, "begun": True})
            what = make_case(seeds, number, seed, Path(name))
            note({"case": number, "what": what, **_outcome(Path(name))})


def _outcome(folder: Path) -> dict[str, Any]:
    def stop(*_: object) -> None:
        raise TooSlow

    children_s = _children_s()
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    said: list[str] = []
    try:
        with native_messages() as said:
            verdicts = judge(folder)
    except TooSlow:
        return {"failure": "too slow", "trace": traceback.format_exc()}
    except Exception as error:  # noqa: BLE001  # whatever comes is what is looked for
        return {"failure": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if _children_s() - children_s > CPU_S:
        return {"failure": "a child process too slow"}
    if said:
        return {"failure": f"said on standard error: {said[0]}"}
    return {"verdicts": verdicts}


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def say(what: object) -> None:
    """A line that a process at the other end gets at once."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def supervise(arguments: argparse.Namespace) -> int:
    """Runs cases in child processes, so that one that dies is one failure; prints a summary."""
    verdicts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    first, end = arguments.first, arguments.first + arguments.cases
    while first < end:
        done = first
        command = [sys.executable, __file__, "--child", "--first", str(first)]
        command += ["--cases", str(min(end - first, 1000)), "--seed", str(arguments.seed)]
        command += ["--data", str(arguments.data)] if arguments.data else []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            begun = -1
            for line in child.stdout:
                said = json.loads(line)
                if said.get("begun"):
                    begun = said["case"]
                    continue
                done = said["case"] + 1
                verdicts.update(said.get("verdicts", ()))
                if "failure" in said:
                    failures.append(said)
                    say(json.dumps(said))
        if done < min(first + 1000, end):
            failures.append({"case": begun, "failure": f"the process died ({child.returncode})"})
            say(json.dumps(failures[-1]))
            done = max(done, begun + 1)
        first = done
        say(f"{first - arguments.first} cases, {len(failures)} failures")
    for verdict, n in verdicts.most_common():
        say(f"{n:7d} {verdict}")
    return 1 if failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of real DICOM files")
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="write the files of case --first there, and end")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.keep is not None:
        shutil.rmtree(arguments.keep, ignore_errors=True)
        arguments.keep.mkdir(parents=True)
        seeds = find_seeds(arguments.data)
        say(make_case(seeds, arguments.first, arguments.seed, arguments.keep))
        say(judge(arguments.keep))
        return 0
    if not arguments.child:
        return supervise(arguments)
    numbers = range(arguments.first, arguments.first + arguments.cases)

    def note(said: dict[str, Any]) -> None:
        say(json.dumps(said))

    run_cases(find_seeds(arguments.data), numbers, arguments.seed, note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
