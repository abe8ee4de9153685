"""What denoisers keep, side by side: real scans, CT, small anomalies, cost.

Parts, of which each fills its table in docs/benchmarks.md:

- ``real``: scans as they are, with Rician noise as a share of the 99th percentile of the head.
- ``priors``: deep image priors, which take minutes to an hour, on the middle of two of them.
- ``ct``: rendered heads, a head and a body CT, with the noise of filtered back-projection.
- ``anomalies``: spheres of 3, 5 and 8 mm in rendered brains (validation maps), Rician noise of 9%.
- ``cost``: wall-clock time and the largest memory of one process on a head of 192 x 224 x 192 mm.

Every method is told the true noise level; those named "blind" estimate it. Real scans hold noise of
their own: the scan as it is stands for the truth, so a method that removes that noise too is
charged for it. The row "own noise" gives the PSNR that the noise-free scan itself would have, by
our estimate of that noise.

Each result is appended to a file as soon as it is there, and not computed again; so the table may
be filled in pieces, and `--again network` computes one method anew. `--table` prints only.

Run from the repository root, with the data beside the checkout or their folder named::

    python benchmarks/denoise.py --results denoise.jsonl --bm4d PYTHON [--methods nlm tv bm4d]
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from denoise_cases import FIRST, FULL_HEAD, NOISE, SPHERES_MM, Case, cases, full_head
from denoise_methods import Tools, methods
from denoise_scores import scores

from radloom.errors import MissingWeights
from radloom.models.denoising.noise import estimate_noise

Row = dict[str, Any]

PARTS = ("real", "priors", "ct", "anomalies", "cost")
OWN_NOISE = "own noise"
"""Not a method: the PSNR of the noise in the scan as it is."""
QUICK = (
    OWN_NOISE,
    "noisy",
    "nlb",
    "nlb, blind",
    "dct",
    "nlm",
    "nlm, blind",
    "tv",
    "scikit-image nlm",
)
NETWORK = ("network", "network, blind")
WEAKER = tuple(
    f"{method} x{f}" for method in ("nlb", "dct", "nlm", "tv") for f in ("0.5", "0.7", "1.4")
)
CHOSEN = {
    "real": (*QUICK, *NETWORK, "bm4d"),
    "priors": ("noisy", "nlb", "nlm", "network", "dip", "deepinv, best step"),
    "ct": (*QUICK, *NETWORK, "bm4d"),
    "anomalies": (*QUICK, *NETWORK, "bm4d", *WEAKER, "bm4d x0.5", "bm4d x0.7"),
    "cost": ("network", "nlb", "dct", "nlm", "tv", "bm4d"),
}
"""The methods of a part where none are named."""


def main() -> None:
    options = arguments()
    tools = Tools(
        options.bm4d,
        options.deepinv,
        torch.device(options.device),
        options.bundles,
        options.threads,
    )
    if options.one:
        cost_of_one(options.one, tools)
        return
    torch.set_num_threads(options.threads)
    rows = read(options.results)
    if not options.table:
        for part in options.parts:
            wanted = options.methods or CHOSEN[part]
            if part == "cost":
                rows += cost(wanted, options)
            else:
                rows += fill(part, wanted, rows, tools, options)
    print(
        f"{dt.date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{options.threads} thread(s), Python {platform.python_version()}"
    )
    for part in options.parts:
        own = [row for row in rows if row["part"] == part]
        print(f"\n{part}\n\n{TABLES[part](own)}")


def fill(
    part: str, wanted: Sequence[str], rows: list[Row], tools: Tools, options: argparse.Namespace
) -> list[Row]:
    """The results that are not there yet, appended to the file one by one."""
    known = methods(tools)
    done = {key_of(row) for row in rows if row["method"] not in options.again}
    fresh = []
    for name, noise, make in cases(part, options.data):
        if (options.noise and noise not in options.noise) or (
            options.first and name not in FIRST[part]
        ):
            continue
        case = None
        for method in wanted:
            if (part, name, noise, method) in done:
                continue
            case = case or make()
            row = result(case, method, known.get(method))
            if row is not None:
                fresh.append(row)
                append(options.results, row)
    return fresh


def result(case: Case, method: str, denoise: Any) -> Row | None:
    if method == OWN_NOISE:
        return own_noise(case)
    begin = processor_seconds()
    try:
        image = denoise(case)
    except MissingWeights:
        return None
    seconds = processor_seconds() - begin
    row = {
        "part": case.part,
        "case": case.name,
        "noise": case.noise,
        "method": method,
        "seconds": round(seconds, 2),
        **scores(case, image),
    }
    print(f"{case.name}, {case.noise:g}, {method}: {row['psnr']:.2f} dB", file=sys.stderr)
    return row


def processor_seconds() -> float:
    """Of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def own_noise(case: Case) -> Row | None:
    """None for rendered heads, and where none is found."""
    if case.part == "anomalies" or case.name.startswith("rendered"):
        return None
    sigma = estimate_noise(case.truth, case.modality).sigma
    if sigma == 0:
        return None
    psnr = float(20 * np.log10(case.peak / sigma))
    what = {"part": case.part, "case": case.name, "noise": case.noise, "method": OWN_NOISE}
    return {**what, "seconds": 0.0, "psnr": psnr, "ssim": float("nan")}


def cost(wanted: Sequence[str], options: argparse.Namespace) -> list[Row]:
    """Each method in a process of its own, which reads nothing and writes nothing."""
    fresh = []
    for method in wanted:
        command = [sys.executable, __file__, str(options.data), "--one", method]
        command += ["--threads", str(options.threads), "--device", options.device]
        for flag, value in (("--bm4d", options.bm4d), ("--bundles", options.bundles)):
            command += [flag, str(value)] if value else []
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            print(f"{method}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        row = {"part": "cost", "case": "head", "noise": 6, "method": method}
        fresh.append(row | json.loads(done.stdout.splitlines()[-1]))
        append(options.results, fresh[-1])
    return fresh


def cost_of_one(method: str, tools: Tools) -> None:
    """Prints seconds and GiB, those of processes that it starts included."""
    torch.set_num_threads(tools.n_threads)
    noisy = full_head()
    sigma = 0.06 * float(np.percentile(noisy[noisy > noisy.mean()], 99))
    box = (slice(None),) * 3
    case = Case(
        "head", "cost", "MR", 6, sigma, 1, (1, 1, 1), noisy, noisy, noisy > 0, noisy, box
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    methods(tools)[method](case)
    seconds = time.perf_counter() - begin
    own, others = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    peak = {"seconds": seconds, "gib": max(own, others) / 2**20, "gib_before": before / 2**20}
    if tools.device.type == "cuda":
        peak["gib_device"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps(peak))


def psnr_table(rows: list[Row]) -> str:
    """All methods on the cases that all have; those on all cases."""
    tables = [mean_table(rows)]
    whole = methods_with_most(rows)
    if len(whole) < len({row["method"] for row in rows}):
        tables.append(mean_table([row for row in rows if row["method"] in whole]))
    return "\n\n".join(tables)


def methods_with_most(rows: list[Row]) -> set[str]:
    numbers = Counter(row["method"] for row in rows)
    return {method for method, n in numbers.items() if n == max(numbers.values())}


def mean_table(rows: list[Row]) -> str:
    """PSNR and SSIM, the means over those cases that every method has at this noise."""
    found: dict[tuple[str, float], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[row["method"], row["noise"]][row["case"]] = row
    noise = sorted({level for _, level in found})
    shared = {
        level: set.intersection(
            *(set(v) for (m, n), v in found.items() if n == level and m != OWN_NOISE)
        )
        for level in noise
    }
    heads = " | ".join(f"{level:g} (n {len(shared[level])})" for level in noise)
    lines = [f"| | {heads} |", "|---" * (len(noise) + 1) + "|"]
    for method in dict.fromkeys(m for m, _ in found):
        cells = []
        for level in noise:
            own = [row for case, row in found[method, level].items() if case in shared[level]]
            mean = [float(np.mean([row[key] for row in own])) for key in ("psnr", "ssim") if own]
            cells.append("{:.2f} / {:.3f}".format(*mean).removesuffix(" / nan") if own else "-")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sphere_table(rows: list[Row]) -> str:
    """Median and 10th percentile of the contrast that is left, by diameter."""
    found: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[row["method"]][row["case"]] = row
    sizes = [f"{d:g}" for d in SPHERES_MM]
    lines = ["| | " + " | ".join(f"{s} mm" for s in sizes) + " | error left | PSNR |"]
    lines.append("|---" * (len(sizes) + 3) + "|")
    for method, own in sorted(found.items(), key=lambda item: error_left(item[1])):
        cells = []
        for size in sizes:
            shares = [s for row in own.values() for s in row["spheres"][size]]
            low, middle = np.percentile(shares, (10, 50))
            cells.append(f"{middle:.2f} / {low:.2f} (n {len(shares)})")
        psnr = np.mean([row["psnr"] for row in own.values()])
        lines.append(f"| {method} | {' | '.join(cells)} | {error_left(own):.3f} | {psnr:.2f} |")
    return "\n".join(lines)


def error_left(own: dict[str, Row]) -> float:
    return float(np.mean([row["error_left"] for row in own.values()]))


def cost_table(rows: list[Row]) -> str:
    shape = " x ".join(str(n) for n in FULL_HEAD)
    lines = [f"| {shape} | seconds | GiB | GiB before | GiB on the device |", "|---" * 5 + "|"]
    for row in {row["method"]: row for row in rows}.values():
        device = f"{row['gib_device']:.2f}" if "gib_device" in row else "-"
        memory = f"{row['gib']:.2f} | {row['gib_before']:.2f} | {device}"
        lines.append(f"| {row['method']} | {row['seconds']:.1f} | {memory} |")
    return "\n".join(lines)


TABLES = {
    "real": psnr_table,
    "priors": psnr_table,
    "ct": psnr_table,
    "anomalies": sphere_table,
    "cost": cost_table,
}


def key_of(row: Row) -> tuple[str, str, float, str]:
    return row["part"], row["case"], row["noise"], row["method"]


def read(path: Path) -> list[Row]:
    """The rows of a file; of those with the same key the last one counts."""
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return list({key_of(row): row for row in rows}.values())


def append(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--results", type=Path, default=Path("denoise.jsonl"))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--methods", nargs="+", help="by default those of the part")
    parser.add_argument("--again", nargs="+", default=[], help="methods to compute anew")
    levels = sorted({level for part in NOISE.values() for level in part})
    parser.add_argument("--noise", type=float, nargs="+", help=f"of {levels}; by default all")
    parser.add_argument("--first", action="store_true", help="a few cases of each part alone")
    parser.add_argument("--bm4d", type=Path, metavar="PYTHON", help="an interpreter with bm4d")
    parser.add_argument("--deepinv", type=Path, metavar="PYTHON", help="one that has deepinv")
    parser.add_argument("--bundles", type=Path, help="folder of bundles, for weights not shipped")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the tables, compute nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
