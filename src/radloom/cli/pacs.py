"""Commands towards a PACS: send, listen."""

from __future__ import annotations

import ipaddress
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radloom.cli.arguments import (
    Deface,
    Deidentify,
    Device,
    Fast,
    Results,
    Roles,
    Trust,
    WorkflowName,
    pseudonyms,
    require_outside,
    require_results,
)
from radloom.cli.shell import ALL_DONE, SOME_FAILED, app, complain, guarded, say, spinner
from radloom.cli.source import (
    TLSCA,
    AETitle,
    CredentialsFile,
    ListenHost,
    ListenPort,
    MaxInstance,
    MaxTotal,
    TLSCert,
    TLSKey,
    limits_of,
    make_peer,
    require_pynetdicom,
    tls_of,
)
from radloom.errors import ConfigError

if TYPE_CHECKING:
    from radloom.pipelines.pacs.address import Address
    from radloom.pipelines.pacs.listen import Listener, Ran
    from radloom.pipelines.pacs.send import Failure

_NAMED = 20
"""Objects that are named of those that failed for one reason."""


@app.command()
@guarded
def send(
    out: Results,
    *,
    dicomweb: Annotated[
        str | None, typer.Option(metavar="URL", help="To this DICOMweb service, by STOW-RS.")
    ] = None,
    dicom: Annotated[
        str | None,
        typer.Option(metavar="AET@HOST:PORT", help="To this PACS, by C-STORE; dicom+tls:// too."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent; ask nobody.")
    ] = False,
    ae_title: AETitle = "RADLOOM",
    listen_host: ListenHost = "127.0.0.1",
    listen_port: ListenPort = None,
    credentials: CredentialsFile = None,
    tls_ca: TLSCA = None,
    tls_cert: TLSCert = None,
    tls_key: TLSKey = None,
) -> None:
    """The DICOM objects of a run to a PACS, each once. The same command again sends the rest."""
    require_results(out)
    from radloom.pipelines.ingest.quiet import quiet_dicom
    from radloom.pipelines.pacs.dimse import Reception
    from radloom.pipelines.pacs.limits import DEFAULT_LIMITS
    from radloom.pipelines.pacs.send import send as send_objects

    address = _destination(dicomweb, dicom)
    if dry_run:
        _say_plan(out, str(address))
        return
    peer = make_peer(
        address,
        ae_title=ae_title,
        tls=tls_of(tls_ca, tls_cert, tls_key),
        credentials=credentials,
        limits=DEFAULT_LIMITS,
        reception=Reception(listen_host, listen_port),
    )
    with spinner("sending"), quiet_dicom():
        summary = send_objects(out, peer)
    _complain_of(summary.failures)
    say(summary.sentence())
    if summary.confirmation:
        say(f"made sure: {summary.confirmation}")
    raise typer.Exit(SOME_FAILED if summary.failures else ALL_DONE)


def _complain_of(failures: Sequence[Failure]) -> None:
    """Each reason once, with those that failed for it."""
    by_status: dict[str, list[str]] = {}
    for failure in failures:
        by_status.setdefault(failure.status, []).append(failure.path)
    for status, paths in by_status.items():
        more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        complain(f"{len(paths)} not sent: {status}: {', '.join(paths[:_NAMED])}{more}")


def _destination(dicomweb: str | None, dicom: str | None) -> Address:
    from radloom.pipelines.pacs.address import parse_dimse, parse_web

    if dicomweb is not None and dicom is None:
        return parse_web(dicomweb)
    if dicom is not None and dicomweb is None:
        return parse_dimse(dicom)
    raise ConfigError("expected --dicomweb URL or --dicom AET@HOST:PORT, got both or neither")


def _say_plan(out: Path, destination: str) -> None:
    from radloom.pipelines.pacs.send import plan

    for path, what in plan(out, destination):
        say(f"{what}: {path}")


@app.command()
@guarded
def listen(
    *,
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="Where to listen.")],
    out: Annotated[Path, typer.Option(metavar="OUT", help="Folder for results.")],
    incoming: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where what is sent goes; by default OUT.incoming, beside OUT."
        ),
    ] = None,
    workflow: WorkflowName = "head",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    ae_title: AETitle = "RADLOOM",
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="AET", help="AE title that may send; repeatable; by default any."),
    ] = None,
    settle: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="Without news a study counts as complete."),
    ] = 60.0,
    device: Device = "auto",
    roles: Roles = None,
    deidentify: Deidentify = None,
    deface: Deface = False,
    fast: Fast = False,
    trust: Trust = False,
    tls_ca: TLSCA = None,
    tls_cert: TLSCert = None,
    tls_key: TLSKey = None,
    max_instance_mb: MaxInstance = 4096,
    max_total_gb: MaxTotal = 1024,
) -> None:
    """Receive studies from a PACS or scanner, and run each once it has settled."""
    require_pynetdicom()
    from radloom.pipelines.ingest.quiet import quiet_dicom
    from radloom.pipelines.pacs.address import check_ae_title
    from radloom.pipelines.pacs.job import run_job
    from radloom.pipelines.pacs.listen import Listener, Settings

    allowed = tuple(check_ae_title(title) for title in allow or ())
    if not allowed and not _is_loopback(host):
        raise ConfigError(f"expected --allow AET for who may send to {host}, got none")
    root = incoming or out.resolve().with_name(out.resolve().name + ".incoming")
    require_outside(root, out)
    from radloom.pipelines.workflow import load_workflow

    if deidentify is not None:
        pseudonyms(deidentify, out, new=False)
    load_workflow(workflow, fast=fast)  # a mistake in it is told now, not when a study is there
    tls = tls_of(tls_ca, tls_cert, tls_key)
    given = {
        "--workflow": workflow,
        "--device": device,
        "--roles": roles,
        "--deidentify": deidentify,
    }
    flags = {"--deface": deface, "--fast": fast, "--trust": trust}
    options = _words(given, flags)
    stop = threading.Event()

    def run(folder: Path) -> Ran:
        command = [sys.executable, "-m", "radloom", "run", str(folder), str(out.resolve())]
        return run_job([*command, "--no-index", *options], stop)

    settings = Settings(
        port,
        host,
        check_ae_title(ae_title),
        allowed,
        settle,
        tls if tls.given else None,
        limits_of(max_instance_mb, max_total_gb),
    )
    listener = Listener(root, settings, run, say)
    _stop_on_signals(listener, stop)
    with quiet_dicom():
        listener.serve(lambda bound: say(f"{ae_title} listens at {host}:{bound}"))
    say("stopped: what was received is kept; the same command goes on from here")


def _words(given: dict[str, Any], flags: dict[str, bool]) -> list[str]:
    """Options as words of a command line, paths made absolute."""
    words = []
    for name, value in given.items():
        if value is not None:
            is_file = isinstance(value, Path) or (name == "--workflow" and Path(value).is_file())
            words += [name, str(Path(value).resolve()) if is_file else str(value)]
    return words + [name for name, is_set in flags.items() if is_set]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _stop_on_signals(listener: Listener, stop: threading.Event) -> None:
    def end(*_: object) -> None:
        stop.set()
        listener.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
