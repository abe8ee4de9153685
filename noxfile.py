"""What a change must pass. Every session runs in the environment that nox itself runs in.

``python -m nox`` runs lint, types, tests and docs; ``python -m nox -s slow`` the long tests.
mypy and the doctests look at the installed package: install it plainly (``pip install '.[dev]'``).
"""

from __future__ import annotations

import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "docs", "tests", "slow"]

PYTEST = (sys.executable, "-m", "pytest", "--durations=15")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.run(sys.executable, "-m", "ruff", "check", ".")
    session.run(sys.executable, "-m", "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, over the installed package."""
    session.run(sys.executable, "-m", "mypy", "-p", "radloom")


@nox.session
def docs(session: nox.Session) -> None:
    """The examples in docstrings, and the links and commands in the pages."""
    session.run(*PYTEST, "--doctest-modules", "--pyargs", "radloom")
    session.run(*PYTEST, "tests/test_docs.py")


@nox.session
def tests(session: nox.Session) -> None:
    """Everything but the long tests."""
    session.run(*PYTEST, "-m", "not slow", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """The long tests: real sizes, real scans, processes killed on the way.

    A process for each file, so that no more native libraries meet in one than a user's own would
    load; see ``pytest_unconfigure`` in ``tests/conftest.py``.
    """
    for path in sorted(Path("tests").rglob("test_*.py")):
        if "mark.slow" in path.read_text(encoding="utf-8"):
            session.run(*PYTEST, "-m", "slow", *session.posargs, str(path))
