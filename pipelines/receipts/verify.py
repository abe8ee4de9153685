"""Whether the files of a run are those that its receipts tell of, byte for byte.

Studies go by one at a time, and a bounded number of files is read at once, so that memory grows
with neither.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radloom.pipelines.receipts.files import inside, sha256_of
from radloom.pipelines.receipts.plain import from_json
from radloom.pipelines.receipts.receipt import STAGES_FOLDER, read_receipt, read_receipts
from radloom.pipelines.receipts.runlog import LOG_FILE

__all__ = ["Verification", "verify_results"]

ROOT_FILES = {
    "dataset_description.json", ".bidsignore", "studies.tsv", "ingest.tsv", "manifest.json",
    "report.html", "workflow.yaml", "redo.json", LOG_FILE, ".lock",
}  # fmt: skip
"""What a run writes at the root of OUT beside its receipts."""

ROOT_FOLDERS = {STAGES_FOLDER, "logs", "report", "sent"}
"""What of it is made anew by every run, or only says how a run or a sending went."""

STUDY_FILES = {"study.json", ".lock", "running.json"}
STAGE_FILES = {"stage.json", "claims.json"}

_TELL_EVERY = 100
"""Files between two reports of progress."""


@dataclass
class Verification:
    """What was found; paths are relative to OUT, with ``/``."""

    n_studies: int = 0
    n_files: int = 0
    n_bytes: int = 0
    missing: list[str] = field(default_factory=list)
    """Named by a receipt, and not there."""
    changed: list[str] = field(default_factory=list)
    """There, with other bytes."""
    unknown: list[str] = field(default_factory=list)
    """There, and named by no receipt."""
    unreadable: list[str] = field(default_factory=list)
    """Receipts that cannot be read, and files that the system does not let read."""
    unlisted: list[str] = field(default_factory=list)
    """Outputs that receipts and ``manifest.json`` do not tell of alike."""

    @property
    def all_right(self) -> bool:
        """Whether nothing differs."""
        return not any(paths for _, paths in self._faults())

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"all_right": self.all_right, **vars(self)}

    def text(self) -> str:
        """For people: a line a fault, then the sum."""
        lines = [f"{what}: {path}" for what, paths in self._faults() for path in paths]
        size = (
            f"{self.n_files:,} files of {self.n_studies:,} studies, {self.n_bytes / 2**30:.2f} GiB"
        )
        counts = ", ".join(f"{len(paths):,} {what}" for what, paths in self._faults() if paths)
        if self.unlisted:
            lines.append("manifest.json is made anew from receipts by `radloom report OUT`")
        return "\n".join([*lines, f"{size}: {counts or 'all as the receipts say'}"])

    def _faults(self) -> tuple[tuple[str, list[str]], ...]:
        return (
            ("missing", self.missing),
            ("changed", self.changed),
            ("unknown", self.unknown),
            ("unreadable", self.unreadable),
            ("not in receipts and manifest alike", self.unlisted),
        )


Listener = Callable[[int, int], None]


def verify_results(
    out: Path, *, n_threads: int | None = None, on_progress: Listener = lambda *_: None
) -> Verification:
    """Every output below `out` hashed anew and held to its receipt; changes nothing.

    Args:
        out: results of a run; none should be at work.
        n_threads: files read at once; None: by the number of cores.
        on_progress: told the bytes and the files read so far.
    """
    found = Verification()
    listed, strays = _manifest(out), set[str]()
    with ThreadPoolExecutor(n_threads or min(32, 2 * (os.cpu_count() or 1))) as pool:
        reader = _Reader(out, pool, found, on_progress)
        for key in _folders(out / STAGES_FOLDER):
            _verify_study(out, key, reader, listed, strays)
        reader.finish()
    found.unknown += _unknown_at_root(out, strays)
    found.unlisted += sorted(listed)
    for paths in (found.missing, found.changed, found.unknown, found.unreadable, found.unlisted):
        paths.sort()
    return found


class _Reader:
    """Hashes files in threads, a bounded number ahead, and notes what differs."""

    def __init__(
        self, out: Path, pool: ThreadPoolExecutor, found: Verification, tell: Listener
    ) -> None:
        self._out, self._pool, self.found, self._tell = out, pool, found, tell
        self._ahead: deque[tuple[str, str, Future[str]]] = deque()

    def check(self, path: str, sha256: str) -> None:
        """Has `path` read sooner or later."""
        self._ahead.append((path, sha256, self._pool.submit(sha256_of, inside(self._out, path))))
        while len(self._ahead) > 256:
            self._settle()

    def finish(self) -> None:
        """Waits for all."""
        while self._ahead:
            self._settle()

    def _settle(self) -> None:
        path, sha256, future = self._ahead.popleft()
        found = self.found
        try:
            if future.result() != sha256:
                found.changed.append(path)
            found.n_bytes += inside(self._out, path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            found.missing.append(path)
        except OSError:
            found.unreadable.append(path)
        found.n_files += 1
        if found.n_files % _TELL_EVERY == 0:
            self._tell(found.n_bytes, found.n_files)


def _verify_study(
    out: Path, key: str, reader: _Reader, listed: dict[str, str], strays: set[str]
) -> None:
    found, home = reader.found, "/".join(key.split("_", 1))
    found.n_studies += 1
    known = set[str]()
    for receipt in read_receipts(out, key):
        for output in receipt.outputs:
            for path, sha256 in output.files.items():
                known.add(path)
                reader.check(path, sha256)
            if (
                receipt.status == "done"
                and listed.pop(output.path, "") != output.files[output.path]
            ):
                found.unlisted.append(output.path)
    strays |= {path for path in known if not path.startswith(f"{home}/")}
    on_disk = (f"{home}/{path}" for path in _walk(out / home))
    found.unknown += [path for path in on_disk if path not in known]
    _verify_receipts(out, key, found)


def _verify_receipts(out: Path, key: str, found: Verification) -> None:
    """The study's folder of receipts holds nothing else, and each can be read."""
    folder = out / STAGES_FOLDER / key
    for path in _walk(folder):
        parts = path.split("/")
        here = f"{STAGES_FOLDER}/{key}/{path}"
        if len(parts) == 1 and parts[0] in STUDY_FILES:
            continue
        if len(parts) != 2 or parts[1] not in STAGE_FILES or parts[0].endswith(".partial"):
            found.unknown.append(here)
        elif parts[1] == "stage.json" and read_receipt(folder / path) is None:
            found.unreadable.append(here)


def _manifest(out: Path) -> dict[str, str]:
    """Path -> sha256 of every output that the manifest lists."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        entries = from_json((out / "manifest.json").read_bytes())
        return {str(entry["path"]): str(entry["sha256"]) for entry in entries}
    return {}


def _unknown_at_root(out: Path, strays: set[str]) -> Iterator[str]:
    """Files that belong to no study. Those in the folder of a known study are judged there."""
    known = set(_folders(out / STAGES_FOLDER))
    for name in sorted(entry.name for entry in os.scandir(out)):
        if name in ROOT_FOLDERS | ROOT_FILES:
            continue
        if not (out / name).is_dir():
            yield name
            continue
        for path in _walk(out / name):
            here = f"{name}/{path}"
            if "_".join(here.split("/")[:2]) not in known and here not in strays:
                yield here


def _folders(folder: Path) -> list[str]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())
    return []


def _walk(folder: Path) -> Iterator[str]:
    """Every file below `folder`, relative to it, with ``/``."""
    for where, names, files in os.walk(folder):
        names.sort()
        here = Path(where).relative_to(folder).as_posix()
        for name in sorted(files):
            yield name if here == "." else f"{here}/{name}"
