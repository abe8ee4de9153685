"""What elastix costs from Python and from its command line, by ITK's threader.

itk-elastix was found 8 to 18 times slower than the command line for its threader (ITKElastix pull
requests 388 and 391). Here the same rigid parameter file of ours runs on the same pair of volumes
of 2 mm voxels, as `radloom register` does it: in processes of their own, by the command line
(``elastix -threads 4``) and by our `run_elastix` (4 work units) under each of ITK's threaders.

Reported: wall and processor seconds of the whole process, and of the registration alone where it
runs in Python. Timings mean something on a quiet machine only. Needs the ``elastix`` command
(Debian: elastix).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import torch

from radloom.models.registration.itk_elastix import N_WORK_UNITS
from radloom.pipelines.single import write_image
from radloom.transforms.synthesis.phantom import make_head, render_mr

THREADERS = ("unset", "Platform", "Pool", "TBB")

SCRIPT = """\
import json, sys, time
from importlib import resources
from pathlib import Path
from radloom.models.registration.itk_elastix import parse_parameters, run_elastix
from radloom.transforms.nifti import read_nifti
fixed, moving, rigid = (Path(name) for name in sys.argv[1:])
maps = [parse_parameters(rigid.read_text(), "rigid.txt")]
fixed, moving = read_nifti(fixed), read_nifti(moving)
wall, cpu = time.perf_counter(), time.process_time()
run_elastix(fixed, moving, maps)
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""


def measured(command: Sequence[str], threader: str) -> list[float]:
    """Wall and processor seconds of the process, then those that it says of itself."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ITK_")}
    if threader != "unset":
        environment["ITK_GLOBAL_DEFAULT_THREADER"] = threader
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = done.stdout.splitlines()
    inner = json.loads(lines[-1]) if lines and lines[-1].startswith("[") else []
    return [wall, spent, *inner]


def jobs(folder: Path) -> dict[str, Callable[[], list[float]]]:
    head = make_head(torch.Generator().manual_seed(5), spacing_mm=2.0)
    noise = torch.Generator().manual_seed(6)
    images = [folder / name for name in ("fixed.nii.gz", "moving.nii.gz")]
    for path, contrast in zip(images, ("t1", "t2"), strict=True):
        write_image(render_mr(head, contrast, generator=noise), path)
    rigid = folder / "rigid.txt"
    ours = resources.files("radloom.models.registration").joinpath("rigid.txt").read_text()
    # elastix 5.0, which Debian has, knows linear interpolation by another name
    theirs = ours.replace("FinalLinearInterpolator", "FinalBSplineInterpolator")
    rigid.write_text(theirs + "(FinalBSplineInterpolationOrder 1)\n")
    out = folder / "out"
    out.mkdir()
    python = [sys.executable, "-c", SCRIPT, *map(str, images), str(rigid)]
    shell = ["elastix", "-f", str(images[0]), "-m", str(images[1]), "-out", str(out)]
    shell += ["-p", str(rigid), "-threads", str(N_WORK_UNITS)]
    return {
        "elastix command line": lambda: measured(shell, "unset"),
        **{
            f"Python, threader {name}": (lambda name=name: measured(python, name))
            for name in THREADERS
        },
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5)


def run(options: argparse.Namespace) -> str:
    if shutil.which("elastix") is None:
        sys.exit("expected the elastix command on the path (Debian: apt-get install elastix)")
    costs: dict[str, list[list[float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        work = jobs(Path(name))
        for _ in range(options.runs):
            for title, job in work.items():
                costs[title].append(job())
    lines = [
        "| | wall, s | CPU, s | registration alone: wall | CPU |",
        "|---|---|---|---|---|",
    ]
    for title, rows in costs.items():
        cells = [f"{statistics.median(column):.2f}" for column in zip(*rows, strict=True)]
        lines.append(f"| {title} | " + " | ".join([*cells, "", ""][:4]) + " |")
    return "\n".join(lines)
