"""STUDIES may be the address of a PACS: the options for that, and the way to a folder."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radloom.cli.arguments import require_folder, require_outside
from radloom.cli.shell import complain, remark, spinner
from radloom.errors import ConfigError, InputError, PacsFailed

if TYPE_CHECKING:
    from radloom.pipelines.pacs.address import Address
    from radloom.pipelines.pacs.dimse import Reception
    from radloom.pipelines.pacs.identity import TLS, Credentials
    from radloom.pipelines.pacs.limits import Limits
    from radloom.pipelines.pacs.peer import Peer

__all__ = [
    "TLSCA",
    "AETitle",
    "CredentialsFile",
    "ListenHost",
    "ListenPort",
    "MaxInstance",
    "MaxTotal",
    "Source",
    "TLSCert",
    "TLSKey",
    "limits_of",
    "make_peer",
    "require_pynetdicom",
    "tls_of",
    "with_source",
]

AETitle = Annotated[str, typer.Option("--ae-title", metavar="AET", help="Our AE title.")]
ListenHost = Annotated[
    str,
    typer.Option(
        "--listen-host", metavar="HOST", help="Address at which a PACS reaches us; loopback alone."
    ),
]
ListenPort = Annotated[
    int | None,
    typer.Option(
        "--listen-port",
        metavar="PORT",
        min=1,
        max=65535,
        help="Port at which it does, as entered there: for C-MOVE, and for the results of storage "
        "commitment.",
    ),
]
CredentialsFile = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        metavar="FILE",
        help="One line `bearer TOKEN` or `basic USER:PASSWORD`; readable by you alone.",
    ),
]
TLSCA = Annotated[
    Path | None, typer.Option("--tls-ca", metavar="FILE", help="Authorities that we trust, PEM.")
]
TLSCert = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="Our certificate, PEM.")
]
TLSKey = Annotated[
    Path | None, typer.Option("--tls-key", metavar="FILE", help="Our private key, PEM.")
]
MaxInstance = Annotated[
    int, typer.Option("--max-instance-mb", min=1, help="The longest instance taken, in MiB.")
]
MaxTotal = Annotated[
    int, typer.Option("--max-total-gb", min=1, help="What may arrive altogether, in GiB.")
]


class RetrieveMethod(str, Enum):
    """How a PACS of the DICOM protocol hands over."""

    get = "get"
    move = "move"


@dataclass(frozen=True)
class Source:
    """The options of a STUDIES that is an address."""

    query: Annotated[
        list[str] | None,
        typer.Option(
            "--query",
            metavar="KEY=VALUE",
            help="Which studies of the PACS, such as PatientID=..., StudyDate=20260101-20260131, "
            "ModalitiesInStudy=MR; of them the series with Modality=...; or @FILE with such "
            "lines; repeatable.",
        ),
    ] = None
    incoming: Annotated[
        Path | None,
        typer.Option(
            "--incoming",
            metavar="FOLDER",
            help="Where the originals go that a PACS sends; by default OUT.incoming, beside OUT.",
        ),
    ] = None
    retrieve: Annotated[
        RetrieveMethod, typer.Option("--retrieve", help="From dicom://: by C-GET or C-MOVE.")
    ] = RetrieveMethod.get
    ae_title: AETitle = "RADLOOM"
    listen_host: ListenHost = "127.0.0.1"
    listen_port: ListenPort = None
    credentials: CredentialsFile = None
    tls_ca: TLSCA = None
    tls_cert: TLSCert = None
    tls_key: TLSKey = None
    max_instance_mb: MaxInstance = 4096
    max_total_gb: MaxTotal = 1024

    def require(self, studies: str, out: Path | None) -> None:
        """Nothing, if `studies` and the options can be used, before anything long begins."""
        from radloom.pipelines.pacs.address import is_address, parse_address
        from radloom.pipelines.pacs.query import parse_query

        if is_address(studies):
            parse_address(studies)
            parse_query(self.query or ())
            self._incoming(out)
        elif self.query or self.incoming:
            raise ConfigError(
                f"expected the address of a PACS with --query and --incoming, got <{studies}>"
            )
        else:
            require_folder(Path(studies))

    def folder(self, studies: str, out: Path | None) -> tuple[Path, bool]:
        """The folder to work on, and whether all that was asked for is in it.

        Args:
            studies: a folder, or the address of a PACS to fetch from first.
            out: folder for results; None: there is none, and --incoming has to be said.
        """
        from radloom.pipelines.pacs.address import is_address

        if not is_address(studies):
            return Path(studies), True
        return self._fetch(studies, self._incoming(out))

    def _incoming(self, out: Path | None) -> Path:
        if self.incoming is None:
            if out is None:
                raise ConfigError("expected --incoming with a folder for what is fetched, got none")
            return out.resolve().with_name(out.resolve().name + ".incoming")
        if out is not None:
            require_outside(self.incoming, out)
        return self.incoming

    def _fetch(self, address: str, incoming: Path) -> tuple[Path, bool]:
        from radloom.pipelines.ingest.quiet import quiet_dicom
        from radloom.pipelines.pacs.address import parse_address
        from radloom.pipelines.pacs.dimse import Reception
        from radloom.pipelines.pacs.fetch import fetch
        from radloom.pipelines.pacs.query import parse_query

        query = parse_query(self.query or ())
        limits = limits_of(self.max_instance_mb, self.max_total_gb)
        peer = make_peer(
            parse_address(address),
            ae_title=self.ae_title,
            tls=tls_of(self.tls_ca, self.tls_cert, self.tls_key),
            credentials=self.credentials,
            limits=limits,
            method=self.retrieve,
            reception=Reception(self.listen_host, self.listen_port),
        )
        with spinner("fetching"), quiet_dicom():
            summary = fetch(peer, query, incoming, limits=limits)
        remark(summary.sentence())
        for failure in summary.failures:
            complain(failure)
        if not summary.n_studies:
            raise InputError("expected studies that match --query, found none")
        if len(summary.failures) == summary.n_studies:
            raise PacsFailed("no study could be fetched: give the same command again to go on")
        return summary.studies, not summary.failures


def with_source(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `Source`, which it gets as one argument `source`."""
    names = [field.name for field in fields(Source)]
    own = inspect.signature(command, eval_str=True)
    ours = inspect.signature(Source, eval_str=True)
    kept = [p for p in own.parameters.values() if p.name != "source"]
    more = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in ours.parameters.values()]

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        source = Source(**{name: kwargs.pop(name) for name in names})
        command(*args, **kwargs, source=source)

    wrapped.__signature__ = own.replace(parameters=[*kept, *more])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in [*kept, *more]}
    return wrapped


def make_peer(
    address: Address,
    *,
    ae_title: str,
    tls: TLS,
    credentials: Path | None,
    limits: Limits,
    reception: Reception,
    method: RetrieveMethod = RetrieveMethod.get,
) -> Peer:
    """The PACS at an address.

    Raises:
        ConfigError: options that do not go with the address, or pynetdicom is wanted and absent.
    """
    from radloom.pipelines.pacs.address import WebAddress, check_ae_title

    if isinstance(address, WebAddress):
        from radloom.pipelines.pacs.dicomweb import DicomWeb
        from radloom.pipelines.pacs.http import WebClient

        if address.scheme == "http" and tls.given:
            raise ConfigError("expected https with --tls-ca, --tls-cert, --tls-key, got http")
        return DicomWeb(
            WebClient(address, tls=tls, credentials=_credentials(credentials), limits=limits)
        )
    require_pynetdicom()
    from radloom.pipelines.pacs.association import Caller
    from radloom.pipelines.pacs.dimse import Dimse

    if credentials is not None:
        raise ConfigError("expected --credentials with DICOMweb, got it with dicom://")
    if tls.given and not address.tls:
        raise ConfigError(
            "expected dicom+tls:// with --tls-ca, --tls-cert, --tls-key, got dicom://"
        )
    caller = Caller(address, check_ae_title(ae_title), tls, limits)
    return Dimse(caller, method=method.value, reception=reception)


def tls_of(ca: Path | None, cert: Path | None, key: Path | None) -> TLS:
    """What the options say about TLS."""
    from radloom.pipelines.pacs.identity import TLS

    return TLS(ca, cert, key)


def limits_of(max_instance_mb: int, max_total_gb: int) -> Limits:
    """What the options say about limits."""
    from dataclasses import replace

    from radloom.pipelines.pacs.limits import DEFAULT_LIMITS, GIB, MIB

    return replace(
        DEFAULT_LIMITS, instance_bytes=max_instance_mb * MIB, total_bytes=max_total_gb * GIB
    )


def require_pynetdicom() -> None:
    """Nothing, if DICOM's own protocol can be spoken; ConfigError otherwise."""
    if importlib.util.find_spec("pynetdicom") is None:
        raise ConfigError("expected pynetdicom for this, found none: pip install 'radloom[pacs]'")


def _credentials(path: Path | None) -> Credentials | None:
    from radloom.pipelines.pacs.identity import read_credentials

    return None if path is None else read_credentials(path)
