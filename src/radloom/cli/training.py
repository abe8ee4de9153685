"""Commands that make a segmentation model of the user's own labels: dataset, train."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from radloom.cli.arguments import (
    Device,
    Results,
    Trust,
    require_results,
    require_there,
    threads,
    words,
)
from radloom.cli.shell import ALL_DONE, SOME_FAILED, app, complain, guarded, say, spinner

Dest = Annotated[
    Path, typer.Argument(metavar="DEST", help="Folder of nnU-Net's raw, preprocessed, results.")
]


@app.command()
@guarded
def dataset(
    out: Results,
    dest: Dest,
    *,
    name: Annotated[str, typer.Option(metavar="DATASET", help="Such as Dataset501_Mine.")],
    labels: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Label files: a folder, whose files' names begin with the study's key; a pattern "
            "with {study}, or {subject} and {session}; or a table (.tsv) of study and label.",
        ),
    ],
    roles: Annotated[
        str, typer.Option(metavar="ROLE,...", help="The channels; the first gives the grid.")
    ] = "t1",
    names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Structures of the values: .tsv of index and name, or .json."
        ),
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Bring labels on other grids to the image's.")
    ] = False,
) -> None:
    """Make an nnU-Net data set of a run's volumes and your label files."""
    require_results(out)
    require_there(*([names] if names else []))
    from radloom.pipelines.dataset.classes import read_names
    from radloom.pipelines.dataset.prepare import prepare_dataset

    with spinner("reading labels") as shown:

        def tell(study: str) -> None:
            if shown is not None:
                shown.update(study)

        made = prepare_dataset(
            out,
            dest,
            name=name,
            labels=labels,
            roles=words(roles),
            names=read_names(names) if names else None,
            resample=resample,
            on_study=tell,
        )
    left_out = [case for case in made.cases if case.status != "taken"]
    for case in left_out:
        complain(f"{case.study} left out: {case.reason}")
    structures = ", ".join(made.classes.names[1:])
    say(f"{made.n_taken} of {len(made.cases)} studies, structures: {structures}")
    say(f"wrote {made.folder}; next: radloom train {dest}")
    raise typer.Exit(SOME_FAILED if left_out else ALL_DONE)


@app.command()
@guarded
def train(
    dest: Dest,
    *,
    name: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Which data set, where DEST has several.")
    ] = None,
    configuration: Annotated[
        str, typer.Option(help="2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres.")
    ] = "3d_fullres",
    folds: Annotated[
        str, typer.Option(metavar="FOLD,...", help="0 to 4 of a cross-validation, or all.")
    ] = "all",
    epochs: Annotated[int, typer.Option(min=1, help="nnU-Net's own number is 1000.")] = 1000,
    steps: Annotated[int, typer.Option(min=1, help="Batches in an epoch.")] = 250,
    planner: Annotated[
        str, typer.Option(help="nnU-Net's: ExperimentPlanner, nnUNetPlannerResEncM, ...")
    ] = "ExperimentPlanner",
    pretrained: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A model to fine-tune; its plans are taken too."),
    ] = None,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Train nnU-Net on a data set that `radloom dataset` made, or fine-tune a model."""
    require_there(dest, *([pretrained] if pretrained else []))
    from radloom.pipelines.dataset.train import TrainingPlan, train_dataset
    from radloom.pipelines.engine.cluster import choose_device

    plan = TrainingPlan(
        configuration=configuration,
        folds=words(folds),
        epochs=epochs,
        steps=steps,
        planner=planner,
        pretrained=pretrained,
        trust=trust,
        device=choose_device(device),
        n_threads=threads(),
    )
    folder = train_dataset(dest, plan, os.environ, name=name)
    say(f"wrote {folder}")
    say(f"use it: radloom segment IMAGE OUT --model {folder}")
