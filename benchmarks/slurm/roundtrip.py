"""The same `radloom run` on this machine and through a real SLURM: the same results?

Starts SLURM on loopback (`loopback`), keeps workers in its queue as the how-to page says
(``workers.py``, unchanged), and gives the same command four times:

- `local`: on a local cluster of two workers;
- `slurm`: ``--scheduler file:scheduler.json``, two jobs;
- `scancel`: likewise, and one of the two jobs is cancelled while a study is at work in it;
- `lost`: likewise, and the process that holds the Dask scheduler is killed on the way; then it is
  started again, and the same command given again.

Compared are the manifest and every file that it, its sidecars and the tables name. The studies are
demo phantoms as DICOM; stages: ingest, denoise, report. Needs Linux, Debian's slurm-wlm and munge,
and the extra ``cluster``. Prints Markdown; about four minutes::

    python benchmarks/slurm/roundtrip.py [--install] [--studies 6] [--spacing 2]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

if __package__:
    from .loopback import Slurm, install, loopback, missing
else:
    from loopback import Slurm, install, loopback, missing

HERE = Path(__file__).resolve().parent
N_JOBS = 2
LIMIT_S = 900.0

WORKFLOW = """\
name: slurm_round_trip
stages:
  - stage: ingest
  - stage: denoise
  - stage: report
"""


@dataclass(frozen=True)
class Site:
    """Folders, and the cluster they are on."""

    folder: Path
    slurm: Slurm

    @property
    def studies(self) -> Path:
        return self.folder / "studies"

    def start_run(self, name: str, *options: str) -> subprocess.Popen[str]:
        """`radloom run` into the folder of that name; its words go to a log beside it."""
        workflow = self.folder / "workflow.yaml"
        workflow.write_text(WORKFLOW)
        command = [sys.executable, "-m", "radloom", "run", str(self.studies), str(self.out(name))]
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [*command, "--workflow", str(workflow), "--no-index", *options],
                cwd=self.folder,
                env=self.slurm.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def out(self, name: str) -> Path:
        return self.folder / name

    def last_words(self, name: str, n: int = 3) -> str:
        lines = (self.folder / f"{name}.log").read_text().splitlines()
        return " / ".join(line.replace(str(self.folder), "...") for line in lines[-n:])

    def n_receipts(self, name: str) -> int:
        return len(list(self.out(name).glob("stages/*/*/stage.json")))


@dataclass(frozen=True)
class Result:
    """What one way of running came to."""

    name: str
    code: int
    wall_s: float
    said: str
    digests: dict[str, str]
    """File -> sha256, all files that must not differ."""
    notes: tuple[str, ...] = field(default=())


def make_studies(site: Site, n_studies: int, spacing_mm: float) -> None:
    """Phantoms as DICOM, each another head."""
    from radloom.pipelines.demo import write_demo_study

    for seed in range(n_studies):
        write_demo_study(site.studies / f"phantom{seed}", seed=seed, spacing_mm=spacing_mm)


def digests_of(out: Path) -> dict[str, str]:
    """Hashes of all that a run promises to give the same: not what says how long it took."""
    named = [out / name for name in ("manifest.json", "ingest.tsv", "dataset_description.json")]
    found = (path for path in (*named, *out.glob("sub-*/**/*")) if path.is_file())
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found
    }


@contextlib.contextmanager
def workers(site: Site) -> Iterator[subprocess.Popen[str]]:
    """``python workers.py`` in a shell of its own, stopped with Ctrl-C."""
    shutil.copy(HERE / "workers.py", site.folder)
    file = site.folder / "scheduler.json"
    file.unlink(missing_ok=True)
    with (site.folder / "workers.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "workers.py"],
            cwd=site.folder,
            env=site.slurm.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        wait_until(file.exists, "workers.py writes scheduler.json", process)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()
        process.wait(timeout=30)


def wait_until(
    met: Callable[[], object], what: str, process: subprocess.Popen[str], limit_s: float = LIMIT_S
) -> None:
    """Nothing, as soon as it is so; the process must be alive until then."""
    deadline = time.monotonic() + limit_s
    while not met():
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"expected that {what}, waited {limit_s:.0f} s or its process ended")
        time.sleep(0.1)


def finished(site: Site, name: str, run: subprocess.Popen[str], begun: float) -> Result:
    """The run's end, awaited."""
    code = run.wait(timeout=LIMIT_S)
    wall_s = time.monotonic() - begun
    return Result(name, code, wall_s, site.last_words(name), digests_of(site.out(name)))


def run_locally(site: Site) -> Result:
    begun = time.monotonic()
    return finished(site, "local", site.start_run("local", "--workers", str(N_JOBS)), begun)


def run_on_slurm(site: Site) -> Result:
    begun = time.monotonic()
    with workers(site):
        run = site.start_run("slurm", "--scheduler", "file:scheduler.json")
        return finished(site, "slurm", run, begun)


def run_with_scancel(site: Site) -> Result:
    begun = time.monotonic()
    with workers(site):
        run = site.start_run("scancel", "--scheduler", "file:scheduler.json")
        wait_until(lambda: site.n_receipts("scancel") > 1, "two stages are done", run)
        wait_until(lambda: len(site.slurm.jobs("R")) == N_JOBS, "both jobs run", run)
        victim = site.slurm.jobs("R")[0]
        n_receipts = site.n_receipts("scancel")
        at_work = len(list(site.out("scancel").glob("stages/*/running.json")))
        site.slurm.call("scancel", victim)
        result = finished(site, "scancel", run, begun)
        others = [job for job in site.slurm.jobs() if int(job) > int(victim) + 1]
    note = (
        f"job {victim} cancelled after {n_receipts} stages, {at_work} studies at work; "
        f"{len(others)} job(s) submitted in its place"
    )
    return Result(result.name, result.code, result.wall_s, result.said, result.digests, (note,))


def run_with_lost_scheduler(site: Site) -> Result:
    begun = time.monotonic()
    with workers(site) as process:
        run = site.start_run("lost", "--scheduler", "file:scheduler.json")
        wait_until(lambda: site.n_receipts("lost") > 1, "two stages are done", run)
        n_receipts = site.n_receipts("lost")
        process.kill()
        first = finished(site, "lost", run, begun)
    with workers(site):
        again = site.start_run("lost", "--scheduler", "file:scheduler.json")
        result = finished(site, "lost", again, begun)
    note = f"killed after {n_receipts} stages: exit status {first.code}, said: {first.said}"
    return Result(result.name, result.code, result.wall_s, result.said, result.digests, (note,))


RUNS: dict[str, Callable[[Site], Result]] = {
    "local": run_locally,
    "slurm": run_on_slurm,
    "scancel": run_with_scancel,
    "lost": run_with_lost_scheduler,
}


def differences(reference: dict[str, str], other: dict[str, str]) -> list[str]:
    """Files that only one has, or whose bytes differ."""
    return sorted(
        path for path in reference.keys() | other.keys() if reference.get(path) != other.get(path)
    )


def as_markdown(results: list[Result]) -> str:
    """A row a run; the first is what the others are compared with."""
    first = results[0]
    lines = [
        f"{dt.date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}; {len(first.digests)} files compared.",
        "",
        "| run | exit status | wall to local | files that differ | |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        n_other = len(differences(first.digests, result.digests))
        cells = (
            result.name,
            str(result.code),
            f"{result.wall_s / first.wall_s:.2f}",
            str(n_other),
            "; ".join(result.notes),
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"{r.name}: {r.said} ({r.wall_s:.0f} s)" for r in results)]
    return "\n".join(lines)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))  # and end what was started
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="apt-get install SLURM first")
    parser.add_argument("--studies", type=int, default=6)
    parser.add_argument("--spacing", type=float, default=2.0, help="phantom voxels, mm")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), help="beside local")
    parser.add_argument("--keep", type=Path, help="folder for everything; left where it is")
    options = parser.parse_args()
    if options.install:
        install()
    if missing():
        sys.exit(f"expected {', '.join(missing())}: call with --install, as root")
    with contextlib.ExitStack() as stack:
        if options.keep:
            options.keep.mkdir(parents=True)
        folder = options.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-"))
        site = Site(Path(folder).resolve(), stack.enter_context(loopback(Path(folder) / "slurm")))
        make_studies(site, options.studies, options.spacing)
        results = [run_locally(site)]
        if results[0].code:
            sys.exit(f"the local run failed: {results[0].said}")
        chosen = options.only or [name for name in RUNS if name != "local"]
        results += [RUNS[name](site) for name in chosen]
    print(as_markdown(results))
    first = results[0]
    if any(r.code or differences(first.digests, r.digests) for r in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
