"""What a change must pass. Every session runs in the environment that nox itself runs in.

``python -m nox`` runs lint, types, tests and docs; ``python -m nox -s slow`` the long tests.
mypy and the doctests look at the installed package: install it plainly (``pip install '.[dev]'``).
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
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
    load; see ``pytest_unconfigure`` in ``tests/conftest.py``. Two files at a time, each with one
    thread of OpenMP: two threads on small arrays are hardly faster than one.
    """
    paths = [
        path
        for path in sorted(Path("tests").rglob("test_*.py"))
        if "mark.slow" in path.read_text(encoding="utf-8")
    ]

    def run(path: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
        command = [*PYTEST, "-m", "slow", *session.posargs, str(path)]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        return path, subprocess.run(  # noqa: S603 (our own tests)
            command, env=alone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip

    failed = []
    with ThreadPoolExecutor(2) as pool:
        for done in as_completed([pool.submit(run, path) for path in paths]):
            path, result = done.result()
            sys.stdout.write(result.stdout)
            if result.returncode:
                failed.append(f"{path} (exit status {result.returncode})")
    if failed:
        session.error("failed: " + ", ".join(failed))
