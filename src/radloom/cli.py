"""The command line. The only place that reads the environment and speaks to the user.

Exit status: 0 all done, 1 some study failed or was refused, 2 unusable arguments, 130 stopped.
Everything heavy is imported inside the commands, so that ``radloom --help`` is quick.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from typer.core import TyperCommand

from radloom import __version__
from radloom.errors import (
    ConfigError,
    InputError,
    MissingWeights,
    NotTrusted,
    RadloomError,
    SeriesRefused,
)

if TYPE_CHECKING:
    from radloom.pipelines.deidentify import Pseudonyms
    from radloom.pipelines.runner import RunSummary
    from radloom.pipelines.workflow import Workflow

__all__ = ["app", "main"]

_ALL_DONE, _SOME_FAILED, _UNUSABLE, _STOPPED = 0, 1, 2, 130

app = typer.Typer(
    name="radloom",
    help="Study folders in; denoised, registered, segmented volumes and a picture report out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Command = TypeVar("Command", bound=Callable[..., None])

Studies = Annotated[Path, typer.Argument(metavar="STUDIES", help="Folder of studies.")]
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


class DenoisingMethod(str, Enum):
    """How noise is removed."""

    nlm = "nlm"
    tv = "tv"


class RegistrationMethod(str, Enum):
    """What estimates the transform."""

    elastix = "elastix"


class TransformKind(str, Enum):
    """What a registration may do to space."""

    rigid = "rigid"
    affine = "affine"
    deformable = "deformable"


def main(arguments: Sequence[str] | None = None) -> None:
    """The ``radloom`` command; ends the process with its exit status."""
    app(list(arguments) if arguments is not None else None)


def _guarded(command: Command) -> Command:
    """The command with errors as one line and an exit status, never a traceback."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except typer.Exit:
            raise
        except RadloomError as error:
            _complain(str(error))
            raise typer.Exit(_status_of(error)) from None
        except KeyboardInterrupt:
            _complain("stopped: the same command goes on from here")
            raise typer.Exit(_STOPPED) from None
        except Exception as error:  # noqa: BLE001  # the last guard before the terminal
            _complain(f"unexpected {type(error).__name__}; the details are in <{_log(error)}>")
            raise typer.Exit(_SOME_FAILED) from None

    return guarded  # type: ignore[return-value]  # wraps keeps the signature that typer reads


def _status_of(error: RadloomError) -> int:
    if isinstance(error, SeriesRefused | MissingWeights):
        return _SOME_FAILED
    return _UNUSABLE if isinstance(error, InputError | NotTrusted) else _SOME_FAILED


def _complain(message: str) -> None:
    Console(stderr=True).print(f"radloom: {message}", style="red", markup=False, soft_wrap=True)


def _wide_console() -> Console:
    """For tables: as wide as the terminal, or wide enough where nothing folds lines."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _say(message: str) -> None:
    Console().print(message, markup=False, highlight=False, soft_wrap=True)


def _log(error: BaseException) -> Path:
    text = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile(
        "w", prefix="radloom-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    return Path(file.name)


def _threads() -> int:
    """Threads for native code: OMP_NUM_THREADS where the user set it, else every core."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else os.cpu_count() or 1


def _index(studies: Path, index: Path | None, none: bool) -> Path | None:  # noqa: FBT001
    """The file that remembers the headers of `studies`; None where none is wanted."""
    if none:
        return None
    if index is None:
        name = hashlib.sha256(os.fsencode(studies.resolve())).hexdigest()[:16]
        return _cache_folder() / "headers" / f"{name}.gz"
    if not index.parent.is_dir() or index.is_dir():
        raise ConfigError(f"expected a file in a folder that is there, got --index <{index}>")
    return index


def _cache_folder() -> Path:
    """Radloom's own below the folder that the system gives a user for caches."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "radloom"


def _version(wanted: bool) -> None:  # noqa: FBT001  # typer's callback
    if wanted:
        _say(f"radloom {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Say which version."),
    ] = False,
) -> None:
    """Study folders in; denoised, registered, segmented volumes and a picture report out."""


@app.command()
@_guarded
def demo(
    out: Annotated[Path, typer.Argument(metavar="[OUT]", help="Folder for it.")] = Path(
        "radloom-demo"
    ),
) -> None:
    """Make a phantom study as DICOM and run the head workflow on it."""
    from radloom.pipelines.demo import write_demo_study
    from radloom.pipelines.workflow import load_workflow

    started = time.monotonic()
    studies = out / "studies"
    if not studies.is_dir():
        _say(f"making a phantom study in {studies}")
        unfinished = out / "studies.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        write_demo_study(unfinished / "phantom")
        unfinished.rename(studies)
    summary = _run(studies, out / "results", load_workflow("head"))
    _say(f"the whole demo took {time.monotonic() - started:.0f} s")
    _finish(summary)


def _print_roles(wanted: bool) -> None:  # noqa: FBT001  # typer's callback
    if wanted:
        from radloom.pipelines.ingest.rules import builtin_text

        sys.stdout.write(builtin_text())
        raise typer.Exit


@app.command()
@_guarded
def inspect(
    studies: Studies,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False,
    index: Index = None,
    no_index: NoIndex = False,
    roles: Roles = None,
    print_roles: Annotated[
        bool,
        typer.Option(
            "--print-roles",
            callback=_print_roles,
            is_eager=True,
            help="Print the built-in role rules, to edit them; needs no STUDIES.",
        ),
    ] = False,
) -> None:
    """Say which studies and series there are, their roles, and what is refused and why."""
    _require_folder(studies)
    from radloom.pipelines.ingest import discover, inspect_rows
    from radloom.pipelines.ingest.rules import load_rules
    from radloom.pipelines.listing import as_table

    del print_roles  # its callback has answered already
    rules = load_rules(roles)
    with _status("reading headers"):
        records = discover(
            studies, rules=rules, index=_index(studies, index, no_index), workers=_threads()
        )
    if as_json:
        sys.stdout.write(json.dumps(inspect_rows(records), indent=2, ensure_ascii=False) + "\n")
    else:
        _wide_console().print(as_table(records))


@app.command()
@_guarded
def convert(
    studies: Studies,
    out: Out,
    *,
    suv: Annotated[
        bool, typer.Option("--suv", help="PET as SUV by body weight, or refused with the reason.")
    ] = False,
    correct_tilt: Annotated[
        bool, typer.Option("--correct-tilt", help="Shear back what a tilted gantry made.")
    ] = False,
    resample_spacing: Annotated[
        bool,
        typer.Option("--resample-spacing", help="Interpolate slices of uneven distances."),
    ] = False,
    roles: Roles = None,
    deidentify: Deidentify = None,
    new_key: NewKey = False,
    deface: Deface = False,
    index: Index = None,
    no_index: NoIndex = False,
) -> None:
    """Ingest alone: NIfTI and a JSON file for each accepted series, and OUT/ingest.tsv."""
    _require_folder(studies)
    from radloom.pipelines.workflow import load_workflow

    asked: dict[str, Any] = {"suv": True} if suv else {}
    asked |= {"gantry_tilt": "correct"} if correct_tilt else {}
    asked |= {"uneven_spacing": "resample"} if resample_spacing else {}
    asked |= _ingest_parameters(roles, deface=deface)
    workflow = load_workflow("head", only=("ingest",), parameters={"ingest": asked})
    _finish(
        _run(
            studies,
            out,
            workflow,
            deidentify=_pseudonyms(deidentify, out, new=new_key),
            index=_index_beside(_index(studies, index, no_index), out, deidentify),
            readers=_threads(),
        )
    )


@app.command()
@_guarded
def run(
    studies: Studies,
    out: Out,
    *,
    workflow: Annotated[str, typer.Option(help="head, or a .yaml file.")] = "head",
    device: Device = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default as the machine allows.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler that runs already.")
    ] = None,
    roles: Roles = None,
    deidentify: Deidentify = None,
    new_key: NewKey = False,
    deface: Deface = False,
    index: Index = None,
    no_index: NoIndex = False,
    fast: Fast = False,
    trust: Trust = False,
) -> None:
    """Every study through the workflow. The same command again does what is missing."""
    _require_folder(studies)
    from radloom.pipelines.workflow import load_workflow

    _finish(
        _run(
            studies,
            out,
            load_workflow(
                workflow,
                fast=fast,
                parameters={"ingest": _ingest_parameters(roles, deface=deface)},
            ),
            device=device,
            workers=workers,
            scheduler=scheduler,
            trust=trust,
            deidentify=_pseudonyms(deidentify, out, new=new_key),
            index=_index_beside(_index(studies, index, no_index), out, deidentify),
            readers=_threads(),
        )
    )


@app.command(name="deidentify")
@_guarded
def deidentify_command(
    folder: Annotated[Path, typer.Argument(metavar="IN", help="Folder of images.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for their cleaned copies.")],
    *,
    key: Annotated[Path, typer.Option(metavar="KEYFILE", help="The key of the pseudonyms.")],
    new_key: NewKey = False,
    keep_characteristics: Annotated[
        bool,
        typer.Option("--keep-characteristics", help="Sex, age, size and weight stay."),
    ] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY", help="Take it though pixels may show text; repeatable."),
    ] = None,
    crosswalk: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A table from originals to copies; never below OUT."),
    ] = None,
) -> None:
    """Copy DICOM, NIfTI, NRRD and MHA without what identifies the patient."""
    _require_folder(folder)
    from radloom.pipelines.deidentify import Options, deidentify_folder, write_crosswalk

    if crosswalk is not None:
        _require_outside(crosswalk, out)
    options = Options(keep_characteristics, frozenset(m.upper() for m in accept or ()))
    names = _pseudonyms(key, out, new=new_key)
    assert names is not None
    with _status("de-identifying"):
        summary = deidentify_folder(folder, out, names, options)
    if crosswalk is not None:
        write_crosswalk(summary, crosswalk)
    _say(f"{summary.sentence()}; results in {out}")
    raise typer.Exit(_SOME_FAILED if summary.n_refused or not summary.items else _ALL_DONE)


@app.command(name="deface")
@_guarded
def deface_command(
    image: Image,
    out: Written,
    *,
    brain: Annotated[
        Path | None,
        typer.Option(metavar="LABELS", help="Labels of the brain, in the space of IMAGE."),
    ] = None,
) -> None:
    """Cut the face off an MR or CT image of a head."""
    _require_there(image, *([brain] if brain else []))
    from radloom.pipelines.single import deface_file

    share = deface_file(image, out, brain=brain, n_threads=_threads())
    _say(f"removed {share:.1%} of the image; wrote {out}")


@app.command()
@_guarded
def denoise(
    image: Image,
    out: Written,
    *,
    method: Annotated[
        DenoisingMethod, typer.Option(help="Non-local means or total variation.")
    ] = DenoisingMethod.nlm,
    fast: Fast = False,
) -> None:
    """Remove noise from one image."""
    _require_there(image)
    from radloom.pipelines.single import denoise_file

    level = denoise_file(image, out, method=method.value, fast=fast, n_threads=_threads())
    _say(f"noise level {level:.4g}; wrote {out}")


class _LabelPairs(TyperCommand):
    """``--label IN OUT`` as two values of one option: typer has no list of pairs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments with ``--label IN OUT`` as ``--label IN --label OUT``."""
        spread: list[str] = []
        rest = list(args)
        while rest:
            word = rest.pop(0)
            spread.append(word)
            if word == "--label" and len(rest) > 1:
                spread += [rest.pop(0), "--label", rest.pop(0)]
        return super().parse_args(ctx, spread)


@app.command(cls=_LabelPairs)
@_guarded
def register(
    fixed: Annotated[Path, typer.Argument(metavar="FIXED", help="The image that stays.")],
    moving: Annotated[Path, typer.Argument(metavar="MOVING", help="The image that moves.")],
    out: Written,
    *,
    method: Annotated[
        RegistrationMethod, typer.Option(help="What estimates the transform.")
    ] = RegistrationMethod.elastix,
    transform: Annotated[
        TransformKind, typer.Option(help="rigid, affine or deformable.")
    ] = TransformKind.rigid,
    label: Annotated[
        list[Path] | None,
        typer.Option(metavar="IN OUT", help="A label image of MOVING to carry over; repeatable."),
    ] = None,
    save_transform: Annotated[
        Path | None, typer.Option(metavar="FILE", help=".tfm or .nii.gz, as ITK reads it.")
    ] = None,
    parameters: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="An elastix parameter file; repeatable, in order."),
    ] = None,
) -> None:
    """Bring one image onto another."""
    del method  # one so far; the option is there so that scripts can say it
    names = label or []
    if len(names) % 2:
        raise ConfigError("expected --label IN OUT, got one path")
    _require_there(fixed, moving, *names[::2], *(parameters or []))
    from radloom.pipelines.single import register_files

    saved = register_files(
        fixed,
        moving,
        out,
        transform=transform.value,
        parameter_files=parameters or [],
        labels=list(zip(names[::2], names[1::2], strict=True)),
        save_transform=save_transform,
        n_threads=_threads(),
    )
    for path in (out, *names[1::2], *([saved] if saved else [])):
        _say(f"wrote {path}")


@app.command()
@_guarded
def translate(
    image: Annotated[Path, typer.Argument(metavar="MR", help="An MR image of the head.")],
    out: Written,
    *,
    device: Device = "auto",
    fast: Fast = False,
) -> None:
    """Make a pseudo-CT, in HU, of an MR image."""
    del fast  # the bundle to come knows a coarser grid
    _require_there(image)
    from radloom.pipelines.single import translate_file

    translate_file(image, out, device=device, n_threads=_threads())
    _say(f"wrote {out}")


@app.command()
@_guarded
def segment(
    image: Image,
    out: Written,
    *,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="An nnU-Net v2 model folder or a MONAI bundle."),
    ] = None,
    device: Device = "auto",
    fast: Fast = False,
    trust: Trust = False,
) -> None:
    """Label the structures in one image, on its own grid."""
    _require_there(image, *([model] if model else []))
    from radloom.pipelines.single import segment_file

    table = segment_file(
        image, out, model=model, trust=trust, fast=fast, device=device, n_threads=_threads()
    )
    _say(f"wrote {out}")
    _say(f"wrote {table}")


@app.command()
@_guarded
def status(out: Results) -> None:
    """Say what became of every study of a run, also while it is at work."""
    _require_results(out)
    from radloom.pipelines.listing import status_table

    table, all_done = status_table(out)
    _wide_console().print(table)
    raise typer.Exit(_ALL_DONE if all_done else _SOME_FAILED)


@app.command()
@_guarded
def report(out: Results) -> None:
    """Write tables and report.html anew from what is there."""
    _require_results(out)
    from radloom.pipelines.export import write_tables
    from radloom.pipelines.report import write_report

    write_tables(out)
    _say(f"wrote {write_report(out)}")


def _ingest_parameters(roles: Path | None, *, deface: bool) -> dict[str, Any]:
    """Parameters of the ingest stage that replace those of the workflow."""
    asked: dict[str, Any] = {} if roles is None else {"roles": str(roles.resolve())}
    return {**asked, "deface": True} if deface else asked


def _pseudonyms(key: Path | None, out: Path, *, new: bool) -> Pseudonyms | None:
    """What the key in a file makes of patients, the file made first where the user says so."""
    if key is None:
        if new:
            raise ConfigError("expected --new-key together with a key file, got it alone")
        return None
    _require_outside(key, out)
    from radloom.pipelines.deidentify.keys import make_key, read_key

    return make_key(key) if new else read_key(key)


def _index_beside(file: Path | None, out: Path, key: Path | None) -> Path | None:
    """The index of headers, which names patients: never below an OUT that is de-identified."""
    if file is not None and key is not None:
        _require_outside(file, out)
    return file


def _require_outside(path: Path, out: Path) -> None:
    if path.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"expected <{path}> outside of <{out}>: what leads back stays apart")


def _run(studies: Path, out: Path, workflow: Workflow, **options: Any) -> RunSummary:
    from radloom.pipelines import runner
    from radloom.progress import listener

    with listener(Console()) as listen:
        return runner.run(studies, out, workflow, on_progress=listen, **options)


def _finish(summary: RunSummary) -> None:
    _say(f"{summary.sentence()} in {summary.seconds:.0f} s")
    _say(f"results in {summary.out}")
    if summary.report is not None:
        _say(f"report: {summary.report}")
    raise typer.Exit(_ALL_DONE if summary.all_done else _SOME_FAILED)


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        what = "a file" if path.exists() else "nothing there"
        raise ConfigError(f"expected a folder, got <{path}>: {what}")


def _require_there(*paths: Path) -> None:
    for path in paths:
        if not path.exists():
            raise ConfigError(f"expected a file or folder, got <{path}>: nothing there")


def _require_results(path: Path) -> None:
    _require_folder(path)
    if not (path / "stages").is_dir():
        raise ConfigError(
            f"expected the results of a run, got <{path}>: name the OUT of `radloom run`"
        )


def _status(message: str) -> Any:
    """A spinner on a terminal, nothing otherwise."""
    return Console(stderr=True).status(message)
