"""Commands on what a run left: status, report."""

from __future__ import annotations

import typer

from radloom.cli.arguments import Results, require_results
from radloom.cli.shell import ALL_DONE, SOME_FAILED, app, guarded, say, wide_console


@app.command()
@guarded
def status(out: Results) -> None:
    """Say what became of every study of a run, also while it is at work."""
    require_results(out)
    from radloom.pipelines.listing import status_table

    table, all_done = status_table(out)
    wide_console().print(table)
    raise typer.Exit(ALL_DONE if all_done else SOME_FAILED)


@app.command()
@guarded
def report(out: Results) -> None:
    """Write tables and report.html anew from what is there."""
    require_results(out)
    from radloom.pipelines.export import write_tables
    from radloom.pipelines.report import write_report

    write_tables(out)
    say(f"wrote {write_report(out)}")
