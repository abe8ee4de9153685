"""The command line. The only place that reads the environment and speaks to the user.

Exit status: 0 all done, 1 some study failed or was refused, 2 unusable arguments, 130 stopped.
Everything heavy is imported inside the commands, so that ``radloom --help`` is quick.
"""

from __future__ import annotations

from collections.abc import Sequence

from radloom.cli import folders, images, pacs, privacy, results, training
from radloom.cli.shell import app

__all__ = ["app", "main"]

_MODULES = (folders, pacs, privacy, images, training, results)
"""Each registers its commands on import; --help lists them in this order."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The ``radloom`` command; ends the process with its exit status."""
    app(list(arguments) if arguments is not None else None)
