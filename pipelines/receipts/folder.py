"""One stage's folder of one study, and the order of steps that lets a run die at any instant.

Below ``OUT/stages/<study>/``::

    <stage>/stage.json      the receipt; there only when all its files are
    <stage>/claims.json     files that may lie in the tree without a receipt; empty between runs
    <stage>.partial/        outputs on their way; there while the stage runs

`clear` notes in ``claims.json`` what the old receipt listed before it drops that receipt, and
`publish` notes what it is about to move. So every file in the tree is named by a receipt or by a
claim, and whatever was left over by a killed run, perhaps one with other parameters, is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from radloom.pipelines.receipts.files import (
    inside,
    move,
    remove,
    remove_tree,
    sha256_of,
    sync,
    write_file,
)
from radloom.pipelines.receipts.plain import from_json, to_json
from radloom.pipelines.receipts.receipt import STAGES_FOLDER, Receipt, read_receipt, write_receipt

__all__ = ["StageFolder", "stage_folders"]

_PARTIAL = ".partial"


@dataclass(frozen=True)
class StageFolder:
    """Where one stage keeps what it did to one study."""

    out: Path
    study: str
    """The study's key."""
    stage: str
    """The stage's name."""

    @property
    def folder(self) -> Path:
        """Holds the receipt."""
        return self.out / STAGES_FOLDER / self.study / self.stage

    @property
    def partial(self) -> Path:
        """Holds the outputs until they are whole; laid out as OUT is."""
        return self.folder.with_name(self.stage + _PARTIAL)

    @property
    def _receipt_path(self) -> Path:
        return self.folder / "stage.json"

    @property
    def _claims_path(self) -> Path:
        return self.folder / "claims.json"

    def receipt(self) -> Receipt | None:
        """The receipt, if there is one that can be read."""
        return read_receipt(self._receipt_path)

    def has_files_of(self, receipt: Receipt) -> bool:
        """Whether each file is there with its hash; size and time of change unchanged will do."""
        return all(
            _is_unchanged(inside(self.out, path), output.stats.get(path), output.files[path])
            for output in receipt.outputs
            for path in output.files
        )

    def tidy(self) -> None:
        """Nothing left of a run that was killed after its receipt was written."""
        remove(self._claims_path)
        remove_tree(self.partial)

    def clear(self) -> None:
        """No receipt, none of the files that this stage ever put into the tree, no partial ones."""
        receipt, claimed = self.receipt(), self._claims()
        stale = sorted({*claimed, *(receipt.files if receipt else ())})
        if stale != claimed:  # a full disk has no room for what it holds already
            write_file(self._claims_path, to_json(stale))
        remove(self._receipt_path)
        if self.folder.is_dir():
            sync(self.folder)
        self._remove_files(stale)
        self.tidy()

    def begin(self) -> None:
        """As `clear`, and an empty partial folder: the stage is under way."""
        self.clear()
        self.partial.mkdir(parents=True)

    def publish(self, files: Iterable[str]) -> None:
        """Files moved from the partial folder to their places below OUT."""
        files = sorted(files)
        write_file(self._claims_path, to_json(files))
        for path in files:
            move(inside(self.partial, path), inside(self.out, path))
        for folder in sorted({inside(self.out, path).parent for path in files}):
            sync(folder)

    def finish(self, receipt: Receipt) -> None:
        """The receipt written, last; then nothing left beside it."""
        write_receipt(self._receipt_path, receipt)
        self.tidy()

    def _claims(self) -> list[str]:
        with suppress(OSError, ValueError, TypeError):
            claimed = [str(path) for path in from_json(self._claims_path.read_bytes())]
            return [path for path in claimed if inside(self.out, path)]
        return []

    def _remove_files(self, paths: Iterable[str]) -> None:
        for path in paths:
            remove(inside(self.out, path))
        for folder in sorted({inside(self.out, path).parent for path in paths}):
            if folder not in (self.out, self.out.parent):
                with suppress(OSError):
                    folder.rmdir()


def stage_folders(out: Path, study: str) -> Iterator[StageFolder]:
    """Every stage that has left a folder for a study, by name; those under way included."""
    folders = (out / STAGES_FOLDER / study).glob("*/")
    for stage in sorted({folder.name.removesuffix(_PARTIAL) for folder in folders}):
        yield StageFolder(out, study, stage)


def _is_unchanged(path: Path, stat: tuple[int, int] | None, sha256: str) -> bool:
    if stat is None or not path.is_file():
        return False
    found = path.stat()
    if found.st_size != stat[0]:
        return False
    return found.st_mtime_ns == stat[1] or sha256_of(path) == sha256
