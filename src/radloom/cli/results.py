"""Commands on what a run left: status, report, explain, verify."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radloom.cli.arguments import Results, require_results, require_there
from radloom.cli.shell import ALL_DONE, SOME_FAILED, app, guarded, say, spinner

if TYPE_CHECKING:
    from radloom.pipelines.status import RunStatus, StudyStatus

MANY = 100
"""Studies above which `status` names only those to look at, and no more than this of them."""


@app.command()
@guarded
def status(
    out: Results,
    *,
    every: Annotated[bool, typer.Option("--all", help="Name every study.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object.")] = False,
) -> None:
    """Say what became of every study of a run, also while it is at work."""
    require_results(out)
    from radloom.pipelines.status import read_status

    found = read_status(out)
    if as_json:
        sys.stdout.write(json.dumps(found.plain(), indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _status_lines(found, every=every)))
    raise typer.Exit(ALL_DONE if found.all_done else SOME_FAILED)


def _status_lines(found: RunStatus, *, every: bool) -> Iterator[str]:
    every = every or len(found.studies) <= MANY
    shown = found.studies if every else found.to_look_at[:MANY]
    if shown:
        yield from _columns(shown)
        yield ""
    left_out = len(found.to_look_at) - len(shown)
    if left_out > 0:
        yield f"and {left_out:,} more to look at: --all names every study, as studies.tsv does"
    yield found.sentence()
    if found.at_work:
        yield _pace(found)
    if found.devices:
        yield _loads(found)
    if found.dashboard:
        yield f"dashboard: {found.dashboard}"


def _pace(found: RunStatus) -> str:
    from radloom.progress import duration

    if found.left_s is None:
        return "a run is at work"
    rate = f"{found.studies_per_hour:.3g} studies an hour"
    return f"a run is at work: {rate}, about {duration(found.left_s)} left"


def _loads(found: RunStatus) -> str:
    return ", ".join(f"{device} {load:.0%} busy" for device, load in found.devices.items())


def _columns(studies: Sequence[StudyStatus]) -> Iterator[str]:
    """Aligned by spaces: a table of rich takes ten seconds for ten thousand rows."""
    rows = [("study", "status", "stage", "seconds", "flags", "reason")]
    rows += [
        (s.study, s.state, s.stage, f"{s.seconds:.0f}", ", ".join(s.flags), s.reason)
        for s in studies
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join([*cells, "; ".join(text for text in row[4:] if text)]).rstrip()


@app.command()
@guarded
def report(out: Results) -> None:
    """Write tables and report.html anew from what is there."""
    require_results(out)
    from radloom.pipelines.export import write_tables
    from radloom.pipelines.report import write_report

    write_tables(out)
    say(f"wrote {write_report(out)}")


@app.command()
@guarded
def explain(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file below the OUT of a run.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object.")] = False,
) -> None:
    """Tell how a file came to be: series, stages, parameters, weights, versions, machine."""
    require_there(file)
    from radloom.pipelines.receipts.story import story_of

    story = story_of(file)
    text = json.dumps(story.plain(), indent=2, ensure_ascii=False) if as_json else story.text()
    sys.stdout.write(text + "\n")


@app.command()
@guarded
def verify(
    out: Results,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object.")] = False,
) -> None:
    """Hash every output anew and name what is missing, changed or unknown."""
    require_results(out)
    from radloom.pipelines.receipts.verify import verify_results

    with spinner("reading") as shown:

        def tell(n_bytes: int, n_files: int) -> None:
            if shown is not None:
                shown.update(f"{n_files:,} files, {n_bytes / 2**30:.1f} GiB")

        found = verify_results(out, on_progress=tell)
    if as_json:
        sys.stdout.write(json.dumps(found.plain(), indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(found.text() + "\n")
    raise typer.Exit(ALL_DONE if found.all_right else SOME_FAILED)
