"""Commands that take away what identifies a patient: deidentify, deface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radloom.cli.arguments import (
    Image,
    NewKey,
    Written,
    pseudonyms,
    require_folder,
    require_outside,
    require_there,
    threads,
)
from radloom.cli.shell import ALL_DONE, SOME_FAILED, app, guarded, say, spinner


@app.command(name="deidentify")
@guarded
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
    require_folder(folder)
    from radloom.pipelines.deidentify import Options, deidentify_folder, write_crosswalk

    if crosswalk is not None:
        require_outside(crosswalk, out)
    options = Options(keep_characteristics, frozenset(m.upper() for m in accept or ()))
    names = pseudonyms(key, out, new=new_key)
    assert names is not None
    with spinner("de-identifying"):
        summary = deidentify_folder(folder, out, names, options)
    if crosswalk is not None:
        write_crosswalk(summary, crosswalk)
    say(f"{summary.sentence()}; results in {out}")
    raise typer.Exit(SOME_FAILED if summary.n_refused or not summary.items else ALL_DONE)


@app.command(name="deface")
@guarded
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
    require_there(image, *([brain] if brain else []))
    from radloom.pipelines.single import deface_file

    share = deface_file(image, out, brain=brain, n_threads=threads())
    say(f"removed {share:.1%} of the image; wrote {out}")
