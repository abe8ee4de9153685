"""What a person asks of a cohort's results, over the number of studies: seconds and memory.

A synthetic OUT is made: six receipts a study, as long as those of the head workflow, written by the
functions that a run uses for the first study and copied, under other names and with other numbers,
for the rest; pictures of a few bytes. Each command then runs as a process of its own, so that
imports count. Run::

    python benchmarks/cohort.py [--sizes 1000,2000,5000,10000] [--at FOLDER]

About a quarter of an hour with the sizes above on two cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from radloom.pipelines.export import write_tables
from radloom.pipelines.receipts.files import sha256_of
from radloom.pipelines.receipts.receipt import Check, OutputRecord, Receipt, write_receipt
from radloom.pipelines.receipts.records import write_record
from radloom.pipelines.study import Kind, SeriesRecord, StudyRecord

TEMPLATE = "TEMPLATE"
KEY = f"sub-{TEMPLATE}_ses-1"
TREE = f"sub-{TEMPLATE}/ses-1"
VALUE = 0.123456789
FAILS, FLAGS = 97, 10
"""Every how many studies one fails in registration, or has a check out of range."""

MEANING = "A sentence of the usual length that says what the number tells, and what to look at."


def make_cohort(out: Path, n_studies: int, *, pictures: int = 3) -> None:
    """`out` as a run over `n_studies` studies leaves it, without voxels."""
    _make_template(out, pictures)
    record = (out / "stages" / KEY / "study.json").read_text()
    stages = {
        path.parent.name: path.read_text() for path in (out / "stages" / KEY).glob("*/stage.json")
    }
    files = {p.relative_to(out / TREE): p.read_bytes() for p in (out / TREE).rglob("*.*")}
    for number in range(n_studies):
        _copy(out, number, record, stages, files)
    shutil.rmtree(out / "stages" / KEY)
    shutil.rmtree(out / f"sub-{TEMPLATE}")


def subject(number: int) -> str:
    """Of the study `number`: a label of eight letters and digits, as digests are."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:8]


def _copy(
    out: Path, number: int, record: str, stages: dict[str, str], files: dict[Path, bytes]
) -> None:
    label = subject(number)
    folder = out / "stages" / f"sub-{label}_ses-1"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(record.replace(TEMPLATE, label))
    failed = number % FAILS == FAILS - 1
    for stage, text in stages.items():
        if failed and stage in ("translate", "segment", "report"):
            continue
        text = text.replace(TEMPLATE, label)
        share = hashlib.sha256(f"{number} {stage}".encode()).digest()[0] / 255
        value = 2.0 if stage == "denoise" and number % FLAGS == 0 else share
        text = text.replace(f'"value": {VALUE}', f'"value": {value}')
        if failed and stage == "register":
            text = text.replace('"status": "done"', '"status": "failed"')
            text = text.replace('"reason": ""', '"reason": "elastix gave up: too few samples"')
        (folder / stage).mkdir()
        (folder / stage / "stage.json").write_text(text)
    for path, content in files.items():
        if not failed or not any(name in path.name for name in (".png", "dseg", "table")):
            place = out / f"sub-{label}" / "ses-1" / str(path).replace(TEMPLATE, label)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)


def _make_template(out: Path, pictures: int) -> None:
    """One study, through the functions that a run uses."""
    roles = ("t1", "t2", "flair")
    series = tuple(
        SeriesRecord(
            f"2.25.{n}", "MR", f"Head {role} sag", "accepted", role=role, role_rule=f"name: {role}",
            shape=(256, 256, 160), spacing=(1.0, 1.0, 1.2), files=("1.dcm",) * 160,
        )
        for n, role in enumerate(roles)
    )  # fmt: skip
    refused = SeriesRecord(
        "2.25.9", "MR", "localizer", "rejected", "localizer", "three planes of a localizer"
    )
    write_record(out, StudyRecord(TEMPLATE, "1", "2.25.1", Path(), (*series, refused)))
    suffix = {"t1": "T1w", "t2": "T2w", "flair": "FLAIR"}
    grid = {role: f"anat/sub-{TEMPLATE}_ses-1_{suffix[role]}" for role in roles}
    ingested = [_output(out, "volume", r, "ingested", f"{grid[r]}.nii.gz") for r in roles]
    _put(out, "ingest", 0, ingested, [])
    denoised = [
        _output(out, "volume", r, "denoised", f"{grid[r]}_desc-denoised.nii.gz") for r in roles
    ]
    _put(out, "denoise", 1, denoised, [f"{r}_noise_{n}" for r in roles for n in range(4)])
    moved = [
        _output(out, kind, r, name, f"anat/sub-{TEMPLATE}_ses-1_{r}_{name}{ending}")
        for r in roles[1:]
        for kind, name, ending in (
            ("volume", "registered", ".nii.gz"),
            ("transform", "moving_from_fixed", ".tfm"),
        )
    ]
    _put(out, "register", 2, moved, [f"{r}_similarity_{n}" for r in roles[1:] for n in range(6)])
    _put(out, "translate", 3, [], [], status="skipped", reason="no weights in this release")
    labels = [
        _output(out, "label", "t1", "brain", f"{grid['t1']}_dseg.nii.gz"),
        _output(out, "table", "t1", "volumes", f"{grid['t1']}_table.tsv"),
    ]
    _put(out, "segment", 4, labels, [f"volume_{n}" for n in range(12)])
    drawn = [
        _output(out, "report", roles[n % 3], stage, f"figures/{stage}_{n}.png", stage=stage)
        for n, stage in enumerate(("ingest", "denoise", "register")[:pictures])
    ]
    _put(out, "report", 5, drawn, ["pictures_missing"])


def _output(
    out: Path, kind: Kind, role: str, name: str, place: str, **sidecar: str
) -> OutputRecord:
    path = f"{TREE}/{place}"
    beside = [] if kind == "report" else [path.split(".", maxsplit=1)[0] + ".json"]
    files = {}
    for each in (path, *beside):
        (out / each).parent.mkdir(parents=True, exist_ok=True)
        content = _png() if each.endswith(".png") else f"{kind} {name} of {role}\n".encode()
        (out / each).write_bytes(content)
        files[each] = sha256_of(out / each)
    said = sidecar or {"Method": "nlm", "NoiseLevel": 1.5, "Fast": False}
    return OutputRecord(
        kind, role, name, sidecar=said, path=path, files=files, stats={path: (10, 1)}
    )


def _png() -> bytes:
    import numpy as np

    from radloom.pipelines.report.canvas import _png as as_png

    return as_png(np.zeros((36, 48), dtype=np.uint8))


def _put(
    out: Path,
    stage: str,
    position: int,
    outputs: Sequence[OutputRecord],
    checks: Sequence[str],
    **said: str,
) -> None:
    receipt = Receipt(
        study=KEY, stage=stage, position=position, fingerprint="f" * 64,
        parameters={"method": "nlm", "fast": False, "roles": ["t1", "t2"], "model": None},
        inputs={f"{TREE}/anat/{n}.nii.gz": "a" * 64 for n in range(6)},
        outputs=tuple(outputs), seconds=12.345, peak_memory_bytes=2**30, device="cpu",
        checks=tuple(
            Check(n, VALUE if "missing" not in n else 0.0, 0.0, 1.5, "", MEANING) for n in checks
        ),
        versions={"python": "3.11.7", "radloom": "0.1.0", "torch": "2.9.0", "monai": "1.6.1"},
        **{"status": "done", **said},
    )  # fmt: skip
    write_receipt(out / "stages" / KEY / stage / "stage.json", receipt)


COMMANDS: dict[str, tuple[str, ...]] = {
    "status, no index": ("status", "{out}"),
    "tables and report, first": ("report", "{out}"),
    "tables and report, again": ("report", "{out}"),
    "status": ("status", "{out}"),
    "status --all": ("status", "{out}", "--all"),
    "verify": ("verify", "{out}"),
}


def _timed(arguments: Sequence[str]) -> tuple[float, float]:
    """Seconds and MiB at the peak of a process."""
    probe = (
        "import resource, sys\n"
        "from radloom.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "unit = 2**20 if sys.platform == 'darwin' else 2**10\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit\n"
        "print('peak', peak, file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, check=True
    )
    found = re.search(r"^peak ([\d.]+)$", done.stderr, re.MULTILINE)
    assert found is not None, done.stderr
    return time.perf_counter() - start, float(found[1])


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _measure(out: Path) -> dict[str, tuple[float, float]]:
    found = {
        name: _timed([part.format(out=out) for part in command])
        for name, command in COMMANDS.items()
    }
    some = next(out.glob("sub-*/ses-1/anat/*_T1w_dseg.nii.gz"))
    return {**found, "explain": _timed(["explain", str(some)])}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="1000,2000,5000,10000")
    parser.add_argument("--at", type=Path, help="Folder that is there, for the synthetic results.")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    columns: dict[int, dict[str, tuple[float, float]]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=options.at) as folder:
            out = Path(folder) / "out"
            print(f"{size} studies made in {_seconds(lambda: make_cohort(out, size)):.0f} s")  # noqa: B023
            again = (_seconds(lambda: write_tables(out)), 0.0)  # noqa: B023
            (out / "stages" / ".index.json").unlink()
            columns[size] = {**_measure(out), "write_tables in a process at work": again}
    print(
        f"\n{platform.machine()}, Python {platform.python_version()}; seconds (MiB at the peak)\n"
    )
    print(f"| | {' | '.join(f'{size:,}' for size in sizes)} |")
    print("|---" * (len(sizes) + 1) + "|")
    for name in columns[sizes[0]]:
        cells = [columns[size][name] for size in sizes]
        print(f"| {name} | {' | '.join(_cell(*cell) for cell in cells)} |")


def _cell(seconds: float, peak: float) -> str:
    return f"{seconds:.2f} ({peak:.0f})" if peak else f"{seconds:.2f}"


if __name__ == "__main__":
    main()
