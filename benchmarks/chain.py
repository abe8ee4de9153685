"""The chain against the script that a group writes today, on the same study.

The script: dcm2niix turns the folder into NIfTI; a Python process a volume denoises it with
scikit-image; the elastix command line registers each to T1 with the parameter file that Radloom
uses; transform parameters and warped volumes go through files. Radloom: ``radloom run`` with a
workflow of ingest, denoise and register. Both start from one DICOM folder, in turn, several times.

Measured of each whole process tree: wall time, peak memory (sum of resident sizes, sampled) and
bytes written to files, as the kernel counts them.

Needs the ``elastix`` command (Debian: elastix) and Linux. Run::

    python benchmarks/chain.py [--runs 3] [--spacing 1.0]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import psutil

WORKFLOW = """\
name: chain_benchmark
stages:
  - stage: ingest
  - stage: denoise
  - stage: register
"""

DENOISE = """\
import sys
import nibabel as nib
import numpy as np
from skimage.restoration import denoise_nl_means

image = nib.load(sys.argv[1])
data = np.asarray(image.dataobj, dtype=np.float32)
sigma = 1.4826 * float(np.median(np.abs(np.diff(data, axis=0)))) / 2**0.5
clean = denoise_nl_means(
    data, patch_size=3, patch_distance=2, h=0.9 * sigma, sigma=sigma, fast_mode=True
)
nib.save(nib.Nifti1Image(clean.astype(np.float32), image.affine), sys.argv[2])
"""


@dataclass(frozen=True)
class Cost:
    wall_s: float
    peak_bytes: int
    written_bytes: int


class _Watch(threading.Thread):
    """Samples a process tree: the sum of resident sizes, and bytes that reached files."""

    def __init__(self, root: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.root, self.peak, self.written = root, 0, {}
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.05):
            resident = 0
            try:
                tree = [self.root, *self.root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in tree:
                with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
                    resident += process.memory_info().rss
                    self.written[process.pid] = process.io_counters().write_chars
            self.peak = max(self.peak, resident)


def measured(commands: list[list[str]], log: Path) -> Cost:
    """One after the other, as a script runs them."""
    begin, peak, written = time.perf_counter(), 0, 0
    with log.open("ab") as sink:
        for command in commands:
            process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
            watch = _Watch(psutil.Process(process.pid))
            watch.start()
            code = process.wait()
            watch.stop.set()
            watch.join()
            if code:
                sys.exit(f"{command[0]} ended with {code}; see {log}")
            peak, written = max(peak, watch.peak), written + sum(watch.written.values())
    return Cost(time.perf_counter() - begin, peak, written)


def files_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def todays_script(study: Path, work: Path) -> Cost:
    nifti = work / "nifti"
    nifti.mkdir(parents=True)
    denoise = work / "denoise.py"
    denoise.write_text(DENOISE)
    rigid = work / "rigid.txt"
    ours = resources.files("radloom.models.registration").joinpath("rigid.txt").read_text()
    for ours_says, script_says in {
        '(AutomaticTransformInitialization "false")': (
            '(AutomaticTransformInitialization "true")\n'
            '(AutomaticTransformInitializationMethod "CenterOfGravity")'
        ),
        '(WriteResultImage "false")': '(WriteResultImage "true")',
        # elastix 5.0, which Debian has, knows linear interpolation by this name
        '"FinalLinearInterpolator"': (
            '"FinalBSplineInterpolator")\n(FinalBSplineInterpolationOrder 1'
        ),
    }.items():
        assert ours_says in ours, ours_says
        ours = ours.replace(ours_says, script_says)
    rigid.write_text(ours + '(ResultImageFormat "nii.gz")\n(ResultImagePixelType "float")\n')
    log = work / "log.txt"
    import dcm2niix

    convert = [str(dcm2niix.bin), "-z", "y", "-f", "%d", "-o", str(nifti), str(study)]
    cost = measured([convert], log)
    names = {
        role: next(path for path in sorted(nifti.glob("*.nii.gz")) if token in path.name.lower())
        for role, token in {"t1": "t1_", "t2": "t2_tse", "flair": "flair", "ct": "head_"}.items()
    }
    python = sys.executable
    clean = {role: work / f"{role}_denoised.nii.gz" for role in names}
    steps = [[python, str(denoise), str(names[role]), str(clean[role])] for role in names]
    for role in ("t2", "flair", "ct"):
        out = work / f"{role}_to_t1"
        out.mkdir()
        steps.append(
            [
                "elastix",
                "-f",
                str(clean["t1"]),
                "-m",
                str(clean[role]),
                "-out",
                str(out),
                "-p",
                str(rigid),
            ]
        )
    rest = measured(steps, log)
    return Cost(
        cost.wall_s + rest.wall_s,
        max(cost.peak_bytes, rest.peak_bytes),
        cost.written_bytes + rest.written_bytes,
    )


def radloom(study: Path, work: Path) -> Cost:
    work.mkdir(parents=True)
    workflow = work / "workflow.yaml"
    workflow.write_text(WORKFLOW)
    command = [sys.executable, "-m", "radloom", "run", str(study), str(work / "out")]
    return measured([[*command, "--workflow", str(workflow)]], work / "log.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--spacing", type=float, default=1.0, help="phantom voxels, mm")
    options = parser.parse_args()
    if shutil.which("elastix") is None:
        sys.exit("expected the elastix command on the path (Debian: apt-get install elastix)")
    from radloom.pipelines.demo import write_demo_study

    costs: dict[str, list[tuple[Cost, int]]] = {"script": [], "radloom": []}
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        write_demo_study(study, spacing_mm=options.spacing)
        for n in range(options.runs):
            for name, job in {"script": todays_script, "radloom": radloom}.items():
                work = Path(folder) / f"{name}{n}"
                costs[name].append((job(study, work), files_size(work)))
                shutil.rmtree(work)
    print(table(costs, options.runs))


def table(costs: dict[str, list[tuple[Cost, int]]], runs: int) -> str:
    def medians(name: str) -> tuple[float, float, float, float]:
        rows = [(c.wall_s, c.peak_bytes, c.written_bytes, size) for c, size in costs[name]]
        return tuple(statistics.median(column) for column in zip(*rows, strict=True))

    script, ours = medians("script"), medians("radloom")
    header = (
        f"{dt.date.today().isoformat()}, {platform.machine()}, {psutil.cpu_count()} cores, "
        f"Python {platform.python_version()}, median of {runs} runs in turn\n\n"
        "| | today's script | radloom | radloom / script |\n|---|---|---|---|\n"
    )
    units = ((1, "wall time, s"), (2**30, "peak memory, GiB"), (2**20, "written, MiB"))
    units += ((2**20, "files left, MiB"),)
    rows = [
        f"| {label} | {a / unit:.2f} | {b / unit:.2f} | {b / a:.2f} |"
        for (unit, label), a, b in zip(units, script, ours, strict=True)
    ]
    return header + "\n".join(rows)


if __name__ == "__main__":
    main()
