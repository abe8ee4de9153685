"""The application, its guard against errors, its exit status, and how it speaks."""

from __future__ import annotations

import functools
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from radloom import __version__
from radloom.errors import InputError, MissingWeights, NotTrusted, RadloomError, SeriesRefused

ALL_DONE, SOME_FAILED, UNUSABLE, STOPPED = 0, 1, 2, 130

app = typer.Typer(
    name="radloom",
    help="Study folders in; denoised, registered, segmented volumes and a picture report out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Command = TypeVar("Command", bound=Callable[..., None])


def guarded(command: Command) -> Command:
    """The command with errors as one line and an exit status, never a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except typer.Exit:
            raise
        except RadloomError as error:
            complain(str(error))
            raise typer.Exit(_status_of(error)) from None
        except KeyboardInterrupt:
            complain("stopped: the same command goes on from here")
            raise typer.Exit(STOPPED) from None
        except Exception as error:  # noqa: BLE001  # the last guard before the terminal
            complain(f"unexpected {type(error).__name__}; the details are in <{_log(error)}>")
            raise typer.Exit(SOME_FAILED) from None

    return wrapped  # type: ignore[return-value]  # wraps keeps the signature that typer reads


def _status_of(error: RadloomError) -> int:
    if isinstance(error, SeriesRefused | MissingWeights):
        return SOME_FAILED
    return UNUSABLE if isinstance(error, InputError | NotTrusted) else SOME_FAILED


def complain(message: str) -> None:
    """One line on standard error."""
    Console(stderr=True).print(f"radloom: {message}", style="red", markup=False, soft_wrap=True)


def wide_console() -> Console:
    """For tables: as wide as the terminal, or wide enough where nothing folds lines."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def say(message: str) -> None:
    """One line on standard output, never folded."""
    Console().print(message, markup=False, highlight=False, soft_wrap=True)


def remark(message: str) -> None:
    """One line on standard error that is no complaint: standard output may be for a program."""
    Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)


def spinner(message: str) -> Any:
    """A spinner on a terminal, nothing otherwise."""
    return Console(stderr=True).status(message)


def _log(error: BaseException) -> Path:
    text = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile(
        "w", prefix="radloom-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    return Path(file.name)


def _version(wanted: bool) -> None:  # noqa: FBT001  # typer's callback
    if wanted:
        say(f"radloom {__version__}")
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
