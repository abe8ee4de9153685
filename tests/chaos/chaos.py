"""Kill whatever runs, at random instants, until nothing is left to kill; then compare.

    python tests/chaos/chaos.py --studies 40 --kills 60 --seed 7

Processes of studies, Dask workers, the scheduler and the driver get SIGKILL (the driver SIGTERM and
SIGINT too), the disk is full once, and three studies exhaust memory, crash and hang. What one run
without kills left must be what is there in the end, byte for byte, and nothing may still run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

COHORT = Path(__file__).with_name("cohort.py")
SHARES = {"process": 0.5, "driver": 0.2, "worker": 0.15, "scheduler": 0.15}
"""Of all kills. Workers and the scheduler are killed on a cluster, the driver on one machine."""
PATIENCE_S = 120.0
REASONS = {
    "hungry": "memory ran out",
    "crashing": "SIGSEGV",
    "hanging": "came to no end",
}


@dataclass
class Chaos:
    folder: Path
    n_studies: int
    generator: random.Random
    stage_timeout_s: float
    killed: Counter[str] = field(default_factory=Counter)

    @property
    def out(self) -> Path:
        return self.folder / "killed"

    def rage(self, kills: list[tuple[int, str]]) -> None:
        """Each kill once there are so many receipts; the driver starts again as often as needed."""
        local = [kill for kill in kills if kill[1] in ("process", "driver")]
        clustered = [kill for kill in kills if kill not in local]
        self._work(local[: len(local) // 2], None)
        self._fill_disk()
        while clustered:
            with cluster(self.folder) as processes:
                clustered = self._work(clustered, processes)
        self._work(local[len(local) // 2 :], None)

    def finish(self) -> None:
        """The same command without a kill."""
        run(self.out, self.n_studies, self.stage_timeout_s)

    def _start(self, scheduler: str) -> subprocess.Popen[str]:
        return start(self.out, self.n_studies, self.stage_timeout_s, scheduler)

    def _work(
        self, kills: list[tuple[int, str]], processes: Cluster | None
    ) -> list[tuple[int, str]]:
        """Starts the driver and kills; what is left of the kills when the scheduler is gone."""
        while kills:
            driver = self._start(processes.address if processes else "")
            try:
                while kills and driver.poll() is None:
                    (at, what), *rest = kills
                    if receipts(self.out) < at:
                        time.sleep(0.02)
                        continue
                    time.sleep(self.generator.uniform(0, 0.5))
                    if self._kill(what, driver, processes):
                        kills = rest
                        if what == "scheduler":
                            return kills
            finally:
                end(driver)
        return kills

    def _kill(self, what: str, driver: subprocess.Popen[str], cluster: Cluster | None) -> bool:
        if what == "driver":
            how = self.generator.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            driver.send_signal(how)
            started = time.monotonic()
            driver.wait(timeout=PATIENCE_S)
            assert time.monotonic() - started < 10 + 5, "the driver took too long to stop"
        elif what == "scheduler":
            assert cluster is not None
            cluster.scheduler.kill()
            driver.wait(timeout=PATIENCE_S)
        else:
            roots = cluster.workers if cluster else [driver]
            wanted = "study_process" if what == "process" else "spawn_main"
            found = children(roots, wanted)
            if not found:
                time.sleep(0.05)
                return False
            with suppress(psutil.NoSuchProcess):
                self.generator.choice(found).kill()
        self.killed[what] += 1
        return True

    def _fill_disk(self) -> None:
        """The next run stops, says why, and marks no study."""
        (self.folder / "full").touch()
        driver = self._start("")
        _, said = driver.communicate(timeout=PATIENCE_S)
        (self.folder / "full").unlink()
        assert driver.returncode == 1, said
        assert "No space left on device" in said, said
        self.killed["disk"] += 1


@dataclass
class Cluster:
    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A scheduler and two workers, each with its nanny, as ``dask`` starts them."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(
        [
            *(*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            *("--scheduler-file", str(file)),
        ],
        **quiet,
    )
    options = ["--nthreads", "1", "--memory-limit", "2GB", "--no-dashboard"]
    options += ["--scheduler-file", str(file), "--local-directory", str(folder / "dask")]
    support = COHORT.parents[1] / "support"
    path = os.pathsep.join([str(COHORT.parent), str(support), os.environ.get("PYTHONPATH", "")])
    workers = [
        subprocess.Popen(
            [*dask, "worker", *options], env={**os.environ, "PYTHONPATH": path}, **quiet
        )
        for _ in range(2)
    ]
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield Cluster(f"file:{file}", scheduler, workers)
    finally:
        for process in (scheduler, *workers):
            process.terminate()
        for process in (scheduler, *workers):
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            process.kill()
            process.wait()


def start(
    out: Path, n_studies: int, stage_timeout_s: float, scheduler: str
) -> subprocess.Popen[str]:
    command = [sys.executable, str(COHORT), str(out), str(n_studies), str(stage_timeout_s)]
    return subprocess.Popen(
        [*command, scheduler] if scheduler else command, stderr=subprocess.PIPE, text=True
    )


def run(out: Path, n_studies: int, stage_timeout_s: float) -> None:
    """One run to its end."""
    with start(out, n_studies, stage_timeout_s, "") as driver:
        _, said = driver.communicate(timeout=10 * PATIENCE_S)
    assert driver.returncode == 0, said


def end(driver: subprocess.Popen[str]) -> None:
    """Nothing left of a driver and the processes that it started."""
    offspring = children([driver], "study_process") if driver.poll() is None else []
    driver.kill()
    driver.communicate()
    _, alive = psutil.wait_procs(offspring, timeout=10)
    assert not alive, "processes outlived their run"


def children(roots: list[subprocess.Popen[str]] | list, wanted: str) -> list[psutil.Process]:
    found = []
    for root in roots:
        with suppress(psutil.Error):
            for child in psutil.Process(root.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if any(wanted in word for word in child.cmdline()):
                        found.append(child)
    return found


def receipts(out: Path) -> int:
    return sum(1 for _ in out.glob("stages/*/*/stage.json"))


def plan(n_kills: int, n_receipts: int, generator: random.Random) -> list[tuple[int, str]]:
    """When, in receipts, and whom; in order."""
    whom = generator.choices(list(SHARES), list(SHARES.values()), k=n_kills)
    return sorted(zip(sorted(generator.choices(range(n_receipts), k=n_kills)), whom, strict=True))


def manifest(out: Path) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = json.loads((out / "manifest.json").read_text())
    return entries


def failures(out: Path) -> dict[str, str]:
    """Study -> stage and reason, of those marked failed."""
    rows = (line.split("\t") for line in (out / "studies.tsv").read_text().splitlines()[1:])
    return {row[0]: f"{row[2]}: {row[3]}" for row in rows if row[1] == "failed"}


def check(whole: Path, killed: Path) -> None:
    assert manifest(killed) == manifest(whole), "the manifests differ"
    for out in (whole, killed):
        failed = failures(out)
        assert set(failed) == {f"sub-{victim}_ses-1" for victim in REASONS}, failed
        for victim, words in REASONS.items():
            reason = failed[f"sub-{victim}_ses-1"]
            assert reason.startswith("denoise: "), reason
            assert words in reason, f"{victim}: {reason}"
    assert not list(killed.rglob("*.partial")), "something unfinished is left"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--studies", type=int, default=40)
    options.add_argument("--kills", type=int, default=60)
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--stage-timeout", type=float, default=20.0)
    given = options.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        raged = rage(Path(folder), given.studies, given.kills, given.seed, given.stage_timeout)
    print(f"{given.studies} studies, {dict(raged)}: the same bytes as undisturbed, ")  # noqa: T201
    print(f"three marked with their reasons, in {time.monotonic() - started:.0f} s")  # noqa: T201


def rage(
    folder: Path, n_studies: int, n_kills: int, seed: int, stage_timeout_s: float
) -> Counter[str]:
    """Both runs and the comparison; whom the second lost."""
    generator = random.Random(seed)
    run(folder / "whole", n_studies, stage_timeout_s)
    n_receipts = receipts(folder / "whole") - 12
    chaos = Chaos(folder, n_studies, generator, stage_timeout_s)
    chaos.rage(plan(n_kills, n_receipts, generator))
    chaos.finish()
    check(folder / "whole", chaos.out)
    return chaos.killed


if __name__ == "__main__":
    main()
