"""Commands on folders of studies: demo, inspect, convert, run."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from radloom.cli.arguments import (
    Deface,
    Deidentify,
    Device,
    Dicom,
    Fast,
    Index,
    NewKey,
    NoIndex,
    Out,
    Roles,
    Studies,
    Trust,
    WorkflowName,
    export_parameters,
    index_beside,
    index_file,
    pseudonyms,
    threads,
    words,
)
from radloom.cli.shell import ALL_DONE, SOME_FAILED, app, guarded, say, spinner, wide_console
from radloom.cli.source import Source, with_source
from radloom.cli.stopping import stoppable

if TYPE_CHECKING:
    from radloom.pipelines.runner import RunSummary
    from radloom.pipelines.workflow import Workflow


@app.command()
@guarded
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
        say(f"making a phantom study in {studies}")
        unfinished = out / "studies.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        write_demo_study(unfinished / "phantom")
        unfinished.rename(studies)
    summary = _run(studies, out / "results", load_workflow("head"))
    say(f"the whole demo took {time.monotonic() - started:.0f} s")
    _finish(summary)


def _print_roles(wanted: bool) -> None:  # noqa: FBT001  # typer's callback
    if wanted:
        from radloom.pipelines.ingest.rules import builtin_text

        sys.stdout.write(builtin_text())
        raise typer.Exit


@app.command()
@guarded
@with_source
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
    source: Source,
) -> None:
    """Say which studies and series there are, their roles, and what is refused and why."""
    source.require(studies, None)
    from radloom.pipelines.ingest import discover, inspect_rows
    from radloom.pipelines.ingest.rules import load_rules
    from radloom.pipelines.listing import as_table

    del print_roles  # its callback has answered already
    rules = load_rules(roles)
    folder, _ = source.folder(studies, None)
    with spinner("reading headers"):
        records = discover(
            folder, rules=rules, index=index_file(folder, index, no_index), workers=threads()
        )
    if as_json:
        sys.stdout.write(json.dumps(inspect_rows(records), indent=2, ensure_ascii=False) + "\n")
    else:
        wide_console().print(as_table(records))


@app.command()
@guarded
@with_source
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
    philips_float: Annotated[
        bool,
        typer.Option(
            "--philips-float", help="Philips MR in floating-point instead of displayed values."
        ),
    ] = False,
    roles: Roles = None,
    deidentify: Deidentify = None,
    new_key: NewKey = False,
    deface: Deface = False,
    index: Index = None,
    no_index: NoIndex = False,
    source: Source,
) -> None:
    """Ingest alone: NIfTI and a JSON file for each accepted series, and OUT/ingest.tsv."""
    source.require(studies, out)
    from radloom.pipelines.workflow import load_workflow

    asked: dict[str, Any] = {"suv": True} if suv else {}
    asked |= {"gantry_tilt": "correct"} if correct_tilt else {}
    asked |= {"uneven_spacing": "resample"} if resample_spacing else {}
    asked |= {"philips_scaling": "floating_point"} if philips_float else {}
    asked |= _ingest_parameters(roles, deface=deface)
    workflow = load_workflow("head", only=("ingest",), parameters={"ingest": asked})
    _carry(source, studies, out, workflow, (deidentify, new_key), (index, no_index))


@app.command()
@guarded
@with_source
def run(
    studies: Studies,
    out: Out,
    *,
    workflow: WorkflowName = "head",
    dicom: Dicom = None,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Studies that compute at a time; by default as the machine allows."
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="A Dask scheduler that runs already; file:PATH: as it wrote."
        ),
    ] = None,
    only: Annotated[
        str, typer.Option(metavar="STAGE,...", help="Run these alone; take others as they are.")
    ] = "",
    start: Annotated[
        str, typer.Option("--from", metavar="STAGE", help="Run this and those after it alone.")
    ] = "",
    redo: Annotated[
        str, typer.Option(metavar="STAGE,...", help="Do these anew, though nothing changed.")
    ] = "",
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove results of stages that the workflow lacks.")
    ] = False,
    memory: Annotated[
        float | None,
        typer.Option(min=0.5, metavar="GB", help="For all studies at work on this machine."),
    ] = None,
    stage_timeout: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="How long a stage may take; else by its size."),
    ] = None,
    roles: Roles = None,
    deidentify: Deidentify = None,
    new_key: NewKey = False,
    deface: Deface = False,
    index: Index = None,
    no_index: NoIndex = False,
    fast: Fast = False,
    trust: Trust = False,
    source: Source,
) -> None:
    """Every study through the workflow. The same command again does what is missing."""
    source.require(studies, out)
    from radloom.pipelines.workflow import load_workflow

    loaded = load_workflow(
        workflow,
        fast=fast,
        parameters={
            "ingest": _ingest_parameters(roles, deface=deface),
            **export_parameters(dicom),
        },
    )
    from radloom.pipelines.engine.selection import select
    from radloom.pipelines.runner import Limits

    selection = select(
        [stage.name for stage in loaded.stages],
        only=words(only),
        start=start,
        redo=words(redo),
        prune=prune,
    )
    _carry(
        source,
        studies,
        out,
        loaded,
        (deidentify, new_key),
        (index, no_index),
        device=device,
        workers=workers,
        scheduler=scheduler,
        trust=trust,
        selection=selection,
        limits=Limits(None if memory is None else int(memory * 1e9), stage_timeout),
    )


def _carry(
    source: Source,
    studies: Studies,
    out: Path,
    workflow: Workflow,
    key: tuple[Path | None, bool],
    index: tuple[Path | None, bool],
    **options: Any,
) -> None:
    """What `convert` and `run` share: names by the key, studies fetched or found, all through."""
    key_file, new = key
    names = pseudonyms(key_file, out, new=new)
    folder, complete = source.folder(studies, out)
    remembered = index_beside(index_file(folder, *index), out, key_file)
    summary = _run(
        folder,
        out,
        workflow,
        deidentify=names,
        index=remembered,
        readers=threads(),
        **options,
    )
    _finish(summary, complete=complete)


def _ingest_parameters(roles: Path | None, *, deface: bool) -> dict[str, Any]:
    """Parameters of the ingest stage that replace those of the workflow."""
    asked: dict[str, Any] = {} if roles is None else {"roles": str(roles.resolve())}
    return {**asked, "deface": True} if deface else asked


def _run(studies: Path, out: Path, workflow: Workflow, **options: Any) -> RunSummary:
    from radloom.pipelines import runner
    from radloom.progress import listener

    with stoppable(), listener(Console(), out) as listen:
        return runner.run(studies, out, workflow, on_progress=listen, **options)


def _finish(summary: RunSummary, *, complete: bool = True) -> None:
    say(f"{summary.sentence()} in {summary.seconds:.0f} s")
    say(f"results in {summary.out}")
    if summary.report is not None:
        say(f"report: {summary.report}")
    raise typer.Exit(ALL_DONE if summary.all_done and complete else SOME_FAILED)
