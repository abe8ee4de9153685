"""A real SLURM on one machine: munged, slurmctld and slurmd on loopback, for as long as a block.

Everything they need and leave lies in one folder; no file of the system is touched, and nothing is
left running, also after an error. Jobs run as the user who starts it, on as many cores as the
configuration says, whatever the machine has (``config_overrides``), and without cgroups.

Needs Debian's packages slurm-wlm and munge. Try it::

    python benchmarks/slurm/loopback.py --install     # as root: apt-get install, once
    python benchmarks/slurm/loopback.py sbatch --wrap "srun hostname"
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

PACKAGES = ("slurm-wlm", "munge")
DAEMONS = ("munged", "slurmctld", "slurmd")
PARTITION = "main"

CONFIG = """\
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
MailProg=/bin/true
ReturnToService=2
InactiveLimit=0
KillWait=5
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory_mb} State=UNKNOWN
PartitionName={partition} Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""
"""One node, one partition. Every port, socket and folder is the caller's own."""


@dataclass(frozen=True)
class Slurm:
    """What a user of the cluster needs."""

    folder: Path
    """Configuration, state and logs of the daemons."""

    @property
    def environment(self) -> dict[str, str]:
        """For every process that calls sbatch, squeue or scancel."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        """What a SLURM command prints."""
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def jobs(self, *states: str) -> list[str]:
        """Numbers of the jobs that wait or run, in the order of submission."""
        asked = [f"--states={','.join(states)}"] if states else []
        return sorted(self.call("squeue", "--noheader", "--format=%i", *asked).split(), key=int)


def missing() -> list[str]:
    """The daemons that are not installed."""
    return [name for name in DAEMONS if _which(name) is None]


def install() -> None:
    """Debian's packages, for root."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
    subprocess.run(("apt-get", "update", "-qq"), env=environment, check=True)
    subprocess.run(command, env=environment, check=True)


@contextlib.contextmanager
def loopback(folder: Path, *, cores: int = 8, memory_mb: int = 32_000) -> Iterator[Slurm]:
    """A cluster of one node that takes jobs; all its jobs and daemons end with the block.

    Args:
        folder: made; holds all files. Short: a socket's path has at most 107 characters.
        cores: what the node says it has.
        memory_mb: what the node says it has.

    Raises:
        RuntimeError: a daemon did not start; the message has its last words.
    """
    for part in ("munge", "state", "spool"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    key = folder / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    ctld_port, slurmd_port = _free_ports(2)
    (folder / "plugstack.conf").touch()
    (folder / "slurm.conf").write_text(
        CONFIG.format(
            folder=folder,
            user=getpass.getuser(),
            ctld_port=ctld_port,
            slurmd_port=slurmd_port,
            cores=cores,
            memory_mb=memory_mb,
            partition=PARTITION,
        )
    )
    slurm = Slurm(folder)
    munge = folder / "munge"
    with contextlib.ExitStack() as stack:
        start = [
            ("munged", f"--key-file={key}", f"--socket={munge}/socket", f"--pid-file={munge}/pid"),
            ("slurmctld", "-D"),
            ("slurmd", "-D", "-N", "localhost"),
        ]
        own = (f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--foreground", "--force")
        stack.enter_context(_daemon((*start[0], *own), slurm))
        _wait_until((munge / "socket").exists, "munged opens its socket", slurm)
        stack.enter_context(_daemon(start[1], slurm))
        stack.enter_context(_daemon(start[2], slurm))
        stack.callback(_end_jobs, slurm)
        _wait_until(lambda: _state(slurm) == "idle", "the node is idle", slurm)
        yield slurm


@contextlib.contextmanager
def _daemon(command: Sequence[str], slurm: Slurm) -> Iterator[None]:
    """Runs while the block lasts; its output goes to a log in the folder."""
    name, *arguments = command
    path = _which(name)
    if path is None:
        raise RuntimeError(f"expected {name}, which Debian's {' and '.join(PACKAGES)} bring")
    with (slurm.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            (path, *arguments),
            env=slurm.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and what it started: asked, and after ten seconds made."""
    tree = [psutil.Process(process.pid)] if process.poll() is None else []
    for found in list(tree):
        with contextlib.suppress(psutil.NoSuchProcess):
            tree += found.children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    _, alive = psutil.wait_procs(tree, timeout=5)
    for left in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.wait(timeout=10)


def _end_jobs(slurm: Slurm) -> None:
    """No job waits or runs any more."""
    with contextlib.suppress(subprocess.SubprocessError):
        slurm.call("scancel", f"--user={getpass.getuser()}")
        deadline = time.monotonic() + 30
        while slurm.jobs() and time.monotonic() < deadline:
            time.sleep(0.5)


def _state(slurm: Slurm) -> str:
    with contextlib.suppress(subprocess.SubprocessError):
        return slurm.call("sinfo", "--noheader", "--format=%t").strip()
    return ""


def _wait_until(met: Callable[[], bool], what: str, slurm: Slurm, limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not met():
        if time.monotonic() > deadline:
            logs = [slurm.folder / f"{name}.log" for name in DAEMONS]
            words = [log.read_text(errors="replace")[-1500:] for log in logs if log.exists()]
            raise RuntimeError(f"expected within {limit_s:.0f} s that {what}: " + "\n".join(words))
        time.sleep(0.2)


def _which(name: str) -> str | None:
    """Daemons lie where only root's PATH leads."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    return subprocess.run(command, env=dict(environment), check=False).returncode


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))  # and end what was started
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="apt-get install first")
    parser.add_argument("--cores", type=int, default=8)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run on the cluster")
    options = parser.parse_args()
    if options.install:
        install()
    if missing():
        sys.exit(f"expected {', '.join(missing())}: call with --install, as root")
    if not options.command:
        return
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,
        loopback(Path(folder), cores=options.cores) as slurm,
    ):
        code = _run(options.command, slurm.environment)
        while slurm.jobs():
            time.sleep(0.5)
    sys.exit(code)


if __name__ == "__main__":
    main()
