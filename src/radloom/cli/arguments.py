"""Arguments and options that several commands share, and what is asked of them."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radloom.errors import ConfigError

if TYPE_CHECKING:
    from radloom.pipelines.deidentify import Pseudonyms

Studies = Annotated[
    str,
    typer.Argument(
        metavar="STUDIES",
        help="Folder of studies, or a PACS: dicomweb+https://HOST/PATH, dicom://AET@HOST:PORT.",
    ),
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Folder for results.")]
Results = Annotated[Path, typer.Argument(metavar="OUT", help="Folder with results of a run.")]
Image = Annotated[
    Path,
    typer.Argument(
        metavar="IMAGE", help=".nii, .nii.gz, .nrrd, .mha, or a folder with one DICOM series."
    ),
]
Written = Annotated[
    Path, typer.Argument(metavar="OUT", help="File to write: .nii, .nii.gz, .nrrd or .mha.")
]
Fast = Annotated[
    bool, typer.Option("--fast", help="Work on a coarser grid: a fraction of the time.")
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run code and pickles that come with outside models."),
]
WorkflowName = Annotated[str, typer.Option("--workflow", help="head, or a .yaml file.")]
Dicom = Annotated[
    str | None,
    typer.Option(
        "--dicom",
        metavar="KINDS",
        help="DICOM objects to write, with commas between: derived, parametric, segmentation, "
        "labelmap, structure_set, registration, measurements, pictures, document; or all, or "
        "none. By default as the workflow says.",
    ),
]
Roles = Annotated[
    Path | None,
    typer.Option("--roles", metavar="FILE", help="Role rules; see inspect --print-roles."),
]
Deidentify = Annotated[
    Path | None,
    typer.Option(
        "--deidentify", metavar="KEYFILE", help="Write pseudonyms and moved dates under this key."
    ),
]
Deface = Annotated[
    bool, typer.Option("--deface", help="Cut the face off MR and CT of heads; refuse the rest.")
]
NewKey = Annotated[bool, typer.Option("--new-key", help="Make the key file; it must not exist.")]
Index = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="FILE",
        help="Where headers are remembered, so that no file is read twice; by default in the "
        "user's cache folder.",
    ),
]
NoIndex = Annotated[bool, typer.Option("--no-index", help="Remember no headers.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


def threads() -> int:
    """Threads for native code: OMP_NUM_THREADS where the user set it, else every core."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else os.cpu_count() or 1


def index_file(studies: Path, index: Path | None, none: bool) -> Path | None:  # noqa: FBT001
    """The file that remembers the headers of `studies`; None where none is wanted."""
    if none:
        return None
    if index is None:
        name = hashlib.sha256(os.fsencode(studies.resolve())).hexdigest()[:16]
        return _cache_folder() / "headers" / f"{name}.gz"
    if not index.parent.is_dir() or index.is_dir():
        raise ConfigError(f"expected a file in a folder that is there, got --index <{index}>")
    return index


def index_beside(file: Path | None, out: Path, key: Path | None) -> Path | None:
    """The index of headers, whose UIDs lead back: never below an OUT that is de-identified."""
    if file is not None and key is not None:
        require_outside(file, out)
    return file


def _cache_folder() -> Path:
    """Radloom's own below the folder that the system gives a user for caches."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "radloom"


def pseudonyms(key: Path | None, out: Path, *, new: bool) -> Pseudonyms | None:
    """What the key in a file makes of patients, the file made first where the user says so."""
    if key is None:
        if new:
            raise ConfigError("expected --new-key together with a key file, got it alone")
        return None
    require_outside(key, out)
    from radloom.pipelines.deidentify.keys import make_key, read_key

    return make_key(key) if new else read_key(key)


def require_outside(path: Path, out: Path) -> None:
    """Nothing, if `path` is not below `out`; ConfigError otherwise."""
    if path.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"expected <{path}> outside of <{out}>: what leads back stays apart")


def export_parameters(kinds: str | None) -> dict[str, dict[str, Any]]:
    """Parameters of the stage `export`, for ``load_workflow``; none where nothing was asked."""
    if kinds is None:
        return {}
    from radloom.pipelines.export.dicom.stage import OBJECTS

    named = words(kinds)
    groups: dict[tuple[str, ...], tuple[str, ...]] = {("all",): tuple(OBJECTS), ("none",): ()}
    given = groups.get(named, named)
    return {"export": {"objects": list(given)}}


def words(text: str) -> tuple[str, ...]:
    """``a, b`` as ("a", "b")."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def require_folder(path: Path) -> None:
    """Nothing, if `path` is a folder; ConfigError otherwise."""
    if not path.is_dir():
        what = "a file" if path.exists() else "nothing there"
        raise ConfigError(f"expected a folder, got <{path}>: {what}")


def require_there(*paths: Path) -> None:
    """Nothing, if something is at every path; ConfigError otherwise."""
    for path in paths:
        if not path.exists():
            raise ConfigError(f"expected a file or folder, got <{path}>: nothing there")


def require_results(path: Path) -> None:
    """Nothing, if `path` holds what a run left; ConfigError otherwise."""
    require_folder(path)
    if not (path / "stages").is_dir():
        raise ConfigError(
            f"expected the results of a run, got <{path}>: name the OUT of `radloom run`"
        )
